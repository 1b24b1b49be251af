"""How far the time left that a search shows is from the time that it took: recorded searches, shown again.

    python tests/benchmarks/time_left.py results/NAME …

The search is decided again from its journal, record by record, and the time left is asked for once a second, as the
live display does. Nothing is trained, and no earlier search has shown how long an epoch takes. The real time is from
the first trial's start to the last one's end and the seconds that `END_SECONDS` adds for what follows.

A checkpoint is each twentieth of the real time. The columns give the predicted length of the search, at least and at
most, as multiples of the real one. It is right where the real length lies between both, or is within 25 % of their
mean. The largest fall is by how much of itself the mean of the time left falls within a minute, besides the minute
that passes, while more than two minutes are left. The last line counts from 10 % on, over all searches.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from analysis.records.schema import Record
from search.commands.watch import at_once
from search.context import SearchContext
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.time_left.forecast import END_SECONDS, Forecast, Span, Steady
from search.settings import Settings
from search.verify.replay import replay
from search.workspace.folder import kept_space

CHECKPOINTS = [number / 20 for number in range(1, 20)]
SHOWN = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
RIGHT = 0.25

Shown = list[tuple[float, Span]]
"""(seconds since the first trial began, time left) whenever one was shown."""


def follow(folder: Path) -> tuple[float, Shown]:
    """The real length of a search, and the time left that it would have shown.

    Args:
        folder: Of its results.
    """
    settings = Settings.stored(str(folder.parent), folder.name, "time_left")
    journal = folder / "journal.jsonl"
    records = [Record.from_dict(event["record"]) for event in Journal(journal).events() if event["event"] == "record"]
    began = min(record.started for record in records)
    ends = [record.started + record.seconds - began for record in records]
    ends = [max(ends[: number + 1]) for number in range(len(ends))]
    slots, steady = at_once(records), Steady()
    shown: Shown = []
    forecasts: dict[int, Forecast] = {}
    moments = iter(zip(ends, [*ends[1:], ends[-1]], strict=True))

    def observe(orchestrator: Orchestrator, record: Record) -> None:
        if id(orchestrator) in forecasts:
            forecasts[id(orchestrator)].add(record)
        else:
            # the search was resumed here
            forecasts[id(orchestrator)] = Forecast(orchestrator.state, orchestrator.schedule, slots)
        forecast = forecasts[id(orchestrator)]
        now, then = next(moments)
        while now <= then:
            at = now
            progress = {
                one.trial: (began + at - one.started) / one.seconds
                for one in records
                if one.started <= began + at < one.started + one.seconds and one.trial in orchestrator.running
            }
            left = steady.show(lambda progress=progress: forecast.left(progress), at)
            if left is not None:
                shown.append((at, left))
            now += 1.0

    context = SearchContext.make(kept_space(settings)[0], settings)
    problems = replay(context, journal, observe=observe).problems
    if problems:
        sys.exit(f"{folder}: {problems[0]}")
    return ends[-1] + END_SECONDS, shown


def predicted(total: float, shown: Shown, share: float) -> tuple[float, float] | None:
    """Predicted by real length, at least and at most; `None` where nothing was shown yet."""
    last = [(at, left) for at, left in shown if at <= share * total][-1:]
    return ((last[0][0] + last[0][1].low) / total, (last[0][0] + last[0][1].high) / total) if last else None


def is_right(span: tuple[float, float] | None) -> bool:
    return span is not None and (span[0] <= 1 <= span[1] or abs(sum(span) / 2 - 1) <= RIGHT)


def largest_fall(shown: Shown) -> float:
    """By how much of itself the time left falls within a minute, besides the time that passes."""
    mean = [(at, (left.low + left.high) / 2) for at, left in shown]
    falls = [
        (left - later - (then - at)) / left
        for number, (at, left) in enumerate(mean)
        if left > 120
        for then, later in mean[number:]
        if then <= at + 60
    ]
    return max(falls, default=0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each search."""
    parser = argparse.ArgumentParser(description="Measure the time left that recorded searches would have shown.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="results of a search that has ended")
    columns = [f"{share:.0%}" for share in SHOWN]
    print("| search | trials took | " + " | ".join(columns) + " | right | largest fall |")
    print("|---|" + "---|" * (len(columns) + 3))
    right = asked = 0
    for folder in parser.parse_args(arguments).folders:
        total, shown = follow(folder.resolve())
        spans = {share: predicted(total, shown, share) for share in CHECKPOINTS}
        judged = [is_right(span) for share, span in spans.items() if share >= 0.1]
        right, asked = right + sum(judged), asked + len(judged)
        cells = ["none yet" if (span := spans[share]) is None else f"{span[0]:.2f}–{span[1]:.2f}" for share in SHOWN]
        took = f"{total - END_SECONDS:.0f} s"
        share = f"{sum(judged)} of {len(judged)}"
        print(f"| {folder.name} | {took} | {' | '.join(cells)} | {share} | {largest_fall(shown):.0%} |", flush=True)
    print(f"\nRight at {right} of {asked} checkpoints ({right / asked:.0%}).")


if __name__ == "__main__":
    main()
