"""Finished stages by content address: never train the same stage twice.

The key of a stage (`trainables.pipeline.keys`) is the hash of everything its result depends on. An entry is written to
a temporary folder and renamed, so that it is there whole or not at all. An entry that was read whole, twice, and does
not fit its checksums is damaged: it is reported, removed and trained again. An entry that cannot be read at the moment
stays, and is trained again by the trial that needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.pipeline.entries import (
    MANIFEST,
    PARTIAL,
    Damaged,
    Entry,
    StoredStage,
    describe_entry,
    entry_folder,
    pack,
    pack_partial,
    partial_file,
    read_entry,
    read_partial,
)
from trainables.pipeline.storage import LocalStorage, StoreFull, open_storage

log = logging.getLogger(__name__)


class StageStore:
    """Finished stages in one place.

    Args:
        root: A folder, local or shared, or a URL that fsspec opens; made when the first stage is written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = root
        self.files = open_storage(root)
        self._unkept: set[str] = set()

    @property
    def shared_folder(self) -> Path | None:
        """The folder of the store, where leases are kept; `None` if it is a URL."""
        return self.files.root if isinstance(self.files, LocalStorage) else None

    def folder(self, key: str) -> Path:
        """Where an entry lies, in a store that is a folder."""
        return Path(self.files.place) / entry_folder(key)

    def has(self, key: str) -> bool:
        """Whether an entry is there; it may still turn out damaged."""
        try:
            return self.files.exists(f"{entry_folder(key)}/{MANIFEST}")
        except OSError:
            return False

    def get(self, key: str) -> StoredStage | None:
        """An entry, or `None` if it is not there or cannot be read. A damaged one is reported, removed, and `None`."""
        try:
            return read_entry(self.files, key)
        except Damaged as damaged:
            log.warning("stage %s in %s is damaged (%s): it is removed and trained again", key, self.root, damaged)
            self._discard(entry_folder(key))
        except OSError as error:
            log.warning("stage %s in %s cannot be read now (%s): it is trained again", key, self.root, words(error))
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes an entry; one that is there already stays. One that cannot be written is reported.

        Raises:
            StoreFull: There is no room; the store stays as it was.
        """
        if self.has(key):
            return
        contents = pack(key, tensors, state)
        try:
            self.files.publish(entry_folder(key), contents, last=MANIFEST)
        except StoreFull:
            raise
        except OSError as error:
            log.warning(
                "stage %s cannot be kept in %s (%s): the trials that need it will train it again",
                key,
                self.root,
                words(error),
            )

    def remove(self, key: str) -> None:
        """Removes an entry."""
        self.files.remove(entry_folder(key))

    def sweep(self) -> None:
        """Removes what writers that are gone have left half written, and unfinished stages that are finished."""
        try:
            left = [*self.files.leftovers(), *(partial_file(key) for key in self.partials() if self.has(key))]
        except OSError as error:
            log.warning("what killed processes have left in %s cannot be removed now (%s)", self.root, words(error))
            return
        for path in left:
            self._discard(path)

    # --- work in progress -----------------------------------------------------------------------------------

    def put_partial(self, key: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Keeps a stage that is still being trained, so that a crash costs seconds; replaces the last one.

        Training does not need it: a failure to write is reported once per stage.
        """
        try:
            self.files.write(partial_file(key), pack_partial(key, tensors, state))
        except OSError as error:
            if key not in self._unkept:
                self._unkept.add(key)
                log.warning(
                    "the unfinished stage %s cannot be kept in %s (%s): a crash would cost it",
                    key, self.root, words(error),
                )  # fmt: skip

    def get_partial(self, key: str) -> StoredStage | None:
        """An unfinished stage, or `None`; a damaged one is reported and removed."""
        try:
            return read_partial(self.files, key)
        except FileNotFoundError:
            return None
        except Damaged as damaged:
            log.warning(
                "the unfinished stage %s in %s is damaged (%s): it is trained from its start", key, self.root, damaged
            )
            self.drop_partial(key)
        except OSError as error:
            log.warning(
                "the unfinished stage %s in %s cannot be read now (%s): it is trained from its start",
                key, self.root, words(error),
            )  # fmt: skip
        return None

    def drop_partial(self, key: str) -> None:
        """Removes an unfinished stage."""
        self._discard(partial_file(key))

    def _discard(self, path: str) -> None:
        """Removes a path; if that fails, `clean` removes it later."""
        try:
            self.files.remove(path)
        except OSError as error:
            log.warning("%s/%s cannot be removed (%s)", self.root, path, words(error))

    def entries(self) -> list[Entry]:
        """Every entry, by key; those whose state cannot be read are left out (`problems` names them)."""
        found = (describe_entry(self.files, folder) for folder in self.files.folders())
        return [entry for entry in found if entry is not None]

    def partials(self) -> dict[str, int]:
        """Keys of the unfinished stages, each with its bytes."""
        found = self.files.files(PARTIAL)
        return {name: size for name, size in sorted(found.items()) if not name.startswith(".")}

    def evict(self, limit: int, keep: Collection[str] = ()) -> list[Entry]:
        """Removes entries until the store holds at most `limit` bytes.

        Unfinished stages go first, as they cost least; then what is cheapest to train again per byte, children before
        what they started from. Training a stage again costs its own seconds and those of its ancestors that are not
        there.

        Args:
            limit: Bytes.
            keep: Keys that running trials need: never removed.

        Returns:
            The finished stages that were removed.
        """
        try:
            there = {found.key: found for found in self.entries()}
            partials = self.partials()
        except OSError as error:
            log.warning("%s cannot be bounded now (%s)", self.root, words(error))
            return []
        total = sum(found.bytes for found in there.values()) + sum(partials.values())
        for key, size in partials.items():
            if total > limit and key not in keep:
                self.drop_partial(key)
                total -= size
        removed = []
        while total > limit:
            free = [found for found in there.values() if found.key not in keep]
            if not free:
                break
            parents = {found.parent for found in there.values()}
            leaves = [found for found in free if found.key not in parents] or free
            cheapest = min(leaves, key=lambda found: (_again(found, there) / max(1, found.bytes), found.key))
            self._discard(entry_folder(cheapest.key))
            del there[cheapest.key]
            total -= cheapest.bytes
            removed.append(cheapest)
        return removed


def words(error: OSError) -> str:
    """Message of an error, without numbers and paths."""
    return error.strerror or str(error)


def _again(found: Entry, there: Mapping[str, Entry]) -> float:
    """Seconds to train an entry again, from its nearest ancestor that is there."""
    seconds = found.seconds
    for key, took in reversed(found.ancestors):
        if key in there:
            break
        seconds += took
    return seconds
