"""What a person sees of a running search: live in a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.console import styled
from analysis.records.schema import Record
from analysis.text import printable
from search.console.notebook import Output, in_notebook
from search.console.progress import LEGEND, Direction, Monitor, Pairs, Progress, clock, html
from search.mlflow_tracker.tracker import PATIENCE
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.time_left.forecast import Forecast, Span, Steady

LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often, and one at the end."""

REFRESH_SECONDS = 1.0
"""How often what is shown is put together again."""

NOTEBOOK_SECONDS = 2.0
"""How often the output of a notebook's cell is updated."""

COLOURS = {"helps": "green", "hurts": "red", "no loss": "", "unknown": "dim"}

NARROW = 60
"""Columns below which a pair takes two lines."""

BAR = 20
"""Columns of a progress bar."""


class Display:
    """Live in a terminal and in a notebook, plain lines elsewhere.

    Args:
        console: Where to write.
        orchestrator: What is running and done.
        slots: Trials at a time.
        seconds_per_epoch: What an earlier search here has shown; `None` for nothing.
        seconds_to_write: Trials that are still to come -> seconds after which MLflow has everything.
    """

    def __init__(
        self,
        console: Console,
        orchestrator: Orchestrator,
        slots: int,
        seconds_per_epoch: float | None = None,
        seconds_to_write: Callable[[int], float] = lambda trials: 0.0,
    ) -> None:
        self._console, self._orchestrator, self._slots = console, orchestrator, slots
        self._seconds_to_write = seconds_to_write
        self._running: dict[str, float] = {}  # fraction of its plan that each running trial has behind it
        self._began = time.monotonic()
        self.monitor = Monitor(orchestrator)
        self.forecast = Forecast(orchestrator.state, orchestrator.schedule, slots, seconds_per_epoch)
        self._steady = Steady()
        self._stopped = False
        self._reused = self._saved = 0.0
        self._noted = self._began
        self.phase_seconds: dict[str, float] = {}
        self._last_line = self._began
        self._last_count = len(orchestrator.state.records)
        self._lock = threading.Lock()
        self._output: Output | None = None
        self._shown: tuple[float, Progress] | None = None
        self._notebook = in_notebook()
        # the output of a kernel calls itself a terminal
        live = console.is_terminal and not self._notebook
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4) if live else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        elif self._notebook:
            self._output = Output()
        return self

    def __exit__(self, *error: object) -> None:
        self._note_phase(self._orchestrator.phase)
        self._stopped, self._shown = True, None
        if self._live is not None:
            # the results follow; of a search that is interrupted, its last state stays
            self._live.transient = self._orchestrator.phase == "done"
            self._live.stop()
        elif self._output is not None:
            self._output.show(html(self.progress()))
        elif len(self._orchestrator.state.records) > self._last_count:
            self._print_line()

    def record(self, record: Record) -> None:
        """A trial has ended."""
        with self._lock:
            self.monitor.add(record)
            self.forecast.add(record)
            self._reused += record.epochs - record.epochs_trained
            self._saved += record.seconds_saved
            self._note_phase(self._orchestrator.state.requests[record.trial].phase)
        if record.outcome in ("failed", "diverged"):
            said = f"{record.trial} {record.outcome}: {record.reason}"
            self._console.print(styled(said, "yellow"), soft_wrap=True)

    def tick(self, progress: Mapping[str, float]) -> None:
        """Shows a line now and then; between two events, where a slot that has become free is taken again.

        Args:
            progress: Fraction of its plan that each running trial has behind it.
        """
        self._running = dict(progress)
        since = time.monotonic() - self._last_line
        if self._output is not None and since >= NOTEBOOK_SECONDS:
            self._last_line = time.monotonic()
            self._output.show(html(self.progress()))
        elif self._live is None and self._output is None and since >= LINE_SECONDS:
            self._print_line()

    @property
    def saved(self) -> tuple[float, float]:
        """Epochs and seconds of training that re-use saved in this run."""
        return self._reused, self._saved

    def _note_phase(self, phase: str) -> None:
        """The time since the last trial ended belongs to the phase of the one that ends now."""
        now = time.monotonic()
        self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + now - self._noted
        self._noted = now

    # --- what is shown ------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """The search as it stands, put together at most every `REFRESH_SECONDS`."""
        now = time.monotonic()
        with self._lock:
            if self._shown is None or now - self._shown[0] >= REFRESH_SECONDS:
                shown = self.monitor.now(now - self._began, self._seconds_left(now))
                if self._stopped and self._orchestrator.phase != "done":
                    shown = replace(shown, left="stopped")
                self._shown = now, shown
            return self._shown[1]

    def _seconds_left(self, now: float) -> Span | None:
        left = self._steady.show(lambda: self.forecast.left(self._running), now - self._began)
        if left is None:
            return None
        to_come = self._orchestrator.schedule.planned - len(self._orchestrator.state.records)
        # a search that has ended waits for MLflow no longer than that
        to_write = self._seconds_to_write(max(0, to_come))
        return Span(*(max(end, min(end + PATIENCE, to_write)) for end in (left.low, left.high)))

    def _print_line(self) -> None:
        self._last_line, self._last_count = time.monotonic(), len(self._orchestrator.state.records)
        self._shown = None
        self._console.print(styled(self._line()), soft_wrap=True)

    def _line(self) -> str:
        shown = self.progress()
        budget = f" (budget left: {shown.budget})" if shown.budget else ""
        return (
            f"[{shown.elapsed}] {self._orchestrator.phase}: {shown.done}/{shown.planned} trials, "
            f"{len(self._running)} running, {shown.outcomes.get('stopped', 0)} stopped early, best {shown.best}, "
            f"{shown.left}{budget}"
        )

    def _render(self) -> Screen:
        shown = self.progress()
        requests = self._orchestrator.state.requests
        # a copy: the trials go on while this is drawn
        running = sorted((name, share) for name, share in self._running.copy().items() if name in requests)
        trials = [(name, share, requests[name].title) for name, share in running[: self._slots]]
        reused = f"{max(0, self._reused):.0f} epochs, {clock(max(0, self._saved))} of training not repeated"
        return Screen(shown, reused, trials)


class Screen:
    """A running search on a terminal of any width.

    Args:
        progress: The search as it stands.
        reused: What re-use has saved, in words.
        running: Name, fraction done and title of the running trials.
    """

    def __init__(self, progress: Progress, reused: str, running: list[tuple[str, float, str]]) -> None:
        self._progress, self._reused, self._running = progress, reused, running

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, narrow = self._progress, options.max_width < NARROW
        head = Table.grid(padding=(0, 1 if narrow else 2))
        head.add_column(no_wrap=True)
        head.add_column(overflow="fold")
        for phase in shown.active:
            head.add_row("arm", styled(phase.description, "bold"))
            head.add_row("", _bar(phase.done, phase.planned, f"{phase.done}/{phase.planned} trials"))
        head.add_row("search", _bar(shown.done, shown.planned, f"{shown.done}/{shown.planned} trials"))
        head.add_row("", shown.ends)
        head.add_row("re-used", self._reused)
        head.add_row("best", styled(shown.best, "green"))
        budget = f" (budget left: {shown.budget})" if shown.budget else ""
        head.add_row("time", f"{shown.elapsed} elapsed, {shown.left}{budget}")
        running = Table.grid(padding=(0, 1 if narrow else 2))
        kept = self._running[: max(2, options.size.height // 4)]
        for name, share, title in kept:
            title_cell = Text(printable(title), overflow="ellipsis", no_wrap=True)
            bar = ProgressBar(total=1.0, completed=share, width=BAR)
            running.add_row(*([f"{share:4.0%}"] if narrow else [name, bar]), title_cell)
        more = [f"and {len(self._running) - len(kept)} more run"] * (len(self._running) > len(kept))
        above = sum(len(console.render_lines(part, options)) for part in (head, running)) + len(more)
        yield Group(head, *_pairs(shown.pairs, console, options, options.size.height - above - 1), running, *more)


def _bar(done: int, planned: int, words: str) -> Table:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=max(1, planned), completed=done, width=BAR), words)
    return bar


def _pairs(pairs: Pairs, console: Console, options: ConsoleOptions, height: int) -> list[Any]:
    """The growing table, as many of its rows as fit."""
    if not pairs.words:
        return []
    words, legend = styled(f"\n{pairs.words}"), styled(LEGEND, "dim")
    if not pairs.rows:
        return [words]
    height -= sum(len(console.render_lines(part, options)) for part in (words, legend)) + 2
    rows, narrow = len(pairs.rows), options.max_width < NARROW
    while rows > 1 and len(console.render_lines(_table(pairs, rows, narrow), options)) > height:
        rows -= 1
    more = [styled(f"and {len(pairs.rows) - rows} more pairs", "dim")] * (rows < len(pairs.rows))
    return [words, _table(pairs, rows, narrow), *more, legend, ""]


def _table(pairs: Pairs, rows: int, narrow: bool) -> Any:
    """The first rows; on a narrow terminal the name of a pair has a line of its own."""
    if narrow:
        lines = [styled("pair A × B\n  B added to A   A added to B", "dim")]
        for pair in pairs.rows[:rows]:
            lines += [styled(pair.name), Text("  ").append(_direction(pair.b_to_a, 12)).append("   ")]
            lines[-1].append(_direction(pair.a_to_b, 12))
        return Group(*lines)
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    table.add_column("pair A × B", overflow="fold")
    table.add_column("B added to A", justify="right", min_width=12)
    table.add_column("A added to B", justify="right", min_width=12)
    for pair in pairs.rows[:rows]:
        table.add_row(styled(pair.name), _direction(pair.b_to_a), _direction(pair.a_to_b))
    return table


def _direction(direction: Direction, width: int = 0) -> Text:
    return styled(f"{direction!s:>{width}}", COLOURS[direction.word])
