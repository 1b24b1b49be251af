"""Many trials: design arm, adaptive arm, race; `search.run(space, data=…)` from Python."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.run import SearchResult, run

__all__ = ["SearchResult", "run"]


def _run_module() -> ModuleType:
    """The module, imported when it is asked for: the command line imports this package, and `--help` must be fast."""
    return importlib.import_module("search.run")


class _Package(ModuleType):
    """The package, whose `run` is the function, and not the module of that name, whichever is imported first."""

    @property
    def run(self) -> Any:
        return _run_module().run

    @run.setter
    def run(self, module: ModuleType) -> None:
        """What the import of the module does; it stays in `sys.modules`."""

    @property
    def SearchResult(self) -> Any:
        return _run_module().SearchResult


sys.modules[__name__].__class__ = _Package
