"""What a person at the terminal sees of a running search."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.console import styled
from analysis.records.schema import Record
from analysis.text import printable
from search.scheduling.orchestrator import Orchestrator

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often, and one at the end."""

FEWEST_ENDED = 3
"""Trials, and at least one for each slot, that must have ended before the remaining time is estimated."""


class Display:
    """Live in a terminal, plain lines elsewhere.

    Args:
        console: Where to write.
        orchestrator: What is running and done.
        slots: Trials at a time.
    """

    def __init__(self, console: Console, orchestrator: Orchestrator, slots: int) -> None:
        self._console, self._orchestrator, self._slots = console, orchestrator, slots
        self._progress: dict[str, float] = {}  # fraction of its plan that each running trial has behind it
        self._began = time.monotonic()
        self._began_with = len(orchestrator.state.records)
        self._outcomes: Counter[str] = Counter(record.outcome for record in orchestrator.state.records.values())
        self._best: Record | None = None
        for record in orchestrator.state.records.values():
            self._note_best(record)
        self._reused = self._saved = 0.0
        self._noted = self._began
        self._training_since: float | None = None
        self.phase_seconds: dict[str, float] = {}
        self._last_line = self._began
        self._last_count = self._began_with
        self._lock = threading.Lock()
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._note_phase(self._orchestrator.phase)
        if self._live is not None:
            self._live.stop()
        elif len(self._orchestrator.state.records) > self._last_count:
            self._print_line()

    def record(self, record: Record) -> None:
        """A trial has ended."""
        with self._lock:
            self._outcomes[record.outcome] += 1
            if self._training_since is None and record.seconds > 0:
                # Ray's start and the imports of the first workers happen once and say nothing about later trials
                self._training_since = max(self._began, time.monotonic() - record.seconds)
            self._reused += record.epochs - record.epochs_trained
            self._saved += record.seconds_saved
            self._note_best(record)
            self._note_phase(self._orchestrator.state.requests[record.trial].phase)
        if record.outcome in ("failed", "diverged"):
            said = f"{record.trial} {record.outcome}: {record.reason}"
            self._console.print(styled(said, "yellow"), soft_wrap=True)

    def tick(self, progress: Mapping[str, float]) -> None:
        """Shows a line now and then; between two events, where a slot that has become free is taken again.

        Args:
            progress: Fraction of its plan that each running trial has behind it.
        """
        self._progress = dict(progress)
        if self._live is None and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line, self._last_count = time.monotonic(), len(self._orchestrator.state.records)
        self._console.print(styled(self._line()), soft_wrap=True)

    @property
    def saved(self) -> tuple[float, float]:
        """Epochs and seconds of training that re-use saved in this run."""
        return self._reused, self._saved

    def _note_best(self, record: Record) -> None:
        accuracy = record.metrics.get("final/accuracy")
        if accuracy is None or not math.isfinite(accuracy):
            return
        if self._best is None or accuracy > self._best.metrics["final/accuracy"]:
            self._best = record

    def _note_phase(self, phase: str) -> None:
        """The time since the last trial ended belongs to the phase of the one that ends now."""
        now = time.monotonic()
        self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + now - self._noted
        self._noted = now

    def _counts(self) -> tuple[int, int, str]:
        """Trials that have ended, trials planned, and the remaining time in words."""
        done = sum(self._outcomes.values())
        planned = max(self._orchestrator.schedule.planned, done)
        return done, planned, self._remaining(done - self._began_with, planned - done)

    def _remaining(self, ended: int, left: int) -> str:
        """The remaining time at the rate of this run; trials that are running count by their progress."""
        if self._training_since is None or ended < min(max(FEWEST_ENDED, self._slots), ended + left):
            return "time left not known yet"
        # a copy: the trials report while this is computed
        running = min(sum(self._progress.copy().values()), left)
        rate = (ended + running) / max(1e-3, time.monotonic() - self._training_since)
        seconds = (left - running) / rate
        allowed = self._orchestrator.budget.seconds_left
        return f"about {_clock(seconds if allowed is None else min(seconds, allowed))} left"

    def _best_text(self) -> str:
        if self._best is None:
            return "none yet"
        accuracy, counts = self._best.metrics["final/accuracy"], self._best.val_counts
        known = sum(count > 0 for count in counts)
        part = f" (mean over the {known} of {len(counts)} classes that have val images)" if known < len(counts) else ""
        return f"{accuracy:.1%}{part} in a single trial: {self._best.title}"

    def _line(self) -> str:
        done, planned, left = self._counts()
        gone, running = _clock(time.monotonic() - self._began), len(self._progress)
        return (
            f"[{gone}] {self._orchestrator.phase}: {done}/{planned} trials, {running} running, "
            f"{self._outcomes['stopped']} stopped early, best {self._best_text()}, {left}{self._budget()}"
        )

    def _budget(self) -> str:
        left = self._orchestrator.left
        return f" (budget left: {left})" if left else ""

    def _render(self) -> Any:
        with self._lock:
            done, planned, left = self._counts()
            head = Table.grid(padding=(0, 2))
            head.add_row("phase", styled(self._orchestrator.description, "bold"))
            bar = Table.grid(padding=(0, 1))
            bar.add_row(ProgressBar(total=planned, completed=done, width=40), f"{done}/{planned} trials")
            head.add_row("done", bar)
            stopped, diverged, failed = (self._outcomes[o] for o in ("stopped", "diverged", "failed"))
            head.add_row("", f"{stopped} stopped early, {diverged} diverged, {failed} failed")
            head.add_row(
                "re-used", f"{max(0, self._reused):.0f} epochs, {_clock(max(0, self._saved))} of training not repeated"
            )
            head.add_row("best so far", styled(self._best_text(), "green"))
            head.add_row("time", f"{_clock(time.monotonic() - self._began)} elapsed, {left}{self._budget()}")
            running = Table.grid(padding=(0, 2))
            # a copy: the trials go on while this is drawn
            for name, share in sorted(self._progress.copy().items())[: self._slots]:
                request = self._orchestrator.state.requests[name]
                bar = ProgressBar(total=1.0, completed=share, width=20)
                running.add_row(f"  {name}", bar, Text(printable(request.title), overflow="ellipsis", no_wrap=True))
            return Group(head, running)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
