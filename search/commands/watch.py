"""A small page that shows a search as it runs: trials by arm, the best recipe, and what is known of each pair.

It reads the journal alone, so it needs neither MLflow nor the process of the search, and it can be left open. It is
served on the loopback interface: nobody but the users of this machine can reach it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from markupsafe import Markup

from analysis.formatting import counted, duration
from analysis.records import reader
from analysis.records.schema import ARMS, Record
from analysis.report.findings import gather
from analysis.report.html import TEMPLATES
from analysis.report.notebook import found_html
from analysis.text import echo
from search.commands.explain import latest_search
from search.option import SettingsError
from search.scheduling.journal import Journal
from search.settings import Settings
from search.workspace.lock import running
from trainables.data import standard

LOOPBACK = "127.0.0.1"

REFRESH_SECONDS = 10
"""After how long the page loads itself again."""


class Page:
    """The page of a search; it is made again when the journal has grown.

    Args:
        settings: Of the search.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._journal = settings.folder / "journal.jsonl"
        self._size, self._body = -1, Markup("")

    def html(self) -> str:
        """The page as it stands."""
        size = self._journal.stat().st_size if self._journal.is_file() else 0
        if size != self._size:
            records = list(Journal(self._journal).records().values()) if size else []
            self._size, self._body = size, self._made(records)
        state = {True: "running", False: "not running", None: "not on this machine"}[running(self._settings.folder)]
        return TEMPLATES.get_template("watch.html").render(
            name=self._settings.name, state=state, seconds=REFRESH_SECONDS, body=self._body
        )

    def _made(self, records: list[Record]) -> Markup:
        aside = sum(bool(record.set_aside) for record in records)
        records = [record for record in records if not record.set_aside]
        if not records:
            return Markup("<p>No trial has ended yet.</p>")
        ended = Counter(record.outcome for record in records)
        arms = Counter(record.arm for record in records)
        last = max(records, key=lambda record: record.started + record.seconds)
        began = min(record.started for record in records)
        words = [f"{counted(len(records), 'trial')} after {duration(last.started + last.seconds - began)}"]
        words += [f"{number} {outcome}" for outcome, number in ended.items() if outcome != "finished"]
        words += [f"{counted(aside, 'trial')} outside the changed space set aside"] if aside else []
        known = [arm for arm in (*ARMS, *arms) if arm in arms]
        by_arm = ", ".join(f"{arm} {arms[arm]}" for arm in dict.fromkeys(known))
        settings = self._settings
        margin = standard(settings.data, settings.data_root).margin
        found = gather(reader.frame(records), margin=margin, primary=settings.primary)
        head = Markup("<p>{}.</p><p>Trials by arm: {}; the last one is of the arm {}.</p>")
        return head.format("; ".join(words), by_arm, last.arm) + Markup(found_html(settings.name, found))


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
