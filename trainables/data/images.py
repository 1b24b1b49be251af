"""Image files in memory: headers first, so that what cannot work is refused before hours of decoding."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainables.data.catalogue import DataError, spelled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What an image file's name ends in, in lower case."""

RESIDENT_GB = 8
"""Largest resident set without `?resident_limit=`, in 10⁹ bytes."""

GREY = frozenset({"1", "L"})
COLOUR = frozenset({"P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Header:
    """What an image file says before it is decoded.

    Args:
        size: (height, width) in pixels.
        grey: Whether it has one channel.
        problem: Why it cannot be read; empty where it can.
    """

    size: tuple[int, int] = (0, 0)
    grey: bool = False
    problem: str = ""


def header(file: Path) -> Header:
    """The header of one file; what is wrong with it is returned, not raised."""
    from PIL import Image

    if not file.is_file():  # a pipe would be waited for
        return Header(problem="is no file, or a link to nothing")
    try:
        with Image.open(file) as image:
            if image.mode not in GREY | COLOUR:
                return Header(problem=f"has pixels of kind {image.mode}, not 8 bits each")
            return Header((image.height, image.width), image.mode in GREY)
    except MemoryError:
        raise
    except Exception as error:
        return Header(problem=_short(error))


def decoded(file: Path, grey: bool, size: int | None) -> NDArray[np.uint8] | str:
    """(c, H, W) uint8 pixels of one file, or why it cannot be decoded.

    With a size, the shorter side is resized to it (bilinear, smoothed where it shrinks) and the centre cut out.
    """
    from torchvision.transforms.v2 import functional as by

    try:
        pixels = _pixels(file, grey)
        height, width = pixels.shape[-2:]
        if size is not None and (height, width) != (size, size):
            scale = size / min(width, height)
            wide, high = max(size, round(width * scale)), max(size, round(height * scale))
            pixels = by.resize(pixels, [high, wide], antialias=True)
            top, left = (high - size) // 2, (wide - size) // 2
            pixels = pixels[:, top : top + size, left : left + size]
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise anything at all
        return _short(error)
    found: NDArray[np.uint8] = pixels.contiguous().numpy()
    return found


def _pixels(file: Path, grey: bool) -> Any:
    """(c, H, W) by PIL: torchvision's own decoders are deprecated. Transparency is dropped, as ImageFolder does."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(file) as opened:
        # a palette with shades of transparency is converted in two steps, or PIL warns of it
        shades = opened.mode == "P" and isinstance(opened.info.get("transparency"), bytes)
        pixels = np.array((opened.convert("RGBA") if shades else opened).convert("L" if grey else "RGB"))
    return torch.from_numpy(pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Seen:
    """What the headers of many files say together.

    Args:
        good: Indices of those that can be read.
        broken: Why not, by index of the others.
        shape: (c, H, W) that they are decoded to.
    """

    good: tuple[int, ...]
    broken: dict[int, str]
    shape: tuple[int, int, int]

    @property
    def gigabytes(self) -> float:
        """All pixels, in 10⁹ bytes."""
        return len(self.good) * self.shape[0] * self.shape[1] * self.shape[2] / 1e9


def looked_at(name: str, files: Sequence[Path], *, size: int | None, skip_broken: bool) -> Seen:
    """The headers of all files.

    Raises:
        DataError: Broken files that are not to be skipped, or several sizes and none to bring them to.
    """
    headers = side_by_side(header, files)
    broken = {number: found.problem for number, found in enumerate(headers) if found.problem}
    _refuse(name, files, broken, skip_broken)
    good = tuple(number for number in range(len(files)) if number not in broken)
    if not good:
        raise DataError(f"{name}: none of the {len(files)} images can be read")
    sizes = Counter(headers[number].size for number in good)
    if size is None and len(sizes) > 1:
        raise DataError(f"{name}: {several_sizes(sizes)}; bring them to one with ?size={_suggested(sizes)} in the name")
    side = (size, size) if size is not None else next(iter(sizes))
    return Seen(good, broken, (1 if all(headers[number].grey for number in good) else 3, *side))


def resident(
    name: str,
    files: Sequence[Path],
    seen: Seen,
    *,
    size: int | None,
    skip_broken: bool,
    limit_gb: float = RESIDENT_GB,
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    """All files as one array.

    Args:
        name: Of the data set, for messages.
        files: Which exist.
        seen: What `looked_at` says of them.
        size: Side in pixels that every image is brought to; without one they must have one size.
        skip_broken: Whether files that cannot be decoded are left out, or refused.
        limit_gb: Largest array, in 10⁹ bytes.

    Returns:
        (N, c, H, W) uint8, of one channel where all files are grey and of three else; the N indices into
        `files`; a sentence per file that was left out.

    Raises:
        DataError: Broken files, or more than the limit.
    """
    import numpy as np

    good, broken, grey, shape = list(seen.good), dict(seen.broken), seen.shape[0] == 1, seen.shape
    if seen.gigabytes > limit_gb:
        raise DataError(
            f"{name}: {len(good)} images of {shape[1]}×{shape[2]} pixels are {seen.gigabytes:.1f} GB in memory, above "
            f"the limit of {limit_gb:g} GB; choose a smaller ?size=, stream them from disk with --feed streamed, "
            f"or raise the limit with ?resident_limit={int(seen.gigabytes) + 1} where the memory is there"
        )
    pixels = np.empty((len(good), *shape), dtype=np.uint8)

    def fill(row: int) -> str:
        found = decoded(files[good[row]], grey, size)
        if isinstance(found, str):
            return found
        pixels[row] = found
        return ""

    late = {good[row]: problem for row, problem in enumerate(side_by_side(fill, range(len(good)))) if problem}
    _refuse(name, files, late, skip_broken)
    broken |= late
    if late:
        pixels = pixels[[number not in late for number in good]]
        good = [number for number in good if number not in late]
    return pixels, good, [f"{spelled(files[number])}: {problem}" for number, problem in sorted(broken.items())]


def several_sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Which sizes there are, the commonest first.

    >>> several_sizes(Counter({(8, 9): 2, (32, 32): 70}))
    'images of 2 sizes (32×32: 70, 8×9: 2)'
    """
    shown = ", ".join(f"{high}×{wide}: {count}" for (high, wide), count in sizes.most_common(4))
    return f"images of {len(sizes)} sizes ({shown}{', …' if len(sizes) > 4 else ''})"


def _suggested(sizes: Counter[tuple[int, int]]) -> int:
    """The commonest shorter side, at most 224."""
    sides: Counter[int] = Counter()
    for (high, wide), count in sizes.items():
        sides[min(high, wide)] += count
    return min(224, sides.most_common(1)[0][0])


def _refuse(name: str, files: Sequence[Path], broken: dict[int, str], skip: bool) -> None:
    if broken and not skip:
        shown = "; ".join(f"{spelled(files[number])}: {problem}" for number, problem in list(broken.items())[:3])
        raise DataError(
            f"{name}: {len(broken)} of {len(files)} images cannot be read ({shown}{'; …' if len(broken) > 3 else ''}); "
            "mend or remove them, or leave them out with ?broken=skip in the name"
        )


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return "is no image" if type(error).__name__ == "UnidentifiedImageError" else (text or [type(error).__name__])[0]


def side_by_side(work: Callable[[T], R], items: Sequence[T], block: int = 64) -> list[R]:
    """Results in order; decoding leaves Python's lock, so threads are enough.

    Args:
        work: What is done with each item.
        items: A list file may name half a million.
        block: Items for a thread at a time.
    """

    def several(first: int) -> list[R]:
        return [work(item) for item in items[first : first + block]]

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
        return [result for results in threads.map(several, range(0, len(items), block)) for result in results]


def stamp(files: Sequence[Path]) -> list[tuple[str, Any, Any]]:
    """What changes when a file does: path, bytes, time of change; neither where there is no such file."""

    def one(file: Path) -> tuple[str, Any, Any]:
        try:
            found = file.stat()
        except OSError:
            return str(file), None, None
        return str(file), found.st_size, found.st_mtime_ns

    return side_by_side(one, files)
