"""Many image files: their headers first, so that what cannot work is refused before hours of decoding."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from trainables.data.catalogue import DataError, Name
from trainables.data.images.decoding import Header, Preprocessing, UnreadableImage, formats, header
from trainables.data.images.progress import remembered, side_by_side

RESIDENT_GB = 8
"""Largest resident set without `?resident_limit=`, in 10⁹ bytes."""

SIDES = (4, 224)
"""Smallest side that images may be brought to, and the largest one that is proposed."""

FOR_KEEPS = 1
"""Version of the cached results of `examined`; increase it when the rules of decoding change."""


@dataclass(frozen=True)
class Headers:
    """Headers of many files.

    Args:
        all: Header of each file.
        broken: Reason for each unreadable file, by index.
    """

    all: tuple[Header, ...]
    broken: Mapping[int, str]

    def good(self, broken: Mapping[int, str]) -> list[int]:
        """Indices of the files that are not broken."""
        return [number for number in range(len(self.all)) if number not in broken]

    def channels(self, broken: Mapping[int, str]) -> int:
        """1 where all files that are not broken are grey, else 3."""
        return 1 if all(self.all[number].grey for number in self.good(broken)) else 3

    def sizes(self, broken: Mapping[int, str]) -> Counter[tuple[int, int]]:
        """How many of the files that are not broken have each size."""
        return Counter(self.all[number].size for number in self.good(broken))

    def side(self, name: str, broken: Mapping[int, str], size: int | None) -> tuple[int, int]:
        """(H, W) that every image gets.

        Raises:
            DataError: Several sizes, and none to bring them to.
        """
        sizes = self.sizes(broken)
        if size is not None:
            return size, size
        if len(sizes) > 1:
            raise DataError(f"{name}: {several_sizes(sizes)}; bring them to one with {to_one(name, sizes)} in the name")
        return next(iter(sizes))

    def smaller(self, broken: Mapping[int, str], size: int | None) -> list[int]:
        """Indices of the files that are enlarged to the size."""
        return [number for number in self.good(broken) if size is not None and min(self.all[number].size) < size]


def headers_of(name: str, files: Sequence[Path], background: str, orientation: str) -> Headers:
    """Reads the headers of all files.

    Args:
        name: Name of the data set, for messages.
        files: Image files.
        background: As in `Preprocessing`.
        orientation: As in `Preprocessing`.

    Raises:
        DataError: The machine cannot read files at the moment.
    """

    def make() -> dict[str, Any]:
        found = side_by_side(
            lambda file: _asked(name, file, lambda: header(file, background, orientation)),
            files,
            doing="reading the headers of images",
        )
        return {"headers": [(one.size, one.grey, one.problem) for one in found]}

    kept = remembered(("headers", _rules(), background, orientation, stamp(files)), make)
    found = tuple(Header((size[0], size[1]), grey, problem) for size, grey, problem in kept["headers"])
    return Headers(found, {number: one.problem for number, one in enumerate(found) if one.problem})


@dataclass(frozen=True)
class Examined:
    """Results of decoding every file.

    Args:
        broken: Reason for each file that cannot be decoded, by index.
        traits: What is worth telling about a file's pixels, by its index; see `trainables.data.images.notices`.
        digests: For each file 32 hexadecimal digits of its pixels as they are before any resizing; empty where it is
            broken or where the pixels are in memory.
    """

    broken: Mapping[int, str] = field(default_factory=dict)
    traits: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    digests: tuple[str, ...] = ()


def examined(
    name: str,
    files: Sequence[Path],
    known: Mapping[int, str],
    preprocessing: Preprocessing,
    side: tuple[int, int] | None,
) -> Examined:
    """Decodes every file once, before anything is trained on some of them.

    What took long is kept in the user's cache, for the processes of trials and for the next search.

    Args:
        name: Name of the data set, for messages.
        files: Image files.
        known: Files known to be unreadable, with the reason, by index.
        preprocessing: How they are decoded; its size is left out.
        side: (H, W) that all files must have; `None` where they may differ.

    Raises:
        DataError: The machine cannot read files at the moment.
    """
    plain = Preprocessing(preprocessing.channels, None, preprocessing.background, preprocessing.orientation)

    def one(number: int) -> tuple[str, tuple[str, ...], str]:
        if number in known:
            return known[number], (), ""
        found = decoded(name, files[number], plain, side)
        if isinstance(found, str):
            return found, (), ""
        pixels, traits = found
        return "", traits, digest(pixels)

    def make() -> dict[str, Any]:
        results = side_by_side(one, range(len(files)), doing="decoding all images once")
        return {
            "broken": {str(number): problem for number, (problem, _, _) in enumerate(results) if problem},
            "traits": {str(number): traits for number, (_, traits, _) in enumerate(results) if traits},
            "digests": [digits for _, _, digits in results],
        }

    key = ("examined", _rules(), asdict(plain), side, sorted(known.items()), stamp(files))
    found = remembered(key, make)
    return Examined(
        {int(number): problem for number, problem in found["broken"].items()},
        {int(number): tuple(traits) for number, traits in found["traits"].items()},
        tuple(found["digests"]),
    )


def resident(
    name: str,
    files: Sequence[Path],
    known: Mapping[int, str],
    preprocessing: Preprocessing,
    side: tuple[int, int],
    limit_gb: float = RESIDENT_GB,
) -> tuple[NDArray[np.uint8], Examined]:
    """Decodes all files into one array.

    Args:
        name: Name of the data set, for messages.
        files: Image files.
        known: Files known to be unreadable, with the reason, by index.
        preprocessing: How they are decoded.
        side: (H, W) that comes out.
        limit_gb: Largest array, in 10⁹ bytes.

    Returns:
        (N, c, H, W) uint8 of the N files that are not broken, in order; what decoding has shown, without digests.

    Raises:
        DataError: More than the limit, or the machine cannot read files at the moment.
    """
    good = [number for number in range(len(files)) if number not in known]
    shape = (preprocessing.channels, *side)
    gigabytes = size_in_gb(len(good), shape)
    asked = Name.parse(name)
    if gigabytes > limit_gb:
        raise DataError(
            f"{name}: {len(good)} images of {shape[1]}×{shape[2]} pixels are {gigabytes:.1f} GB in memory, above "
            f"the limit of {limit_gb:g} GB; choose a smaller size, stream them from disk with "
            f"{asked.advice('feed', 'streamed')} in the name or --feed streamed, or raise the limit with "
            f"{asked.advice('resident_limit', int(gigabytes) + 1)} in the name where the memory is there"
        )
    pixels = np.empty((len(good), *shape), dtype=np.uint8)

    def fill(row: int) -> tuple[str, tuple[str, ...]]:
        found = decoded(name, files[good[row]], preprocessing, side)
        if isinstance(found, str):
            return found, ()
        pixels[row], traits = found
        return "", traits

    results = side_by_side(fill, range(len(good)), doing="decoding all images")
    late = {good[row]: problem for row, (problem, _) in enumerate(results) if problem}
    traits = {good[row]: found for row, (_, found) in enumerate(results) if found}
    if late:
        pixels = pixels[[number not in late for number in good]]
    return pixels, Examined({**known, **late}, traits)


def size_in_gb(count: int, shape: Sequence[int]) -> float:
    """Size of images of shape (c, H, W), in 10⁹ bytes."""
    return count * shape[0] * shape[1] * shape[2] / 1e9


def decoded(
    name: str, file: Path, preprocessing: Preprocessing, side: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]] | str:
    """Decodes one file to (c, H, W) uint8 pixels and its traits, or returns why it cannot.

    Raises:
        DataError: The machine cannot read files at the moment.
    """
    try:
        pixels, traits = _asked(name, file, lambda: preprocessing.examine(file))
    except UnreadableImage as error:
        return str(error)
    if side is not None and pixels.shape[1:] != side:
        high, wide = pixels.shape[1:]
        return f"is {high}×{wide} pixels when it is decoded, and its header says {side[0]}×{side[1]}"
    return pixels, traits


def digest(pixels: NDArray[np.uint8]) -> str:
    """Hash of pixels (c, H, W), 32 hexadecimal digits."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]


def several_sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Describes the sizes of the images, the most common first.

    >>> several_sizes(Counter({(8, 9): 2, (32, 32): 70}))
    'images of 2 sizes (32×32: 70, 8×9: 2)'
    """
    shown = ", ".join(f"{high}×{wide}: {count}" for (high, wide), count in sizes.most_common(4))
    return f"images of {len(sizes)} sizes ({shown}{', …' if len(sizes) > 4 else ''})"


def to_one(name: str, sizes: Counter[tuple[int, int]]) -> str:
    """Text of the option that brings images of several sizes to one."""
    return Name.parse(name).advice("size", proposed(sizes))


def proposed(sizes: Counter[tuple[int, int]]) -> int:
    """Proposes a side for images of several sizes: the most common shorter side, within `SIDES`.

    >>> proposed(Counter({(1, 1): 1, (300, 400): 2, (16, 20): 7}))
    16
    """
    sides: Counter[int] = Counter()
    for (high, wide), count in sizes.items():
        sides[min(high, wide)] += count
    return max(SIDES[0], min(SIDES[1], sides.most_common(1)[0][0]))


def stamp(files: Sequence[Path]) -> list[tuple[Any, ...]]:
    """What changes when a file does, also when its size and time are set back; the path alone where there is none."""

    def one(file: Path) -> tuple[Any, ...]:
        try:
            found = file.stat()
        except OSError:
            return (str(file),)
        return str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    return side_by_side(one, files)


def _rules() -> tuple[Any, ...]:
    """What a kept result depends on besides files and options: the rules, and which files can be read here."""
    return FOR_KEEPS, PIL.__version__, formats()


def _asked(name: str, file: Path, read: Any) -> Any:
    """What reading a file gives; an error of the machine is no property of the file, which is not left out for it."""
    try:
        return read()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise DataError(f"{name}: {file} cannot be read at the moment ({reason}); try again") from error
