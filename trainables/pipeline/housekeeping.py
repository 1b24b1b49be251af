"""Checks and cleans a store: damaged entries, leftovers of killed processes, stages that nobody continues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainables.pipeline.entries import (
    STATE,
    Damaged,
    describe_entry,
    entry_folder,
    partial_file,
    read_entry,
    read_partial,
)
from trainables.pipeline.storage import LEFT_SECONDS
from trainables.pipeline.store import StageStore, words

OLD_SECONDS = 14 * 24 * 3600.0
"""Seconds without a write after which `clean` removes an unfinished stage."""


@dataclass(frozen=True)
class Problem:
    """A problem of an entry.

    Args:
        key: Key of the entry.
        path: Its path in the store.
        reason: The problem in words.
        damaged: Whether that is proven; otherwise it may be readable later.
    """

    key: str
    path: str
    reason: str
    damaged: bool


@dataclass(frozen=True)
class Cleaned:
    """How much `StageStore.clean` has removed.

    Args:
        damaged: Entries and unfinished stages that were damaged.
        left: Files and folders that killed writers have left.
        old: Unfinished stages that nobody continues.
        bytes: Total size of the last two.
    """

    damaged: int
    left: int
    old: int
    bytes: int


def problems(store: StageStore) -> Iterator[Problem]:
    """Reads everything; yields what is damaged, and what cannot be read."""
    for folder in store.files.folders():
        key = folder.rpartition("/")[2]
        if folder != entry_folder(key):
            yield Problem(key, folder, "it does not lie where its key says", True)
            continue
        try:
            if read_entry(store.files, key) is None:
                # on an object store an entry is without a manifest while it is being written
                age = store.files.age(folder)
                yield Problem(key, folder, "it has no manifest", age is not None and age > LEFT_SECONDS)
            elif describe_entry(store.files, folder) is None:
                yield Problem(key, folder, f"{STATE} has another shape", True)
        except Damaged as error:
            yield Problem(key, folder, str(error), True)
        except OSError as error:
            yield Problem(key, folder, f"it cannot be read now: {words(error)}", False)
    for key in store.partials():
        try:
            read_partial(store.files, key)
        except FileNotFoundError:
            continue  # its stage is finished meanwhile
        except Damaged as error:
            yield Problem(key, partial_file(key), f"in its middle: {error}", True)
        except OSError as error:
            yield Problem(key, partial_file(key), f"in its middle: it cannot be read now: {words(error)}", False)


def clean(store: StageStore) -> Cleaned:
    """Removes damaged entries, leftovers of killed writers, and unfinished stages that nobody continues.

    The latter are stages that have been finished meanwhile, and those untouched for `OLD_SECONDS`.
    """
    damaged = {problem.path for problem in problems(store) if problem.damaged}
    left = store.files.leftovers()
    old = {}
    for key, size in store.partials().items():
        age = store.files.age(partial_file(key))
        if partial_file(key) not in damaged and (store.has(key) or (age is not None and age > OLD_SECONDS)):
            old[partial_file(key)] = size
    for path in (*damaged, *left, *old):
        store.files.remove(path)
    return Cleaned(len(damaged), len(left), len(old), sum(left.values()) + sum(old.values()))
