"""Space files: found, loaded and checked, with one clear sentence where something is wrong."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from spaces.domain import Space, SpaceError
from trainables.code_identity import is_own


def load_space(path: str | Path) -> Space:
    """The `SPACE` of a space file.

    Raises:
        SpaceError: No such file, Python cannot read it, it raises, or it has no `SPACE`.
    """
    return read_space(path)[0]


def read_space(path: str | Path) -> tuple[Space, tuple[Path, ...]]:
    """The `SPACE` of a space file, and the files beside it that it stands on.

    As for a script, modules beside the file can be imported.

    Returns:
        The space; the file itself, and every file in its folder or below that was imported or opened for reading.

    Raises:
        SpaceError: As `load_space`.
    """
    try:
        file = Path(path)
        found = file.is_file()
    except (TypeError, ValueError):
        raise SpaceError(f"--space {path!r}: must be a Space, or the path of a space file") from None
    if not found:
        raise SpaceError(f"--space {path}: no such file; spaces/full_combo.py is the one to start from")
    # a module of its own name for each file, registered so that what it defines can be found again
    name = f"longtail_space_{hashlib.sha256(str(file.resolve()).encode(errors='replace')).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        with _importing_beside(file), _reading() as opened:
            # not by the import system, which would leave a __pycache__ beside the file
            exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except SyntaxError as error:
        where = path if error.filename in (None, str(file)) else error.filename
        raise SpaceError(f"{where}, line {error.lineno}: not Python: {error.msg}") from error
    except SpaceError as error:
        raise SpaceError(f"{path}{_line(error, file)}: {error}") from error
    except Exception as error:
        raise SpaceError(f"{path}{_line(error, file)}: raises {type(error).__name__}: {error}") from error
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        found_instead = "has no SPACE" if space is None else f"SPACE is a {type(space).__name__}"
        raise SpaceError(f"{path}: {found_instead}; it must define SPACE = Space(stages=[…]) from spaces.domain")
    return space, (file, *sorted(_beside(file, opened)))


def _line(error: Exception, file: Path) -> str:
    """Where in the space file an error comes from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


@contextmanager
def _importing_beside(file: Path) -> Iterator[None]:
    """Within it modules beside the file can be imported, anew each time; after it nothing of them is left."""
    folder = file.resolve().parent
    begins = tuple({f"{folder}{os.sep}", f"{os.path.dirname(os.path.abspath(file))}{os.sep}"})
    names = {entry.name.removesuffix(".py") for entry in os.scandir(folder)}

    def is_beside(name: str, module: ModuleType) -> bool:
        """Whether a module is of the user's and lies there, or is called like one that does."""
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if name.startswith(("__main__", "longtail_space_", "longtail_tricks_")) or not isinstance(place, str):
            return False
        return (place.startswith(begins) or name.partition(".")[0] in names) and is_own(Path(place))

    def beside() -> dict[str, ModuleType]:
        loaded = {name: module for name, module in sys.modules.items() if isinstance(module, ModuleType)}
        return {name: module for name, module in loaded.items() if is_beside(name, module)}

    # what the process has imported from there before may have changed since
    before = beside()
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = cached
        for name in beside():
            del sys.modules[name]
        sys.modules.update(before)


class _Opened(threading.local):
    """What this thread has opened for reading, while somebody wants to know."""

    files: set[str] | None = None


_OPENED = _Opened()
_HOOKED: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Python's audit hook; it can never be taken away, so it does next to nothing."""
    if event == "open" and _OPENED.files is not None:
        place, mode = arguments[0], arguments[1]
        if isinstance(place, (str, bytes, os.PathLike)) and (mode is None or not set("wax+") & set(str(mode))):
            _OPENED.files.add(os.path.abspath(os.fsdecode(place)))


@contextmanager
def _reading() -> Iterator[set[str]]:
    """The files that are opened for reading within it."""
    if not _HOOKED:
        sys.addaudithook(_hook)
        _HOOKED.append(True)
    opened: set[str] = set()
    _OPENED.files = opened
    try:
        yield opened
    finally:
        _OPENED.files = None


def _beside(file: Path, opened: set[str]) -> set[Path]:
    """Of what was opened, the files in the space's folder or below that are the user's."""
    folder = file.resolve().parent
    found = set()
    for name in opened:
        path = Path(name)
        if path.parent.name == "__pycache__" and path.suffix == ".pyc":
            # of a module that Python has compiled before, only that is opened
            path = path.parent.with_name(f"{path.name.partition('.')[0]}.py")
        path = path.resolve()
        ours = path.suffix == ".py" and not is_own(path)
        if path.is_relative_to(folder) and path != file.resolve() and path.is_file() and not ours:
            found.add(path)
    return {path for path in found if not {"site-packages", "dist-packages"} & set(path.relative_to(folder).parts)}
