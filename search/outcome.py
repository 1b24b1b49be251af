"""What a search leaves when it ends: tables, the best recipe, the report, and all of it in MLflow."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup
from pandas.io.formats.style import Styler

from analysis import files
from analysis.console import Console, styled
from analysis.records import reader
from analysis.records.schema import Record, RecordError
from analysis.report import findings_json
from analysis.report.findings import Findings
from analysis.report.notebook import found_html, styled_conflicts
from analysis.text import csv_text, sentence
from search import mlflow_tracker
from search.commands import export
from search.console import summary
from search.console.notebook import Output, cell_number, in_notebook
from search.context import SearchContext
from search.execution import epoch_time
from search.execution.disk import cannot_write
from search.phases import verdicts
from search.scheduling.orchestrator import Orchestrator
from search.verify import reproduction
from search.workspace.identity import IDENTITY

if TYPE_CHECKING:
    from search.console.display import Display

log = logging.getLogger(__name__)

ARTIFACTS = ("best.yaml", "conflicts.csv", "conflicts.png", "report.html", "space.py", "search.json", "findings.json",
             IDENTITY)  # fmt: skip
"""Files of the folder that go to MLflow, besides the tables of the phases."""


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves.

    Args:
        name: Name of the search.
        folder: Folder with `best.yaml`, `conflicts.csv`, `report.html`.
        complete: Whether it ran to its end and every result could be written.
        trials: Table of trials (`analysis.records.reader.frame`).
        conflicts: Table of pairs; `None` where the design arm has too little.
        best: The exported document; `None` where nothing has finished.
        phase_seconds: Wall time by phase.
        saved: Epochs and seconds of training that re-use saved.
        tables: Tables of the phases by name, e.g. "nominated", "removals", "path".
        health: Reasons not to believe the search, whole sentences; empty where there are none.
        interrupted: Whether it was interrupted, as by Ctrl-C.
        failed: Whether it could not continue, or a result could not be written.
        exit_code: That of the command: 0 with a best recipe, 1 without one or if it ended early, 75 after SIGUSR1, 130
            after any other interruption.
        findings: What the report shows; `None` where it could not be made.
        shown_in: Number of the notebook's cell that shows it already; `None` for none.
    """

    name: str
    folder: Path
    complete: bool
    trials: pd.DataFrame
    conflicts: pd.DataFrame | None
    best: dict[str, Any] | None
    phase_seconds: dict[str, float]
    saved: tuple[float, float]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    interrupted: bool = False
    failed: bool = False
    exit_code: int = 0
    findings: Findings | None = field(default=None, repr=False, compare=False)
    shown_in: int | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: the report's cards, the best recipe, and the pairs coloured by verdict."""
        if self.shown_in is not None and self.shown_in == cell_number():
            return ""
        if self.findings is None:
            return str(Markup("<p>Search {}: no report could be made.</p>").format(self.name))
        return found_html(self.name, self.findings)

    @property
    def styled_conflicts(self) -> Styler | None:
        """`conflicts` for people: worst pairs first, coloured by verdict; `None` where there is no table."""
        return None if self.conflicts is None else styled_conflicts(self.conflicts)


def shown_inline(result: SearchResult) -> SearchResult:
    """The result; a notebook shows it in the cell that runs, once even where it is the cell's last value."""
    if not in_notebook():
        return result
    Output().show(result._repr_html_())
    return dataclasses.replace(result, shown_in=cell_number())


@dataclass
class Ending:
    """How a search came to its end.

    Args:
        orchestrator: What was run.
        display: What was shown of it.
        complete: Whether it ran to its end.
        interrupted: Whether it was interrupted, as by Ctrl-C.
        failed: Whether it could not continue, or a result could not be written.
    """

    orchestrator: Orchestrator
    display: Display
    complete: bool
    interrupted: bool = False
    failed: bool = False


def conclude(
    context: SearchContext, ending: Ending, tracker: mlflow_tracker.Tracker, uri: str, console: Console
) -> SearchResult:
    """Judges, exports, writes, shows and tracks what a search has found."""
    settings, margin, folder = context.settings, context.standard.margin, context.settings.folder
    orchestrator, state = ending.orchestrator, ending.orchestrator.state
    records = list(state.records.values())
    trials = reader.frame(records)
    writing = _Writer(ending, console)
    conflicts = summary.conflict_table(console, trials, margin, settings.primary, state.added_blocks)
    winner = None if state.winner is None else state.winner.plan.id
    by_phase = {phase.name: phase.tables(state, trials) for phase in orchestrator.all_phases}
    tables = {name: table for found in by_phase.values() for name, table in found.items()}
    with writing("tables"):
        save_tables(tables, folder)
    if conflicts is not None:
        with writing("conflicts.csv"):
            files.write(folder / "conflicts.csv", csv_text(conflicts))
    best = _export(context, records, trials, conflicts, writing, console)
    with writing(reproduction.SCRIPT):
        reproduction.write(settings, best)
    health = summary.health(trials, margin, winner, context.space_changes)
    arm = verdicts.notes(state)
    about = context.params() | ({"adaptive_arm": " ".join(arm)} if arm else {})
    found = findings_json.document(
        trials, conflicts, best, health=health, complete=ending.complete, margin=margin, provenance=context.params()
    )
    found["early_ends"] = [end.to_dict() for end in state.early_ends]
    found["tables"] = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    with writing("findings.json"):
        files.write(folder / "findings.json", files.to_json(found, indent=2) + "\n")
    findings = None
    try:
        with writing("report.html"):
            findings = summary.all_findings(trials, conflicts, about, uri)
            summary.write_report(folder / "report.html", findings, conflicts)
    except Exception as error:
        # what was found out must reach the screen and MLflow all the same
        log.exception("the report could not be written")
        console.print(styled(f"report.html could not be written: {sentence(error)}", "yellow"), soft_wrap=True)
    seconds = epoch_time.of_records(records)
    if seconds is not None:
        measured = epoch_time.EpochTime(seconds, f"median of search {settings.name}")
        epoch_time.keep(settings, context.model, measured)
    complete = ending.complete and not ending.failed
    result = SearchResult(
        settings.name, folder, complete, trials, conflicts, best, ending.display.phase_seconds,
        ending.display.saved, tables, health, ending.interrupted, ending.failed, findings=findings,
    )  # fmt: skip
    settling = state.extra_blocks is not None and orchestrator.phase != "done"
    # before MLflow is waited for: a server that does not answer must not keep the results back
    again = orchestrator.budget.grant_again()
    summary.show(console, result, uri, settings, settling, again, context.splits.first.notes, arm)
    tags = {"looks": str(state.added_blocks), "health": " ".join(health) or "no warnings"}
    if arm:
        tags["adaptive_arm"] = " ".join(arm)
    for phase in orchestrator.all_phases:
        tags |= phase.tags(by_phase[phase.name])
    if findings is not None:
        # MLflow shows the note as the run's description
        tags["mlflow.note.content"] = summary.answer(findings)
    _track(tracker, records, folder, conflicts, tables, tags)
    close(tracker, complete, console)
    return result


def save_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Writes every table that holds something as NAME.csv; the files of the others, which may be of an earlier run of
    the search and speak of another winner, are removed."""
    for name, table in tables.items():
        file = folder / f"{name}.csv"
        if len(table):
            files.write(file, csv_text(table))
        else:
            file.unlink(missing_ok=True)


def _export(
    context: SearchContext, records: list[Record], trials: pd.DataFrame, conflicts: pd.DataFrame | None,
    writing: _Writer, console: Console,
) -> dict[str, Any] | None:  # fmt: skip
    """The best recipe, written to best.yaml; `None`, with the reason on the screen, where there is none."""
    settings = context.settings
    plans = {record.recipe: record.plan for record in records}
    pick = {"accuracy": None, "both": "knee"}.get(settings.objective, settings.objective)
    try:
        best = export.document(trials, plans.__getitem__, pick=pick, conflicts=conflicts, settings=context.params())
        with writing("best.yaml"):
            export.write(best, settings.folder / "best.yaml")
    except (export.ExportError, RecordError) as error:
        console.print(styled(sentence(error), "yellow"), soft_wrap=True)
        return None
    return best


def _track(
    tracker: mlflow_tracker.Tracker, records: list[Record], folder: Path, conflicts: pd.DataFrame | None,
    tables: dict[str, pd.DataFrame], tags: dict[str, str],
) -> None:  # fmt: skip
    """Writes the findings to the search's run."""
    metrics = {
        "reuse/epochs_saved": sum(record.epochs - record.epochs_trained for record in records),
        "reuse/seconds_saved": sum(record.seconds_saved for record in records),
    }
    # what fresh seeds have shown of a nominated pair is found by the same query as what the design has shown
    pairs = [table for table in tables.values() if {"a", "b", "verdict"} <= set(table.columns)]
    judged = [table for table in (conflicts, *pairs) if table is not None and len(table)]
    for table in judged:
        tags |= mlflow_tracker.conflict_tags(table)
    pairs = [
        (str(row["a"]), str(row["b"]), str(row["verdict"])) for table in judged for row in table.to_dict("records")
    ]
    tags["conflicts"] = mlflow_tracker.conflicts_in(pairs)
    names = {*ARTIFACTS, *(f"{name}.csv" for name in tables)}
    artifacts = {
        file.name: file.read_bytes() if file.suffix == ".png" else file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir())
        if file.name in names
    }
    tracker.summary(metrics, tags, artifacts, replace=mlflow_tracker.FINDINGS)
    tracker.mark(*judged)


def close(tracker: mlflow_tracker.Tracker, complete: bool, console: Console) -> None:
    """Waits for MLflow, for a bounded time, and says what it lacks."""
    tracker.close("FINISHED" if complete else "KILLED", tell=lambda text: console.print(styled(sentence(text))))
    if tracker.missing:
        console.print(styled(sentence(tracker.missing), "yellow"), soft_wrap=True)


class _Writer:
    """Says what could not be written on a full disk, and continues: what was found out must be shown.

    Args:
        ending: Marked as failed where something could not be written.
        console: Rich console for user-facing output.
    """

    def __init__(self, ending: Ending, console: Console) -> None:
        self._ending, self._console = ending, console

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not cannot_write(error):
                raise
            self._ending.failed = True
            said = f"{what} could not be written: {error.strerror}"
            self._console.print(styled(sentence(said), "yellow"), soft_wrap=True)
