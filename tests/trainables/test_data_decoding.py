"""From an encoded image to pixels: every rule, and what is said where there is none."""

import errno
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from trainables.data.images.decoding import MOST_PIXELS, Preprocessing, UnreadableImage, header, no_image

COLOURED = Image.fromarray(np.random.RandomState(0).randint(0, 256, (4, 6, 3), dtype=np.uint8))
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def encoded(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def decoded(content: bytes, channels: int = 3, **options) -> tuple[np.ndarray, tuple[str, ...]]:
    return Preprocessing(channels, **options).examine(content)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- orientation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(format_: str, orientation: int) -> None:
    content = encoded(COLOURED, format_, exif=oriented(orientation))
    pixels, traits = decoded(content)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(pixels.transpose(1, 2, 0), upright)
    # Pillow turns TIFF files itself: their orientation is part of the format
    assert ("turned" in traits) == (orientation > 1 and format_ != "TIFF")
    for how in ("exif", "ignore"):
        assert header(content, orientation=how).size == decoded(content, orientation=how)[0].shape[1:]
    if format_ == "PNG":
        assert np.array_equal(decoded(content, orientation="ignore")[0].transpose(1, 2, 0), np.asarray(COLOURED))


def test_by_hand_a_photo_that_was_taken_with_the_phone_turned() -> None:
    """Orientation 6: the camera lay on its right side, so the first column from below is the first row."""
    content = encoded(Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)), exif=oriented(6))
    assert decoded(content, 1)[0][0].tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("value", [0, 9, 77])
def test_orientations_that_do_not_exist_leave_an_image_as_it_is(value: int) -> None:
    pixels, traits = decoded(encoded(COLOURED, exif=oriented(value)))
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(COLOURED)) and "turned" not in traits


def test_damaged_exif_data_do_not_cost_the_image() -> None:
    content = encoded(COLOURED, "JPEG", exif=b"Exif\0\0XX*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels, traits = decoded(content)
        assert header(content).size == (4, 6)
    assert pixels.shape == (3, 4, 6) and "exif unreadable" in traits


# --- transparency -----------------------------------------------------------------------------------------


def half_clear(kind: str) -> bytes:
    """8 columns, of which the left ones are opaque black and the right ones transparent."""
    black = np.zeros((6, 8), dtype=np.uint8)
    alpha = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)[None].repeat(6, axis=0)
    marked = np.where(alpha == 0, 7, 0).astype(np.uint8)
    if kind == "RGBA":
        return encoded(Image.fromarray(np.dstack([black, black, black, alpha])))
    if kind == "RGBA WEBP":
        return encoded(Image.fromarray(np.dstack([black, black, black, alpha])), "WEBP", lossless=True)
    if kind == "LA":
        return encoded(Image.merge("LA", [Image.fromarray(black), Image.fromarray(alpha)]))
    if kind == "L":
        return encoded(Image.fromarray(marked), transparency=7)
    if kind == "1":
        return encoded(Image.fromarray(marked > 0), transparency=1)
    if kind == "I;16":
        return encoded(Image.fromarray(marked.astype(np.uint16)), transparency=7)
    if kind == "RGB":
        return encoded(Image.fromarray(np.dstack([marked] * 3)), transparency=(7, 7, 7))
    palette = Image.fromarray(marked, "P")
    palette.putpalette([0, 0, 0] * 8)
    if kind == "GIF":
        return encoded(palette, "GIF", transparency=7)
    return encoded(palette, transparency=7 if kind == "P" else bytes([255] * 7 + [0]))


@pytest.mark.parametrize(
    "kind", ["RGBA", "RGBA WEBP", "LA", "L", "1", "I;16", "RGB", "P", "P with shades", "GIF"]
)  # fmt: skip
def test_transparent_pixels_are_laid_on_the_background(kind: str) -> None:
    content = half_clear(kind)
    for channels in (1, 3):
        pixels, traits = decoded(content, channels)
        assert pixels[:, :, :4].max() == 0 and pixels[:, :, 4:].min() == 255, kind
        assert "transparent" in traits
    assert decoded(content, background="#0080ff")[0][:, 0, 5].tolist() == [0, 128, 255]
    assert decoded(content, 1, background="black")[0].max() == 0


def test_an_opaque_alpha_channel_is_nothing_to_tell() -> None:
    _, traits = decoded(encoded(COLOURED.convert("RGBA")))
    assert traits == ()
    _, traits = decoded(encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0))))
    assert traits == ("invisible",)


def test_half_opaque_pixels_by_hand() -> None:
    """Black at an opacity of 51 in 255: a fifth of black, four fifths of white."""
    pixels, _ = decoded(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 51))))
    assert pixels[:, 0, 0].tolist() == [204, 204, 204]


def test_grey_on_a_coloured_background_has_three_channels() -> None:
    assert header(half_clear("LA")).grey and header(half_clear("LA"), background="black").grey
    assert not header(half_clear("LA"), background="red").grey


# --- bits and colours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_give_their_upper_eight(format_: str) -> None:
    content = encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 200), format_)
    pixels, traits = decoded(content, 1)
    assert np.array_equal(pixels[0], GREY) and header(content).grey
    assert [trait for trait in traits if trait.startswith("16 bits")] and "dark" not in traits


def test_big_endian_tiff() -> None:
    image = Image.frombytes("I;16B", (8, 6), (GREY.astype(np.uint16) * 257).astype(">u2").tobytes())
    assert np.array_equal(decoded(encoded(image, "TIFF"), 1)[0][0], GREY)


def test_sixteen_bit_colour_is_told() -> None:
    # a PNG of 1×1 pixels of 16 bits, which Pillow cannot write
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel = zlib.compress(b"\0" + struct.pack(">3H", 0xFFFF, 0x8012, 0x00FF))
    head = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    pixels, traits = decoded(content)
    assert pixels[:, 0, 0].tolist() == [0xFF, 0x80, 0x00] and traits == ("16 bits:RGB",)


def test_sixteen_bits_that_hold_twelve_are_told() -> None:
    pixels, traits = decoded(encoded(Image.fromarray(GREY.astype(np.uint16) * 16)), 1)
    assert pixels.max() < 16 and "dark" in traits


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_refused(kind: type) -> None:
    content = encoded(Image.fromarray(GREY.astype(kind)), "TIFF")
    assert "for which there is no rule; convert it to grey or RGB of 8 bits" in header(content).problem
    with pytest.raises(UnreadableImage, match="has pixels of mode"):
        decoded(content)


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk(format_: str) -> None:
    """A JPEG keeps its inks inverted, as Photoshop does: red must stay red."""
    pixels, traits = decoded(encoded(Image.new("RGB", (16, 16), (250, 10, 20)).convert("CMYK"), format_))
    assert np.abs(pixels[:, 8, 8].astype(int) - [250, 10, 20]).max() < 8 and "cmyk" in traits


def test_one_bit() -> None:
    content = encoded(Image.fromarray(GREY > 100), "TIFF", compression="group4")
    assert np.array_equal(decoded(content, 1)[0][0], np.where(GREY > 100, 255, 0)) and header(content).grey


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    pixels, traits = decoded(encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options))
    assert pixels[:, 4, 4].tolist() == [255, 0, 0] and "frames" in traits


def test_a_colour_profile_is_told_and_not_applied() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    pixels, traits = decoded(encoded(COLOURED, icc_profile=profile.tobytes()))
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(COLOURED))
    assert [trait for trait in traits if trait.startswith("profile:")]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert decoded(encoded(COLOURED, icc_profile=srgb.tobytes()))[1] == ()


# --- what is no image -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not an image: the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS; `git lfs pull`"),
        (b"\n <!DOCTYPE html><html>404", "is a web page and not an image"),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "an SVG drawing; export it as PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC image.*pip install pillow-heif"),
        (b"\xff\x0a" + b"x" * 20, "is a JPEG XL image.*pip install pillow-jxl-plugin"),
        (b"8BPS" + b"x" * 20, "is a Photoshop document"),
        (b"\0" * 600, "it holds only zeros"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),  # would run Ghostscript
        (b"some words", "is not an image"),
    ],
)
def test_what_a_file_is_instead(content: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableImage, match=sentence):
        decoded(content)
    assert header(content).problem == no_image(content[:512])


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_file_that_is_cut_short(format_: str) -> None:
    noise = Image.fromarray(np.random.RandomState(1).randint(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, format_)
    with pytest.raises(UnreadableImage):
        decoded(whole[: len(whole) * 2 // 3])


def test_an_image_that_would_fill_the_memory() -> None:
    content = encoded(Image.new("1", (16_000, 12_000)))
    assert len(content) < 100_000
    with pytest.raises(UnreadableImage, match=f"above the limit of {MOST_PIXELS:,} for one image; make it smaller"):
        decoded(content)


def test_sources(tmp_path: Path) -> None:
    content = encoded(COLOURED)
    (tmp_path / "x").write_bytes(content)
    expected = np.asarray(COLOURED).transpose(2, 0, 1)
    for source in (content, tmp_path / "x", str(tmp_path / "x"), io.BytesIO(content)):
        pixels = Preprocessing(3).decode(source)
        assert np.array_equal(pixels, expected) and pixels.flags.c_contiguous and pixels.dtype == np.uint8
    with (tmp_path / "x").open("rb") as file:
        assert np.array_equal(Preprocessing(3).decode(file), expected)
    for problem, path in (
        ("cannot be opened: No such file", tmp_path / "none"), ("is not a regular file", tmp_path),
    ):  # fmt: skip
        assert problem in header(path).problem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "channels must be 1 or 3, got 4"),
        ({"background": "whitish"}, "a colour must be a name such as white or black, or #rrggbb, got 'whitish'"),
        ({"background": "#ffffff00"}, "must be opaque"),
        ({"orientation": "up"}, "orientation must be exif or ignore, got 'up'"),
        ({"size": 0}, "size must be a number of pixels, got 0"),
    ],
)
def test_bad_preprocessing(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"channels": 3, **options})


def test_the_file_stands_alone(tmp_path: Path) -> None:
    """A served model carries a copy of it."""
    (tmp_path / "rules.py").write_text(Path(sys.modules[Preprocessing.__module__].__file__).read_text(encoding="utf-8"))
    (tmp_path / "x.png").write_bytes(encoded(COLOURED))
    code = "import sys; from rules import Preprocessing; print(Preprocessing(1, 2).decode('x.png').shape, *sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("(1, 2, 2)") and "trainables" not in done.stdout.split(), done.stderr


FULL = """
import os, resource, sys, threading, time
from pathlib import Path
from trainables.data.images.decoding import Preprocessing, UnreadableImage
rule, file = Preprocessing(3), Path(sys.argv[1])
rule.decode(file)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.open(os.devnull, os.O_RDONLY))
except OSError: pass
try: rule.decode(file)
except UnreadableImage as error: print("unreadable", error)
except OSError as error: print("machine", error.errno)
threading.Timer(0.2, lambda: os.close(held.pop())).start()
print(rule.decode(file).shape)
"""


def test_too_many_open_files_say_nothing_about_an_image(tmp_path: Path) -> None:
    """An image must not be left out as broken because the machine was busy; what passes is waited for."""
    (tmp_path / "x.png").write_bytes(encoded(COLOURED))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "x.png")], capture_output=True, text=True, timeout=100,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"machine {errno.EMFILE}", "(3, 4, 6)"], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody, whom permissions bind")
def test_a_file_that_one_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(COLOURED))
    (tmp_path / "x.png").chmod(0)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        problem = header(tmp_path / "x.png").problem
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert problem == "cannot be opened: Permission denied"
