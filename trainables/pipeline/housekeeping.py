"""Checks and cleans a store: damaged entries, leftovers of killed processes, stages that nobody continues."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.command_line import UsageError
from analysis.files import ABANDONED_SECONDS
from analysis.text import echo, sentence
from trainables.pipeline.entries import (
    STATE,
    Damaged,
    describe_entry,
    entry_folder,
    partial_file,
    read_entry,
    read_partial,
)
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
                yield Problem(key, folder, "it has no manifest", age is not None and age > ABANDONED_SECONDS)
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


def run(options: argparse.Namespace) -> int:
    """Runs a command of `python -m trainables.stage_store`; 1 where `verify` finds a problem.

    Raises:
        UsageError: The store cannot be read.
    """
    try:
        return {"list": _list, "verify": _verify, "clean": _clean}[options.command](StageStore(options.store), options)
    except OSError as error:
        raise UsageError(f"--store {options.store}: {error.strerror or error}") from error


def _verify(store: StageStore, options: argparse.Namespace) -> int:
    there, found = store.entries(), list(problems(store))
    echo(*(f"{problem.key}: {problem.reason}" for problem in found))
    damaged = sum(problem.damaged for problem in found)
    unread = f", {len(found) - damaged} not readable now" if len(found) > damaged else ""
    echo(f"{len(there)} entries read, {damaged} damaged{unread}, in {options.store}")
    return 1 if found else 0


def _clean(store: StageStore, options: argparse.Namespace) -> int:
    cleaned = clean(store)
    there = store.entries()
    removed = store.evict(options.store_limit) if options.store_limit is not None else []
    freed = cleaned.bytes + sum(found.bytes for found in removed)
    echo(
        f"removed {cleaned.damaged} damaged entries, {cleaned.left} left by processes that are gone, {cleaned.old} "
        f"unfinished stages, and {len(removed)} of {len(there)} others ({freed / 1e6:.1f} MB)"
    )
    return 0


def _list(store: StageStore, options: argparse.Namespace) -> int:
    there = store.entries()
    for found in there:
        parent = f" from {found.parent[:8]}" if found.parent else ""
        echo(
            f"{found.key[:8]}  {found.kind:<8} {found.epochs:>4} epochs {found.seconds:>8.1f} s "
            f"{found.bytes / 1e6:>9.2f} MB  seed {found.seed}{parent}"
        )
    total, seconds = sum(found.bytes for found in there), sum(found.seconds for found in there)
    size = f"{total / 1e6:.1f} MB, {seconds:.0f} s of training"
    echo(f"{len(there)} entries, {size}, in {sentence(options.store)}")
    partials, left = store.partials(), store.files.leftovers()
    if partials:
        echo(f"{len(partials)} unfinished stages, {sum(partials.values()) / 1e6:.1f} MB")
    if left:
        echo(f"{len(left)} left by processes that are gone, {sum(left.values()) / 1e6:.1f} MB: `clean` removes them")
    unreadable = len(store.files.folders()) - len(there)
    if unreadable:
        echo(f"{unreadable} entries cannot be read: `verify` says why")
    return 0
