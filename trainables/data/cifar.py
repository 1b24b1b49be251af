"""`cifar10-lt` and `cifar100-lt`: the exponential long tail of the literature, cut from torchvision's CIFAR.

Which images are in the tail differs between the public codes, so each has its own name:

- `cifar10-lt`, `cifar100-lt`: `np.random.seed(0)`, then one in-place shuffle of every class's indices in label
  order, the first n_c of each (LDAM, Bag of Tricks, MiSLAS);
- `cifar10-lt:first`, `cifar100-lt:first`: the first n_c in file order, nothing shuffled (LOS).

Published training sets leave nothing to choose by: class 0 is used whole, and all public codes select on test.
So while a search runs, each split seed draws its own val from the whole of CIFAR's 50,000 training images and
cuts its own tail from the rest; the two names then stand for the same data. With val folded back (the final
training) the training set is the published one, image by image, whatever the split seed.

Val is the customary 5,000 of the 50,000, a tenth of every class: 500 per class on CIFAR-10, 50 on CIFAR-100. The
profile starts at 4,500 or 450 then. Fewer would not do: below 50 images per class lowest recall and harmonic mean
are refused as targets, and at 500 images in all the accuracy of one trial has a standard error of 2 points, twice
the margin of 1 that verdicts are about. More would cost tail: at imbalance 100 the last class of CIFAR-100 has
int(450 / 100) = 4 images instead of 5, which is what 490 would leave as well. With `?val=realistic` after the name
the same val is thinned to the training images' proportions, at least one image of each class. With `?train=balanced`
the training images are as many of every class, in all as many as the long tail has.
"""

from __future__ import annotations

import functools
import math
import tarfile
import warnings
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from trainables.data.catalogue import TRAINS, VALS, DataError, Name, Standard, cache_folder
from trainables.data.long_tail import LongTailed, balanced_note, class_counts, equal_counts, in_proportion
from trainables.training.seeding import seed_of

OPTIONS = ("val", "train")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation in the public codes, which use them for CIFAR-100 as well."""

VAL_SHARE = 0.1
"""Fraction of every class of the training pool that val gets."""


@dataclass(frozen=True)
class _Set:
    """Names of one of the two data sets."""

    dataset: str
    title: str
    page: str = "https://www.cs.toronto.edu/~kriz/cifar.html"


SETS = {"cifar10-lt": _Set("CIFAR10", "CIFAR-10"), "cifar100-lt": _Set("CIFAR100", "CIFAR-100")}


def standard(name: str, root: str | None = None) -> Standard:
    """The 200 epochs of the literature.

    Source: Cao et al. 2019, arXiv:1906.07413, section 4; Zhang et al. 2021, Bag of Tricks, section 4.1.
    Differs: evaluated every tenth epoch.

    The noise is the root of half the mean square of the differences, on test, between two published runs of the same
    training: label smoothing with and without a deferral that the code ignores (Bag of Tricks' public table, imbalance
    100 and 50; 1.20 and 0.72 points on CIFAR-10-LT, 0.46 and 0.50 on CIFAR-100-LT).
    """
    return Standard(
        epochs=200,
        lr=0.1,
        weight_decay=2e-4,
        batch_size=128,
        schedule="multistep",
        model="resnet32",
        imbalance=100.0,
        eval_every=10,
        margin=0.01,
        final_epochs=200,
        sd=0.0035 if name.startswith("cifar100") else 0.007,
    )


def load(
    name: str, *, root: str | None = None, imbalance: float | None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """CIFAR with a long tail; see `trainables.data.load`.

    Args:
        name: "cifar10-lt" or "cifar100-lt", either with ":first".
        root: Folder that has `cifar-10-batches-py` or `cifar-100-python`, or the archive, or where a download may
            go. Where absent: the environment variable LONGTAIL_DATA, or `~/.cache/longtail-tune`.
        imbalance: From 1 to the images of the largest class.
        split_seed: Which images go to `val` and `train`.
        fold_val: No val; the published training set.

    Raises:
        DataError: The files are absent and cannot be downloaded, or damaged; the imbalance is out of its range.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; Cui et al. 2019,
        arXiv:1901.05555, section 5.1; Cao et al. 2019, arXiv:1906.07413, public code `IMBALANCECIFAR10`.
    Differs: none with val folded back; else val, and the profile's start, see above.
    """
    parsed = Name.parse(name)
    family, _, variant = parsed.kind.partition(":")
    which = SETS[family]
    pool = _pool(which.dataset, str(_folder(which, name, root)))
    of_class = [np.flatnonzero(pool.labels == label) for label in range(len(pool.class_names))]
    smallest = min(map(len, of_class))
    held = 0 if fold_val else round(VAL_SHARE * smallest)
    largest = smallest - held
    if imbalance is None or not 1 <= imbalance <= largest:
        raise DataError(
            f"{name}: imbalance must lie between 1 and {largest} (the images of the largest class), got {imbalance!r}"
        )
    try:
        counts = class_counts(largest, len(of_class), imbalance)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    long_tail = counts
    balanced = parsed.choice("train", TRAINS) == "balanced"
    if balanced:
        counts = equal_counts(counts, [largest] * len(counts))
    if fold_val:
        val, train = [], published(of_class, counts, shuffled=variant != "first")
    else:
        drawn = [_draw(index, family, split_seed, label) for label, index in enumerate(of_class)]
        realistic = parsed.choice("val", VALS) == "realistic"
        kept = in_proportion(long_tail, held) if realistic else [held] * len(counts)
        val = [index[:count] for index, count in zip(drawn, kept, strict=True)]
        train = [index[held : held + count] for index, count in zip(drawn, counts, strict=True)]

    def part(index: list[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *index])
        return pool.images[torch.from_numpy(chosen)], torch.from_numpy(pool.labels[chosen])

    (train_images, train_labels), (val_images, val_labels) = part(train), part(val)
    notes = []
    if held:
        shown = f"{held} images of each class" if min(kept) == max(kept) else f"{max(kept)} to {min(kept)} of a class"
        notes.append(
            f"val: {shown}, drawn by the split seed; while it is held out the profile starts at "
            f"{largest} and not at {smallest} (final training has the published {smallest})"
        )
    actual = counts[0] / counts[-1]
    if balanced:
        notes.append(balanced_note(counts, imbalance))
    elif not math.isclose(actual, imbalance, rel_tol=1e-3):
        notes.append(f"imbalance of the training images: {actual:.6g} instead of {imbalance:.6g}")
    return LongTailed(
        name=name,
        classes=len(of_class),
        class_names=pool.class_names,
        imbalance=1.0 if balanced else float(imbalance),
        split_seed=split_seed,
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        test_images=pool.test_images,
        test_labels=pool.test_labels,
        mean=torch.tensor(MEAN),
        std=torch.tensor(STD),
        pad=4,
        flip=True,
        notes=tuple(notes),
    )


def published(of_class: list[NDArray[np.int64]], counts: list[int], *, shuffled: bool) -> list[NDArray[np.int64]]:
    """Selects the images of each class that the public codes use.

    Args:
        of_class: For each label in order, the indices of its images in file order.
        counts: How many to take.
        shuffled: One stream of `RandomState(0)` over all classes (LDAM …); else the first ones (LOS).

    Returns:
        Indices per class, in the codes' order.

    Source: LDAM-DRW 2536330 `imbalance_cifar.py`; LOS 50652c0.
    Differs: none. The stream runs on from class to class: a permutation that is seeded anew for every class
        (as in some copies of CIFAR-10-LT) has the same images in class 0, of which all are used, and others in
        the rest.

    >>> import numpy as np
    >>> five = [np.arange(5), np.arange(5, 10)]
    >>> [c.tolist() for c in published(five, [3, 2], shuffled=True)]
    [[2, 0, 1], [5, 7]]
    >>> [c.tolist() for c in published(five, [3, 2], shuffled=False)]
    [[0, 1, 2], [5, 6]]
    """
    stream = np.random.RandomState(0)
    taken = []
    for index, count in zip(of_class, counts, strict=True):
        index = index.copy()
        if shuffled:
            stream.shuffle(index)
        taken.append(index[:count])
    return taken


def _draw(index: NDArray[np.int64], family: str, split_seed: int, label: int) -> NDArray[np.int64]:
    """Shuffles the images of a class by a split seed; NumPy never changes the stream of `RandomState`."""
    shuffled: NDArray[np.int64] = np.random.RandomState(seed_of(family, split_seed, label) % 2**32).permutation(index)
    return shuffled


# --- the files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pool:
    """The whole of CIFAR; (N, 3, 32, 32) uint8 images. Shared by all splits: nobody writes to it."""

    images: Tensor
    labels: NDArray[np.int64]
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def _pool(dataset: str, folder: str) -> _Pool:
    def images(part: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)))

    with warnings.catch_warnings():
        # the files were pickled with a NumPy of 2009, whose dtypes newer ones read with a warning
        warnings.filterwarnings("ignore", message=r".*align.*")
        train, test = (getattr(datasets, dataset)(folder, train=part) for part in (True, False))
    return _Pool(
        images(train),
        np.asarray(train.targets, dtype=np.int64),
        images(test),
        torch.tensor(test.targets, dtype=torch.int64),
        tuple(train.classes),
    )


def _folder(which: _Set, name: str, root: str | None) -> Path:
    """Verifies the files and returns their folder; downloads them if they are absent.

    Raises:
        DataError: The files are damaged, or absent and cannot be downloaded.
    """
    dataset = getattr(datasets, which.dataset)
    if root is None:
        place = cache_folder()
    else:
        place = Path(root).expanduser()
        if not place.is_dir():
            raise DataError(
                f"{name}: --data-root {place} is not a folder; create it, or name the folder that holds {which.title}"
            )
    unpacked, archive = place / dataset.base_folder, place / dataset.filename
    if str(place.resolve()) in _CHECKED.get(dataset, ()):
        return place
    files = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    present = [(unpacked / file, md5) for file, md5 in files if (unpacked / file).is_file()]
    lacking = len(present) < len(files)
    known = present + ([(archive, dataset.tgz_md5)] if lacking and archive.is_file() else [])
    for file, md5 in known:
        try:
            intact = check_integrity(str(file), md5)
        except OSError as error:
            raise DataError(f"{name}: {file} cannot be read ({error.strerror or error})") from error
        if not intact:
            raise DataError(
                f"{name}: {file} has the wrong checksum (expected md5 {md5}): remove it and download it again"
            )
    if lacking:
        try:
            dataset(str(place), download=True)
        except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if (archive, dataset.tgz_md5) in known:
                raise DataError(f"{name}: {archive} cannot be unpacked into {place} ({reason})") from error
            raise DataError(
                f"{name}: {which.title} is not in {place} and could not be downloaded ({reason}): put "
                f"{dataset.filename} from {which.page} there, or give the folder that has {dataset.base_folder}/ as "
                "--data-root"
            ) from error
    _CHECKED.setdefault(dataset, set()).add(str(place.resolve()))
    return place


_CHECKED: dict[Any, set[str]] = {}
"""Folders whose checksums this process has verified, by data set."""
