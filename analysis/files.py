"""Files that are either whole or not there: written beside their place, moved into it, and kept by a power cut.

The name of what is written beside its place says which process writes it, so that what a process that is gone has left
can be told from what is being written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ABANDONED_SECONDS = 3600.0
"""After how long something half written is certainly nobody's any more: writing it takes seconds."""

_WRITER = re.compile(r"\.([A-Za-z0-9-]+)\.(\d+)\.[0-9a-f]{8}(?:-journal|-wal|-shm)?$")


def write(path: str | Path, content: str | bytes, sync: bool = True) -> None:
    """Replaces a file atomically, so that a crash or a full disk leaves the old one and no half of the new one.

    Args:
        path: The file; its folder must exist.
        content: Text, written as UTF-8 with line ends as they are, or bytes.
        sync: Whether the file must outlive a power cut.

    Raises:
        OSError: The file cannot be written; the error names it, and nothing is left beside it.
    """
    target = Path(path)
    temporary = beside(target)
    try:
        if sync:
            write_synced(temporary, content)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            # the file that a person knows, and it alone; a full disk names none, a refused move names two
            error.filename = str(target)
            del error.filename2
        raise
    if sync:
        sync_folder(target.parent)


def write_synced(path: Path, content: str | bytes) -> None:
    """Writes a file in its place and flushes it to the disk; its name is safe after `sync_folder`."""
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk: what was made in it, moved or removed outlives a power cut."""
    with suppress(OSError):  # Windows cannot open folders, some file systems cannot flush them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those it lies in, as far as they are missing; their names outlive a power cut."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    sync_folder(folder.parent)


def beside(target: Path) -> Path:
    """A hidden path beside a file or folder, to be moved into its place."""
    return target.with_name(f".{target.name}.{process_id()}.{uuid.uuid4().hex[:8]}")


def is_abandoned(path: Path, age: float) -> bool:
    """Whether the writer of a path that `beside` has given is gone.

    Args:
        path: The path.
        age: Seconds since it was last written; decides where the writer is on another machine or not known.
    """
    writer = _WRITER.search(path.name)
    if writer is not None and writer[1] == _pid_namespace():
        try:
            os.kill(int(writer[2]), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # a process of somebody else, or no name of ours
    return age > ABANDONED_SECONDS


def sweep(folder: Path) -> None:
    """Removes what writers that are gone have left in a folder; what `beside` has not named stays."""
    for path in folder.glob(".*"):
        with suppress(OSError):
            if _WRITER.search(path.name) and is_abandoned(path, time.time() - path.stat().st_mtime):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def process_id() -> str:
    """A name of this process that no other one has on any machine that shares a folder with this one."""
    return f"{_pid_namespace()}.{os.getpid()}"


@cache
def _pid_namespace() -> str:
    """Where the number of a process is unique: this host, until it is restarted, and on Linux this container of it."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return host
    return f"{host}-{hashlib.blake2b(f'{boot}{namespace}'.encode(), digest_size=4).hexdigest()}"


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: NaN and infinities, which JSON lacks, become null.

    >>> to_json({"a": float("nan"), "b": (1, 2.5)})
    '{"a": null, "b": [1, 2.5]}'
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
