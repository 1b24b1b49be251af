"""What is shown of a running search, wherever it is shown: the arm, the time left, what is known of each pair so far.

The table of directions is an interim view. It takes in a seed block when all of its trials have ended, shows what
`analysis.conflicts.pairwise` gives for the blocks so far, and neither counts as a look nor names a verdict on a pair:
verdicts are given once, when the search has ended.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from analysis.formatting import labels_of, plus_minus, short, worse_harm
from analysis.records.schema import Record
from analysis.report.html import TEMPLATES
from search.scheduling.time_left.forecast import Span

if TYPE_CHECKING:
    import pandas as pd

    from search.scheduling.orchestrator import Orchestrator

SIGNS = {"helps": "↑", "hurts": "↓", "no loss": "=", "unknown": ""}
"""What adding one trick to another does so far, before its numbers."""

LEGEND = "↑ helps so far, ↓ hurts so far, = no loss so far; verdicts are given when the search has ended."

ONE_VALUE = 1.3
"""Longest time left by shortest up to which their mean is shown alone."""

FEWEST_BLOCKS = 2
"""Blocks from which differences are shown."""


class Direction(NamedTuple):
    """What adding one trick to another does so far.

    Args:
        word: A key of `SIGNS`.
        numbers: Points of accuracy with half the width of the 95 % interval.
    """

    word: str
    numbers: str

    def __str__(self) -> str:
        return f"{SIGNS[self.word]} {self.numbers}".strip()


class Pair(NamedTuple):
    """Both directions of a pair.

    Args:
        name: Both tricks.
        b_to_a: B added to A.
        a_to_b: A added to B.
    """

    name: str
    b_to_a: Direction
    a_to_b: Direction


@dataclass(frozen=True)
class Pairs:
    """The growing table.

    Args:
        blocks: Seed blocks that are complete.
        planned: Seed blocks of the design.
        rows: Pairs, worst first.
    """

    blocks: int = 0
    planned: int = 0
    rows: tuple[Pair, ...] = ()

    @property
    def words(self) -> str:
        """What the table holds, in a sentence; empty for a search without a design."""
        if not self.planned:
            return ""
        so_far = f"So far, {self.blocks} of {self.planned} seed blocks are complete"
        if self.rows:
            return f"{so_far}. Points of accuracy ± 95 % interval:"
        return f"{so_far}; what is known of each pair is shown from {FEWEST_BLOCKS} blocks on."


class Phase(NamedTuple):
    """How far a phase is.

    Args:
        name: Its name.
        description: What it does.
        done: Trials that have ended.
        planned: Trials that it has, at most.
        active: Whether its trials run.
    """

    name: str
    description: str
    done: int
    planned: int
    active: bool


@dataclass(frozen=True)
class Progress:
    """A search as it stands.

    Args:
        phases: Those that have begun or are to come.
        outcomes: Trials that have ended, by outcome.
        best: The best single trial in words.
        elapsed: Time since this run began, in words.
        left: Time left in words.
        budget: What is left of the budgets in words; empty without any.
        pairs: The growing table.
    """

    phases: tuple[Phase, ...]
    outcomes: Mapping[str, int]
    best: str
    elapsed: str
    left: str
    budget: str
    pairs: Pairs

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(self.outcomes.values())

    @property
    def planned(self) -> int:
        """Trials of the whole search, at most."""
        return max(self.done, sum(phase.planned for phase in self.phases))

    @property
    def active(self) -> list[Phase]:
        """Phases whose trials run."""
        return [phase for phase in self.phases if phase.active]

    @property
    def ends(self) -> str:
        """How many trials ended early."""
        stopped, diverged, failed = (self.outcomes.get(name, 0) for name in ("stopped", "diverged", "failed"))
        return f"{stopped} stopped early, {diverged} diverged, {failed} failed"


class Monitor:
    """Follows a search for those who show it.

    Args:
        orchestrator: What is running and done.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.best: Record | None = None
        self._pairs, self._complete = Pairs(), frozenset[int]()
        for record in orchestrator.state.records.values():
            self.add(record)

    def add(self, record: Record) -> None:
        """A trial has ended."""
        self.outcomes[record.outcome] += 1
        accuracy = record.metrics.get("final/accuracy")
        if accuracy is None or not math.isfinite(accuracy):
            return
        if self.best is None or accuracy > self.best.metrics["final/accuracy"]:
            self.best = record

    def now(self, elapsed: float, left: Span | None) -> Progress:
        """The search as it stands.

        Args:
            elapsed: Seconds since this run began.
            left: Seconds left; `None` where that is not known.
        """
        orchestrator = self._orchestrator
        allowed = orchestrator.budget.seconds_left
        if left is not None and allowed is not None:
            left = Span(min(left.low, allowed), min(left.high, allowed))
        words = "time left not known yet" if left is None else time_left(left)
        return Progress(
            phases=self._phases(), outcomes=dict(self.outcomes), best=self.best_words, elapsed=clock(elapsed),
            left="all trials have ended" if orchestrator.phase == "done" else words,
            budget=orchestrator.left, pairs=self.pairs(),
        )  # fmt: skip

    @property
    def best_words(self) -> str:
        """The best single trial."""
        if self.best is None:
            return "none yet"
        accuracy, counts = self.best.metrics["final/accuracy"], self.best.val_counts
        known = sum(count > 0 for count in counts)
        part = f" (mean over the {known} of {len(counts)} classes that have val images)" if known < len(counts) else ""
        return f"{accuracy:.1%}{part} in a single trial: {self.best.title}"

    def _phases(self) -> tuple[Phase, ...]:
        schedule, state = self._orchestrator.schedule, self._orchestrator.state
        requests = [request for request in list(state.requests.values()) if request.id not in state.set_aside]
        planned = Counter(request.phase for request in requests)
        ended = Counter(
            request.phase for request in requests if request.id in state.records or request.id in state.failures
        )
        # a list: the display asks from a thread of its own
        active = {request.phase for request in list(self._orchestrator.running.values())} or {schedule.current}
        more = schedule.unplanned
        return tuple(
            Phase(
                phase.name, phase.description, ended[phase.name], planned[phase.name] + more.get(phase.name, 0),
                phase.name in active,
            )
            for phase in schedule.phases
        )  # fmt: skip

    def pairs(self) -> Pairs:
        """The growing table; it is made again when a block is complete."""
        state = self._orchestrator.state
        with self._lock:
            complete, planned = state.complete_blocks()
            if complete != self._complete or planned != self._pairs.planned:
                table = state.conflicts(complete) if len(complete) >= FEWEST_BLOCKS else None
                rows = () if table is None else _rows(table)
                self._complete, self._pairs = complete, Pairs(len(complete), planned, rows)
            return self._pairs


def _rows(table: pd.DataFrame) -> tuple[Pair, ...]:
    names = short(labels_of(table))
    rows = [row for row in table.to_dict("records") if row["verdict"] != "not applicable"]
    return tuple(
        Pair(
            f"{names[row['a']]} × {names[row['b']]}",
            *(
                Direction(row[f"{name}_verdict"], plus_minus(row[name], row[f"{name}_low"], row[f"{name}_high"]))
                for name in ("b_given_a", "a_given_b")
            ),
        )
        for row in sorted(rows, key=worse_harm)
    )


INKS = {"helps": "#1a6b2d", "hurts": "#b3261e", "no loss": "inherit", "unknown": "#5c6670"}
"""Colours of a direction on a page."""


def html(progress: Progress) -> Markup:
    """The search as it stands, for a page or a notebook: no script, no style sheet."""
    template = TEMPLATES.get_template("progress.html")
    return Markup(template.render(progress=progress, colours=INKS, legend=LEGEND))


def clock(seconds: float) -> str:
    """A time as a clock shows it.

    >>> clock(59.6), clock(3700)
    ('1:00', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_left(left: Span) -> str:
    """How long a search still takes, no more exactly than it is known.

    >>> time_left(Span(190, 320)), time_left(Span(250, 270)), time_left(Span(41, 44)), time_left(Span(3, 4))
    ('about 3 to 5 min left', 'about 4 min left', 'about 40 s left', 'less than 10 s left')
    >>> time_left(Span(4000, 9000)), time_left(Span(20, 130))
    ('about 1.1 to 2.5 h left', 'about 1 to 2 min left')
    """
    low, high = left.low, left.high
    if high <= ONE_VALUE * low:
        low = high = (low + high) / 2
    seconds, unit, digits = (1, "s", -1) if high < 120 else (60, "min", 0) if high < 7200 else (3600, "h", 1)
    first, last = (round(end / seconds, digits) for end in (low, high))
    if not last:
        return "less than 10 s left"
    first = max(first, 10**-digits)
    return f"about {f'{first:g} to ' if first < last else ''}{last:g} {unit} left"
