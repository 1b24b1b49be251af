"""A disk that forgets: what of a folder outlives a power cut, for tests of what a search flushes."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Tree = dict[str, "Tree | bytes"]
"""Names of a folder, each with the content of a file or the names of a folder."""


@dataclass
class Disk:
    """Knows what of a folder was flushed: contents by `fsync` of a file, names by `fsync` of the folder they are in.

    SQLite flushes what it commits by calls that are not seen here, so its files count as flushed whenever their names
    are.

    Args:
        place: The folder; what it holds now is safe.
    """

    place: Path
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=dict)
    _handles: dict[int, int] = field(default_factory=dict)
    """Of everything that is known, so that no other file is given the same number."""

    def __post_init__(self) -> None:
        for path in (self.place, *self.place.rglob("*")):
            handle = os.open(path, os.O_RDONLY)
            self.flushed(handle)
            os.close(handle)

    def close(self) -> None:
        """Forgets everything."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def flushed(self, handle: int) -> None:
        """Notes an `fsync`."""
        found, path = os.fstat(handle), Path(os.readlink(f"/proc/self/fd/{handle}"))
        self._keep(found.st_ino, path)
        if not stat.S_ISDIR(found.st_mode):
            self._contents[found.st_ino] = path.read_bytes()
            return
        self._names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
        for entry in os.scandir(path):
            if ".db" in entry.name or entry.is_dir():
                self._keep(entry.inode(), Path(entry.path))

    def _keep(self, number: int, path: Path) -> None:
        if number not in self._handles:
            self._handles[number] = os.open(path, os.O_RDONLY)

    def left(self, draws: random.Random | None = None) -> Tree:
        """What a power cut leaves now.

        Args:
            draws: Says of each folder whether its names were written all the same, and of each file how much of what
                was not flushed; where absent, everything that was not flushed is lost.
        """
        here = {path.stat().st_ino: path for path in (self.place, *self.place.rglob("*")) if path.exists()}
        return self._folder(self.place.stat().st_ino, here, draws)

    def _folder(self, number: int, here: dict[int, Path], draws: random.Random | None) -> Tree:
        names = self._names.get(number, {})
        if draws is not None and number in here and draws.random() < 0.5:
            names = {entry.name: entry.inode() for entry in os.scandir(here[number])}
        tree: Tree = {}
        for name, inner in sorted(names.items()):
            if (inner in here and here[inner].is_dir()) or inner in self._names:
                tree[name] = self._folder(inner, here, draws)
            else:
                tree[name] = self._file(name, inner, here, draws)
        return tree

    def _file(self, name: str, number: int, here: dict[int, Path], draws: random.Random | None) -> bytes:
        if ".db" in name and number in self._handles:
            return b"".join(_read(self._handles[number]))
        safe = self._contents.get(number, b"")
        now = here[number].read_bytes() if number in here else safe
        if draws is None or not now.startswith(safe):
            return safe
        return now[: draws.randint(len(safe), len(now))]

    def restore(self, tree: Tree) -> None:
        """Makes the folder what a power cut has left."""
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _write(self.place, tree)


def _read(handle: int) -> Iterator[bytes]:
    at = 0
    while part := os.pread(handle, 1 << 20, at):
        yield part
        at += len(part)


def _write(folder: Path, tree: Tree) -> None:
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).mkdir()
            _write(folder / name, content)
