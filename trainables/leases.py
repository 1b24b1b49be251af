"""Leases on unfinished stages, so that two searches that share a store never both train one.

A lease is a file that only one process can create. Its owner touches it while it trains; one that was not touched for
a while belongs to a process that is gone, and may be taken over. Atomic on local disks and NFS; a store on an object
store has no leases, and there a stage may be trained twice, never wrongly.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 5.0
"""How often an owner touches its leases."""

STALE_SECONDS = 60.0
"""After how long an untouched lease may be taken over: long enough for a stalled shared file system."""


class Leases:
    """The leases that this process holds in one store.

    Args:
        folder: Where all processes keep theirs.
        beat: Seconds between touches.
        stale: Seconds after which an untouched lease is anybody's.
    """

    def __init__(self, folder: Path, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS) -> None:
        self._folder, self._beat, self._stale = folder, beat, stale
        self._owner = uuid.uuid4().hex
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, keys: Iterable[str]) -> bool:
        """Takes all of the keys, or none where another process holds one."""
        taken: list[str] = []
        for key in keys:
            if key in self._held:
                continue
            if not self._take(key):
                self.release(taken)
                return False
            taken.append(key)
            with self._lock:
                self._held.add(key)
        if taken and self._thread is None:
            self._thread = threading.Thread(target=self._touch_all, name="stage-leases", daemon=True)
            self._thread.start()
        return True

    def release(self, keys: Iterable[str]) -> None:
        """Gives keys back."""
        for key in list(keys):
            with self._lock:
                mine = key in self._held
                self._held.discard(key)
            if mine:
                with self._turn():
                    if self._owner_of(key) == self._owner:
                        (self._folder / key).unlink(missing_ok=True)

    def close(self) -> None:
        """Gives everything back."""
        self._closing.set()
        self.release(self._held.copy())

    def _take(self, key: str) -> bool:
        path = self._folder / key
        self._folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if not self._abandoned(path):
                    return False
                continue
            with os.fdopen(handle, "w") as file:
                file.write(self._owner)
            return True
        return False

    def _abandoned(self, path: Path) -> bool:
        """Clears a lease that nobody touched for long."""
        try:
            if time.time() - path.stat().st_mtime < self._stale:
                return False
            with self._turn():
                # looked at again: another process may have cleared it and taken its own meanwhile
                if time.time() - path.stat().st_mtime < self._stale:
                    return False
                path.unlink()
        except FileNotFoundError:
            pass
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time removes leases; the kernel frees the lock of one that dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _owner_of(self, key: str) -> str:
        try:
            return (self._folder / key).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _touch_all(self) -> None:
        while not self._closing.wait(self._beat):
            with self._lock:
                held = list(self._held)
            for key in held:
                if self._owner_of(key) == self._owner:
                    with suppress(OSError):
                        os.utime(self._folder / key)
