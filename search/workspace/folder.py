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
from spaces.domain import Space, SpaceError, from_dict
from trainables.deployment import Deployment, read
from trainables.pipeline.leases import NO_LOCKS, Lock

if TYPE_CHECKING:
    from search.context import SearchContext

log = logging.getLogger(__name__)

LARGEST_COPY = 10_000_000
"""Bytes of the largest file beside a space that is copied; the space's value is kept whatever it read."""

SPACE_HEAD = "from spaces.domain import Forbidden, Integer, LogUniform, OneOf, SomeOf, Space, Stage, Trick, Uniform\n"
"""Above a space that was made in Python and is kept as a file."""

KEPT_DEFAULTS = """

# Added by the search, which was begun with another space: the numbers of its baseline and its design stay as they were.
import dataclasses

SPACE = dataclasses.replace(SPACE, defaults={})
"""
"""Below the copy of a changed space whose open numbers keep the defaults of the former one."""


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

    def grow(self, context: SearchContext) -> None:
        """Writes down that the search has another space from here on; the former one is kept.

        The copies come first, because what `identity.json` names must be there.

        Raises:
            SettingsError: It cannot be written.
            SpaceError: The space file does not give the same space each time.
        """
        known = Identity.read(self.folder)
        if known is None or known.space == context.space:
            return
        now = identity.identify(
            context.space, context.settings, context.model, context.splits.first, context.deployment
        )
        try:
            name = f"space-{len(known.former) + 2}"
            # what a process has left that was killed while it copied
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / f"{name}.py").unlink(missing_ok=True)
            copied = _copy_space(context.space, self._file, self.folder, name)
            # the copy of the former space may have been edited to be the changed one
            former = {copy: mark for copy, mark in known.files.items() if _hash(self.folder / copy) == mark}
            dataclasses.replace(known, files=former).grown(now, copied).write(self.folder)
        except OSError as error:
            raise SettingsError(f"{self.folder}: cannot write there ({error.strerror or error})") from error
        self.keep(space=context.settings.space)

    def had_space_of(self, context: SearchContext) -> bool:
        """Whether the search once had this space, and has another one now."""
        known = Identity.read(self.folder)
        former = [] if known is None or known.space == context.space else known.former
        return any(from_dict(one["space"]) == context.space for one in former)

    def undo_growth(self, context: SearchContext) -> None:
        """Takes back another space that was written down by a process killed before it had journaled the change.

        It must have had this space once, see `had_space_of`.
        """
        known = Identity.read(self.folder)
        while known is not None and known.space != context.space:
            copies = known.files
            known = known.before_growth()
            known.write(self.folder)
            for name in copies:
                (self.folder / name).unlink(missing_ok=True)
            self.keep(space=context.settings.space)

    def changes(self, context: SearchContext, grown: bool = False) -> tuple[list[str], str]:
        """What is not as it was when the search started.

        Args:
            context: The search.
            grown: Whether its space may be another one.

        Returns:
            Each change in words, and what a person should know where nothing has changed.
        """
        before = Identity.read(self.folder)
        now = identity.identify(
            context.space, context.settings, context.model, context.splits.first, context.deployment
        )
        changed: list[str] = []
        if before is not None:
            if grown:
                before = dataclasses.replace(before, space=now.space)
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
        copied = _copy_space(identity.space, file, beside, "space")
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


def _copy_space(space: Space, file: Path | None, folder: Path, name: str) -> dict[str, str]:
    """Copies the space file, with what it read beside it in a folder of their own, for people and for new searches.

    Args:
        space: As the search has it: defaults that it has kept from a former space are added to the copy.
        file: The space's file; `None` for a space made in Python.
        folder: Of the search.
        name: Of the copy, or of the folder of the copies.

    Returns:
        Name of the copy in the folder to its hash.
    """
    if file is None:
        files.write(folder / f"{name}.py", f"{SPACE_HEAD}\nSPACE = {space!r}\n")
        return hashes(folder, name)
    again, read = read_space(file)
    if dataclasses.replace(again, defaults=space.defaults) != space:
        raise SpaceError(
            f"{file}: gives another space each time it is read, so that the search could not be resumed with it; "
            "fix what it draws at random or takes from elsewhere"
        )
    root = file.resolve().parent
    copies = {path.resolve(): folder / name / path.resolve().relative_to(root) for path in read}
    if len(read) == 1:
        copies = {file.resolve(): folder / f"{name}.py"}
    for path, copy in copies.items():
        if len(read) > 1 and path.stat().st_size > LARGEST_COPY:
            continue
        content = path.read_bytes()
        if path == file.resolve() and again.defaults != space.defaults:
            content += KEPT_DEFAULTS.format(dict(space.defaults)).encode()
        files.make_folder(copy.parent)
        files.write(copy, content)
    return hashes(folder, name, file.resolve().name)


def hashes(folder: Path, name: str = "space", main: str = "") -> dict[str, str]:
    """Hashes of the copies of a space, the space file first."""
    alone = folder / f"{name}.py"
    copies = [alone] if alone.exists() else sorted((folder / name).rglob("*"))
    found = {str(path.relative_to(folder)): path for path in copies if path.is_file()}
    first = f"{name}/{main}"
    order = sorted(found, key=lambda copy: (copy != first, copy))
    return {copy: _hash(found[copy]) for copy in order}


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
        if _hash(copy) not in ("", known):
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
        prefix = f"{first.partition('/')[0]}/" if "/" in first else ""
        copies = {f"{prefix}{path.resolve().relative_to(root)}": path for path in read}
        if not prefix:
            copies = {first if path.resolve() == file.resolve() else name: path for name, path in copies.items()}
    return {name: _hash(path) for name, path in copies.items()}


def _hash(file: Path) -> str:
    """Of a file's content; "" where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


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
