"""Own data: `folder:PATH`, `csv:FILE`, `npz:FILE`. Class counts come from the data.

- `folder:PATH`: one folder of images per class, named as the class; or `train/`, and `val/` and `test/` where there
  are any, each with a folder per class, or all of them in every class folder. Folders inside a class and links are
  followed; hidden files and files that are no images are left out and told. How files become pixels is stated in
  `trainables.data.decoding`.
- `csv:FILE`: `path,label` or `path,label,split` a line, with or without that header; paths relative to the file;
  labels whole numbers from 0, or names; split `train`, `val` or `test`.
- `npz:FILE`: arrays `x_train`, `y_train`, and `x_val`, `y_val`, `x_test`, `y_test` where there are any; or `x`, `y`.
  Images uint8, (N, H, W, c), (N, c, H, W) or (N, H, W) with c = 1 or 3; labels whole numbers from 0. `classes` may
  name the classes.

PATH and FILE are relative to `--data-root` where that is given, to the working directory else. Where no val or no
test is given it is cut from the training images, see `trainables.data.division`. Without `--imbalance` the data are
taken as they are; with it, a longer tail is cut.

Options follow a question mark: `folder:photos?size=64&broken=skip` (in a shell, in quotes).

| option | default | |
|---|---|---|
| `size` | as they are | side in pixels: shorter side resized to it, centre cut out; files only |
| `broken` | `refuse` | `skip` leaves unreadable files out, and names them; all files are decoded before training |
| `val`, `test` | 50 | images of each class that are cut, a fifth of the class at most |
| `pad` | an eighth of the side | largest random shift in training, pixels |
| `flip` | colour only | `yes` or `no`: mirror images in training |
| `crop` | `shift` | `resized`: training takes crops of random size and shape instead of shifts |
| `feed` | `auto` | `resident`: all in memory; `streamed`: decoded as needed; `auto`: streamed where above the limit |
| `background` | white | colour under transparent pixels: a name, or #rrggbb |
| `orientation` | `exif` | `ignore` leaves images as they lie in the file, whatever their EXIF data say |
| `resident_limit` | 8 | largest set in memory, 10⁹ bytes |
| `workers` | one per core, ≤ 8 | processes that decode what is streamed; 0 decodes in the training process |
"""

from __future__ import annotations

import csv
import functools
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from trainables.data import source as given
from trainables.data.catalogue import DataError, Name, Standard
from trainables.data.decoding import header
from trainables.data.division import HELD_OUT
from trainables.data.folders import folder
from trainables.data.source import SPLITS, Options, Source, check_classes, long_tailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.data.long_tail import LongTailed

OPTIONS = given.OPTIONS


def standard(name: str, root: str | None = None) -> Standard:
    """A schedule from the number of training images N and their shorter side s.

    10⁷ / N epochs, from 30 to 200 (CIFAR-LT has 200, 90 is usual for the 116,000 images of ImageNet-LT);
    learning rate 0.1 per 128 images of a batch; a small network where images are small or few.

    Raises:
        DataError: The data are absent or not as described above.
    """
    parsed = Name.parse(name)
    source = index(name, root)
    images = len(source.labels["train"])
    side = min(source.array_shape[1:])
    if source.files:
        options = Options.of(parsed)
        side = options.size or _side(source, options)
    epochs = max(30, min(200, 10 * round(1e6 / images)))
    batch_size = 64 if images < 5000 else 128
    small = side <= 16 or images < 2000
    return Standard(
        epochs=epochs,
        lr=0.1 * batch_size / 128,
        momentum=0.9,
        nesterov=False,
        weight_decay=5e-4 if small else 2e-4,
        batch_size=batch_size,
        schedule="cosine",
        model="resnet8" if small else "resnet32",
        imbalance=None,
        eval_every=epochs // 20 or 1,
        # of a val of 50 per class, accuracy has a standard error of about ½ √(1 / 50 C)
        margin=0.01 if len(source.class_names) >= 50 else 0.02,
        final_epochs=epochs,
        sd=max(0.005, 0.5 / (HELD_OUT * len(source.class_names)) ** 0.5),
    )


def _side(source: Source, options: Options) -> int:
    """The shorter side of the first training image that can be read."""
    for file in source.files["train"]:
        found = header(file, orientation=options.orientation)
        if not found.problem:
            return min(found.size)
    raise DataError(f"{source.where}: none of the {len(source.files['train'])} training images can be read")


def load(
    name: str, *, root: str | None = None, imbalance: float | None = None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """Own data, divided; see `trainables.data.load` and above.

    Raises:
        DataError: The data are absent or not as described above.
    """
    return long_tailed(
        name, index(name, root), Options.of(Name.parse(name)),
        imbalance=imbalance, split_seed=split_seed, fold_val=fold_val,
    )  # fmt: skip


def index(name: str, root: str | None = None) -> Source:
    """What the name stands for; no pixel is read."""
    parsed = Name.parse(name)
    place = parsed.place(root)
    if not place.exists():
        here = "" if place.is_absolute() else f" under {Path.cwd()}; paths may be absolute, or relative to --data-root"
        raise DataError(f"{name}: there is no {place}{here}")
    if parsed.kind == "folder":
        if not place.is_dir():
            raise DataError(f"{name}: {place} is no folder; csv: and npz: read files")
        return folder(place)
    if not place.is_file():
        raise DataError(f"{name}: {place} is no file; folder: reads folders")
    if parsed.kind == "npz" and "size" in parsed.options:
        raise DataError(f"{name}: option size is for image files; arrays have their size")
    return _csv(place) if parsed.kind == "csv" else _npz(place)


# --- tables ---------------------------------------------------------------------------------------------------


def _csv(file: Path) -> Source:
    rows = list(_rows(file))
    if not rows:
        raise DataError(f"{file}: has no lines; it needs path,label or path,label,split on each")
    class_names, number = _classes(file, [label for _, label, _ in rows])
    found: dict[str, list[int]] = {}
    files: dict[str, list[Path]] = {}
    for path, label, split in rows:
        found.setdefault(split, []).append(number[label])
        files.setdefault(split, []).append(file.parent / path)
    if "train" not in found:
        raise DataError(f"{file}: no line is of the split train")
    check_files(str(file), file.parent, [path for paths in files.values() for path in paths])
    import numpy as np

    labels = {split: np.array(found[split], dtype=np.int64) for split in SPLITS if split in found}
    check_classes(str(file), labels, class_names)
    return Source(str(file), class_names, labels, files)


def _rows(file: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            columns = 0
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                where = f"{file}, line {reader.line_num}"
                if not columns:
                    columns = len(cells)
                    if columns not in (2, 3):
                        raise DataError(f"{where}: has {columns} columns; path,label or path,label,split are needed")
                    if [cell.lower() for cell in cells] == ["path", "label", "split"][:columns]:
                        continue
                if len(cells) != columns or not cells[0] or not cells[1]:
                    raise DataError(f"{where}: needs {columns} filled columns like the first line, got {row!r}")
                split = cells[2] if columns == 3 else "train"
                if split not in SPLITS:
                    raise DataError(f"{where}: split must be train, val or test, got {split!r}")
                yield cells[0], cells[1], split
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8 ({error})") from error


def _classes(file: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Class names in order, and the number of each label as it is written."""
    written = sorted(set(labels))

    def whole(text: str) -> bool:
        return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()

    if not all(map(whole, written)):
        odd = [text for text in written if whole(text)]
        if odd and len(odd) > len(written) / 2:
            name = next(text for text in written if not whole(text))
            raise DataError(f"{file}: labels must be whole numbers from 0, or all of them names, got {name!r}")
        return tuple(written), {text: label for label, text in enumerate(written)}
    try:
        number = {text: int(text) for text in written}
    except ValueError as error:  # thousands of digits
        raise DataError(f"{file}: labels must be whole numbers from 0 ({str(error).partition(';')[0]})") from error
    return _numbered(str(file), set(number.values())), number


def _numbered(where: str, labels: Set[int]) -> tuple[str, ...]:
    """Names of classes that have numbers alone; before names are made for gaps without end.

    Raises:
        DataError: Labels that leave out most of the numbers up to the largest one.
    """
    classes = max(labels, default=-1) + 1
    if classes > 100 * max(10, len(labels)):
        raise DataError(
            f"{where}: labels must be whole numbers from 0 to the number of classes - 1, got {len(labels)} different "
            f"ones from {min(labels)} to {max(labels)}"
        )
    return tuple(map(str, range(classes)))


def check_files(where: str, root: Path, files: Sequence[Path]) -> None:
    """All files are there.

    Raises:
        DataError: How many are not, and the first few.
    """
    from trainables.data.progress import side_by_side

    there = side_by_side(Path.is_file, files)
    absent = [file for file, found in zip(files, there, strict=True) if not found]
    if absent:
        shown = ", ".join(str(file.relative_to(root) if file.is_relative_to(root) else file) for file in absent[:3])
        raise DataError(
            f"{where}: {len(absent)} of the {len(files)} files that it names are absent under {root}: {shown}"
            f"{', …' if len(absent) > 3 else ''}"
        )


# --- arrays ---------------------------------------------------------------------------------------------------


def _npz(file: Path) -> Source:
    import numpy as np

    pairs = _pairs(file)
    labels: dict[str, NDArray[np.int64]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for split, (x, y) in pairs.items():
        shape, kind = _head(file, x)
        if kind != np.dtype(np.uint8):
            raise DataError(f"{file}: {x} must be uint8 in 0 … 255, got {kind}")
        shapes[split] = _channels_first(f"{file}: {x}", shape)
        numbers = _array(file, y)
        if numbers.ndim != 1 or len(numbers) != shape[0] or numbers.dtype.kind not in "iu":
            raise DataError(
                f"{file}: {y} must hold {shape[0]} whole numbers, one for each image of {x}, got {numbers.dtype} "
                f"{numbers.shape}"
            )
        labels[split] = numbers.astype(np.int64)
    sizes = {shape[1:] for shape in shapes.values()}
    if len(sizes) > 1:
        shown = ", ".join(f"{split} {'×'.join(map(str, shape[1:]))}" for split, shape in shapes.items())
        raise DataError(f"{file}: the splits' images differ in shape ({shown}); bring them to one")
    class_names = _numbered(str(file), {label for found in labels.values() for label in np.unique(found).tolist()})
    classes = len(class_names)
    with np.load(file) as pack:
        if "classes" in pack.files:
            named = [str(name) for name in _array(file, "classes").tolist()]
            if len(named) < classes:
                raise DataError(f"{file}: classes has {len(named)} names, but labels go up to {classes - 1}")
            class_names = tuple(named)
    check_classes(str(file), labels, class_names)
    found = file.stat()
    return Source(
        str(file),
        class_names,
        labels,
        arrays=functools.partial(_images, file, pairs),
        array_shape=cast("tuple[int, int, int]", next(iter(sizes))),
        stamp=(found.st_size, found.st_mtime_ns),
    )


def _pairs(file: Path) -> dict[str, tuple[str, str]]:
    """For each given split, the names of its images and labels."""
    try:
        with zipfile.ZipFile(file) as pack:
            there = {member.removesuffix(".npy") for member in pack.namelist() if member.endswith(".npy")}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file}: cannot be read as npz ({error})") from error
    if "x_train" not in there and {"x", "y"} <= there:
        return {"train": ("x", "y")}
    pairs = {split: (f"x_{split}", f"y_{split}") for split in SPLITS if {f"x_{split}", f"y_{split}"} & there}
    lacking = sorted({"x_train", "y_train", *(name for pair in pairs.values() for name in pair)} - there)
    if lacking:
        raise DataError(
            f"{file}: has no {', '.join(lacking)}; it needs x_train and y_train, and may have x_val, y_val, x_test, "
            f"y_test, or else x and y; got {', '.join(sorted(there)) or 'nothing'}"
        )
    return pairs


def _head(file: Path, array: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype, without reading the array."""
    from numpy.lib import format as npy

    try:
        with zipfile.ZipFile(file) as pack, pack.open(f"{array}.npy") as stored:
            reader: IO[bytes] = stored
            read = npy.read_array_header_1_0 if npy.read_magic(reader) == (1, 0) else npy.read_array_header_2_0
            shape, _, kind = read(reader)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: {array} cannot be read ({error})") from error
    return shape, kind


def _array(file: Path, array: str) -> NDArray[Any]:
    import numpy as np

    try:
        with np.load(file) as pack:
            return cast("NDArray[Any]", pack[array])
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        reason = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise DataError(f"{file}: {array} cannot be read ({reason})") from error


def _channels_first(where: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, c, H, W) of the images as they are stored.

    >>> _channels_first("x", (7, 32, 30, 3)), _channels_first("x", (7, 3, 32, 30)), _channels_first("x", (7, 8, 9))
    ((7, 3, 32, 30), (7, 3, 32, 30), (7, 1, 8, 9))
    """
    if 0 in shape[1:]:
        raise DataError(f"{where} has images without pixels, got {shape}")
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:])
    if len(shape) == 4 and shape[3] in (1, 3):
        return (shape[0], shape[3], *shape[1:3])
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape
    raise DataError(f"{where} must be (N, H, W, c), (N, c, H, W) or (N, H, W) with c = 1 or 3, got {shape}")


def _images(file: Path, pairs: Mapping[str, tuple[str, str]]) -> Mapping[str, NDArray[np.uint8]]:
    import numpy as np

    images = {}
    for split, (x, _) in pairs.items():
        stored = _array(file, x)
        if stored.ndim == 3:
            stored = stored[:, None]
        elif stored.shape[3] in (1, 3):
            stored = stored.transpose(0, 3, 1, 2)
        images[split] = np.ascontiguousarray(stored)
    return images
