"""Why trials were stopped, or how one trial ranked at every rung.

Reads the journal of a search, also while it runs. `run_search.py --explain` prints the same sentences as they happen.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.console import styled
from analysis.records.schema import Record
from analysis.text import echo
from search.scheduling.early_stopping import CohortASHA
from search.scheduling.journal import Journal
from search.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


class ExplainError(ValueError):
    """There is nothing to explain."""


def show_stop(console: Console, record: Record) -> None:
    """Prints one line for a trial that was stopped, and nothing for another."""
    if record.outcome == "stopped":
        console.print(styled(f"{record.trial} {record.reason} [{record.title}]"), soft_wrap=True)


def latest_search(output: str) -> str:
    """The search of a results folder that was written to last.

    Raises:
        ExplainError: There is none.
    """
    journals = sorted(Path(output).glob("*/journal.jsonl"), key=lambda file: file.stat().st_mtime)
    if not journals:
        raise ExplainError(f"there is no search in {output}; name its folder with --output")
    return journals[-1].parent.name


def adaptive_records(settings: Settings) -> list[Record]:
    """The ended trials of a search's adaptive arm, in the order in which they ended."""
    records: dict[str, Record] = {}
    for record in Journal(settings.folder / "journal.jsonl").attempts():
        if record.arm == "adaptive":
            records[record.trial] = record
    return list(records.values())


def overview(settings: Settings, records: Sequence[Record]) -> Iterator[str]:
    """The rule, the number of trials judged and stopped at each rung, and one line for each stopped trial."""
    yield rule(settings)
    outcomes = Counter(record.outcome for record in records)
    yield f"{len(records)} trials of the adaptive arm: " + ", ".join(f"{n} {what}" for what, n in outcomes.items())
    stopped = [record for record in records if record.outcome == "stopped"]
    for (rung, cohort), values in standings(settings, records).items():
        here = sum((r.stop.get("rung"), r.stop.get("cohort")) == (rung, cohort) for r in stopped)
        yield f"  {rung:.0%}, {cohort}: {len(values)} trials judged, {here} stopped"
    for record in stopped:
        yield f"{record.trial} {record.reason} [{record.title}]"


def explain_trial(settings: Settings, records: Sequence[Record], name: str) -> Iterator[str]:
    """How a trial ranked at every rung that it passed.

    Raises:
        ExplainError: There is no such trial in the adaptive arm.
    """
    found = next((record for record in records if record.trial == name), None)
    if found is None:
        known = ", ".join(record.trial for record in records[:5])
        raise ExplainError(
            f"search {settings.name!r} has no trial {name!r} in its adaptive arm, the only one with early stopping"
            + (f"; it has {known}{', …' if len(records) > 5 else ''}" if records else "")
        )
    yield rule(settings)
    yield f"{found.trial} [{found.title}], seed {found.seed}: {found.reason or found.outcome}"
    for (rung, cohort), values in standings(settings, records).items():
        if name in values:
            own, all_of_them = values[name], sorted(values.values(), reverse=True)
            place = all_of_them.index(own) + 1
            yield (
                f"  {rung:.0%}, {cohort}: {settings.rung_score} {own:.1%}, rank {place} of the {len(values)} trials "
                f"that have reached this rung so far (best {all_of_them[0]:.1%})"
            )
    if "final/accuracy" in found.metrics:
        yield f"  end: accuracy {found.metrics['final/accuracy']:.1%}"


def rule(settings: Settings) -> str:
    """The stopping rule in one line."""
    if not settings.rungs:
        return f"search {settings.name}: no trial is stopped early"
    rungs = ", ".join(f"{rung:.0%}" for rung in settings.rungs)
    return (
        f"search {settings.name}: judged by {settings.rung_score} at {rungs} of the plan; the best "
        f"1/{settings.reduction_factor:g} of a cohort continue, and a cohort of fewer than four stops none"
    )


def standings(settings: Settings, records: Sequence[Record]) -> Mapping[tuple[float, str], Mapping[str, float]]:
    """(rung, cohort) to the score of every trial there, in the order of the rungs."""
    halving = CohortASHA(settings.rungs, settings.reduction_factor, settings.rung_score)
    halving.remember(records)
    return dict(sorted(halving.scores.items()))


def show(options: argparse.Namespace) -> int:
    """Prints the sentences."""
    settings = Settings.stored(options.output, options.search or latest_search(options.output), "--search")
    records = adaptive_records(settings)
    echo(*(overview(settings, records) if options.trial is None else explain_trial(settings, records, options.trial)))
    return 0
