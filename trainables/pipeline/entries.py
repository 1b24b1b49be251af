"""How a stage lies in the store: its files, their checksums, and what is read of them.

An entry is a folder `<2 digits>/<key>/` with `tensors.safetensors`, `state.json` and, written last, `manifest.json`
with their checksums. A stage that is still being trained is one file, `partial/<key>`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainables.pipeline.storage import LocalStorage, Storage

T = TypeVar("T")

TENSORS, STATE, MANIFEST, PARTIAL = "tensors.safetensors", "state.json", "manifest.json", "partial"

AGAIN_SECONDS = 0.2
"""Seconds after which an entry that does not fit its checksums is read once more."""

UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, SafetensorError,
)  # fmt: skip
"""Errors that content of another shape than the store writes raises."""


class Damaged(Exception):
    """An entry was read, and is not what was written."""


@dataclass(frozen=True)
class StoredStage:
    """A finished stage as read from the store."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """Description of an entry, without its tensors.

    Args:
        key: Key of the entry.
        kind: "stage", "member" or "features".
        ancestors: Keys of the stages before it with the seconds each took, first stage first.
        bytes: Size on disk.
        seconds: Seconds of training.
        epochs: Epochs of training; 0 for features.
        seed: Seed of the trial that trained it.
        first_stage: Id of the first stage of its chain of stages.
    """

    key: str
    kind: str
    ancestors: tuple[tuple[str, float], ...]
    bytes: int
    seconds: float
    epochs: int
    seed: int | None
    first_stage: str

    @property
    def parent(self) -> str:
        """Key of the stage that it started from; "" for a first stage."""
        return self.ancestors[-1][0] if self.ancestors else ""


def entry_folder(key: str) -> str:
    """The folder of a finished stage in the store."""
    return f"{key[:2]}/{key}"


def partial_file(key: str) -> str:
    """The file of an unfinished stage in the store."""
    return f"{PARTIAL}/{key}"


def pack(key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of an entry."""
    contents = {TENSORS: save_tensors(_plain(tensors)), STATE: json.dumps(state).encode()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return contents | {MANIFEST: json.dumps({"key": key, "sha256": sums}).encode()}


def pack_partial(key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> bytes:
    """The file of an unfinished stage: a checksum, and tensors whose metadata hold the rest."""
    body = save_tensors(_plain(tensors), {"state": json.dumps(state), "key": key})
    return bytes(hashlib.sha256(body).digest() + body)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def read_entry(files: Storage, key: str) -> StoredStage | None:
    """An entry, or `None` if it is not there; one that does not fit its checksums is read once more.

    Raises:
        Damaged: It did not fit twice.
        OSError: It cannot be read.
    """
    # a shared file system may show the half of what is being moved or removed
    try:
        return _twice(lambda: _entry(files, key), (Damaged, FileNotFoundError))
    except FileNotFoundError as error:
        raise Damaged(f"{Path(str(error.filename or error)).name} is missing") from None


def read_partial(files: Storage, key: str) -> StoredStage:
    """An unfinished stage; one that does not fit its checksum is read once more.

    Raises:
        Damaged: It did not fit twice.
        FileNotFoundError: It is not there.
        OSError: It cannot be read.
    """
    return _twice(lambda: _partial(files, key), (Damaged,))


def _twice(read: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
    try:
        return read()
    except errors:
        time.sleep(AGAIN_SECONDS)
    return read()


def _entry(files: Storage, key: str) -> StoredStage | None:
    folder = entry_folder(key)
    try:
        manifest = files.read(f"{folder}/{MANIFEST}")
    except FileNotFoundError:
        if isinstance(files, LocalStorage) and (files.root / folder).is_dir():
            raise Damaged("it has no manifest") from None
        return None
    sums = _sums(manifest, key)
    contents = {name: files.read(f"{folder}/{name}") for name in sums}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise Damaged(f"the checksum of {name} does not fit")
    try:
        tensors, state = load_tensors(contents[TENSORS]), json.loads(contents[STATE])
    except UNREADABLE as error:
        raise Damaged(str(error)) from error
    if not isinstance(state, dict):
        raise Damaged(f"{STATE} holds no state")
    return StoredStage(tensors, state)


def _partial(files: Storage, key: str) -> StoredStage:
    content = files.read(partial_file(key))
    body = content[32:]
    if hashlib.sha256(body).digest() != content[:32]:
        raise Damaged("its checksum does not fit")
    try:
        about = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
        tensors, state = load_tensors(body), json.loads(about["state"])
    except UNREADABLE as error:
        raise Damaged(str(error)) from error
    if about.get("key") != key or not isinstance(state, dict):
        raise Damaged(f"it is that of {about.get('key')}")
    return StoredStage(tensors, state)


def _sums(manifest: bytes, key: str) -> dict[str, str]:
    """The checksums of an entry's files.

    Raises:
        Damaged: The manifest is not that of this entry.
    """
    try:
        found = json.loads(manifest)
        named, sums = found["key"], found["sha256"]
        whole = set(sums) == {TENSORS, STATE}
    except UNREADABLE as error:
        raise Damaged(f"{MANIFEST} has another shape ({error})") from error
    if named != key:
        raise Damaged(f"its manifest is that of {named}")
    if not whole or not isinstance(sums, dict):
        raise Damaged(f"{MANIFEST} has another shape")
    return sums


def describe_entry(files: Storage, folder: str) -> Entry | None:
    """An entry without its tensors; `None` if its state cannot be read."""
    try:
        state = json.loads(files.read(f"{folder}/{STATE}"))
        return Entry(
            folder.rpartition("/")[2],
            str(state.get("kind", "stage")),
            tuple((str(name), float(seconds)) for name, seconds in state.get("ancestors", ())),
            sum(files.files(folder).values()),
            float(state.get("seconds", 0.0)),
            int(state.get("epochs", 0)),
            None if state.get("seed") is None else int(state["seed"]),
            str(state.get("first_stage", "")),
        )
    except (OSError, *UNREADABLE):
        return None
