"""Whether a search runs: its driver holds the lock in its folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "search.lock"
"""File in a search's folder that its driver holds locked."""


def running(folder: Path) -> bool | None:
    """Whether the driver of a search is alive on this machine; `None` where its folder is not here."""
    if not folder.is_dir():
        return None
    lock = folder / LOCK
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None
