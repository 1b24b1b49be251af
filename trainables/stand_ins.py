"""Looking at tricks and spaces without the libraries that train them.

Importing torch, ray and optuna takes seconds, and a preview, a gallery or a question uses nothing of them: it reads
what tricks say about themselves. Within `only_looking` these libraries are stand-ins: names can be imported from
them, classes derived from them, functions decorated by them; using one raises. So a trick, also one from a folder
of the user's, is written with ordinary imports at its top.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm", "safetensors", "ray", "optuna", "mlflow")
"""What stands in for what trains, schedules, proposes and records."""

OURS = ("analysis", "longtail_tricks_", "search", "spaces", "trainables")
"""Modules that hold stand-ins once they were imported among them, and go with them."""


class StandInUsed(BaseException):
    """Something of a library that is not there was used, and not only named.

    No `Exception`, so that code that answers errors of its own work does not take this for one.
    """


class _Named(type):
    """The class of everything that a stand-in offers: itself a class, so that others may derive from it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _Named(name, (_Made,), {"__module__": f"{cls.__module__}.{cls.__qualname__}"})
        setattr(cls, name, found)
        return found

    def __getitem__(cls, parameters: Any) -> Any:
        return cls


class _Made(metaclass=_Named):
    """What calling a name gives: a decorator that changes nothing, e.g. `@torch.no_grad()`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # @decorator, without arguments
        alone = len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], type)
        return args[0] if alone else super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, decorated: Any) -> Any:
        if not callable(decorated):
            raise StandInUsed(f"{type(self).__module__}.{type(self).__qualname__} was called; nothing is trained here")
        return decorated

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StandInUsed(f"{type(self).__module__}.{type(self).__qualname__}().{name} was used; nothing runs here")


class _StandIn(ModuleType):
    """A module of which everything can be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _Named(name, (_Made,), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for every module of the libraries."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in LIBRARIES:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def only_looking() -> Iterator[None]:
    """Within it, what trains is a stand-in; after it, the process is as if nothing had been imported.

    Does nothing where one of the libraries is there already: there is no time to save, and it may be in use. What was
    made within must not be used after it.
    """
    if any(library in sys.modules for library in LIBRARIES):
        yield
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.startswith(OURS) or isinstance(sys.modules[name], _StandIn):
                del sys.modules[name]


def is_genuine(error: BaseException) -> bool:
    """Whether an error says something of what was looked at, and does not come from a stand-in.

    A trick that computes with torch while it is imported cannot be looked at: its error is told from a user's mistake
    by what it was caused by, also where `from None` hides that from the reader.
    """
    cause: BaseException | None = error
    while cause is not None:
        ours = isinstance(cause, ValueError) and type(cause).__module__.startswith(OURS)
        if not ours and not isinstance(cause, OSError):
            return False
        hidden = None if isinstance(cause.__context__, (ValueError, LookupError, OSError)) else cause.__context__
        cause = cause.__cause__ or hidden
    return True
