"""Work on many files: by threads, with its progress where it takes long, its result kept where it took long."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from rich.progress import Progress

from analysis.console import Console
from analysis.files import write
from analysis.text import echo
from trainables.data.catalogue import cache_folder
from trainables.data.images.decoding import quiet

SHOWN_AFTER, REPEATED_AFTER = 2.0, 60.0
"""Seconds until a terminal shows a bar; seconds between the lines that a file or a pipe gets instead."""

KEPT_AFTER, KEPT = 5.0, 64
"""Seconds that a result must have taken to be kept in the cache; results that are kept there, the latest."""

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], block: int = 64, doing: str = "") -> list[R]:
    """Maps a function over items in threads and yields the results in order; decoding releases the interpreter lock.

    Args:
        work: Function of an item.
        items: A list file may name half a million.
        block: Items for a thread at a time.
        doing: Label of the progress bar; "" shows none.
    """

    def several(first: int) -> list[R]:
        return [work(item) for item in items[first : first + block]]

    results: list[R] = []
    threads = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    with quiet(), progress(doing, len(items)) as show:
        try:
            for found in threads.map(several, range(0, len(items), block)):
                results += found
                show(len(results))
        except BaseException:
            threads.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all that is left
            raise
    threads.shutdown()
    return results


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows progress on standard error if the work takes long.

    Args:
        doing: Label, e.g. "decoding images"; "" shows nothing.
        total: Amount of work.
    """
    began = told = time.monotonic()
    bar: Any = None
    task: Any = None

    def show(done: int) -> None:
        nonlocal bar, task, told
        now = time.monotonic()
        if not doing or now - began < SHOWN_AFTER:
            return
        if not sys.stderr.isatty():
            if now - told >= REPEATED_AFTER:
                told = now
                echo(f"{doing}: {done:,} of {total:,}", file=sys.stderr)
            return
        if bar is None:
            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(doing, total=total)
        bar.update(task, completed=done)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def remembered(key: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns a JSON-serialisable result from the user's cache, or computes it.

    If the cache cannot be read or written, the result is computed again.

    Args:
        key: Everything that the result depends on; compared by `repr`.
        make: Computes the result.
    """
    name = hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()
    try:
        file = cache_folder() / "data" / f"{name}.json"
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("key") == name:
            return dict(found["value"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        pass
    began = time.monotonic()
    value = make()
    if time.monotonic() - began >= KEPT_AFTER:
        with suppress(OSError, RuntimeError):
            file = cache_folder() / "data" / f"{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps({"key": name, "value": value}))
            for old in sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)
    return value
