"""`environment.txt` and `reproduce.sh`: what runs a search again elsewhere and says whether it comes to the same."""

from __future__ import annotations

import dataclasses
import platform
import re
import shlex
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from analysis import files
from analysis.text import sentence
from search.scheduling.early_end.rule import default_patience
from search.settings import ALL_OPTIONS, Settings
from search.verify.words import best_in_words
from search.workspace.folder import kept_list, kept_space

PROJECT = "longtail-tune"

LOCK, SCRIPT = "environment.txt", "reproduce.sh"

LEFT_OUT = ("name", "space", "output", "tracking_uri", "store", "store_limit", "address", "time_budget", "gpu_hours")
"""Options that say where a search lies and how long it may take, and nothing of what it finds."""

TEMPLATE = """\
#!/bin/sh
# Runs the search {name} again, and compares the result with what lies beside this script:
#   sh {script} [FOLDER]
# Everything is written into FOLDER, which is made (default: reproduced). The exit code is 0 if both agree.
# Python {python} and the packages of {lock} are what the search ran with. LONGTAIL_PYTHON names a Python that
# already has them; LONGTAIL_TUNE says where else to install the project from, e.g. a checkout.
# The numbers to expect, with intervals of 95 %:
{expected}
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${{1:-reproduced}}
mkdir -p "$work"
cd "$work"
if [ -z "${{LONGTAIL_PYTHON:-}}" ]; then
    python3 -m venv environment
    LONGTAIL_PYTHON=environment/bin/python
    "$LONGTAIL_PYTHON" -m pip install -r "$here/{lock}" "${{LONGTAIL_TUNE:-{requirement}}}"
fi
"$LONGTAIL_PYTHON" - "$here" <<'END'
import sys
from pathlib import Path

import search

if __name__ == "__main__":
    here = Path(sys.argv[1])
    options = {options}
    search.run(here / {space!r}, **options)
END
exec "$LONGTAIL_PYTHON" -m search.verify {quoted} --against "$here"
"""


def write(settings: Settings, best: Mapping[str, Any] | None) -> None:
    """Writes both files into the folder of a search.

    Args:
        settings: Of the search.
        best: The exported recipe, whose numbers are to be expected; `None` where there is none.
    """
    folder = settings.folder
    files.write(folder / LOCK, "".join(f"{name}=={version}\n" for name, version in sorted(environment().items())))
    _, space = kept_space(settings)
    options = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name in ALL_OPTIONS
        and ALL_OPTIONS[field.name].help
        and field.name not in LEFT_OUT
        and getattr(settings, field.name) != ALL_OPTIONS[field.name].default
    }
    if settings.patience_is_default and settings.patience == default_patience(settings.trials):
        options.pop("patience")
    kind, _, file = str(options.get("design", "")).partition(":")
    if kind == "list":
        options["design"] = "list:{here}/" + kept_list(file)
    written = repr({"name": settings.name, **options}).replace("'list:{here}/", "f'list:{here}/")
    expected = best_in_words(best) or ["none: no recipe has finished"]
    try:
        requirement = f"{PROJECT}=={metadata.version(PROJECT)}"
    except metadata.PackageNotFoundError:
        requirement = PROJECT
    files.write(
        folder / SCRIPT,
        TEMPLATE.format(
            name=sentence(settings.name), script=SCRIPT, lock=LOCK, python=platform.python_version(),
            expected="\n".join(f"#   {sentence(line)}" for line in expected), requirement=requirement,
            options=written, space=space.relative_to(folder).as_posix(), quoted=shlex.quote(settings.name),
        ),
    )  # fmt: skip


def environment() -> dict[str, str]:
    """Name to version of every installed package that the project needs, directly or not."""
    found: dict[str, str] = {}
    todo = list(_requirements())
    seen: set[tuple[str, str]] = set()
    while todo:
        text = todo.pop()
        match = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?", text)
        if match is None:
            continue
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or an extra that is not installed
        found[name] = package.version
        for extra in ("", *(part.strip() for part in (match[2] or "").split(","))):
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += [one for one in package.requires or () if _wanted(one, extra)]
    return found


def _wanted(requirement: str, extra: str) -> bool:
    """Whether a requirement holds for an extra; without one, whether it holds always."""
    asked = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
    return asked is None if not extra else asked is not None and asked[1] == extra


def _requirements() -> list[str]:
    """What the project needs; from its sources where it is not installed."""
    try:
        return [one for one in metadata.requires(PROJECT) or () if _wanted(one, "")]
    except metadata.PackageNotFoundError:
        file = Path(__file__).resolve().parents[2] / "pyproject.toml"
        content = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return list(content.get("project", {}).get("dependencies", ()))


def locked_version(folder: Path, package: str) -> str | None:
    """Version of a package with which the search in a folder ran; `None` where that was not written down."""
    try:
        lines = (folder / LOCK).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.partition("==")[2] for line in lines if line.partition("==")[0] == package), None)
