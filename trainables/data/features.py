"""Features of images as data: `features:FILE`, what a network that stays as it is has said of every image.

FILE is `.npz` or `.safetensors` with these arrays:

| array | | |
|---|---|---|
| `x_train`, `y_train` | needed | features (N, D), or (V, N, D) of V views of each image, and labels (N,) |
| `x_val`, `y_val`, `x_test`, `y_test` | optional | likewise, in one view; what is absent is cut from train |
| `class_names` | optional | C texts, label 0 first; `class_names_train` and the like must agree |
| `provenance` | optional | JSON: `backbone`, `weights`, `views` and whatever else says where the features come from |

In a safetensors file `class_names` (a JSON list) and `provenance` stand in the metadata. Labels are whole numbers, or
names. `python -m trainables.embed` writes such a file.

Features are centred by the mean of the training features as they are given, and divided by one number, the mean over
the D dimensions of their standard deviations, so that no dimension weighs more than the network gave it. Both are part
of the exported model. Of V views training draws one for each image and step; everything else sees the first.

A file above half of the memory that is free is not read but mapped, where it is stored without compression.

Options follow a question mark: `features:FILE?val=20`. `val` and `test` are the images of each class that are cut, 50
where absent, at most a fifth of the class.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from trainables.data.catalogue import TRAINS, DataError, Name, Standard
from trainables.data.long_tail import LongTailed
from trainables.data.splits import HELD_OUT, divide
from trainables.data.tables import shorten
from trainables.data.user_data import array_files
from trainables.data.user_data.class_names import class_names_of
from trainables.data.user_data.source import SPLITS, check_classes

OPTIONS = ("val", "test", "train")
PROVIDES = ("trained",)
ARRAYS = tuple(f"{letter}_{split}" for letter in "xy" for split in SPLITS)
NAMES = ("class_names", *(f"class_names_{split}" for split in SPLITS))
LARGEST_TEXT = 10**8
"""Largest metadata in bytes that is read."""


def standard(name: str, root: str | None = None) -> Standard:
    """Thirty epochs of a linear classifier: SGD at 0.2 in batches of 256, decayed along a cosine.

    The noise assumed for a trial is the standard deviation over seeds of such trials on CIFAR-100-LT.

    Raises:
        DataError: The file is absent or not as described above.
    """
    classes = len(_read(_file(Name.parse(name), root)).class_names)
    return Standard(
        epochs=30,
        lr=0.2,
        weight_decay=5e-4,
        batch_size=256,
        schedule="cosine",
        model="linear",
        imbalance=None,
        eval_every=5,
        margin=0.01 if classes >= 50 else 0.02,
        final_epochs=30,
        sd=0.004 if classes >= 50 else 0.01,
        provides=PROVIDES,
    )


def load(
    name: str, *, root: str | None = None, imbalance: float | None = None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """Features, divided; see `trainables.data.load` and above.

    Raises:
        DataError: The file is absent or not as described above.
    """
    parsed = Name.parse(name)
    given = _read(_file(parsed, root))
    division = divide(
        name, given.labels, given.class_names, imbalance=imbalance, split_seed=split_seed, fold_val=fold_val,
        val=parsed.whole("val", HELD_OUT, 1), test=parsed.whole("test", HELD_OUT, 1),
        balanced=parsed.choice("train", TRAINS) == "balanced",
    )  # fmt: skip
    held = _held(given)
    parts: dict[str, Any] = {}
    for split, (of, index) in division.index.items():
        parts[f"{split}_images"] = held.part(of, index)
        parts[f"{split}_labels"] = torch.from_numpy(given.labels[of][index])
    views = given.tensors["x_train"].shape[0] if len(given.tensors["x_train"].shape) == 3 else 1
    size = held.mean.shape[0]
    told = [
        f"features of {size} numbers{f' in {views} views' if views > 1 else ''} from "
        f"{given.backbone or 'a network that the file does not name'}",
        f"features are centred by the mean of the {len(given.labels['train'])} that are given for training and divided "
        f"by {held.scale:.6g}, the mean of their standard deviations",
    ]
    return LongTailed(
        name=name,
        classes=len(given.class_names),
        class_names=given.class_names,
        imbalance=division.imbalance,
        split_seed=split_seed,
        **parts,
        mean=torch.from_numpy(held.mean),
        std=torch.tensor([held.scale], dtype=torch.float32),
        pad=0,
        flip=False,
        notes=(*told, *held.notes, *division.notes, *given.problems, *division.problems),
        problems=(*given.problems, *division.problems),
        val_given=division.index["val"][0] == "val",
        train_views=held.views(division.index["train"][1]) if views > 1 else None,
        backbone=given.backbone,
    )


def _file(name: Name, root: str | None) -> Path:
    place = name.place(root)
    if not place.is_file():
        why = "is not a file" if place.exists() else "does not exist"
        raise DataError(f"{name.text}: {place} {why}; python -m trainables.embed --out FILE writes such a file")
    return place


# --- what the file says ---------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Position of an array in its file.

    Args:
        shape: Shape of the array.
        kind: NumPy's name of its type, or "bfloat16".
        offset: First byte; `None` where the array is compressed.
    """

    shape: tuple[int, ...]
    kind: str
    offset: int | None


@dataclass(frozen=True)
class _Given:
    """A file of features whose features have not been read.

    Args:
        file: Path of the file.
        stamp: Size and modification time of the file.
        class_names: C names.
        labels: Of the given splits, each (N,) int64 in [0, C).
        tensors: Position of each array of features, by name.
        backbone: Network that computed the features, with the hash of its weights; "" if the file does not say.
        problems: Warnings for the user.
    """

    file: Path
    stamp: tuple[int, int]
    class_names: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    tensors: Mapping[str, _Place]
    backbone: str
    problems: tuple[str, ...]


def _read(file: Path) -> _Given:
    found = file.stat()
    return _read_once(file.resolve(), (found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read_once(file: Path, stamp: tuple[int, int]) -> _Given:
    places, metadata = _safetensors(file) if file.suffix == ".safetensors" else _npz(file)
    for name in places:
        if name not in (*ARRAYS, *NAMES, "provenance"):
            near = difflib.get_close_matches(name, (*ARRAYS, *NAMES), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise DataError(
                f"{file}: unknown array {name}{hint}; allowed are {', '.join(ARRAYS)}, class_names and provenance"
            )
    labels: dict[str, NDArray[Any]] = {}
    sizes: dict[str, int] = {}
    for split in SPLITS:
        x, y = f"x_{split}", f"y_{split}"
        if (x in places) != (y in places) or (split == "train" and x not in places):
            lacking = [array for array in (x, y) if array not in places]
            raise DataError(f"{file}: has no {' and no '.join(lacking)}; features and labels come in pairs")
        if x in places:
            count, sizes[x] = _checked(file, x, places[x], views=split == "train")
            labels[split] = array_files.labels_of(
                file, y, _head(places[y]), x, count, lambda file, name: _array(file, places, name)
            )
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{x} {size}" for x, size in sizes.items())
        raise DataError(f"{file}: the splits' features differ in dimension ({shown}); they must come from one network")
    if len({found.dtype.kind for found in labels.values()}) > 1:
        raise DataError(f"{file}: the labels of one split are names, those of another numbers; save them alike")
    lists = {name: _names(file, name, places, metadata) for name in NAMES if name in places or name in metadata}
    for name, listed in lists.items():
        first, others = next(iter(lists.items()))
        if listed != others:
            at = next((i for i, pair in enumerate(zip(listed, others, strict=False)) if pair[0] != pair[1]), None)
            how = f"{len(listed)} and {len(others)} names" if at is None else f"{listed[at]!r} and {others[at]!r}"
            raise DataError(f"{file}: {name} and {first} differ ({how}); all splits must have the same classes")
    written = np.unique(np.concatenate(list(labels.values()))).tolist()
    names_in = next(iter(lists), "")
    names = lists.get(names_in)
    class_names, number, odd = class_names_of(file, written, names_in, names)
    numbered = {
        split: np.array([number[label] for label in found.tolist()], dtype=np.int64) for split, found in labels.items()
    }
    check_classes(str(file), numbered, class_names)
    return _Given(
        file, stamp, class_names, numbered, {name: places[name] for name in sizes},
        _backbone(file, _provenance(file, places, metadata)), tuple(odd),
    )  # fmt: skip


def _checked(file: Path, x: str, place: _Place, views: bool) -> tuple[int, int]:
    """Number of images and dimension of an array of features.

    Raises:
        DataError: The array does not hold features.
    """
    if place.kind not in ("float16", "float32", "float64", "bfloat16"):
        why = "Python objects are not read" if place.kind == "object" else "images are read by npz:FILE"
        raise DataError(f"{file}: {x} must be floating-point numbers, got {place.kind}; {why}")
    allowed = (2, 3) if views else (2,)
    if len(place.shape) not in allowed or 0 in place.shape:
        shown = "(N, D), or (V, N, D) of V views" if views else "(N, D)"
        raise DataError(f"{file}: {x} must be {shown} with no size 0, got {place.shape}")
    return place.shape[-2], place.shape[-1]


def _npz(file: Path) -> tuple[dict[str, _Place], dict[str, str]]:
    """Positions of the arrays of an npz file."""
    heads, others = array_files.heads_of(file)
    if others:
        raise DataError(f"{file}: holds {shorten(others)}, which are not arrays; save the features into a new file")
    places = {}
    with zipfile.ZipFile(file) as pack, file.open("rb") as raw:
        for name, head in heads.items():
            member = pack.getinfo(f"{name}.npy")
            offset = None
            if member.compress_type == zipfile.ZIP_STORED:
                raw.seek(member.header_offset + 26)
                before = sum(struct.unpack("<HH", raw.read(4)))  # the member's name and its extra field
                size = math.prod(head.shape) * head.kind.itemsize
                offset = member.header_offset + 30 + before + member.file_size - size
            numbers = head.kind.kind in "fiub" and head.kind.isnative
            kind = "object" if head.kind.hasobject else head.kind.name if numbers else head.kind.str
            places[name] = _Place(head.shape, kind, offset)
    return places, {}


KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Types of safetensors by their NumPy names."""


def _safetensors(file: Path) -> tuple[dict[str, _Place], dict[str, str]]:
    """Positions of the tensors of a safetensors file, and its metadata."""
    try:
        with safe_open(file, framework="np") as opened:  # which checks sizes and offsets
            opened.keys()
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if length > LARGEST_TEXT:
                raise DataError(f"{file}: its header has {length} bytes, above the limit of {LARGEST_TEXT}")
            header = json.loads(raw.read(length))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: cannot be read as safetensors ({error})") from error
    metadata = header.pop("__metadata__", {})

    def place(head: Mapping[str, Any]) -> _Place:
        kind = KINDS.get(head["dtype"], head["dtype"])
        return _Place(tuple(head["shape"]), kind, 8 + length + head["data_offsets"][0])

    return {name: place(head) for name, head in header.items()}, metadata


def _head(place: _Place) -> array_files.Head:
    return array_files.Head(place.shape, np.dtype("float32" if place.kind == "bfloat16" else place.kind))


def _array(file: Path, places: Mapping[str, _Place], name: str) -> NDArray[Any]:
    """Maps an array into memory, or unpacks it if it is compressed."""
    place = places[name]
    if place.offset is None or not math.prod(place.shape):
        return array_files.stored_array(file, name)
    kind = "uint16" if place.kind == "bfloat16" else place.kind
    return np.memmap(file, dtype=kind, mode="r", offset=place.offset, shape=place.shape)


def _names(file: Path, name: str, places: Mapping[str, _Place], metadata: Mapping[str, str]) -> list[str]:
    if name in places:
        return array_files.names_of(file, name, _head(places[name]))
    names: Any = None
    with contextlib.suppress(ValueError):
        names = json.loads(metadata[name])
    if not isinstance(names, list) or not all(isinstance(one, str) and one for one in names):
        raise DataError(f"{file}: {name} must be a JSON list of texts, got {metadata[name]:.60}")
    if len(set(names)) < len(names):
        raise DataError(f"{file}: {name} has a name more than once; give each class its own name")
    return list(names)


def _provenance(file: Path, places: Mapping[str, _Place], metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get("provenance", "{}")
    if "provenance" in places:
        head = _head(places["provenance"])
        if head.kind.kind not in "US" or math.prod(head.shape) != 1 or head.kind.itemsize > LARGEST_TEXT:
            raise DataError(f"{file}: provenance must be one text, got {head.kind} {head.shape}")
        held = array_files.stored_array(file, "provenance").reshape(-1)[0]
        text = held.decode() if isinstance(held, bytes) else str(held)
    found: Any = None
    with contextlib.suppress(ValueError):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise DataError(f"{file}: provenance must be a JSON object, got {text:.60}")
    return found


def _backbone(file: Path, provenance: Mapping[str, Any]) -> str:
    """The network and the hash of its weights in one line."""
    backbone, weights = provenance.get("backbone", ""), provenance.get("weights", "")
    if not isinstance(backbone, str) or not isinstance(weights, str):
        raise DataError(f"{file}: provenance: backbone and weights must be texts")
    return f"{backbone} (weights {weights[:16]})" if backbone and weights else backbone


# --- the features ---------------------------------------------------------------------------------------------


class MappedFeatures:
    """Stands for a tensor (N, D), or (V, N, D), of float32 whose rows lie in a file.

    Args:
        array: The mapped array; of bfloat16 as uint16.
        rows: (N,) rows of the array.
        digest: Hash of the array's content, for fingerprints.
        device: Device of the batches.
    """

    def __init__(self, array: NDArray[Any], rows: NDArray[np.int64], digest: bytes, device: Any) -> None:
        self._array, self.rows, self._digest, self.device = array, rows, digest, torch.device(device)
        self.dtype = torch.float32

    @property
    def ndim(self) -> int:
        """2, or 3 of views."""
        return self._array.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D), or (V, N, D)."""
        return (*self._array.shape[:-2], len(self.rows), self._array.shape[-1])

    @property
    def stamp(self) -> bytes:
        """Hash of the features, for the data's fingerprint."""
        return hashlib.sha256(self._digest + self.rows.tobytes()).digest()

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Reads rows (B, D); with several views, indexed by (view, row)."""

        def host(one: Any) -> Any:
            return one.cpu().numpy() if isinstance(one, torch.Tensor) else one

        *view, row = map(host, index if isinstance(index, tuple) else (index,))
        return torch.from_numpy(_floats(self._array[(*view, self.rows[row])])).to(self.device)

    def of(self, index: NDArray[np.int64]) -> MappedFeatures:
        """A subset, still in the file."""
        return MappedFeatures(self._array, self.rows[index], self._digest, self.device)

    def to(self, device: Any) -> MappedFeatures:
        """Returns the same rows with batches on another device."""
        return MappedFeatures(self._array, self.rows, self._digest, device)

    def split(self, size: int) -> Iterator[Any]:
        """Yields all rows in order, `size` at a time."""
        return (self[slice(first, first + size)] for first in range(0, len(self), size))


@dataclass(frozen=True)
class _Held:
    """The features of a file, in memory or mapped; all splits share them, so they are read-only."""

    arrays: Mapping[str, NDArray[Any]]
    mapped: bool
    mean: NDArray[np.float32]
    scale: float
    digests: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

    def part(self, split: str, index: NDArray[np.int64]) -> Any:
        """(N, D) of some rows, in the first view."""
        array = self.arrays[f"x_{split}"]
        return self._of(array[0] if array.ndim == 3 else array, f"x_{split}", index)

    def views(self, index: NDArray[np.int64]) -> Any:
        """(V, N, D) of some training rows."""
        return self._of(self.arrays["x_train"], "x_train", index)

    def _of(self, array: NDArray[Any], name: str, index: NDArray[np.int64]) -> Any:
        if self.mapped:
            return MappedFeatures(array, index, self.digests[name], "cpu")
        return torch.from_numpy(array[..., index, :])


def _held(given: _Given) -> _Held:
    return _held_once(given.file, given.stamp)


@functools.lru_cache(maxsize=1)
def _held_once(file: Path, stamp: tuple[int, int]) -> _Held:
    """Reads or maps the features and checks every number once.

    Raises:
        DataError: A number is not finite, all features are equal, or the file is compressed and too large.
    """
    given = _read_once(file, stamp)
    size = 4 * sum(math.prod(place.shape) for place in given.tensors.values())
    mapped = size > available() / 2
    if mapped and any(place.offset is None for place in given.tensors.values()):
        raise DataError(
            f"{file}: the features take {size / 1e9:.1f} GB in memory, above half of what is free, and are compressed, "
            "so that they cannot be mapped; save them by numpy.savez or as safetensors"
        )
    arrays: dict[str, NDArray[Any]] = {}
    digests = {}
    for name in given.tensors:
        array = _array(file, given.tensors, name)
        arrays[name] = array if mapped else _floats(array)
        digest = hashlib.sha256(str((name, array.shape)).encode())
        for first, part in _blocks(arrays[name]):
            bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
            if len(bad):
                raise DataError(
                    f"{file}: {name} has numbers that are not finite, the first in row {first + bad[0]}; compute the "
                    "features again, or take these images out"
                )
            if mapped:
                digest.update(part.tobytes())
        digests[name] = digest.digest()
    # of the first view, in float64 and two passes: the same numbers in any block size to rounding
    train = arrays["x_train"][0] if arrays["x_train"].ndim == 3 else arrays["x_train"]
    mean = sum(part.sum(axis=0, dtype=np.float64) for _, part in _blocks(train)) / len(train)
    variance = sum(((part - mean) ** 2).sum(axis=0) for _, part in _blocks(train)) / len(train)
    scale = float(np.sqrt(variance).mean())
    if not scale > 1e-6 * float(np.abs(mean).max()) + 1e-30:
        raise DataError(
            f"{file}: all training features are the same, so nothing can be learnt from them; were the images read?"
        )
    notes = []
    if constant := int((variance == 0).sum()):
        notes.append(f"{constant} of {len(mean)} dimensions never change, and carry nothing")
    if mapped:
        notes.append(f"the features ({size / 1e9:.1f} GB) are above half of the free memory and stay in their file")
    return _Held(arrays, mapped, mean.astype(np.float32), scale, digests, tuple(notes))


BLOCK = 4096
"""Rows per block when the features are checked."""


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yields rows of all views in order, with the number of the first row."""
    for view in array if array.ndim == 3 else (array,):
        for first in range(0, len(view), BLOCK):
            yield first, _floats(view[first : first + BLOCK])


def _floats(array: NDArray[Any]) -> NDArray[np.float32]:
    """Converts to float32 in memory; uint16 stands for bfloat16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array, dtype=np.float32)


def available() -> float:
    """Free memory in bytes; infinite if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    return 1024 * float(next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), math.inf))
