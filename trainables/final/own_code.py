"""Code of the user's own that a recipe names: a recipe is data, and runs none of it unasked.

Code is named on the command line (`--tricks`, `--model`), or accepted with `--trust`, which shows every file with its
hash before it is run. A recipe notes the hashes of what its search ran, and of what that imports; other code is
refused.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.text import command, printable
from trainables import code_identity
from trainables.data.catalogue import Name
from trainables.final.errors import TrainError
from trainables.models import is_own
from trainables.registry import discover, entries

SHOWN = 16
"""Hexadecimal digits of a hash that people see."""


def tricks_of(plan: Mapping[str, Any]) -> list[str]:
    """Names of the plan's tricks that do not come with this project."""
    discover()
    ours = {name for name, known in entries().items() if known.cls.__module__.startswith("trainables.tricks.")}
    used = {trick["name"]: None for stage in plan["stages"] for trick in stage["tricks"]}
    return [name for name in used if name not in ours]


def hashes(plan: Mapping[str, Any], folders: Sequence[str], model: str) -> dict[str, str]:
    """Hashes of the own code that a recipe runs, with what that imports, by module; nothing is imported here.

    Args:
        plan: Plan of the recipe, as a dict.
        folders: Folders of further tricks.
        model: The network.
    """
    if os.getcwd() not in sys.path:  # where modules of the user's are found, as when they are imported
        sys.path.append(os.getcwd())
    files: dict[str, Path] = {}
    for name in tricks_of(plan):
        found = (file for file in (Path(folder, f"{name}.py") for folder in folders) if file.is_file())
        if (file := next(found, None)) is not None:
            files[name] = file
    where = _module_of(model)
    if (file := model_file(model)) is not None and file.is_file():
        files[Path(where).stem if where.endswith(".py") else where] = file
    return {name: code_identity.code_hash(file) for name, file in code_identity.closure(files).items()}


def _module_of(model: str) -> str:
    """The module or file of a network of the user's own; "" for any other network."""
    return Name.parse(model).kind.rpartition(":")[0] if is_own(model) else ""


def model_file(model: str) -> Path | None:
    """The file of a network of the user's own, found without importing it; `None` for any other network.

    Of a module that is not there, the file that it would have.
    """
    where = _module_of(model)
    if not where:
        return None
    if where.endswith(".py"):
        return Path(where).expanduser().resolve()
    return code_identity.module_file(where) or Path(*where.split(".")).with_suffix(".py")


def accept_code(
    path: Path,
    recipe: Mapping[str, Any],
    folders: Sequence[str],
    model: str,
    *,
    own_tricks: bool,
    own_model: bool,
    trust: bool,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """The hashes of the code that the recipe runs, where all of it has been named or is trusted.

    Args:
        path: File of the recipe, for messages.
        recipe: The recipe.
        folders: Folders of further tricks, absolute.
        model: The network, its file placed.
        own_tricks: Whether the recipe itself names the folders.
        own_model: Whether the recipe itself names the network.
        trust: Whether code that the recipe names is run, whatever the search ran.
        tell: Called with a message for each file of that code.

    Raises:
        TrainError: Code that nobody has named, or that is not what the search ran.
    """
    now = hashes(recipe["plan"], folders, model)
    unasked: list[Path] = []
    remedies = []
    if own_tricks:
        # all that is imported for the sake of the plan's tricks
        unasked += [file for folder in folders for file in sorted(Path(folder).glob("*.py")) if file.stem[0] != "_"]
        remedies += [command("--tricks", folder) for folder in folders] if unasked else []
    if own_model and (file := model_file(model)) is not None:
        unasked.append(file)
        remedies.append(command("--model", model))
    there = {file.stem: file for file in unasked if file.is_file()}
    unasked = list(dict.fromkeys([*unasked, *code_identity.closure(there).values()]))
    if trust:
        for one in unasked:
            tell(f"runs code that the recipe names: {_display_name(one)}")
    elif unasked:
        shown = ", ".join(map(_display_name, unasked))
        raise TrainError(
            f"{path}: names code of its own, which is not run unasked: {shown}; read it, then name it with "
            f"{' '.join(remedies)}, or accept it as it is with --trust"
        )
    before = recipe["provenance"].get("code") or {}
    changed = [printable(name, keep="") for name in now if name in before and before[name] != now[name]]
    if changed and not trust:
        raise TrainError(
            f"{path}: the code of {', '.join(changed)} is not what the search ran; take that again, or accept what is "
            "there now with --trust"
        )
    for name in changed:
        tell(f"not the code that the search ran: {name}")
    return now


def _display_name(file: Path) -> str:
    place = printable(os.path.relpath(file), keep="")
    return f"{place} (sha256 {_hash(file)[:SHOWN]})" if file.is_file() else f"{place} (there is no such file)"


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
