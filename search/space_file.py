"""Space files: found, loaded and checked, with one clear sentence where something is wrong."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from spaces.domain import Space, SpaceError


def load_space(path: str | Path) -> Space:
    """The `SPACE` of a space file.

    Raises:
        SpaceError: No such file, Python cannot read it, it raises, or it has no `SPACE`.
    """
    file = Path(path)
    if not file.is_file():
        raise SpaceError(f"--space {path}: no such file; spaces/full_combo.py is the one to start from")
    # a module of its own name for each file, registered so that what it defines can be found again
    name = f"longtail_space_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        # not by the import system, which would leave a __pycache__ beside the file
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except SyntaxError as error:
        raise SpaceError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
    except SpaceError as error:
        raise SpaceError(f"{path}{_line(error, file)}: {error}") from error
    except Exception as error:
        raise SpaceError(f"{path}{_line(error, file)}: raises {type(error).__name__}: {error}") from error
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        found = "has no SPACE" if space is None else f"SPACE is a {type(space).__name__}"
        raise SpaceError(f"{path}: {found}; it must define SPACE = Space(stages=[…]) from spaces.domain")
    return space


def _line(error: Exception, file: Path) -> str:
    """Where in the space file an error comes from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""
