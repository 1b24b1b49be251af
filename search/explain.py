"""`python -m search.explain [TRIAL]`: why trials were stopped, or how one trial stood at every rung.

Reads the journal of a search, also while it runs. `run_search.py --explain` prints the same sentences as they happen.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.console import styled
from analysis.records.schema import Record
from analysis.text import echo, lenient_output, sentence
from search.scheduling.journal import Journal, JournalError
from search.settings import Settings, SettingsError

if TYPE_CHECKING:
    from rich.console import Console


class ExplainError(ValueError):
    """Nothing that could be explained."""


def show_stop(console: Console, record: Record) -> None:
    """Prints one line for a trial that was stopped, and nothing for another."""
    if record.outcome == "stopped":
        console.print(styled(f"{record.trial} {record.reason} [{record.title}]"), soft_wrap=True)


def latest(output: str) -> str:
    """The search in a results folder that was written to last.

    Raises:
        ExplainError: There is none.
    """
    journals = sorted(Path(output).glob("*/journal.jsonl"), key=lambda file: file.stat().st_mtime)
    if not journals:
        raise ExplainError(f"there is no search in {output}; name its folder with --output")
    return journals[-1].parent.name


def judged(settings: Settings) -> list[Record]:
    """The trials of a search's adaptive arm that are over, in the order in which they ended."""
    records: dict[str, Record] = {}
    for event in Journal(settings.folder / "journal.jsonl").events():
        if event["event"] == "record" and event["record"]["arm"] == "adaptive":
            record = Record.from_dict(event["record"])
            records[record.trial] = record
    return list(records.values())


def overview(settings: Settings, records: Sequence[Record]) -> Iterator[str]:
    """The rule, what came of the trials at each rung, and one line for each that was stopped."""
    yield rule(settings)
    outcomes = Counter(record.outcome for record in records)
    yield f"{len(records)} trials of the adaptive arm: " + ", ".join(f"{n} {what}" for what, n in outcomes.items())
    stopped = [record for record in records if record.outcome == "stopped"]
    for (rung, cohort), values in standings(settings, records).items():
        here = sum((r.stop.get("rung"), r.stop.get("cohort")) == (rung, cohort) for r in stopped)
        yield f"  {rung:.0%}, {cohort}: {len(values)} trials judged, {here} stopped"
    for record in stopped:
        yield f"{record.trial} {record.reason} [{record.title}]"


def one(settings: Settings, records: Sequence[Record], name: str) -> Iterator[str]:
    """How a trial stood at every rung that it passed.

    Raises:
        ExplainError: There is no such trial in the adaptive arm.
    """
    found = next((record for record in records if record.trial == name), None)
    if found is None:
        known = ", ".join(record.trial for record in records[:5])
        raise ExplainError(
            f"search {settings.name!r} has no trial {name!r} in its adaptive arm, the only one that is judged on the "
            f"way" + (f"; it has {known}{', …' if len(records) > 5 else ''}" if records else "")
        )
    yield rule(settings)
    yield f"{found.trial} [{found.title}], seed {found.seed}: {found.reason or found.outcome}"
    for (rung, cohort), values in standings(settings, records).items():
        if name in values:
            own, all_of_them = values[name], sorted(values.values(), reverse=True)
            place = all_of_them.index(own) + 1
            yield (
                f"  {rung:.0%}, {cohort}: {settings.rung_score} {own:.1%}, number {place} of the {len(values)} trials "
                f"that have come here by now (best {all_of_them[0]:.1%})"
            )
    if "final/accuracy" in found.metrics:
        yield f"  end: accuracy {found.metrics['final/accuracy']:.1%}"


def rule(settings: Settings) -> str:
    """The stopping rule in one line."""
    if not settings.rungs:
        return f"search {settings.name}: nothing is stopped early"
    rungs = ", ".join(f"{rung:.0%}" for rung in settings.rungs)
    return (
        f"search {settings.name}: judged by {settings.rung_score} at {rungs} of the plan; the best "
        f"1/{settings.reduction_factor:g} of a cohort continue, and no trial of fewer than four is stopped"
    )


def standings(settings: Settings, records: Sequence[Record]) -> Mapping[tuple[float, str], Mapping[str, float]]:
    """(rung, cohort) to what every trial had there, in the order of the rungs."""
    from search.scheduling.early_stopping import CohortASHA

    halving = CohortASHA(settings.rungs, settings.reduction_factor, settings.rung_score)
    halving.remember(records)
    return dict(sorted(halving.scores.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Explains; 2 where that cannot be done."""
    lenient_output()
    parser = argparse.ArgumentParser(prog="python -m search.explain", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "trial", nargs="?", metavar="TRIAL", help="one trial, e.g. adaptive-0007 (default: all that were stopped)"
    )
    parser.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    parser.add_argument("--output", default="results", metavar="DIR", help="folder of the results (default: results)")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.stored(options.output, options.search or latest(options.output))
        records = judged(settings)
        lines = overview(settings, records) if options.trial is None else one(settings, records, options.trial)
        for line in lines:
            echo(line)
    except SettingsError as error:
        echo(f"search.explain: {sentence(error).replace('--resume', '--search', 1)}", file=sys.stderr)
        return 2
    except (ExplainError, JournalError, OSError) as error:
        echo(f"search.explain: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
