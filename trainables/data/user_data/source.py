"""Given data before they are divided: labels at once, pixels when asked. What own data and list files share."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.catalogue import TRAINS, DataError, Name, spelled
from trainables.data.images.decoding import INTERPOLATIONS, ORIENTATIONS, Preprocessing, colour
from trainables.data.images.files import (
    RESIDENT_GB,
    SIDES,
    Examined,
    Headers,
    examined,
    headers_of,
    resident,
    size_in_gb,
    stamp,
)
from trainables.data.images.notices import examples, notices
from trainables.data.images.progress import remembered
from trainables.data.images.streamed import Reader, StreamedImages, default_workers
from trainables.data.long_tail import LongTailed
from trainables.data.splits import HELD_OUT, class_list, divide

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """Data before they are split.

    Args:
        where: The file or folder, for messages.
        class_names: C names.
        labels: Of "train", and of "val" and "test" where given; each (N,) int64 in [0, C).
        files: The file of each image, per split; empty if the data are arrays.
        arrays: Reads the arrays, (N, c, H, W) uint8 for each given split; `None` where the data are files.
        array_shape: (c, H, W) of the arrays.
        stamp: Changes whenever the file of the arrays changes.
        notes: Information for the user.
        problems: Warnings for the user about images that are left out and about assumptions.
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

    @property
    def all_files(self) -> list[Path]:
        """The files of all splits, in the order of `SPLITS`."""
        return [file for split in SPLITS if split in self.labels for file in self.files.get(split, ())]

    def without(self, broken: Mapping[int, str]) -> Source:
        """Leaves out the files that cannot be read.

        Args:
            broken: Reason for each unreadable file, by its index in `all_files`.

        Raises:
            DataError: A split has no image left, or a class no training image.
        """
        before = 0
        labels, files = {}, {}
        for split in (split for split in SPLITS if split in self.labels):
            size = len(self.labels[split])
            rows = [row for row in range(size) if before + row not in broken]
            lost = [before + row for row in range(size) if before + row in broken]
            before += size
            labels[split] = self.labels[split][np.array(rows, dtype=np.int64)]
            files[split] = [self.files[split][row] for row in rows]
            if not rows:
                raise DataError(
                    f"{self.where}: none of the {size} images of {split} can be read ({self.why(broken, lost)})"
                )
            if split == "train":
                had = np.bincount(self.labels[split], minlength=len(self.class_names))
                has = np.bincount(labels[split], minlength=len(self.class_names))
                empty = np.flatnonzero((had > 0) & (has == 0)).tolist()
                if empty:
                    of_these = [number for number in lost if self.labels[split][number] in empty]
                    raise DataError(
                        f"{self.where}: no training image can be read of "
                        f"{class_list(empty, self.class_names, had.tolist())} ({self.why(broken, of_these)})"
                    )
        return replace(self, labels=labels, files=files)

    def why(self, broken: Mapping[int, str], numbers: Iterable[int] | None = None) -> str:
        """Describes the first reasons, each with an example."""
        files = self.all_files
        reasons: dict[str, list[int]] = {}
        for number in sorted(broken) if numbers is None else numbers:
            reasons.setdefault(broken[number], []).append(number)
        return examples(
            [f"{spelled(files[first])}{f' and {len(more)} more' if more else ''}: {reason}"
             for reason, (first, *more) in reasons.items()]
        )  # fmt: skip

    def check(self, name: str, broken: Mapping[int, str], skip: bool) -> None:
        """Refuses broken files unless they may and can be left out.

        Raises:
            DataError: The message counts the broken files and says how to leave them out.
        """
        if not broken:
            return
        try:
            self.without(broken)
        except DataError as error:
            raise DataError(f"{error}; mend these files, or take the class or the split out") from error
        if not skip:
            raise DataError(
                f"{name}: {len(broken)} of {len(self.all_files)} images cannot be read ({self.why(broken)}); mend or "
                f"remove them, or leave them out with {Name.parse(name).advice('broken', 'skip')} in the name"
            )


def check_classes(where: str, labels: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]) -> None:
    """Checks that every label is a class and every class has a training image.

    Raises:
        DataError: A label or a class does not.
    """
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
            f"{where}: no training image in {class_list(empty, class_names, held)}, in brackets the images of all "
            "splits; add some, or take the class out"
        )
    if classes < 2:
        raise DataError(f"{where}: a data set needs at least two classes, got only {class_names[0]!r}")


@dataclass(frozen=True)
class Options:
    """How data are read and split, from the options of their name.

    Args:
        size: Side in pixels that every image file is brought to; `None` where they must agree by themselves.
        skip_broken: Whether image files that cannot be decoded are left out.
        val: Images of each class in val, if val is cut.
        test: Images of each class in test, if test is cut.
        pad: Pixels of the random shift; `None` for an eighth of the shorter side.
        flip: Whether training mirrors images; `None` for colour images only.
        resident_limit: In 10⁹ bytes.
        feed: "resident" holds all pixels in memory, "streamed" decodes files as they are needed, "auto" streams what
            is above the limit.
        workers: Processes that decode streamed images (default: one per core, at most 8).
        crop: The data's own augmentation, see `LongTailed.crop`.
        background: Colour under transparent pixels; `None` for white, which is then reported as an assumption.
        orientation: Whether the EXIF orientation is applied, "exif", or not, "ignore".
        interpolation: How image files are resized, "bilinear" or "bicubic".
        balanced: Whether train has equal classes, see `divide`.
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
    background: str | None = None
    orientation: str = "exif"
    interpolation: str = "bilinear"
    balanced: bool = False

    def preprocessing(self, channels: int) -> Preprocessing:
        """How image files of these options are decoded."""
        return Preprocessing(channels, self.size, self.background or "white", self.orientation, self.interpolation)

    @staticmethod
    def of(
        name: Name, size: int | None = None, val: int = HELD_OUT, test: int = HELD_OUT, crop: str = "shift"
    ) -> Options:
        """Reads the options of a name, with the defaults of the data set.

        Raises:
            DataError: A value is not allowed.
        """
        flip = name.choice("flip", ("auto", "yes", "no"))
        background = name.options.get("background")
        if background is not None:
            try:
                colour(background)
            except ValueError as error:
                raise DataError(f"{name.text}: option background: {error}") from error
        return Options(
            size=name.whole("size", 0, SIDES[0]) if "size" in name.options else size,
            skip_broken=name.choice("broken", ("refuse", "skip")) == "skip",
            val=name.whole("val", val, 1),
            test=name.whole("test", test, 1),
            balanced=name.choice("train", TRAINS) == "balanced",
            pad=name.whole("pad", 0) if "pad" in name.options else None,
            flip=None if flip == "auto" else flip == "yes",
            resident_limit=name.whole("resident_limit", RESIDENT_GB, 1),
            feed=name.choice("feed", ("auto", "resident", "streamed")),
            workers=name.whole("workers", 0) if "workers" in name.options else None,
            crop=name.choice("crop", (crop, *(other for other in CROPS if other != crop))),
            background=background,
            orientation=name.choice("orientation", ORIENTATIONS),
            interpolation=name.choice("interpolation", INTERPOLATIONS),
        )


CROPS = ("shift", "resized")

OPTIONS = ("size", "broken", "val", "test", "train", "pad", "flip", "resident_limit", "feed", "workers", "crop",
           "background", "orientation", "interpolation")  # fmt: skip
"""Names of the options above."""


@dataclass(frozen=True)
class _Held:
    """All pixels of a source, or their readers; all splits share them, so they are read-only."""

    source: Source
    images: Mapping[str, NDArray[np.uint8] | StreamedImages]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    preprocessing: Preprocessing | None = None


_LAST: dict[str, _Held] = {}
"""The source that was read last, because the split seeds of a search share its pixels."""


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
        name: Name of the data set.
        source: Labels and pixels.
        options: How they are read and split.
        imbalance: As in `divide`.
        split_seed: As in `divide`.
        fold_val: As in `divide`.
        mean: (c,) mean of the pixels (default: measured over the given training images).
        std: (c,) standard deviation of the pixels (default: measured as well).

    Raises:
        DataError: The images cannot be read as asked, or the data not be divided.
    """
    held = _held(name, source, options)
    source = held.source
    division = divide(
        name, source.labels, source.class_names,
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val, val=options.val, test=options.test,
        balanced=options.balanced,
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
        preprocessing=held.preprocessing,
    )


def _held(name: str, source: Source, options: Options) -> _Held:
    labels = [(split, source.labels[split].tobytes()) for split in source.labels]
    known = (source.where, source.class_names, source.notes, source.problems, source.stamp, labels)
    how = replace(options, val=0, test=0, pad=None, flip=None, crop="")
    key = hashlib.sha256(repr((known, stamp(source.all_files), how)).encode("utf-8", "surrogateescape")).hexdigest()
    if key not in _LAST:
        held = _arrays(name, source, options) if source.arrays is not None else _files(name, source, options)
        _LAST.clear()
        _LAST[key] = held
    return _LAST[key]


def _arrays(name: str, source: Source, options: Options) -> _Held:
    """Reads arrays."""
    assert source.arrays is not None
    if options.feed == "streamed":
        raise DataError(f"{name}: arrays are held in memory; only image files can be streamed: leave the feed out")
    # before they are read
    gigabytes = sum(map(len, source.labels.values())) * math.prod(source.array_shape) / 1e9
    if gigabytes > options.resident_limit:
        advice = Name.parse(name).advice("resident_limit", int(gigabytes) + 1)
        raise DataError(
            f"{name}: the images are {gigabytes:.1f} GB in memory, above the limit of {options.resident_limit} GB; "
            f"raise it with {advice} in the name where the memory is there"
        )
    arrays = source.arrays()
    return _Held(source, arrays, *moments(arrays["train"]))


def _files(name: str, source: Source, options: Options) -> _Held:
    """Reads image files into memory, or prepares to stream them; refuses or leaves out unreadable files first."""
    files, given = source.all_files, [split for split in SPLITS if split in source.labels]
    plain = options.preprocessing(3)
    headers = headers_of(name, files, plain.background, plain.orientation)
    source.check(name, headers.broken, options.skip_broken)
    side = headers.side(name, headers.broken, options.size)
    preprocessing = options.preprocessing(headers.channels(headers.broken))
    good = headers.good(headers.broken)
    large = size_in_gb(len(good), (preprocessing.channels, *side)) > options.resident_limit
    streamed = options.feed == "streamed" or (options.feed == "auto" and large)
    pixels: NDArray[np.uint8] | None = None
    if streamed:
        # the side that all have; with a size, whatever they have
        seen = examined(name, files, headers.broken, preprocessing, None if options.size is not None else side)
    else:
        pixels, seen = resident(name, files, headers.broken, preprocessing, side, options.resident_limit)
    source.check(name, seen.broken, options.skip_broken)
    if headers.channels(seen.broken) < preprocessing.channels:  # what is left is grey
        preprocessing = replace(preprocessing, channels=1)
        pixels = None if pixels is None else pixels[:, :1].copy()
    source = with_notices(name, source, headers, seen, preprocessing, options)
    if pixels is None:
        return _streamed(name, source, files, headers.good(seen.broken), seen, preprocessing, side, options)
    images, before = {}, 0
    for split in given:
        size = len(source.labels[split])
        images[split] = pixels[before : before + size]
        before += size
    return _Held(source, images, *moments(images["train"]), preprocessing)


def with_notices(
    name: str, source: Source, headers: Headers, seen: Examined, preprocessing: Preprocessing, options: Options
) -> Source:
    """Leaves out broken files and adds notices about them and about assumptions.

    Raises:
        DataError: As `Source.without`.
    """
    files = source.all_files
    problems, notes = file_notices(name, source, headers, seen, preprocessing.channels, options)
    if seen.broken:
        log = logging.getLogger(__name__)
        for number, problem in sorted(seen.broken.items()):
            log.warning("%s: left out: %s: %s", source.where, spelled(files[number]), problem)
        problems.insert(0, f"{len(seen.broken)} broken images are left out ({source.why(seen.broken)})")
    source = source.without(seen.broken)
    return replace(source, problems=(*source.problems, *problems), notes=(*source.notes, *notes))


def file_notices(
    name: str, source: Source, headers: Headers, seen: Examined, channels: int, options: Options
) -> tuple[list[str], list[str]]:
    """Problems and notes on the files of a source; see `trainables.data.images.notices`."""
    root = Path(source.where)
    return notices(
        root if root.is_dir() else root.parent,
        source.all_files,
        {number: traits for number, traits in seen.traits.items() if number not in seen.broken},
        channels=channels,
        background=options.preprocessing(channels).background,
        advice=None if options.background else Name.parse(name).advice("background", "COLOUR"),
        size=options.size,
        smaller=headers.smaller(seen.broken, options.size),
    )


MOMENTS_OF = 20_000
"""Largest number of images, evenly spaced, over which the moments of a streamed set are measured."""


def _streamed(
    name: str, source: Source, files: list[Path], good: list[int], seen: Examined, preprocessing: Preprocessing,
    side: tuple[int, int], options: Options,
) -> _Held:  # fmt: skip
    """Makes readers of the given splits, and measures the moments of their pixels."""
    workers = default_workers() if options.workers is None else options.workers
    reader = Reader(
        name,
        [files[number] for number in good],
        [seen.digests[number] for number in good],
        preprocessing,
        side,
        workers,
    )
    images, before = {}, 0
    for split in (split for split in SPLITS if split in source.labels):
        rows = np.arange(before, before + len(source.labels[split]))
        before += len(rows)
        images[split] = StreamedImages(reader, rows, torch.device("cpu"))
    train = images["train"]
    chosen = torch.arange(len(train))[:: -(-len(train) // MOMENTS_OF)]
    batch = max(1, 2**24 // (preprocessing.channels * side[0] * side[1]))

    def measure() -> dict[str, Any]:
        mean, std = _moments_of(part.numpy() for part in train.batches(chosen.split(batch)))
        return {"mean": mean.tolist(), "std": std.tolist()}

    found = remembered(("moments", train.stamp.hex(), MOMENTS_OF), measure)
    return _Held(source, images, np.array(found["mean"]), np.array(found["std"]), preprocessing)


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
    """Moments of images that come in parts."""
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
