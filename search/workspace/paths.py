"""Places in a search's settings, written so that a project can be copied or moved with its searches.

A search is started in a working directory, the project: there lie `mlflow.db`, the results, usually the data and the
user's own code. What lies below it is written relative to it, and the project itself relative to the search's folder:
a copy of the whole reads and writes its own files and never those of the original.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.code_identity import relocated
from trainables.deployment import PRIORS

PROJECT, ID = "project", "id"
"""Keys of `search.json` that are no settings: the project, and what tells a copy of a search from another search."""

SQLITE = "sqlite:///"


def relative(fields: Mapping[str, Any], project: Path) -> dict[str, Any]:
    """Settings whose places below the project are written relative to it, and all others absolutely."""

    def written(text: str) -> str:
        path = Path(os.path.abspath(text))
        return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)

    return _with_places(fields, written)


def absolute(fields: Mapping[str, Any], project: Path) -> dict[str, Any]:
    """The inverse of `relative`: settings with absolute places."""
    return _with_places(fields, lambda text: os.path.normpath(project / text))


def _with_places(fields: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The settings with every local path changed; what is no text is left to the check of types."""
    changed = dict(fields)
    for name in ("data_root", "output", "prior", "cost"):
        if isinstance(value := fields.get(name), str) and value and not (name == "prior" and value in PRIORS):
            changed[name] = change(value)
    if isinstance(store := fields.get("store"), str) and store and "://" not in store:
        changed["store"] = change(store)
    if isinstance(uri := fields.get("tracking_uri"), str) and len(uri) > len(SQLITE) and uri.startswith(SQLITE):
        changed["tracking_uri"] = SQLITE + change(uri.removeprefix(SQLITE))
    for name in ("tricks", "start"):
        if isinstance(listed := fields.get(name), (list, tuple)):
            changed[name] = [change(place) if isinstance(place, str) and place else place for place in listed]
    if isinstance(design := fields.get("design"), str) and design.startswith("list:") and design != "list:":
        changed["design"] = f"list:{change(design.removeprefix('list:'))}"
    if isinstance(model := fields.get("model"), str):
        changed["model"] = relocated(model, change)
    return changed


def written_project(folder: Path, project: Path) -> str:
    """The project as it is written into a search's folder."""
    inside = folder.resolve().is_relative_to(project.resolve())
    return Path(os.path.relpath(project, folder.resolve())).as_posix() if inside else str(project)


def project_of(folder: Path, fields: Mapping[str, Any]) -> Path | None:
    """The project of the search in a folder, `None` of one that was started before projects were written down."""
    written = fields.get(PROJECT)
    return Path(os.path.normpath(folder.resolve() / written)) if isinstance(written, str) else None


def original(folder: Path, fields: Mapping[str, Any]) -> Path | None:
    """Where the search in a folder was before, if it is still there: then the folder is a copy of it.

    Args:
        folder: Of the search.
        fields: Of its `search.json`, as written.
    """
    project = project_of(folder, fields)
    if project is None or not all(isinstance(fields.get(name), str) for name in ("output", "name", ID)):
        return None
    before = Path(os.path.normpath(project / str(fields["output"]))) / str(fields["name"])
    try:
        if before.resolve() == folder.resolve():
            return None
        there = json.loads((before / "search.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return None
    return before if isinstance(there, dict) and there.get(ID) == fields[ID] else None
