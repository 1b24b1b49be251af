"""`npz:FILE`: images and labels as arrays."""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import re
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trainables.data.catalogue import DataError
from trainables.data.tables import repeated, shorten
from trainables.data.user_data.class_names import class_names_of
from trainables.data.user_data.source import SPLITS, Source, check_classes
from trainables.data.user_data.table_files import SPLIT_WORDS


def read_arrays(file: Path) -> Source:
    """Reads the labels of an npz file, and the shape of its images; no pixel is read."""
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
