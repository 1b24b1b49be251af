"""The code that the workers of a cluster are sent: this project's packages, and the folders of `--tricks`."""

from __future__ import annotations

import shutil
from pathlib import Path

from search.settings import Settings

PACKAGES = ("analysis", "search", "spaces", "trainables")
"""What the workers of a cluster are sent."""

CODE_FOLDER = "code"
"""Folder of the workspace that holds what is sent."""

UPLOADED = "longtail_uploaded"
"""Module under which the workers of a cluster find the folders of `--tricks`."""


def packed(settings: Settings) -> list[str]:
    """The code that workers need, as folders that Ray uploads: the packages, and the folders of `--tricks`.

    Copied, without what only this machine can use, into the results folder for as long as the search runs. A space
    needs no copy: what workers are told is the finished plan.
    """
    code = settings.folder.resolve() / CODE_FOLDER
    shutil.rmtree(code, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    folders = []
    for name in PACKAGES:
        module = __import__(name)
        shutil.copytree(Path(str(module.__path__[0])), code / name, ignore=ignored)
        folders.append(str(code / name))
    uploaded = code / UPLOADED
    uploaded.mkdir(parents=True)
    (uploaded / "__init__.py").write_text("", encoding="utf-8")
    for number, folder in enumerate(settings.tricks):
        shutil.copytree(Path(folder), uploaded / str(number), ignore=ignored)
    return [*folders, str(uploaded)]


def tricks_for(settings: Settings, sent: bool) -> tuple[str, ...]:
    """Folders of tricks as workers find them: in what they were sent, or where they lie."""
    if sent:
        return tuple(f"{UPLOADED}:{number}" for number in range(len(settings.tricks)))
    return tuple(str(Path(folder).resolve()) for folder in settings.tricks)
