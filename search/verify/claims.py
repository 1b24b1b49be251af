"""What a search says of itself, held against its journal, its data and its code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from analysis import files
from analysis.conflicts.search_verdicts import verdict_table
from analysis.records import reader
from analysis.records.schema import Record, RecordError
from analysis.report import findings_json
from analysis.text import csv_text
from search import phases as registered
from search.commands import export
from search.context import SearchContext
from search.phases.extra_blocks import ExtraBlocks
from search.phases.phase import Phase
from search.scheduling.journal import Journal
from search.settings import Settings
from search.state import SearchState
from search.verify.replay import replay
from search.verify.reproduction import locked_version
from search.verify.words import best_in_words, count, listed
from search.workspace import identity
from search.workspace.folder import kept_space
from search.workspace.identity import SEEDS_APART, Identity
from trainables.data.catalogue import DataError
from trainables.deployment import Deployment
from trainables.final.recipe import parse_recipe
from trainables.plan import Plan

BLOCKS = 1_000
"""Seed blocks that a phase has for itself."""

CLOSE = 1e-6
"""Difference of two numbers that another version of a library may make."""


@dataclass
class Verification:
    """What was found out about a search.

    Args:
        name: Of the search.
        problems: Reasons not to believe it, each a sentence.
        unchecked: What could not be looked at, and why.
        summary: What can be said of it in one line.
        records: The last result of every trial.
        best: Content of `best.yaml`; `None` where there is none.
        conflicts: The table of pairs as the journal has it; `None` where the design cannot be judged.
        identity: What its results stand on; `None` where an earlier version started it.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    summary: str = ""
    records: dict[str, Record] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    conflicts: pd.DataFrame | None = None
    identity: Identity | None = None


def verify(settings: Settings, phases: Sequence[Phase] | None = None) -> Verification:
    """Holds everything that a search has left against its journal, its data and its code.

    Args:
        settings: Of the search, as stored.
        phases: All phases that there are; `search.phases.PHASES` where absent.

    Raises:
        ValueError: It cannot be read.
    """
    phases = registered.PHASES if phases is None else phases
    found = Verification(settings.name)
    file = settings.folder / "journal.jsonl"
    events = Journal(file).events()
    results = [Record.from_dict(event["record"]) for event in events if event["event"] == "record"]
    # of every attempt that ended: the last one that did not fail
    found.records = {record.trial: record for record in sorted(results, key=lambda one: one.outcome != "failed")}
    found.identity = Identity.read(settings.folder)
    space, _ = kept_space(settings)
    context = SearchContext.make(space, settings)
    found.problems += [
        *repeated(results),
        *seed_problems(found.records.values(), settings, phases),
        *test_problems(results),
        *plan_problems(found.records.values()),
        *data_problems(found.records.values(), found.identity),
        *copy_problems(settings.folder, found.identity),
    ]
    _hashes(found, settings, context)
    ran, here = locked_version(settings.folder, "optuna"), optuna.__version__
    if ran not in (None, here):
        found.unchecked.append(f"the proposals were made by Optuna {ran} and this is {here}, which may differ")
    replayed = replay(context, file, ran in (None, here), phases)
    found.problems += replayed.problems
    assert replayed.state is not None
    published = _json(settings.folder / "findings.json")
    complete = published.get("complete") is True
    if complete and replayed.missing and not replayed.problems:
        left = [name for name in replayed.missing if name not in found.records]
        found.problems += [f"{listed(left)} was planned and has no result, and nothing says why"] if left else []
    if not replayed.problems:
        found.problems += _publications(found, settings, replayed.state, published, phases)
    aside = len(replayed.state.set_aside_records)
    grown = (
        f"; its space was changed {count(replayed.changes, 'time')}, {count(aside, 'trial')} outside it set aside"
        if replayed.changes
        else ""
    )
    found.summary = (
        _summary(found, settings, complete, replayed.missing, file)
        + grown
        + (
            f"; {replayed.proposals} proposals, {replayed.plans} planned trials and {replayed.stops} early stops "
            "follow from its journal"
            if not replayed.problems
            else ""
        )
    )
    return found


# ---------------------------------------------------------------------------------------------- trials


def repeated(results: Iterable[Record]) -> list[str]:
    """Trials with more than one result: whoever repeats a trial that did not fail may keep the better one."""
    counts = Counter(record.trial for record in results if record.outcome != "failed")
    often = [name for name, count in counts.items() if count > 1]
    return [f"{listed(often)} has more than one result that is no failure"] if often else []


def seed_problems(records: Iterable[Record], settings: Settings, phases: Sequence[Phase]) -> list[str]:
    """Seeds that are not unique, or not among those that the search has declared for their phase."""
    first = settings.seed * SEEDS_APART
    declared = {phase.name: first + phase.first_seed for phase in (*phases, ExtraBlocks())}
    problems, seen = [], defaultdict(list)
    for record in records:
        phase = record.trial.partition("-")[0]
        start = declared.get(phase)
        if start is None:
            problems.append(f"{record.trial} is of no phase that a search has")
        elif not start <= record.seed < start + BLOCKS or record.seed != record.split_seed:
            problems.append(
                f"{record.trial} has the seed {record.seed}, and its phase has those of {start} to {start + BLOCKS - 1}"
            )
        cell = record.tricks if phase in ("design", "check", "nominated", "around") else ()
        seen[phase, record.recipe, record.seed, record.setting, record.context, cell].append(record.trial)
    problems += [f"{listed(names)} have the same recipe and seed" for names in seen.values() if len(names) > 1]
    return problems


def test_problems(results: Iterable[Record]) -> list[str]:
    """Trials outside the confirmation that were measured on the test split."""
    read = {record.trial for record in results if record.arm != "confirm" and any(map(_of_test, record.metrics))}
    return [f"{listed(sorted(read))} was measured on the test split, which only the confirmation may be"] * bool(read)


def _of_test(metric: str) -> bool:
    return "test" in metric.split("/")


def plan_problems(records: Iterable[Record]) -> list[str]:
    """Records whose recipe is not the hash of their plan."""
    wrong = [record.trial for record in records if Plan.from_dict(record.plan).id != record.recipe]
    return [f"{listed(wrong)} has a plan that is not that of its recipe"] if wrong else []


def data_problems(records: Iterable[Record], known: Identity | None) -> list[str]:
    """Records that do not stand on the same data as each other, and as the search."""
    marks: dict[int, set[str]] = defaultdict(set)
    for record in records:
        if record.fingerprint:  # absent where a trial failed before it had its data
            marks[record.split_seed].add(record.fingerprint)
    wrong = [f"seed block {seed}" for seed, found in sorted(marks.items()) if len(found) > 1]
    problems = [f"{listed(wrong)} has trials on different data"] if wrong else []
    if known is not None:
        own, mark = known.data.get("split_seed"), known.data["fingerprint"]
        if marks.get(-1 if own is None else own, {mark}) != {mark} and not wrong:
            problems.append(f"the trials of seed block {own} stand on other data than {identity.IDENTITY} says")
    return problems


def copy_problems(folder: Path, known: Identity | None) -> list[str]:
    """Kept copies of the space that are not what was searched."""
    if known is None:
        return []
    kept = {
        name: mark for files in (known.files, *(one["files"] for one in known.former)) for name, mark in files.items()
    }
    return [
        f"{name} is not the space that was searched"
        for name, mark in kept.items()
        if (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() != mark
    ]


def _hashes(found: Verification, settings: Settings, context: SearchContext) -> None:
    """Compares data and code as they are here with those of the search."""
    known = found.identity
    if known is None:
        found.unchecked.append("an earlier version started the search and wrote down neither data nor code")
        return
    try:
        kept = settings.folder / "deployment.json"
        deployment = Deployment.from_dict(_json(kept) if kept.is_file() else None)
        now = identity.identify(context.space, settings, context.model, context.splits.first, deployment)
        trained: dict[int, set[str]] = defaultdict(set)
        for record in found.records.values():
            if record.fingerprint:
                trained[record.split_seed].add(record.fingerprint)
        changed = identity.changes(known, dataclasses.replace(now, files=known.files, versions=known.versions))
        if known.data["fingerprint"] == now.data["fingerprint"]:
            changed += identity.block_changes(trained, context.splits.fingerprint)
        others = identity.changes(known, dataclasses.replace(known, versions=now.versions))
    except (DataError, OSError) as error:
        found.unchecked.append(f"data and code are not compared ({error})")
        return
    found.problems += changed
    found.unchecked += [f"{change}, so that a trial may give other numbers here" for change in others]


# ---------------------------------------------------------------------------------------------- publications


def _publications(
    found: Verification, settings: Settings, state: SearchState, published: Mapping[str, Any], phases: Sequence[Phase]
) -> list[str]:
    """Recipe and tables that do not follow from the records."""
    folder, records = settings.folder, list(state.records.values())
    if not records:
        return []
    trials = reader.frame(records)
    try:
        found.conflicts = verdict_table(
            trials, margin=state.margin, primary=settings.primary, firsts=state.added_blocks
        )
    except ValueError:
        found.conflicts = None
    tables = {"conflicts": found.conflicts} | {
        name: table for phase in phases for name, table in phase.tables(state, trials).items()
    }
    problems = [
        f"{name}.csv does not follow from the journal"
        for name, table in tables.items()
        if (folder / f"{name}.csv").is_file() and not _same_table(table, folder / f"{name}.csv")
    ]
    best_file = folder / "best.yaml"
    if not best_file.is_file():
        return problems
    try:
        content = parse_recipe(best_file)
        found.best = content
        plan = Plan.from_dict(content["plan"]).id
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [*problems, f"best.yaml cannot be read ({error})"]
    if plan != content.get("recipe"):
        problems.append(f"best.yaml holds the plan of the recipe {plan} and says that it is {content.get('recipe')}")
    pick = {"accuracy": None, "both": "knee"}.get(settings.objective, settings.objective)
    plans = {record.recipe: record.plan for record in records}
    provenance = dict(published.get("provenance") or {})
    try:
        again = export.document(trials, plans.__getitem__, pick=pick, conflicts=found.conflicts, settings=provenance)
    except (export.ExportError, RecordError) as error:
        return [*problems, f"best.yaml does not follow from the journal ({error})"]
    names = ("recipe", "title", "plan", "measured", "conflicts")
    differs = [name for name in names if not _alike(_plain(again[name]), content.get(name))]
    problems += [f"{listed(differs)} of best.yaml does not follow from the journal"] if differs else []
    if published:
        told = findings_json.document(
            trials, found.conflicts, again, complete=published.get("complete") is True, margin=state.margin,
        )  # fmt: skip
        wrong = [name for name in ("verdicts", "best") if not _alike(_plain(told[name]), published.get(name))]
        problems += [f"{listed(wrong)} of findings.json does not follow from the journal"] if wrong else []
    return problems


def _same_table(table: pd.DataFrame | None, file: Path) -> bool:
    """Whether a CSV file holds a table, but for the last digits of its numbers."""
    if table is None:
        return False
    text = file.read_text(encoding="utf-8")
    if text == csv_text(table):
        return True
    try:
        pd.testing.assert_frame_equal(
            pd.read_csv(io.StringIO(text)), pd.read_csv(io.StringIO(csv_text(table))), rtol=CLOSE, atol=CLOSE
        )
    except (AssertionError, ValueError):
        return False
    return True


def _alike(a: Any, b: Any) -> bool:
    """Equality, but for the last digits of numbers."""
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(_alike, a, b))
        return bool(a == b)
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)


def _plain(value: Any) -> Any:
    return json.loads(files.to_json(value))


def _json(file: Path) -> dict[str, Any]:
    """An object from a file; empty where there is none or it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# ---------------------------------------------------------------------------------------------- words


def _summary(found: Verification, settings: Settings, complete: bool, missing: Sequence[str], file: Path) -> str:
    """What a paper may say of the search."""
    records = list(found.records.values())
    confirmed = [record for record in records if record.arm == "confirm" and any(map(_of_test, record.metrics))]
    marks = {} if found.identity is None else found.identity.data
    failed = sum(record.outcome == "failed" for record in records)
    parts = [
        f"search {settings.name} (journal sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
        + (f", data {marks['fingerprint']}" if marks else "")
        + f"): {count(len(records), 'trial')} of {count(len({one.recipe for one in records}), 'recipe')} on "
        f"{settings.data}, {'complete' if complete else f'ended early with {len(missing)} planned trials left'}"
        + (f", {failed} failed" if failed else ""),
        f"every recipe and seed once, {count(len({one.seed for one in records}), 'seed')} as declared",
        f"the test split was read by {count(len(confirmed), 'trial')}, all of the confirmation",
        *best_in_words(found.best),
    ]
    return "; ".join(parts)
