"""Locks between processes: one driver per search, and one search per stage of a shared store.

The kernel frees a lock when the process that holds it ends, for whatever reason. A second file beside the lock names
the owner for people. `flock` works on local disks and NFS; a store on an object
store has no leases, and there a stage may be trained twice, never wrongly.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from analysis import files
from analysis.text import printable

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of a file system that cannot lock files."""

OWNER = ".owner"
"""End of the name of the file beside a lock that says who holds it."""

_STARTED = time.strftime("%Y-%m-%d %H:%M:%S")


class Lock:
    """A lock file with its owner's name beside it.

    Args:
        path: The lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner_file = path.with_name(path.name + OWNER)
        # any thread may acquire and release it; no two objects of this process share it
        self._file = FileLock(path, thread_local=False)

    def acquire(self, seconds: float = 0.0) -> bool:
        """Takes the lock unless another process holds it; a lock that is already held stays held.

        Args:
            seconds: How long to try: a process that was killed takes a moment to end.

        Raises:
            OSError: The lock file cannot be created, or its file system has no locks (`NO_LOCKS`).
        """
        if self._file.is_locked:
            return True
        try:
            self._file.acquire(timeout=seconds)
        except Timeout:
            return False
        except NotImplementedError as error:  # some versions of filelock raise this for ENOSYS
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(self.path)) from error
        with suppress(OSError):
            files.write(self._owner_file, f"process {os.getpid()} on {socket.gethostname()}, started {_STARTED}\n")
        return True

    def release(self, remove: bool = False) -> None:
        """Releases the lock if it is held.

        Args:
            remove: Whether to delete the lock file as well; a process that waits for it creates a new one.
        """
        if not self._file.is_locked:
            return
        for path in (self._owner_file, *([self.path] if remove else [])):
            with suppress(OSError):
                path.unlink()
        self._file.release()

    def sweep(self) -> None:
        """Removes the files of a process that has ended without giving the lock back."""
        try:
            self._file.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            return
        self.release(remove=True)

    @property
    def owner(self) -> str:
        """The holder of the lock, in words."""
        try:
            return printable(self._owner_file.read_text(encoding="utf-8", errors="replace").strip())[:200]
        except OSError:
            return "a process that has not written down its name"


class Leases:
    """Locks on the stages of a store that this process trains.

    Args:
        folder: The folder of all processes' locks, one file per key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Lock] = {}
        self._without = ""
        self.waits_for = ""
        """The holder of the key for which `acquire` was last refused, in words."""

    def sweep(self) -> None:
        """Removes the files of processes that have ended without giving their keys back."""
        for path in sorted({path.with_name(path.name.removesuffix(OWNER)) for path in self._folder.glob("[!.]*")}):
            if path.name not in self._held:
                Lock(path).sweep()
        files.sweep(self._folder)

    def acquire(self, keys: Iterable[str]) -> bool:
        """Locks all of the keys, or none if another process holds one."""
        taken: list[str] = []
        for key in keys:
            if key in self._held:
                continue
            lock = Lock(self._folder / key)
            try:
                files.make_folder(self._folder)
                free = lock.acquire()
            except OSError as error:
                self._go_without(error)
                continue
            if not free:
                self.waits_for = lock.owner
                self.release(taken)
                return False
            self._held[key] = lock
            taken.append(key)
        return True

    def release(self, keys: Iterable[str]) -> None:
        """Releases keys."""
        for key in list(keys):
            lock = self._held.pop(key, None)
            if lock is not None:
                lock.release(remove=True)

    def close(self) -> None:
        """Releases all keys and removes the files of keys that could not be locked."""
        self.release(self._held)
        self.sweep()

    def _go_without(self, error: OSError) -> None:
        """Warns once that another search may train the same stages as well; results stay correct."""
        if not self._without:
            self._without = str(error)
            log.warning(
                "stages cannot be reserved in %s (%s): another search that shares the store may train them, too",
                printable(str(self._folder)), error.strerror or error,
            )  # fmt: skip
