"""The folder of a search: made whole or not at all, locked while a process runs the search, checked when it resumes.

The space itself is kept as a value: neither the space file nor what it reads is needed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import files
from search.recipes.earlier import write_lessons
from search.recipes.start_points import kept_start
from search.scheduling.journal import Journal
from search.settings import UNDO, Settings, SettingsError
from search.workspace import identity
from search.workspace.identity import Identity
from search.workspace.space_file import load_space, read_space
from spaces.domain import Space, SpaceError
from trainables.deployment import Deployment, read
from trainables.pipeline.leases import NO_LOCKS, Lock

if TYPE_CHECKING:
    from search.context import SearchContext

log = logging.getLogger(__name__)

LARGEST_COPY = 10_000_000
"""Bytes of the largest file beside a space that is copied; the space's value is kept whatever it read."""

SPACE_HEAD = "from spaces.domain import Forbidden, Integer, LogUniform, OneOf, SomeOf, Space, Stage, Trick, Uniform\n"
"""Above a space that was made in Python and is kept as a file."""


class Workspace:
    """The results folder of a search.

    Args:
        settings: Settings of the search.
        file: The space's file; `None` for a space made in Python.
    """

    def __init__(self, settings: Settings, file: Path | None) -> None:
        self.name, self.output, self.folder, self._file = settings.name, settings.output, settings.folder, file
        self._lock = Lock(self.folder / "search.lock")

    def claim(self) -> None:
        """Keeps every other driver out of the search, until `release`.

        Raises:
            SettingsError: Another one is in it.
        """
        try:
            free = self._lock.acquire(seconds=3.0)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise SettingsError(f"{self.folder}: cannot write there ({error.strerror or error})") from error
            log.warning("%s cannot be locked: make sure that no other process runs this search", self.folder)
            return
        if not free:
            raise SettingsError(
                f"--resume {self.name}: {self.folder} is in use by {self._lock.owner}; wait for that process to "
                "end, or stop it with Ctrl-C"
            )
        for place in (self.folder, self.folder.parent):
            files.sweep(place)

    def release(self) -> None:
        """Lets other drivers in."""
        self._lock.release(remove=True)

    def create(self, context: SearchContext) -> None:
        """Makes the folder of a new search.

        Raises:
            SettingsError: It cannot be written, or the name is taken.
            SpaceError: The space file does not give the same space each time.
        """
        kind, _, file = (context.settings.design or "").partition(":")
        now = identity.identify(
            context.space, context.settings, context.model, context.splits.first, context.deployment
        )
        create(context, now, self._file, file if kind == "list" else None)

    def changes(self, context: SearchContext) -> tuple[list[str], str]:
        """What is not as it was when the search started.

        Returns:
            Each change in words, and what a person should know where nothing has changed.
        """
        before = Identity.read(self.folder)
        now = identity.identify(
            context.space, context.settings, context.model, context.splits.first, context.deployment
        )
        changed: list[str] = []
        if before is not None:
            now = dataclasses.replace(now, files=files_now(self._file, before, self.folder))
            changed = identity.changes(before, now)
        elif kept_space(context.settings)[0] != context.space:
            changed = [f"the space is not that of {self.folder / 'space.py'} any more"]
        if before is None or before.data["fingerprint"] == now.data["fingerprint"]:
            changed += identity.block_changes(self._trained(), context.splits.fingerprint)
        if before is not None or changed:
            return changed, ""
        dataclasses.replace(now, files=hashes(self.folder)).write(self.folder)
        return [], (
            f"{self.folder} was made by an earlier version, which did not record what a search stands on: its space "
            "and the data of its trials are unchanged, its code and versions are assumed to be"
        )

    def _trained(self) -> dict[int, set[str]]:
        """Fingerprints of the data by seed of the split, as the trials have recorded them."""
        found: dict[int, set[str]] = {}
        for record in Journal(self.folder / "journal.jsonl").records().values():
            found.setdefault(record.split_seed, set()).add(record.fingerprint)
        return found

    def deployment(self, context: SearchContext, resume: bool) -> Deployment:
        """How results are weighted; for a resumed search, as it was read when the search started.

        Raises:
            SettingsError: What was kept is damaged.
        """
        settings = context.settings
        if not resume:
            return read(settings.prior, settings.cost, context.splits.first.class_names)
        kept = self.folder / "deployment.json"
        try:
            return Deployment.from_dict(json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(f"--resume {self.name}: {kept} is damaged ({error!r}); {UNDO}") from error

    def keep(self, **changes: Any) -> None:
        """Writes down settings that were not known when the search started, without those of this run alone."""
        dataclasses.replace(Settings.stored(self.output, self.name), **changes).save()
        before = Identity.read(self.folder)
        # a search that is killed between the two has a lag of 0 here, which `changes` takes for not known yet
        if "lag" in changes and before is not None and before.settings.get("lag") != changes["lag"]:
            settings = {**before.settings, "lag": changes["lag"]}
            dataclasses.replace(before, settings=settings).write(self.folder)

    def remove(self, *names: str) -> None:
        """Removes folders of this run; the whole folder where none is named."""
        for folder in [self.folder / name for name in names] or [self.folder]:
            shutil.rmtree(folder, ignore_errors=True)


def create(context: SearchContext, identity: Identity, file: Path | None, design: str | None) -> None:
    """Makes the folder of a new search, whole or not at all.

    Args:
        context: The search.
        identity: What its results stand on.
        file: The space's file; `None` for a space made in Python.
        design: A list of cells that is copied; `None` for a design that is made.

    Raises:
        SettingsError: It cannot be written, or the name is taken.
        SpaceError: The space file does not give the same space each time.
    """
    settings, deployment, folder = context.settings, context.deployment, context.settings.folder
    _make_store(settings)
    taken = SettingsError(f"--name {settings.name}: {folder} exists; choose another name, or --resume {settings.name}")
    if folder.exists() or folder.is_symlink():
        raise taken
    beside = files.beside(folder)
    try:
        files.make_folder(folder.parent)
        files.sweep(folder.parent)
        beside.mkdir()
        copied = _copy_space(identity.space, file, beside)
        dataclasses.replace(identity, files=copied).write(beside)
        if design is not None:
            files.write(beside / kept_list(design), Path(design).read_bytes())
        for number, start in enumerate(settings.start):
            files.write(beside / kept_start(number), Path(start).read_bytes())
        if settings.like is not None:
            write_lessons(context, beside)
        if deployment:
            files.write(beside / "deployment.json", files.to_json(deployment.to_dict()))
        settings.save(beside)
        os.rename(beside, folder)
        files.sync_folder(folder.parent)
    except OSError as error:
        if folder.exists():
            raise taken from error
        raise SettingsError(
            f"--output {settings.output}: cannot write there ({error.strerror}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _make_store(settings: Settings) -> None:
    if settings.store is None or not settings.reuse or "://" in settings.store_place:
        return
    try:
        settings.store_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"--store {settings.store}: cannot write there ({error.strerror}); choose another folder"
        ) from error


def _copy_space(space: Space, file: Path | None, folder: Path) -> dict[str, str]:
    """Copies the space file, with what it read beside it in a folder of their own, for people and for new searches.

    Returns:
        Name of the copy in the folder to its hash.
    """
    if file is None:
        files.write(folder / "space.py", f"{SPACE_HEAD}\nSPACE = {space!r}\n")
        return hashes(folder)
    again, read = read_space(file)
    if again != space:
        raise SpaceError(
            f"{file}: gives another space each time it is read, so that the search could not be resumed with it; "
            "fix what it draws at random or takes from elsewhere"
        )
    if len(read) == 1:
        files.write(folder / "space.py", file.read_bytes())
        return hashes(folder)
    root = file.resolve().parent
    for path in map(Path.resolve, read):
        if path.stat().st_size <= LARGEST_COPY:
            copy = folder / "space" / path.relative_to(root)
            files.make_folder(copy.parent)
            files.write(copy, path.read_bytes())
    return hashes(folder, file.resolve().name)


def hashes(folder: Path, main: str = "") -> dict[str, str]:
    """Hashes of the copies of a space, the space file first."""
    copies = [folder / "space.py"] if (folder / "space.py").exists() else sorted((folder / "space").rglob("*"))
    found = {str(path.relative_to(folder)): path for path in copies if path.is_file()}
    first = f"space/{main}"
    order = sorted(found, key=lambda name: (name != first, name))
    return {name: hashlib.sha256(found[name].read_bytes()).hexdigest() for name in order}


def kept_list(design: str | Path) -> str:
    """Name of the copy of a design's list beside the results.

    >>> kept_list("plans/cells.yaml")
    'design.yaml'
    """
    return f"design{Path(design).suffix}"


def kept_space(settings: Settings) -> tuple[Space, Path]:
    """The space of a search that goes on, and the copy of its file.

    Raises:
        SettingsError: The identity is damaged.
        SpaceError: The copy is, of a search that an earlier version has started, or after it was edited.
    """
    folder = settings.folder
    identity = Identity.read(folder)
    if identity is None:
        return load_space(folder / "space.py"), folder / "space.py"
    file = folder / next(iter(identity.files), "space.py")
    for name, known in identity.files.items():
        copy = folder / name
        if copy.is_file() and hashlib.sha256(copy.read_bytes()).hexdigest() != known:
            # a person has edited it: what it says now is compared with what the search stands on
            return load_space(file), file
    return identity.space, file


def files_now(file: Path | None, identity: Identity, folder: Path) -> dict[str, str]:
    """Hashes of the files of a space that is given anew, by the names that their copies have."""
    if file is None or not identity.files:
        return {}
    first = next(iter(identity.files))
    if file.resolve() == (folder / first).resolve():
        copies = {name: folder / name for name in identity.files}
    else:
        root = file.resolve().parent
        _, read = read_space(file)
        prefix = "space/" if first.startswith("space/") else ""
        copies = {f"{prefix}{path.resolve().relative_to(root)}": path for path in read}
        if not prefix:
            copies = {first if path.resolve() == file.resolve() else name: path for name, path in copies.items()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for name, path in copies.items()
    }


def successor_of(settings: Settings, changed: Iterable[str]) -> Settings:
    """Settings of the search that replaces one whose data, space or code has changed: fresh seeds, another name."""
    stem, _, last = settings.name.rpartition("-")
    own = int(last) if settings.continues and last.isdecimal() else 1
    stem = stem if own > 1 else settings.name
    number = own + 1
    while (Path(settings.output) / f"{stem}-{number}").exists():
        number += 1
    kind, _, file = (settings.design or "").partition(":")
    return dataclasses.replace(
        settings,
        name=f"{stem}-{number}",
        seed=settings.seed + number - own,
        start=tuple(str(settings.folder / kept_start(place)) for place in range(len(settings.start))),
        design=f"list:{settings.folder / kept_list(file)}" if kind == "list" else settings.design,
        continues=f"{settings.name}, whose results stand apart: {'; '.join(changed)}",
    )
