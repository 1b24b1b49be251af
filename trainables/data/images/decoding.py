"""From an image file to pixels: the one set of rules that training, `describe` and the served model share.

1. The content decides what a file is, never the ending of its name. Of several frames or pages the first one is used.
2. The EXIF orientation is applied (`orientation="exif"`) or ignored ("ignore"); the orientation of a TIFF file is part
   of the format and always applied.
3. Transparent pixels are laid on the background colour.
4. Of 16 bits per channel the upper 8 are used. Floating-point pixels and integers of 32 bits are refused, because no
   rule states which value is white.
5. Palettes are looked up. CMYK is converted without a colour profile, and colour profiles are not applied elsewhere.
   Grey pixels are repeated in three channels, colour becomes grey by the luma of ITU-R 601.
6. With a size, the shorter side is resized to it (bilinear or bicubic, smoothed where it shrinks) and the centre is
   cut out.

Pillow alone does the work: its resizing computes in integers and hence gives the same pixels on every machine. It and
NumPy are imported where they are used, because the standard schedules of data sets are asked for without them. Nothing
else of this project is imported, because a served model carries a copy of this file.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import os
import re
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, ImageFile, UnidentifiedImageError

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")
"""Accepted formats; others of Pillow run external programs, or accept files that are not images."""

PLUGINS = ("pillow_heif", "pillow_jxl")
"""Optional packages that read HEIC and JPEG XL."""

GREY = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I"})
COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
"""Supported modes of Pillow; "I" only for the 16 bits of a PGM file."""

MOST_PIXELS = 178_956_970
"""Pillow's limit for one image, which guards against small files that fill the memory."""

ORIENTATIONS = ("exif", "ignore")
INTERPOLATIONS = ("bilinear", "bicubic")

TURNED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation to the transposition of Pillow that brings the image upright."""

MACHINE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR}
)
"""Errors of the machine or the network, which say nothing about the file."""

RETRIES = (0.05, 0.5, 2.0)
"""Seconds before a file that such an error, or a failing disk, has kept from being read is tried again."""

Source = bytes | os.PathLike[str] | str | BinaryIO
"""An encoded image: its bytes, its file's path, or a file that is open for reading bytes."""


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the message completes the sentence "the file …"."""


@dataclass(frozen=True)
class Header:
    """Header of an image file.

    Args:
        size: (height, width) in pixels, upright.
        grey: Whether one channel holds all of it.
        problem: Reason why it cannot be read; empty if it can.
    """

    size: tuple[int, int] = (0, 0)
    grey: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an encoded image to the pixels that a network receives.

    Args:
        channels: 1 or 3.
        size: Side in pixels that every image is brought to; `None` keeps the image's own size.
        background: Colour under transparent pixels, as a name of CSS or as #rrggbb.
        orientation: One of `ORIENTATIONS`.
        interpolation: One of `INTERPOLATIONS`, by which images are resized.

    Raises:
        ValueError: A number of channels, colour, orientation or interpolation that does not exist.
    """

    channels: int
    size: int | None = None
    background: str = "white"
    orientation: str = "exif"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels!r}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be a number of pixels, got {self.size!r}")
        if self.orientation not in ORIENTATIONS:
            raise ValueError(f"orientation must be {' or '.join(ORIENTATIONS)}, got {self.orientation!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be {' or '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        colour(self.background)

    @property
    def unusual(self) -> tuple[str, ...]:
        """Colour, orientation and interpolation where they are not the defaults: part of a data set's fingerprint."""
        told = () if (self.background, self.orientation) == ("white", "exif") else (self.background, self.orientation)
        return told if self.interpolation == "bilinear" else (*told, self.interpolation)

    def decode(self, source: Source) -> NDArray[np.uint8]:
        """The pixels of one image.

        Args:
            source: The encoded image.

        Returns:
            (channels, H, W) uint8, C-contiguous; H = W = size where there is one.

        Raises:
            UnreadableImage: It is no image, damaged, or of a kind that there is no rule for.
            OSError: The machine or the network fails, which says nothing about the image.

        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(file, "PNG")
        >>> Preprocessing(channels=1).decode(file).tolist()
        [[[255, 255, 255], [255, 255, 255]]]
        """
        return self.examine(source)[0]

    def examine(self, source: Source) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """The pixels of one image, and which of the traits of `trainables.data.images.notices` it has.

        Raises:
            UnreadableImage: As `decode`.
            OSError: As `decode`.
        """
        with reading(source, whole=True) as image:
            traits, stored = list(_traits(image)), str(image.tile)  # loading forgets how the pixels are stored
            image.load()
            turn, unknown = _orientation(image) if self.orientation == "exif" else (1, False)
            traits += ["exif unreadable"] if unknown else []
            found: Image.Image = image
            if image.mode.startswith("I"):
                found, brightest = _eight_bits(image, 12 if ";12" in stored else 16)
                traits += ["dark"] if brightest < 16 else []
            if found.has_transparency_data:
                found, (least, most) = _laid_on(found, colour(self.background))
                traits += ["invisible"] if most == 0 else ["transparent"] if least < 255 else []
            found = found.convert("L" if self.channels == 1 else "RGB")
            if turn in TURNED:
                found = found.transpose(Image.Transpose[TURNED[turn]])
                traits.append("turned")
            if self.size is not None:
                found = squared(found, self.size, self.interpolation)
            pixels = np.asarray(found)
        pixels = pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels), tuple(traits)


def squared(image: Image.Image, size: int, interpolation: str = "bilinear") -> Image.Image:
    """Resizes the shorter side to `size` and returns the central square.

    >>> from PIL import Image
    >>> squared(Image.new("L", (40, 20)), 8).size
    (8, 8)
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    return image.resize((wide, high), Image.Resampling[interpolation.upper()]).crop(
        (left, top, left + size, top + size)
    )


def header(source: Source, background: str = "white", orientation: str = "exif") -> Header:
    """Reads the header of an image; a problem is returned and not raised.

    Args:
        source: The encoded image.
        background: As in `Preprocessing`: a grey image on a colour has three channels.
        orientation: As in `Preprocessing`.

    Raises:
        OSError: As `Preprocessing.decode`.
    """
    try:
        with reading(source) as image:
            size = (image.height, image.width)
            # Pillow has turned a TIFF's size already; a PNG's EXIF data may stand behind its pixels, which are not read
            known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            if orientation == "exif" and known and _orientation(image)[0] >= 5:
                size = size[::-1]
            tinted = image.has_transparency_data and len(set(colour(background))) > 1
            return Header(size, image.mode in GREY and not tinted)
    except UnreadableImage as error:
        return Header(problem=str(error))


@functools.cache
def colour(text: str) -> tuple[int, int, int]:
    """Parses a colour to red, green and blue in 0 … 255.

    Raises:
        ValueError: The text is not a colour.

    >>> colour("white"), colour("#0080ff")
    ((255, 255, 255), (0, 128, 255))
    """
    try:
        found = ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(f"a colour must be a name such as white or black, or #rrggbb, got {text!r}") from None
    if len(found) != 3:
        raise ValueError(f"a background must be opaque, got {text!r}")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings of Pillow about cases that are handled here; enter it before threads start to decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading(source: Source, whole: bool = False) -> Iterator[ImageFile.ImageFile]:
    """Opens an image of a supported kind.

    Args:
        source: The encoded image.
        whole: Whether all of a file is wanted, which is then read at once and tried again where that fails.

    Raises:
        UnreadableImage: There is none, or what is done with it finds it damaged.
        OSError: As `Preprocessing.decode`.
    """
    with ExitStack() as stack:
        try:
            file = _open(source, whole, stack)
            try:
                image = stack.enter_context(Image.open(file, formats=formats()))
            except UnidentifiedImageError as error:
                file.seek(0)
                raise UnreadableImage(no_image(file.read(512))) from error
            allowed = image.mode in GREY | COLOUR and (image.mode != "I" or image.format == "PPM")
            if not allowed:
                raise UnreadableImage(
                    f"has pixels of mode {image.mode}, for which there is no rule; convert it to grey or RGB of 8 bits"
                )
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImage(_too_large(image.width * image.height))
            yield image
        except (MemoryError, UnreadableImage):
            raise
        except Image.DecompressionBombError as error:
            raise UnreadableImage(_too_large()) from error
        except OSError as error:
            if error.errno in MACHINE:
                raise
            raise UnreadableImage(_words(error)) from error
        except Exception as error:  # decoders of damaged files raise anything at all
            raise UnreadableImage(_words(error)) from error


def no_image(head: bytes) -> str:
    """Describes a file that no format recognises, and what to do about it.

    Args:
        head: Its first bytes, 512 or more where it has them.

    >>> no_image(b"")
    'is not an image: the file is empty'
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if not head:
        return "is not an image: the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is no image yet, only a pointer of Git LFS; `git lfs pull` fetches the image"
    if brand in (b"avif", b"avis"):
        return "is an AVIF image; Pillow reads it from version 11.3 on: pip install --upgrade pillow"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "is a HEIC image, which Pillow reads with a further package: pip install pillow-heif"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "is a JPEG XL image, which Pillow reads with a further package: pip install pillow-jxl-plugin"
    if head.startswith(b"8BPS"):
        return "is a Photoshop document; export it as PNG"
    if b"<svg" in text:
        return "is an SVG drawing; export it as PNG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is a web page and not an image, probably from a failed download"
    if not head.strip(b"\0"):
        return "is not an image: it holds only zeros, probably from an interrupted copy"
    return "is not an image"


@functools.cache
def formats() -> tuple[str, ...]:
    """Formats among `FORMATS` that the installed Pillow and its plug-ins can read."""
    Image.init()
    for package in PLUGINS:
        with suppress(ImportError):
            plugin = importlib.import_module(package)
            getattr(plugin, "register_heif_opener", lambda: None)()
    return tuple(format_ for format_ in FORMATS if format_ in Image.OPEN)


def _open(source: Source, whole: bool, stack: ExitStack) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        source.seek(0)
        return source
    for wait in (*RETRIES, None):
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe would be waited for
                raise UnreadableImage("is not a regular file")
            file = stack.enter_context(open(source, "rb"))  # noqa: SIM115  (the stack closes it)
            return io.BytesIO(file.read()) if whole else file
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(source):
                raise UnreadableImage("is a link to nothing") from error
            if wait is None or error.errno not in {*MACHINE, errno.EIO}:
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """The EXIF orientation, and whether the EXIF data are damaged, which leaves the image as it is."""
    try:
        found = image.getexif().get(0x0112)
        if found is None and image.info.get("exif"):
            Image.Exif().load(image.info["exif"])  # Pillow does not repeat an error that it has met when it opened
    except Exception:  # the parser of EXIF data raises anything at all, while the pixels may be whole
        return 1, True
    return (found, False) if isinstance(found, int) else (1, False)


def _traits(image: ImageFile.ImageFile) -> Iterator[str]:
    """Traits of an opened image that need no pixels."""
    with suppress(Exception):  # a damaged later frame; the first one decides
        if getattr(image, "is_animated", False):
            yield "frames"
    if image.mode == "CMYK":
        yield "cmyk"
    if image.mode in GREY:
        yield "grey"
    if image.mode.startswith("I") or re.search(r"\b(RGB[AX]?|LA);16", str(image.tile)):
        yield f"16 bits:{image.mode}"
    profile = image.info.get("icc_profile")
    if profile and image.mode != "CMYK" and "srgb" not in (name := _profile(bytes(profile))).lower():
        yield f"profile:{name}"


@functools.lru_cache(maxsize=256)
def _profile(content: bytes) -> str:
    """The name of a colour profile."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(content))).strip() or "without a name"
    except Exception:
        return "that cannot be read"


def _eight_bits(image: Image.Image, bits: int) -> tuple[Image.Image, int]:
    """The upper 8 of `bits` bits, and the largest of their values; a transparent value becomes an alpha channel."""
    values = np.asarray(image).astype(np.int64)
    upper = (np.clip(values, 0, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
    grey = Image.fromarray(upper)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey, int(upper.max())


def _laid_on(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """An image without its transparency, and the least and the largest opacity of its pixels, in 0 … 255."""
    clear = image.convert("RGBA")
    opacity = np.asarray(clear.getchannel("A"))
    below = Image.new("RGBA", clear.size, (*background, 255))
    below.alpha_composite(clear)
    return below.convert("RGB"), (int(opacity.min()), int(opacity.max()))


def _too_large(pixels: int | None = None) -> str:
    how_many = "too many pixels" if pixels is None else f"{pixels:,} pixels"
    return f"has {how_many}, above the limit of {MOST_PIXELS:,} for one image; make it smaller"


def _words(error: Exception) -> str:
    """The first line of an error's message; without the path, which stands before it."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"cannot be opened: {error.strerror}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
