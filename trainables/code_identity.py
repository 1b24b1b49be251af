"""The user's own code: which files a module stands on, and the hash of what they do. No torch.

A trick of `--tricks` or a network of `--model` may import further modules of the user's. A result depends on all of
them, so its identity is the hash of the whole import closure, without the libraries that are installed and without this
project, whose code has a version of its own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from trainables.data.catalogue import Name

PROJECT = ("analysis", "search", "spaces", "trainables")
"""The packages of this project."""


def code_hash(path: Path) -> str:
    """Hash of a module's code; comments, docstrings and layout are not in it. Other files are hashed as they are."""
    stat = path.stat()
    return _hash(path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _hash(path: Path, changed: int, size: int) -> str:
    tree = _tree(path)
    if tree is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not _is_text(line)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _tree(path: Path) -> ast.Module | None:
    """The source as a tree; `None` of what is no Python source."""
    try:
        return ast.parse(path.read_bytes()) if path.suffix == ".py" else None
    except (SyntaxError, ValueError):
        return None


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def closure(files: Mapping[str, Path], place: Callable[[str], Path | None] | None = None) -> dict[str, Path]:
    """The files with every module that they import, directly or not.

    Imports are read from the sources and looked up as Python does, so that neither the order of imports nor what else
    the process has imported matters. What is imported by a computed name is not seen.

    Args:
        files: Name to file; of a module in a package its full name, by which relative imports are resolved.
        place: Gives the file of a module, or `None` for a module to leave out (default: the user's modules only).

    Returns:
        Name to file, the given ones included.
    """
    place = place or _place
    found: dict[str, Path] = {}
    waiting = {name: path.resolve() for name, path in files.items()}
    while waiting:
        name, path = waiting.popitem()
        if name in found:
            continue
        found[name] = path
        waiting |= {other: file for other in _imports(name, path) if (file := place(other)) and other not in found}
    return dict(sorted(found.items()))


def training_code(root: Path) -> dict[str, Path]:
    """The modules that decide what a stage's weights and metrics are: all that the pipeline of stages imports.

    A gallery trick is not among them: the key of a stage names the tricks that it uses.

    Args:
        root: The folder of the package `trainables`.
    """
    start = "trainables.pipeline.pipeline"
    return closure({start: root / "pipeline" / "pipeline.py"}, lambda name: _below(root, name, "trainables"))


def trick_code(file: Path) -> dict[str, Path]:
    """The modules that decide what a trick does: its file, and what it imports beside it or of the user's code."""
    if is_own(file):
        return closure({file.stem: file})
    start = f"trainables.tricks.{file.stem}"
    return closure({start: file}, lambda name: _below(file.parent, name, "trainables.tricks"))


def _below(root: Path, name: str, package: str) -> Path | None:
    """The file of a module of a package that lies in `root`; `None` for other modules."""
    if name != package and not name.startswith(f"{package}."):
        return None
    path = root.joinpath(*name.removeprefix(package).split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def is_own(path: Path) -> bool:
    """Whether a file is the user's: neither of an installed library, nor of Python, nor of this project."""
    path = path.resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(root) for root in _roots())


@functools.cache
def _roots() -> tuple[Path, ...]:
    python = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    here = Path(__file__).resolve().parents[1]
    return (*python, *(here / package for package in PROJECT))


def _imports(name: str, path: Path) -> tuple[str, ...]:
    """The modules that a source names in its imports, wherever in the file."""
    stat = path.stat()
    return _read_imports(name, path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _read_imports(name: str, path: Path, changed: int, size: int) -> tuple[str, ...]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = _tree(path)
    return () if tree is None else tuple(dict.fromkeys(_imported(tree, package)))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield from _parents(base)
            # a name that is imported may be a module
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: index + 1]) for index in range(len(parts)) if name)


def _place(name: str) -> Path | None:
    """The file of a module of the user's; `None` for all others."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or not _is_own_package(parts[0]):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    path = module_file(name) if file is None else Path(file).resolve()
    return path if path is not None and path.is_file() and is_own(path) else None


def module_file(name: str) -> Path | None:
    """The file of a module, found without importing it or the packages that it lies in; `None` where there is none.

    >>> module_file("trainables.code_identity").name, module_file("no.such.module")
    ('code_identity.py', None)
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # what is loaded already may have no specification
        return None
    for index in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *rest[: index + 1]]), list(spec.submodule_search_locations))
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _is_own_package(top: str) -> bool:
    """Whether a top-level module is the user's; of a library nothing below it is looked up, which would import it."""
    if top in PROJECT or top in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return any(place is not None and is_own(Path(place)) for place in places)


def hash_of(files: Iterable[Path]) -> str:
    """One hash of several files, whatever their names and order."""
    return hashlib.sha256("".join(sorted(map(code_hash, files))).encode()).hexdigest()


def relocated(model: str, change: Callable[[str], str]) -> str:
    """A network's name with its local path changed: that of its code or of its weights.

    >>> relocated("nets/mine.py:wide?depth=4", lambda text: "/project/" + text)
    '/project/nets/mine.py:wide?depth=4'
    >>> relocated("resnet50?pretrained=r50.pth", lambda text: "/project/" + text)
    'resnet50?pretrained=/project/r50.pth'
    """
    parsed = Name.parse(model)
    kind, options = parsed.kind, dict(parsed.options)
    where, colon, function = kind.rpartition(":")
    if colon and where.endswith(".py"):
        kind = f"{change(where)}:{function}"
    elif options.get("pretrained", "no") not in ("", "no"):
        options["pretrained"] = change(options["pretrained"])
    return kind + ("?" if options else "") + "&".join(f"{option}={value}" for option, value in options.items())
