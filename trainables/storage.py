"""Files of the stage store: a local or shared folder, or any file system that fsspec opens.

A folder of files is published whole or not at all. On a local disk or NFS it is written beside and renamed; on an
object store its files are written one by one, the named last one last, and a reader believes that one alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from analysis.text import command, option


class StoreFull(OSError):
    """There is no room for another finished stage."""


class Storage(Protocol):
    """What the stage store asks of a place. Paths are relative, with forward slashes."""

    place: str

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        ...

    def read(self, path: str) -> bytes:
        """A file's content; `FileNotFoundError` if there is none."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file, whole."""
        ...

    def publish(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Makes a folder with these files; one that is published already may stay."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        ...

    def folders(self) -> Iterator[str]:
        """Every published folder, as `<2 digits>/<key>`."""
        ...

    def files(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the files in a folder."""
        ...


def open_storage(root: str | Path) -> Storage:
    """The storage at a path, or at a URL such as s3://bucket/stages or memory://stages."""
    return RemoteStorage(str(root)) if "://" in str(root) else LocalStorage(Path(root))


class LocalStorage:
    """A folder on a local disk, or shared over NFS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return (self.root / path).is_file()

    def read(self, path: str) -> bytes:
        """A file's content."""
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file: written beside, flushed to disk, renamed."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            _flushed(beside, content)
            beside.replace(target)
        except OSError as error:
            raise _explained(error, self.place) from error
        finally:
            beside.unlink(missing_ok=True)

    def publish(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Makes a folder whole: written beside, flushed to disk, renamed."""
        target = self.root / folder
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                _flushed(beside / name, content)
            try:
                beside.rename(target)
            except OSError:
                # another process published the same first, and its entry is as good as ours
                if not (target / last).is_file():
                    self.remove(folder)  # the rest of an entry that lost its manifest
                    beside.rename(target)
        except OSError as error:
            raise _explained(error, self.place) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def folders(self) -> Iterator[str]:
        """Every published folder."""
        for path in sorted(self.root.glob("[0-9a-f][0-9a-f]/*")):
            if path.is_dir() and not path.name.startswith("."):
                yield path.relative_to(self.root).as_posix()

    def files(self, folder: str) -> dict[str, int]:
        """Sizes of the files in a folder."""
        return {path.name: path.stat().st_size for path in (self.root / folder).glob("*") if path.is_file()}


class RemoteStorage:
    """Any file system that fsspec opens. Nothing is locked: at worst a stage is trained twice."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._system: Any
        self._system, self._root = fsspec.core.url_to_fs(url)
        self.place = url

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        return bool(self._system.isfile(self._path(path)))

    def read(self, path: str) -> bytes:
        """A file's content."""
        content: bytes = self._system.cat_file(self._path(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file."""
        target = self._path(path)
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._system.pipe_file(target, content)

    def publish(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Writes the files one by one, the last one last."""
        for name in sorted(files, key=lambda name: name == last):
            self.write(f"{folder}/{name}", files[name])

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        if self._system.exists(self._path(path)):
            self._system.rm(self._path(path), recursive=True)

    def folders(self) -> Iterator[str]:
        """Every published folder."""
        for path in sorted(self._system.glob(f"{self._root.rstrip('/')}/??/*")):
            if self._system.isdir(path):
                yield "/".join(path.rstrip("/").split("/")[-2:])

    def files(self, folder: str) -> dict[str, int]:
        """Sizes of the files in a folder."""
        found = self._system.ls(self._path(folder), detail=True)
        return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in found}


def _flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _explained(error: OSError, place: str) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        clean = command("python", "-m", "trainables.stage_store", "clean", *option("--store", place))
        return StoreFull(
            error.errno,
            f"the disk of the stage store {place} is full; make room ({clean} --store-limit 10GB), limit the store "
            "with --store-limit, or choose another folder with --store",
        )
    return error
