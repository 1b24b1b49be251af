"""Own data: `folder:PATH`, `csv:FILE`, `npz:FILE`. Class counts come from the data.

- `folder:PATH`: one folder of images per class, named as the class; or `train/`, and `val/` and `test/` where there
  are any, each with a folder per class, or all of them in every class folder. Folders inside a class and links are
  followed; hidden files and files that are not images are left out and reported. How files become pixels is stated in
  `trainables.data.images.decoding`.
- `csv:FILE`: `path,label` or `path,label,split` a line, separated by commas, semicolons or tabs; or other columns in
  any order below a header that has these names. Paths are relative to the file, absolute, or begin with `~/`. Labels
  are whole numbers, or names; the split is `train`, `val` or `test`.
- `npz:FILE`: arrays `x_train`, `y_train`, and `x_val`, `y_val`, `x_test`, `y_test` where there are any; `x`, `y` for
  train; also `train_images`, `train_labels` and the like. Images are uint8, (N, H, W, c), (N, c, H, W) or (N, H, W)
  with c = 1 or 3; labels are whole numbers, or names. `classes` may name the classes, label 0 first.

Labels that are numbers other than 0 to C − 1 name their classes.

PATH and FILE are relative to `--data-root` where that is given, to the working directory else. Where no val or no
test is given it is cut from the training images, see `trainables.data.splits`. Without `--imbalance` the data are
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
| `interpolation` | `bilinear` | or `bicubic`: how files are resized |
| `orientation` | `exif` | `ignore` leaves images as they lie in the file, whatever their EXIF data say |
| `resident_limit` | 8 | largest set in memory, 10⁹ bytes |
| `workers` | one per core, ≤ 8 | processes that decode what is streamed; 0 decodes in the training process |
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import math
import os
import re
import stat
import textwrap
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trainables.data.catalogue import DataError, Name, Standard, spelled
from trainables.data.images.decoding import header
from trainables.data.images.progress import side_by_side
from trainables.data.long_tail import LongTailed
from trainables.data.splits import HELD_OUT
from trainables.data.tables import TableError, read_rows, repeated, shorten
from trainables.data.user_data import source as given
from trainables.data.user_data.folders import folder
from trainables.data.user_data.source import SPLITS, Options, Source, check_classes, long_tailed

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
    """Reads labels and file names; no pixel is read."""
    parsed = Name.parse(name)
    place = parsed.place(root)
    if not place.exists():
        here = "" if place.is_absolute() else f" under {Path.cwd()}; paths may be absolute, or relative to --data-root"
        raise DataError(f"{name}: there is no {place}{here}")
    if parsed.kind == "folder":
        if not place.is_dir():
            raise DataError(f"{name}: {place} is not a folder; csv: and npz: read files")
        return folder(place)
    if not place.is_file():
        raise DataError(f"{name}: {place} is not a file; folder: reads folders")
    if parsed.kind == "npz" and "size" in parsed.options:
        raise DataError(f"{name}: option size is for image files; arrays have their size")
    return _csv(place) if parsed.kind == "csv" else _npz(place)


# --- tables ---------------------------------------------------------------------------------------------------


def _csv(file: Path) -> Source:
    rows, header, unused = _rows(file)
    again = _doubled(file, rows)
    class_names, number, odd = _classes(file, [row.label for row in rows])
    found: dict[str, list[int]] = {}
    files: dict[str, list[Path]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(number[row.label])
        files.setdefault(row.split, []).append(row.file)
    if "train" not in found:
        raise DataError(f"{file}: no line is of the split train")
    hint = "" if header else "; where line 1 is a header, name its columns path,label or path,label,split"
    check_files(str(file), file.parent, [row.file for row in rows], hint)
    labels = {split: np.array(found[split], dtype=np.int64) for split in SPLITS if split in found}
    check_classes(str(file), labels, class_names)
    return Source(str(file), class_names, labels, files, problems=(*again, *unused, *odd))


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img_path"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset", "partition"),
}
"""Accepted names of the columns of a table; the first takes precedence."""

SPLIT_WORDS: Mapping[str, str] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Accepted names of the splits, in any case."""


class _Row(NamedTuple):
    """A line of a table: an image."""

    line: int
    path: str
    file: Path
    label: str
    split: str


def _rows(file: Path) -> tuple[list[_Row], bool, list[str]]:
    """Reads the images of a table, whether it has a header, and a warning about unused columns."""
    try:
        lines = read_rows(file)
    except TableError as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8 ({error})") from error
    if not lines:
        raise DataError(f"{file}: has no lines; it needs path,label or path,label,split on each")
    line, first = lines[0]
    place, header = {"path": 0, "label": 1, "split": 2}, [cell.lower() for cell in first]
    unused: list[str] = []
    named = any(name in COLUMNS["path"] for name in header)
    if named:
        place = _columns(f"{file}, line {line}", first)
        lines = lines[1:]
        ignored = [cell or "(no name)" for number, cell in enumerate(first) if number not in place.values()]
        unused = [f"{file}: columns that are not used: {', '.join(ignored)}"] if ignored else []
        if not lines:
            raise DataError(f"{file}: has no lines below its header")
    elif len(first) not in (2, 3):
        raise DataError(
            f"{file}, line {line}: has {len(first)} columns; path,label or path,label,split are needed, separated by "
            "commas, semicolons or tabs, or a header that has these names among others"
        )
    rows = []
    for line, cells in lines:
        where = f"{file}, line {line}"
        used = [cells[at] for at in place.values() if at < len(cells)]
        if len(cells) != len(first) or not all(used):
            raise DataError(f"{where}: needs {len(first)} filled columns like the first line, got {cells!r}")
        split = cells[place["split"]] if place["split"] < len(cells) else "train"
        if split.lower() not in SPLIT_WORDS:
            raise DataError(f"{where}: split must be train, val or test, got {split!r}")
        path = cells[place["path"]]
        rows.append(_Row(line, path, _resolved(file.parent, path), cells[place["label"]], SPLIT_WORDS[split.lower()]))
    return rows, named, unused


def _columns(where: str, header: Sequence[str]) -> dict[str, int]:
    """Index of each column by its name; without a column split, its index lies beyond the end."""
    names = [cell.lower() for cell in header]
    place = {}
    for column, known in COLUMNS.items():
        found = [at for at, name in enumerate(names) if name == column]
        found = found or [at for at, name in enumerate(names) if name in known]
        if len(found) > 1:
            raise DataError(
                f"{where}: several columns may be the {column}, {', '.join(header[at] for at in found)}; name one of "
                f"them {column}, and the others otherwise"
            )
        if not found and column == "label":
            raise DataError(f"{where}: the header has no column label, got {', '.join(header)}; name one so")
        place[column] = found[0] if found else len(header)
    return place


def _resolved(root: Path, text: str) -> Path:
    """Resolves a path of a table: relative to the table, absolute, below the home directory, or with backslashes."""
    path = root / (Path(text).expanduser() if text.startswith("~/") else text)
    if "\\" in text and not os.path.isfile(path):
        slashed = root / text.replace("\\", "/")
        return slashed if os.path.isfile(slashed) else path
    return path


def _doubled(file: Path, rows: Sequence[_Row]) -> list[str]:
    """Warns of lines that repeat others.

    Raises:
        DataError: An image has two labels, or is in two splits.
    """
    seen: dict[str, _Row] = {}
    again = []
    for row in rows:
        before = seen.setdefault(os.path.normpath(row.file), row)
        if before is row:
            continue
        for what, now, then in (("label", row.label, before.label), ("split", row.split, before.split)):
            if now != then:
                raise DataError(
                    f"{file}, line {row.line}: {row.path} has the {what} {now!r}, and {then!r} in line {before.line}; "
                    f"an image has one {what}: take one of the lines out"
                )
        again.append(row)
    if not again:
        return []
    shown = shorten([f"{row.path} (line {row.line})" for row in again], 3)
    return [f"{file}: {len(again)} lines repeat an image of a line above, which then counts twice: {shown}"]


def _classes(file: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, int], list[str]]:
    """Class names in order, the number of each label as it is written, and what is odd about them."""
    written = sorted(set(labels))
    whole = [text for text in written if re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text)]
    if len(whole) < len(written):
        if len(whole) > len(written) / 2:
            name = next(text for text in written if text not in whole)
            raise DataError(f"{file}: labels must be whole numbers from 0, or all of them names, got {name!r}")
        return tuple(written), {text: label for label, text in enumerate(written)}, alike(str(file), written)
    digits = {text: text.partition(".")[0] for text in written}
    if longest := max((text for text in digits.values() if len(text) > 18), key=len, default=""):
        raise DataError(f"{file}: labels must be whole numbers from 0 of at most 18 digits, got one of {len(longest)}")
    spelt: dict[int, str] = {}
    for text, kept in digits.items():
        before = spelt.setdefault(int(kept), text)
        if before != text:
            raise DataError(f"{file}: labels {before!r} and {text!r} are the same number; write it in one way")
    numbers = sorted(spelt)
    class_names = tuple(spelt[number] if spelt[number].isdigit() else str(number) for number in numbers)
    number = {spelt[number]: label for label, number in enumerate(numbers)}
    return class_names, number, numbered(str(file), numbers)


def numbered(where: str, numbers: Sequence[int]) -> list[str]:
    """Warns of numeric labels other than 0 to C − 1.

    Raises:
        DataError: A label is negative.
    """
    if numbers[0] < 0:
        raise DataError(
            f"{where}: labels must be whole numbers from 0, got {numbers[0]}; take out the images that have no label"
        )
    if list(numbers) == list(range(len(numbers))):
        return []
    shown = shorten([str(number) for number in numbers])
    return [
        f"{where}: the labels are not 0 to {len(numbers) - 1}, so the {len(numbers)} classes are named by them: {shown}"
    ]


def alike(where: str, class_names: Sequence[str]) -> list[str]:
    """A sentence on names that people would take for one.

    >>> alike("x.csv", ["Cat", "cat", "dog"])
    ["x.csv: class names that differ in case or spaces alone are different classes: 'Cat' = 'cat'"]
    """
    groups: dict[str, list[str]] = {}
    for name in class_names:
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    same = [" = ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    how = "class names that differ in case or spaces alone are different classes"
    return [f"{where}: {how}: {shorten(same)}"] if same else []


def check_files(where: str, root: Path, files: Sequence[Path], hint: str = "") -> None:
    """Checks that all files can be read.

    Args:
        where: The table that names them, for messages.
        root: Folder that relative paths start from.
        files: All files.
        hint: Added to the message if the first file is absent.

    Raises:
        DataError: Some cannot; the message counts them and names the first few.
    """
    problems = side_by_side(_why_absent, files)
    lacking = [(file, why) for file, why in zip(files, problems, strict=True) if why]
    if lacking:
        known = [file.relative_to(root) if file.is_relative_to(root) else file for file, _ in lacking]
        reasons = ["" if why == ABSENT else f" ({why})" for _, why in lacking]
        shown = shorten([f"{spelled(file)}{why}" for file, why in zip(known, reasons, strict=True)], 3)
        what = "absent or cannot be read" if any(reasons) else "absent"
        raise DataError(
            f"{where}: {len(lacking)} of the {len(files)} files that it names are {what} under {root}: {shown}"
            f"{hint if problems[0] else ''}"
        )


ABSENT = "absent"


def _why_absent(file: Path) -> str:
    """Reason why a file cannot be read; "" if it can."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "no file"
        return "" if os.access(file, os.R_OK) else "no permission to read it"
    except OSError as error:
        return ABSENT if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.strerror or str(error)
    except ValueError as error:  # a zero byte in the path
        return str(error)


# --- arrays ---------------------------------------------------------------------------------------------------


def _npz(file: Path) -> Source:
    heads, others = heads_of(file)
    pairs, names_in, unused = _roles(file, heads)
    given: dict[str, NDArray[Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for split, (x, y) in pairs.items():
        shapes[split] = _channels_first(file, x, heads[x])
        if not shapes[split][0]:
            raise DataError(f"{file}: {x} has no images; add some, or take {x} and {y} out")
        given[split] = labels_of(file, y, heads[y], x, shapes[split][0])
    sizes = {shape[1:] for shape in shapes.values()}
    if len(sizes) > 1:
        shown = ", ".join(f"{split} {'×'.join(map(str, shape[1:]))}" for split, shape in shapes.items())
        raise DataError(f"{file}: the splits' images differ in shape ({shown}); bring them to one")
    if len({found.dtype.kind for found in given.values()}) > 1:
        raise DataError(f"{file}: the labels of one split are names, those of another numbers; save them alike")
    written = np.unique(np.concatenate(list(given.values()))).tolist()
    names = names_of(file, names_in, heads[names_in]) if names_in else None
    class_names, number, odd = class_names_of(file, written, names_in, names)
    labels = {
        split: np.array([number[label] for label in found.tolist()], dtype=np.int64) for split, found in given.items()
    }
    check_classes(str(file), labels, class_names)
    found = file.stat()
    not_used = [f"{file}: arrays that are not used: {shorten([*unused, *others])}"] if unused or others else []
    return Source(
        str(file),
        class_names,
        labels,
        arrays=functools.partial(_images, file, pairs),
        array_shape=cast("tuple[int, int, int]", next(iter(sizes))),
        stamp=(found.st_size, found.st_mtime_ns),
        problems=(*not_used, *odd),
    )


def class_names_of(
    file: Path, written: Sequence[Any], names_in: str, names: Sequence[str] | None
) -> tuple[tuple[str, ...], Mapping[Any, int], list[str]]:
    """Class names in order, the number of each label as it is written, and what is odd about them.

    Args:
        file: The npz file.
        written: The labels that there are: whole numbers, or names.
        names_in: The array of names.
        names: What it holds; `None` where there is none.
    """
    if names is None:
        if isinstance(written[0], str):
            return _classes(file, written)
        return tuple(map(str, written)), {n: label for label, n in enumerate(written)}, numbered(str(file), written)
    if isinstance(written[0], str):
        if lacking := [name for name in written if name not in set(names)]:
            raise DataError(
                f"{file}: {names_in} has no name for the labels {shorten(lacking)}; add them, or take it out"
            )
        used = {name: name for name in written}
    else:
        if written[-1] >= len(names):
            raise DataError(
                f"{file}: {names_in} has {len(names)} names, but labels go up to {written[-1]}; the first name is that "
                f"of label 0: add what is missing, or take {names_in} out, and classes are named by their labels"
            )
        used = {names[label]: label for label in written}
    kept = [name for name in names if name in used]
    absent = [name for name in names if name not in used]
    odd = (
        [f"{file}: {names_in} names classes without any image, which are left out: {shorten(absent)}"] if absent else []
    )
    return tuple(kept), {used[name]: label for label, name in enumerate(kept)}, odd + alike(str(file), kept)


class Head(NamedTuple):
    """Header of an array."""

    shape: tuple[int, ...]
    kind: np.dtype[Any]


MOST_PACKED = 200
"""Largest accepted compression ratio: photographs never reach it, decompression bombs do."""

NEVER_A_TRAP = 10**8
"""Size in bytes up to which an array is read at any compression ratio."""


def heads_of(file: Path) -> tuple[dict[str, Head], list[str]]:
    """Reads the header of each array of an npz file, and lists the other members of the file.

    Raises:
        DataError: The file is none, an array is damaged or twice there, or unpacks to far more than it should.
    """
    heads: dict[str, Head] = {}
    with _told(file, "cannot be read as npz"), zipfile.ZipFile(file) as pack:
        members = [member for member in pack.infolist() if member.filename.endswith(".npy")]
        others = [member.filename for member in pack.infolist() if not member.filename.endswith(".npy")]
        names = [member.filename.removesuffix(".npy") for member in members]
    if twice := repeated(names):
        raise DataError(f"{file}: holds {shorten(twice)} twice; save the arrays into a new file")
    for name, member in zip(names, members, strict=True):
        with _told(file, f"{name} cannot be read"), zipfile.ZipFile(file) as pack, pack.open(member) as stored:
            reader: IO[bytes] = stored
            read = npy.read_array_header_1_0 if npy.read_magic(reader) == (1, 0) else npy.read_array_header_2_0
            shape, _, kind = read(reader)
            follow = member.file_size - reader.tell()
        size = math.prod(shape) * kind.itemsize
        if not kind.hasobject and size != follow:
            raise DataError(
                f"{file}: {name} cannot be read (it says that it has {size:,} bytes, and {follow:,} follow)"
            )
        if size > max(NEVER_A_TRAP, MOST_PACKED * member.compress_size):
            raise DataError(
                f"{file}: {name} unpacks to {size / 1e9:.1f} GB from {member.compress_size / 1e6:.1f} MB, which no "
                "images do, so it is not read; if it is what you mean, save it without compression, by numpy.savez"
            )
        heads[name] = Head(tuple(shape), np.dtype(kind))
    return heads, others


@contextlib.contextmanager
def _told(file: Path, what: str) -> Iterator[None]:
    """Turns any error that NumPy or zipfile raises for a damaged file into a `DataError`."""
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
        if isinstance(error, MemoryError):
            reason = "it does not fit into memory"
        raise DataError(f"{file}: {what} ({reason})") from error


def stored_array(file: Path, array: str) -> NDArray[Any]:
    """Reads an array of an npz file."""
    with _told(file, f"{array} cannot be read"), np.load(file, allow_pickle=False) as pack:
        return cast("NDArray[Any]", pack[f"{array}.npy"])


ROLES: Mapping[str, tuple[str, ...]] = {
    "images": ("x", "images", "image", "data"), "labels": ("y", "labels", "label", "targets", "target"),
}  # fmt: skip
"""Accepted names of arrays of images and of labels, before or after the split; the first is the usual one."""

NAMES = ("classes", "class_names", "label_names", "target_names")
"""Accepted names of an array of class names."""


def _roles(file: Path, heads: Mapping[str, Head]) -> tuple[dict[str, tuple[str, str]], str, list[str]]:
    """Finds the images and labels of each split, the array of class names, and unused arrays.

    Raises:
        DataError: Images without labels or labels without images, no training images, two arrays for one purpose, or
            an array that looks like images or labels and cannot be placed.
    """
    known = {name.replace("_", ""): ("names", "") for name in NAMES}
    for role, words in ROLES.items():
        for word in words:
            known[word] = (role, "train")
            for written, split in SPLIT_WORDS.items():
                known |= {f"{word}{written}": (role, split), f"{written}{word}": (role, split)}
    found: dict[tuple[str, str], str] = {}
    unused = []
    for array, head in heads.items():
        purpose = known.get(re.sub(r"[^a-z0-9]", "", array.lower()))
        if purpose is None:
            parts = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", array).lower()))
            role = "images" if len(head.shape) > 2 else "labels"
            if parts & {*ROLES[role], *SPLIT_WORDS}:
                near = difflib.get_close_matches(array.lower(), [f"{a}_{split}" for a in "xy" for split in SPLITS], n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise DataError(
                    f"{file}: it is not clear what {array} is{hint}; images and labels are named x_train and y_train, "
                    "x_val and y_val, x_test and y_test, or x and y: rename it, or take it out"
                )
            unused.append(array)
        elif purpose in found:
            what = " ".join(purpose).strip()
            raise DataError(f"{file}: {found[purpose]} and {array} are both the {what}; take one of them out")
        else:
            found[purpose] = array
    pairs: dict[str, tuple[str, str]] = {}
    lacking = []
    for split in SPLITS:
        x, y = found.get(("images", split)), found.get(("labels", split))
        if x and y:
            pairs[split] = (x, y)
        elif x or y or split == "train":
            lacking += [f"{letter}_{split}" for letter, array in (("x", x), ("y", y)) if not array]
    if lacking:
        raise DataError(
            f"{file}: has no {', '.join(lacking)}; it needs x_train and y_train, and may have x_val, y_val, x_test, "
            f"y_test, or else x and y; got {', '.join(sorted(heads)) or 'nothing'}"
        )
    return pairs, found.get(("names", ""), ""), unused


def labels_of(
    file: Path, y: str, head: Head, x: str, images: int, read: Callable[[Path, str], NDArray[Any]] = stored_array
) -> NDArray[Any]:
    """Reads the labels of a split, (N,): int64, or names; accepts (N, 1) and whole floats.

    Raises:
        DataError: The labels are neither, or their number is not that of the images.
    """
    shape, kind = head
    where = f"{file}: {y} must hold {images} whole numbers or names, one for each image of {x}, got {kind} {shape}"
    if kind.hasobject:
        raise DataError(f"{where}: Python objects are not read; save {y}.astype(int), or {y}.astype(str) for names")
    if len(shape) == 2 and shape[0] == images and shape[1] > 1:
        raise DataError(f"{where}; where each row has a 1 for its class, save {y}.argmax(axis=1)")
    if shape not in ((images,), (images, 1)):
        raise DataError(where)
    if kind.kind not in "iufSU":
        raise DataError(f"{where}; save {y}.astype(int)")
    labels = read(file, y).reshape(-1)
    if kind.kind in "SU":
        with _told(file, f"{y} cannot be read as names in UTF-8"):
            names = [one.decode() if isinstance(one, bytes) else str(one) for one in labels.tolist()]
            "".join(names).encode()
        names = [name.strip() for name in names]
        if "" in names:
            raise DataError(f"{file}: {y} has no label for image {names.index('')}; label it, or take it out")
        return np.array(names, dtype=np.str_)
    if kind.kind == "f" and not bool(np.all(labels == np.floor(labels))):  # also of a NaN
        raise DataError(f"{where} with {labels[labels != np.floor(labels)][0]:g}; save whole numbers")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= 2**53:
        raise DataError(
            f"{file}: {y}: labels must be whole numbers from 0, got {low:g} to {high:g}; take out the images that have "
            "no label"
        )
    return labels.astype(np.int64)


MOST_NAMES = 10**7
"""Largest array of class names in bytes that is read."""


def names_of(file: Path, array: str, head: Head) -> list[str]:
    """Reads the names of the classes, in the order of the labels.

    Raises:
        DataError: The array is not a list of distinct names.
    """
    where, shape = f"{file}: {array}", head.shape
    if head.kind.hasobject:
        raise DataError(f"{where} holds Python objects, which are not read; save {array}.astype(str)")
    if len(shape) != 1 or head.kind.kind not in "US" or shape[0] * head.kind.itemsize > MOST_NAMES:
        raise DataError(
            f"{where} must be one text for each class, as numpy.array(['ant', 'bee']), got {head.kind} {shape}"
        )
    with _told(file, f"{array} cannot be read as names in UTF-8"):
        given = [one.decode() if isinstance(one, bytes) else str(one) for one in stored_array(file, array).tolist()]
        "".join(given).encode()
    given = [name.strip() for name in given]
    if twice := repeated(given):
        raise DataError(f"{where} names {shorten(list(map(repr, twice)))} more than once; give each class its own name")
    if "" in given:
        raise DataError(f"{where} has no name for label {given.index('')}; give each class its own name")
    return given


def _channels_first(file: Path, x: str, head: Head) -> tuple[int, ...]:
    """Shape (N, c, H, W) of stored images.

    Raises:
        DataError: The array does not hold uint8 images with one or three channels.
    """
    (shape, kind), where = head, f"{file}: {x}"
    if kind.str != "|u1":
        how = {
            "f": f"; save (255 * {x}).round().astype('uint8') where its values are in 0 … 1, and "
            f"{x}.round().astype('uint8') where they are in 0 … 255",
            "b": f"; save {x}.astype('uint8') * 255",
            **dict.fromkeys("iu", f"; save {x}.astype('uint8') where all its values are in 0 … 255"),
        }.get(kind.kind, "")
        raise DataError(f"{where} must be uint8 in 0 … 255, got {kind}{how}")
    if 0 in shape[1:]:
        raise DataError(f"{where} has images without pixels, got {shape}")
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:])
    if len(shape) == 4 and shape[3] in (1, 3):
        return (shape[0], shape[3], *shape[1:3])
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape
    alpha = ""
    if len(shape) == 4 and 4 in (shape[1], shape[3]):
        kept = "[..., :3]" if shape[3] == 4 else "[:, :3]"
        alpha = f"; where the fourth channel is transparency, save {x}{kept}, or the images put on a background"
    raise DataError(f"{where} must be (N, H, W, c), (N, c, H, W) or (N, H, W) with c = 1 or 3, got {shape}{alpha}")


def _images(file: Path, pairs: Mapping[str, tuple[str, str]]) -> Mapping[str, NDArray[np.uint8]]:
    images = {}
    for split, (x, _) in pairs.items():
        stored = stored_array(file, x)
        if stored.ndim == 3:
            stored = stored[:, None]
        elif stored.shape[3] in (1, 3):
            stored = stored.transpose(0, 3, 1, 2)
        images[split] = np.ascontiguousarray(stored)
    return images
