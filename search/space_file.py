"""Space files: found, loaded and checked, with one clear sentence where something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

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
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SpaceError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error
    except Exception as error:
        raise SpaceError(f"{path}: raises {type(error).__name__}: {error}") from error
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        found = "has no SPACE" if space is None else f"SPACE is a {type(space).__name__}"
        raise SpaceError(f"{path}: {found}; it must define SPACE = Space(stages=[…]) from spaces.domain")
    return space
