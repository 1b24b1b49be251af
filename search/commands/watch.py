"""A small page that shows a search as it runs: trials by arm, the best recipe, and what is known of each pair.

It reads the journal alone, so it needs neither MLflow nor the process of the search, and it can be left open. It is
served on the loopback interface: nobody but the users of this machine can reach it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis.formatting import counted
from analysis.records import reader
from analysis.records.schema import Record
from analysis.report.findings import gather
from analysis.report.html import TEMPLATES
from analysis.report.notebook import found_html
from analysis.text import echo
from search.commands.explain import latest_search
from search.console.progress import Monitor
from search.console.progress import html as progress_html
from search.context import SearchContext
from search.option import SettingsError
from search.scheduling.journal import Journal
from search.scheduling.objective import PARTS
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.time_left.forecast import Forecast, Span, Steady
from search.settings import Settings
from search.state import SearchState
from search.workspace.folder import kept_space
from search.workspace.identity import SEEDS_APART
from search.workspace.lock import running

LOOPBACK = "127.0.0.1"

REFRESH_SECONDS = 10
"""After how long the page loads itself again."""

NOTHING_YET = Markup("<p>No trial has ended yet.</p>")

LARGEST_SHARE = 0.05
"""Share of the time that making the page may take while the search runs."""


class Page:
    """The page of a search; it is made again when the journal has grown.

    Args:
        settings: Of the search.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._journal = settings.folder / "journal.jsonl"
        self._size, self._body = -1, NOTHING_YET
        self._made_at = self._took = 0.0
        self._steady = Steady()

    def html(self) -> str:
        """The page as it stands."""
        size = self._journal.stat().st_size if self._journal.is_file() else 0
        state = running(self._settings.folder)
        began = time.monotonic()
        # a search of thousands of trials needs the processor more than its page does
        if size != self._size and (state is False or began - self._made_at >= self._took / LARGEST_SHARE):
            try:
                body = self._made(state) if size else NOTHING_YET
            except ValueError as error:
                body = Markup("<p>This search cannot be shown: {}</p>").format(error)
            self._size, self._body = size, body
            self._made_at, self._took = began, time.monotonic() - began
        words = {True: "running", False: "not running", None: "not on this machine"}[state]
        return TEMPLATES.get_template("watch.html").render(
            name=self._settings.name, state=words, seconds=REFRESH_SECONDS, body=self._body
        )

    def _made(self, state: bool | None) -> Markup:
        """Where the search stands, and, when nothing more runs, what it has found."""
        orchestrator = reread(self._settings, self._journal)
        records = list(orchestrator.state.records.values())
        if not records:
            return NOTHING_YET
        monitor, name = Monitor(orchestrator), self._settings.name
        aside = len(orchestrator.state.set_aside_records)
        outside = Markup("<p>{} outside the changed space set aside.</p>").format(counted(aside, "trial"))
        outside = outside if aside else Markup()
        trained = _trained_for(records)
        if state is False:
            progress = dataclasses.replace(monitor.now(trained, None), left="not running")
            found = gather(reader.frame(records), margin=orchestrator.state.margin, primary=self._settings.primary)
            done = Markup("<p>{}/{} trials in {}; {}.</p>").format(
                progress.done, progress.planned, progress.elapsed, progress.ends
            )
            shown = done if orchestrator.phase == "done" else progress_html(progress)
            return shown + outside + Markup(found_html(name, found))
        forecast = Forecast(orchestrator.state, orchestrator.schedule, at_once(records))
        ended = max(record.started + record.seconds for record in records)
        left = self._steady.show(lambda: forecast.left({}), ended - min(record.started for record in records))
        if left is not None:
            passed = time.time() - ended
            left = Span(max(0.0, left.low - passed), max(0.0, left.high - passed))
        return Markup("<h3>Search {}</h3>").format(name) + progress_html(monitor.now(trained, left)) + outside


class _Unwritten(Journal):
    """A journal that is only read."""

    def write(self, event: str, **content: Any) -> None:
        """Nothing: the search itself writes it."""


def reread(settings: Settings, journal: Path) -> Orchestrator:
    """The orchestrator of a search as its journal has it, which runs nothing and writes nothing.

    Args:
        settings: Of the search.
        journal: Its journal.
    """
    context = SearchContext.make(kept_space(settings)[0], settings)
    names = [name.removeprefix("final/") for name in PARTS[settings.objective]]
    sampler = Sampler(context.space, context.standard, settings.epochs_scale, None, settings.name, settings.seed, names)
    first_seed = settings.seed * SEEDS_APART
    state = SearchState(context.factory, settings, context.standard.margin, first_seed, None)
    return Orchestrator(state, sampler, _Unwritten(journal), StageLocks(lambda request: [], None))


def at_once(records: list[Record]) -> int:
    """The most trials that ran at the same time."""
    moments = [(record.started, 1) for record in records]
    moments += [(record.started + record.seconds, -1) for record in records]
    return max(1, *accumulate(step for _, step in sorted(moments)))


def _trained_for(records: list[Record]) -> float:
    """Seconds during which trials ran, without the pauses of a search that was resumed."""
    seconds = until = 0.0
    for record in sorted(records, key=lambda record: record.started):
        end = record.started + record.seconds
        seconds += max(0.0, end - max(until, record.started))
        until = max(until, end)
    return seconds


class Handler(BaseHTTPRequestHandler):
    """Answers with the page, and with nothing to pages of other hosts.

    Args:
        page: What is shown.
        *arguments: Of the base class.
    """

    def __init__(self, page: Page, *arguments: Any) -> None:
        self._page = page
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Sends the page."""
        # a name that somebody else lets point to this machine must not open it to a page of theirs
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if self.path != "/" or host not in (LOOPBACK, "localhost"):
            self.send_error(404)
            return
        content = self._page.html().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing of requests."""


def server(settings: Settings, port: int) -> ThreadingHTTPServer:
    """The server of a search's page, on the loopback interface.

    Raises:
        SettingsError: The port is taken, or is none.
    """
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(Handler, Page(settings)))
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"--port {port}: cannot be used ({error}); choose another one, or 0 for a free one"
        ) from error


def serve(options: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    settings = Settings.stored(options.output, options.search or latest_search(options.output), "watch")
    with server(settings, options.port) as serving:
        echo(f"Search {settings.name}: http://{LOOPBACK}:{serving.server_port}/ (Ctrl-C ends)")
        serving.serve_forever()
    return 0
