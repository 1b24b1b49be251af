"""Writes a search into MLflow again, from its journal.

The journal in the search's folder is the truth, and MLflow an index of it. Whatever happened to the index (runs were
deleted, duplicated or cut off; the database was deleted or damaged; a server was unreachable), afterwards it holds what
the journal says. This needs neither data nor Ray, and trains nothing. A damaged database is kept under another name;
runs without a record move to MLflow's deleted runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.formatting import counted
from analysis.records import mlflow_store
from analysis.records.mlflow_index import text
from analysis.records.schema import Record, RecordError
from analysis.text import command, echo, sentence
from search.mlflow_tracker import INDEX, SearchRun, Tracker, TrackingError, choose
from search.scheduling.journal import Journal
from search.settings import Settings, SettingsError
from search.workspace.lock import running


def sync(name: str, output: str = "results", tracking_uri: str | None = None) -> str:
    """Brings what MLflow has of a search in line with its journal.

    Args:
        name: Name of the search.
        output: Folder of results.
        tracking_uri: The store (default: the search's own).

    Returns:
        What was done, in a sentence.

    Raises:
        ValueError: There is no such search, it is running, or the store cannot be written.
    """
    settings = Settings.stored(output, name, "")
    folder = settings.folder
    if running(folder):
        raise TrackingError(f"{name}: the search is running, and writes to MLflow itself; sync it when it has ended")
    uri, words = choose(tracking_uri or settings.tracking_uri)
    if uri == mlflow_store.NOWHERE:
        raise TrackingError(f"{name}: the search was not tracked; name the store to write to with --tracking-uri")
    records = Journal(folder / "journal.jsonl").attempts()
    data = _ensure_search_run(folder, settings, records)
    aside = _set_damaged_aside(uri)
    tracker = Tracker(uri, name, data, folder)
    tracker.restore(records)
    kept = SearchRun.read(folder)
    status = "FINISHED" if kept is not None and kept.status == "FINISHED" else "KILLED"
    tracker.close(status, tell=_tell)
    if tracker.missing:
        raise TrackingError(tracker.missing)
    trials = len({record.trial for record in records})
    recipes = len({record.recipe for record in records})
    written, removed = tracker.written["written"], tracker.written["removed"]
    return (
        f"{aside}{name}: {counted(trials, 'trial')} of {counted(recipes, 'recipe')} are in {uri}{words} as the journal "
        f"has them ({counted(written, 'run')} written, {counted(removed, 'run')} moved to MLflow's deleted runs)"
    )


def _tell(message: str) -> None:
    """Prints at once what is being waited for, also into a pipe."""
    echo(message)
    sys.stdout.flush()


def _ensure_search_run(folder: Path, settings: Settings, records: Sequence[Record]) -> str:
    """Makes the content of the search's own run if none was kept; returns the name of its data."""
    kept = SearchRun.read(folder)
    if kept is None:
        # it ended before its run was created, or the file is gone
        fields = {key: value for key, value in vars(settings).items() if value not in (None, (), "")}
        fields["tracking_uri"] = mlflow_store.portable(settings.tracking_uri or "")
        started = min((record.started for record in records), default=(folder / "search.json").stat().st_mtime)
        kept = SearchRun(settings.data, round(1000 * started), tags={"space": settings.space}, status="KILLED")
        kept.params = {mlflow_store.key(key): text(value) for key, value in fields.items()}
        kept.choices = sorted({name for record in records for name in record.choices})
        kept.save(folder)
        echo(
            f"{settings.name}: {INDEX} was missing; {command('python', 'run_search.py', '--resume')} "
            f"{command(settings.name)} computes the findings again, if MLflow lacks them",
            file=sys.stderr,
        )
    return kept.data


def _set_damaged_aside(uri: str) -> str:
    """Moves a damaged or half-made database out of the way, under another name; returns a sentence about it."""
    file = mlflow_store.database(uri)
    if file is None:
        return ""
    state = mlflow_store.condition(file, thorough=True)
    if state in ("", "missing", "locked"):
        return ""
    kept = mlflow_store.set_aside(file, "half-made" if state == "half-made" else "damaged")
    others = "" if state == "half-made" else f"; the other searches in it come back with: {mlflow_store.MEND}"
    return (
        f"{file} was {'half made' if state == 'half-made' else f'unusable ({state})'} and is kept as {kept}{others}\n"
    )


def run(options: argparse.Namespace) -> int:
    """Syncs the searches that were named; 2 if that is not possible for one of them."""
    names = list(options.names)
    if options.all:
        names = sorted(path.parent.name for path in Path(options.output).glob("*/search.json"))
    if not names:
        raise SettingsError(
            f"there is no search in {options.output}" if options.all else "name at least one search, or give --all"
        )
    code = 0
    for name in names:
        try:
            echo(sync(name, options.output, options.tracking_uri))
        except (SettingsError, TrackingError, RecordError, mlflow_store.StoreError, OSError) as error:
            # the others are synced all the same
            echo(f"{options.prog}: error: {sentence(error)}", file=sys.stderr)
            code = 2
    return code
