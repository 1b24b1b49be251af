"""Given data before they are divided: labels at once, pixels when asked. What own data and list files share."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.data.catalogue import DataError, Name, spelled
from trainables.data.division import HELD_OUT, divide, some
from trainables.data.images import RESIDENT_GB, Seen, looked_at, resident, stamp
from trainables.data.long_tail import LongTailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.data.streamed import StreamedImages

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """Data as they are given.

    Args:
        where: The file or folder, for messages.
        class_names: C names.
        labels: Of "train", and of "val" and "test" where given; each (N,) int64 in [0, C).
        files: The image files, as many; empty where the data are arrays.
        arrays: Reads the arrays, (N, c, H, W) uint8 for each given split; `None` where the data are files.
        array_shape: (c, H, W) of the arrays.
        stamp: What changes when the arrays' file does.
        notes: Sentences for people.
        problems: Likewise, on what is left out or assumed: what should be mended, or at least known.
    """

    where: str
    class_names: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    arrays: Callable[[], Mapping[str, NDArray[np.uint8]]] | None = None
    array_shape: tuple[int, int, int] = (0, 0, 0)
    stamp: tuple[object, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def without(self, broken: Mapping[str, set[int]]) -> Source:
        """The same without some files of each split; classes must keep a training image."""
        import numpy as np

        kept = {
            split: [number for number in range(len(labels)) if number not in broken.get(split, ())]
            for split, labels in self.labels.items()
        }
        labels = {split: self.labels[split][np.array(rows, dtype=np.int64)] for split, rows in kept.items()}
        files = {split: [self.files[split][row] for row in rows] for split, rows in kept.items()}
        check_classes(self.where, labels, self.class_names)
        return replace(self, labels=labels, files=files)


def check_classes(where: str, labels: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]) -> None:
    """Every label is a class, and every class has a training image.

    Raises:
        DataError: Which not.
    """
    import numpy as np

    classes = len(class_names)
    for split, found in labels.items():
        if not len(found):
            instead = "" if split == "train" else f", or take {split} out, and it is cut from the training images"
            raise DataError(f"{where}: {split} has no images; add some{instead}")
        if found.min() < 0 or found.max() >= classes:
            raise DataError(
                f"{where}: labels must be whole numbers from 0 to {classes - 1}, got {found.min()} to {found.max()} "
                f"in {split}"
            )
    counts = np.bincount(labels["train"], minlength=classes)
    if counts[0] == 0 and all(found.min() == 1 for found in labels.values()):
        raise DataError(f"{where}: labels start at 1; they must be whole numbers from 0, so take 1 from each")
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        held = np.bincount(np.concatenate(list(labels.values())), minlength=classes).tolist()
        raise DataError(
            f"{where}: no training image in {some(empty, class_names, held)}, in brackets the images of all splits; "
            "add some, or take the class out"
        )
    if classes < 2:
        raise DataError(f"{where}: a data set needs at least two classes, got only {class_names[0]!r}")


@dataclass(frozen=True)
class Options:
    """How given data are read and divided, from the name's options.

    Args:
        size: Side in pixels that every image file is brought to; `None` where they must agree by themselves.
        skip_broken: Whether image files that cannot be decoded are left out.
        val: Images of each class in a val that is cut.
        test: Likewise.
        pad: Pixels of the random shift; `None` for an eighth of the shorter side.
        flip: Whether training mirrors images; `None` for colour images only.
        resident_limit: In 10⁹ bytes.
        feed: "resident" holds all pixels in memory, "streamed" decodes files as they are needed, "auto" streams what
            is above the limit.
        workers: Processes that decode what is streamed; as many as there are cores, at most 8, where absent.
        crop: The data's own augmentation, see `LongTailed.crop`.
    """

    size: int | None
    skip_broken: bool
    val: int
    test: int
    pad: int | None
    flip: bool | None
    resident_limit: int
    feed: str = "auto"
    workers: int | None = None
    crop: str = "shift"

    @staticmethod
    def of(
        name: Name, size: int | None = None, val: int = HELD_OUT, test: int = HELD_OUT, crop: str = "shift"
    ) -> Options:
        """The options of a name, with the data set's own defaults.

        Raises:
            DataError: A value that is not allowed.
        """
        flip = name.choice("flip", ("auto", "yes", "no"))
        return Options(
            size=name.whole("size", 0, 4) if "size" in name.options else size,
            skip_broken=name.choice("broken", ("refuse", "skip")) == "skip",
            val=name.whole("val", val, 1),
            test=name.whole("test", test, 1),
            pad=name.whole("pad", 0) if "pad" in name.options else None,
            flip=None if flip == "auto" else flip == "yes",
            resident_limit=name.whole("resident_limit", RESIDENT_GB, 1),
            feed=name.choice("feed", ("auto", "resident", "streamed")),
            workers=name.whole("workers", 0) if "workers" in name.options else None,
            crop=name.choice("crop", (crop, *(other for other in CROPS if other != crop))),
        )


CROPS = ("shift", "resized")

OPTIONS = ("size", "broken", "val", "test", "pad", "flip", "resident_limit", "feed", "workers", "crop")
"""Names of the options above."""


@dataclass(frozen=True)
class _Held:
    """All pixels of a source, or what reads them; shared by all splits: nobody writes to them."""

    source: Source
    images: Mapping[str, NDArray[np.uint8] | StreamedImages]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


_LAST: dict[str, _Held] = {}
"""The source that was read last: split seeds of one search divide the same pixels anew."""


def long_tailed(
    name: str,
    source: Source,
    options: Options,
    *,
    imbalance: float | None,
    split_seed: int,
    fold_val: bool,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LongTailed:
    """Reads a source and divides it.

    Args:
        name: Of the data set.
        source: Where labels and pixels come from.
        options: How.
        imbalance: As in `divide`.
        split_seed: As in `divide`.
        fold_val: As in `divide`.
        mean: (c,) of the pixels; measured over the given training images where absent.
        std: Likewise.

    Raises:
        DataError: The images cannot be read as asked, or the data not be divided.
    """
    import torch

    from trainables.data.streamed import StreamedImages

    held = _held(name, source, options)
    source = held.source
    division = divide(
        name, source.labels, source.class_names,
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val, val=options.val, test=options.test,
    )  # fmt: skip
    parts: dict[str, Any] = {}
    for split, (given, index) in division.index.items():
        whole = len(index) == len(source.labels[given])  # then shared, not copied
        pixels = held.images[given]
        if isinstance(pixels, StreamedImages):
            parts[f"{split}_images"] = pixels if whole else pixels.of(index)
        else:
            parts[f"{split}_images"] = torch.from_numpy(pixels if whole else pixels[index])
        parts[f"{split}_labels"] = torch.from_numpy(source.labels[given] if whole else source.labels[given][index])
    channels, height, width = held.images["train"].shape[1:]
    return LongTailed(
        name=name,
        classes=len(source.class_names),
        class_names=source.class_names,
        imbalance=division.imbalance,
        split_seed=split_seed,
        **parts,
        mean=torch.tensor(held.mean if mean is None or len(mean) != channels else mean, dtype=torch.float32),
        std=torch.tensor(held.std if std is None or len(std) != channels else std, dtype=torch.float32),
        pad=max(1, min(height, width) // 8) if options.pad is None else options.pad,
        flip=bool(channels == 3) if options.flip is None else options.flip,
        crop=options.crop,
        notes=(*source.notes, *division.notes, *source.problems, *division.problems),
        problems=(*source.problems, *division.problems),
        val_given=division.index["val"][0] == "val",
    )


def _held(name: str, source: Source, options: Options) -> _Held:
    files = [file for split in SPLITS if split in source.labels for file in source.files.get(split, ())]
    labels = [(split, source.labels[split].tobytes()) for split in source.labels]
    told = (source.where, source.class_names, source.notes, source.problems, source.stamp, labels, stamp(files))
    how = (options.size, options.skip_broken, options.resident_limit, options.feed, options.workers)
    key = hashlib.sha256(repr((told, how)).encode()).hexdigest()
    if key in _LAST:
        return _LAST[key]
    images: Mapping[str, NDArray[np.uint8] | StreamedImages]
    if source.arrays is not None:
        if options.feed == "streamed":
            raise DataError(f"{name}: arrays are held in memory; only image files can be streamed: leave the feed out")
        # before they are read
        gigabytes = sum(map(len, source.labels.values())) * math.prod(source.array_shape) / 1e9
        if gigabytes > options.resident_limit:
            raise DataError(
                f"{name}: the images are {gigabytes:.1f} GB in memory, above the limit of {options.resident_limit} GB; "
                f"raise it with ?resident_limit={int(gigabytes) + 1} where the memory is there"
            )
        arrays = images = source.arrays()
        mean, std = moments(arrays["train"])
    else:
        seen = looked_at(name, files, size=options.size, skip_broken=options.skip_broken)
        if options.feed == "streamed" or (options.feed == "auto" and seen.gigabytes > options.resident_limit):
            source, images, (mean, std) = _streamed(name, source, files, seen, options)
        else:
            source, arrays = _decoded(name, source, files, seen, options)
            images = arrays
            mean, std = moments(arrays["train"])
    _LAST.clear()
    _LAST[key] = _Held(source, images, mean, std)
    return _LAST[key]


MOMENTS_OF = 20_000
"""Images at most, evenly spaced, that mean and deviation of a streamed set are measured over."""


def _streamed(
    name: str, source: Source, files: list[Path], seen: Seen, options: Options
) -> tuple[Source, Mapping[str, StreamedImages], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Readers of the given splits, the source without what could not be read, and the moments of its pixels."""
    import numpy as np
    import torch

    from trainables.data.streamed import Reader, StreamedImages, default_workers

    lost = [f"{spelled(files[number])}: {problem}" for number, problem in sorted(seen.broken.items())]
    source = _without(name, source, seen.good, lost)
    kept = [files[number] for number in seen.good]
    workers = default_workers() if options.workers is None else options.workers
    size, (channels, *side) = options.size, seen.shape
    reader = Reader(name, kept, grey=channels == 1, size=size, side=(side[0], side[1]), workers=workers)
    root = Path(source.where)
    told = [(str(Path(path).relative_to(root)) if root in Path(path).parents else Path(path).name, size, changed)
            for path, size, changed in stamp(kept)]  # fmt: skip
    known = hashlib.sha256(repr((told, size)).encode()).digest()
    images, before = {}, 0
    for split in (split for split in SPLITS if split in source.labels):
        rows = np.arange(before, before + len(source.labels[split]))
        before += len(rows)
        images[split] = StreamedImages(reader, rows, torch.device("cpu"), known)
    train = images["train"]
    chosen = torch.arange(len(train))[:: -(-len(train) // MOMENTS_OF)]
    batch = max(1, 2**24 // (channels * side[0] * side[1]))
    return source, images, _moments_of(part.numpy() for part in train.batches(chosen.split(batch)))


def _decoded(
    name: str, source: Source, files: list[Path], seen: Seen, options: Options
) -> tuple[Source, Mapping[str, NDArray[np.uint8]]]:
    """The pixels of the given splits, and the source without what could not be read."""
    pixels, kept, lost = resident(
        name, files, seen, size=options.size, skip_broken=options.skip_broken, limit_gb=options.resident_limit
    )
    given = [split for split in SPLITS if split in source.labels]
    source = _without(name, source, kept, lost)
    images, before = {}, 0
    for split in given:
        size = len(source.labels[split])
        images[split] = pixels[before : before + size]
        before += size
    return source, images


def _without(name: str, source: Source, kept: Sequence[int], lost: Sequence[str]) -> Source:
    """The source without the files that are not kept, which are named."""
    if not lost:
        return source
    for sentence in lost:
        logging.getLogger(__name__).warning("%s: left out: %s", name, sentence)
    good, before, broken = set(kept), 0, {}
    for split in (split for split in SPLITS if split in source.labels):
        size = len(source.labels[split])
        broken[split] = {number for number in range(size) if before + number not in good}
        before += size
    source = source.without(broken)
    shown = "; ".join(lost[:3]) + ("; …" if len(lost) > 3 else "")
    return replace(source, notes=(*source.notes, f"{len(lost)} broken images are left out ({shown})"))


def moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the pixels of each channel, in [0, 1].

    From counts of the 256 values, hence exact in any order. A channel that never changes gets the deviation of
    one grey level, so that normalising divides by something.

    Args:
        images: (N, c, H, W) uint8.

    Returns:
        Two arrays (c,).

    >>> import numpy as np
    >>> mean, std = moments(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    # bincount makes 8 bytes of every pixel
    return _moments_of(images[first : first + 4096] for first in range(0, len(images), 4096))


def _moments_of(parts: Iterable[NDArray[np.uint8]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same of images that come in parts."""
    import numpy as np

    counts: NDArray[np.float64] = np.zeros(0)
    for part in parts:
        counts = counts if len(counts) else np.zeros((part.shape[1], 256))
        for channel in range(part.shape[1]):
            counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean, std = [], []
    for shares in counts / counts.sum(axis=1, keepdims=True):
        mean.append(float(shares @ values))
        std.append(max(1 / 255, float(shares @ (values - mean[-1]) ** 2) ** 0.5))
    return np.array(mean), np.array(std)
