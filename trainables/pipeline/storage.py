"""Files of the stage store: a local or shared folder, or any file system that fsspec opens.

A folder of files is published whole or not at all. On a local disk or NFS it is written beside and renamed; on an
object store its files are written one by one, the named last one last, and a reader believes that one alone.
An error that may pass (no file handle free, a stale NFS handle, a network that does not answer) is tried again.
"""

from __future__ import annotations

import errno
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import fsspec

from analysis import files
from analysis.text import command, option

P = ParamSpec("P")
T = TypeVar("T")

PAUSES = (0.1, 0.5, 2.0)
"""Seconds before each further try of what an error interrupted that may pass."""

LASTING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM,
           errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # fmt: skip
"""Errors that a further try would meet again."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, a quota or a file without room."""


class StoreFull(OSError):
    """There is no room for another finished stage; `remedy` says what a search can do about it."""

    remedy = ""


def retried(action: Callable[P, T]) -> Callable[P, T]:
    """The action, tried again a few times after an error that may pass.

    >>> answers = iter([OSError(errno.EMFILE, "Too many open files"), "read"])
    >>> @retried
    ... def read():
    ...     answer = next(answers)
    ...     if isinstance(answer, OSError):
    ...         raise answer
    ...     return answer
    >>> read()
    'read'
    """

    @functools.wraps(action)
    def tried(*arguments: P.args, **named: P.kwargs) -> T:
        for pause in PAUSES:
            try:
                return action(*arguments, **named)
            except OSError as error:
                if error.errno in LASTING or isinstance(error, (StoreFull, FileNotFoundError, PermissionError)):
                    raise
                time.sleep(pause)
        return action(*arguments, **named)

    return tried


class Storage(Protocol):
    """Interface of the storage of a store. Paths are relative, with forward slashes."""

    place: str

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        ...

    def read(self, path: str) -> bytes:
        """A file's content; `FileNotFoundError` if there is none."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file atomically."""
        ...

    def publish(self, folder: str, contents: Mapping[str, bytes], last: str) -> None:
        """Makes a folder with these files; one that is published already may stay."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        ...

    def folders(self) -> list[str]:
        """Every published folder, as `<2 digits>/<key>`."""
        ...

    def files(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the files in a folder; empty where there is none."""
        ...

    def age(self, path: str) -> float | None:
        """Seconds since the last write to a file, or to any file of a folder; `None` if unknown."""
        ...

    def leftovers(self) -> dict[str, int]:
        """Sizes in bytes of what writers that are gone have left half written."""
        ...


def open_storage(root: str | Path) -> Storage:
    """The storage at a path, or at a URL such as s3://bucket/stages or memory://stages."""
    return RemoteStorage(str(root)) if "://" in str(root) else LocalStorage(Path(root))


class LocalStorage:
    """A folder on a local disk, or shared over NFS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)

    @retried
    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return (self.root / path).is_file()

    @retried
    def read(self, path: str) -> bytes:
        """A file's content."""
        return (self.root / path).read_bytes()

    @retried
    def write(self, path: str, content: bytes) -> None:
        """Replaces a file atomically."""
        target = self.root / path
        try:
            files.make_folder(target.parent)
            files.write(target, content)
        except OSError as error:
            raise _explain(error, self.place) from error

    @retried
    def publish(self, folder: str, contents: Mapping[str, bytes], last: str) -> None:
        """Makes a folder whole: written beside, flushed to disk, renamed."""
        target = self.root / folder
        beside = files.beside(target)
        try:
            files.make_folder(target.parent)
            beside.mkdir()
            for name, content in contents.items():
                files.write_synced(beside / name, content)
            files.sync_folder(beside)
            try:
                beside.rename(target)
            except OSError:
                # another process published the same first, and its entry is as good as ours
                if not (target / last).is_file():
                    self.remove(folder)  # the rest of an entry that lost its manifest
                    beside.rename(target)
            files.sync_folder(target.parent)
        except OSError as error:
            raise _explain(error, self.place) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    @retried
    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    @retried
    def folders(self) -> list[str]:
        """Every published folder."""
        found = sorted(self.root.glob("[0-9a-f][0-9a-f]/*"))
        return [p.relative_to(self.root).as_posix() for p in found if p.is_dir() and not p.name.startswith(".")]

    def files(self, folder: str) -> dict[str, int]:
        """Sizes of the files in a folder."""
        return {path.name: path.stat().st_size for path in (self.root / folder).glob("*") if path.is_file()}

    def age(self, path: str) -> float | None:
        """Seconds since it was last written."""
        target = self.root / path
        try:
            parts = [target, *(target.iterdir() if target.is_dir() else ())]
            latest: float = max(part.stat().st_mtime for part in parts)
        except OSError:
            return None
        return time.time() - latest

    def leftovers(self) -> dict[str, int]:
        """Temporary files of processes that are gone, with their sizes in bytes."""
        found = {}
        for path in sorted([*self.root.glob("[0-9a-f][0-9a-f]/.*"), *self.root.glob("partial/.*")]):
            name = path.relative_to(self.root).as_posix()
            age = self.age(name)
            if age is not None and files.is_abandoned(path, age):
                parts = path.rglob("*") if path.is_dir() else [path]
                found[name] = sum(part.stat().st_size for part in parts if part.is_file())
        return found


class RemoteStorage:
    """Any file system that fsspec opens. Nothing is locked: at worst a stage is trained twice."""

    def __init__(self, url: str) -> None:
        self._system: Any
        self._system, self._root = fsspec.core.url_to_fs(url)
        self.place = url

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    @retried
    def _ask(self, action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls the file system. Each has its own errors; those that are no `OSError` become errors of a device."""
        try:
            return action(*arguments, **named)
        except OSError:
            raise
        except Exception as error:
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", self.place) from error

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self._ask(self._system.isfile, self._path(path)))

    def read(self, path: str) -> bytes:
        """A file's content."""
        content: bytes = self._ask(self._system.cat_file, self._path(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file."""
        target = self._path(path)
        try:
            self._ask(self._system.makedirs, target.rpartition("/")[0], exist_ok=True)
            self._ask(self._system.pipe_file, target, content)
        except OSError as error:
            raise _explain(error, self.place) from error

    def publish(self, folder: str, contents: Mapping[str, bytes], last: str) -> None:
        """Writes the files one by one, the last one last."""
        for name in sorted(contents, key=lambda name: name == last):
            self.write(f"{folder}/{name}", contents[name])

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        if self._ask(self._system.exists, self._path(path)):
            self._ask(self._system.rm, self._path(path), recursive=True)

    def folders(self) -> list[str]:
        """Every published folder."""
        found = sorted(self._ask(self._system.glob, f"{self._root.rstrip('/')}/??/*"))
        return ["/".join(path.rstrip("/").split("/")[-2:]) for path in found if self._ask(self._system.isdir, path)]

    def files(self, folder: str) -> dict[str, int]:
        """Sizes of the files in a folder."""
        try:
            found = self._ask(self._system.ls, self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in found}

    def age(self, path: str) -> float | None:
        """Seconds since it was last written, by whatever name the system gives that time."""
        try:
            found = [self._ask(self._system.info, self._path(path))]
            if found[0].get("type") == "directory":
                found = self._ask(self._system.ls, self._path(path), detail=True)
        except OSError:
            return None
        times = [written for written in map(_seconds, found) if written is not None]
        return time.time() - max(times) if found and len(times) == len(found) else None

    def leftovers(self) -> dict[str, int]:
        """Returns nothing: files are written in place."""
        return {}


def _seconds(entry: Mapping[str, Any]) -> float | None:
    """When a file was written, in seconds since the epoch, from its entry in a listing."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return float((value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp())
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _explain(error: OSError, place: str) -> OSError:
    if error.errno in FULL:
        clean = command("python", "-m", "trainables.stage_store", "clean", *option("--store", place))
        full = StoreFull(error.errno, f"the disk of the stage store {place} is full")
        full.remedy = (
            f"; make room ({clean} --store-limit 10GB), limit the store with --store-limit, or choose another folder "
            "with --store"
        )
        return full
    return error
