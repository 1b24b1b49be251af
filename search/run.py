"""Runs a search: design arm, adaptive arm, race; Ray schedules, Optuna proposes, MLflow keeps the record."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from analysis.console import Console
from search.console.notebook import WIDTH, in_notebook
from search.execution import session
from search.execution.cpus import WORKER_ENVIRONMENT
from search.execution.interrupts import Interrupts
from search.growth.change import open_search
from search.outcome import SearchResult, shown_inline
from search.request import Request, make_request, takes_options
from search.settings import ALL_OPTIONS, SettingsError
from search.workspace.folder import Workspace
from spaces.domain import Space

__all__ = ["WORKER_ENVIRONMENT", "SearchResult", "launch", "run"]


@takes_options
def run(space: Space | str | Path, **options: Any) -> SearchResult:
    """Searches a space; the same as the command, whose options are listed in `docs/cli.md`.

    Args:
        space: A `Space`, or the path of a space file.
        **options: Any option of the command by its name, e.g. `trials=20, race=False`; `help(search.run)` lists them.
            `resume=True` continues the search of that `name`.

    Returns:
        Tables and files of the search. A notebook shows its progress and, at the end, the report's cards.

    Raises:
        ValueError: It cannot be started as asked, in one sentence.
    """
    where = "search.run: "
    for name in options:
        if name in ALL_OPTIONS and ALL_OPTIONS[name].command_only:
            raise SettingsError(f"{where}{name} is an option of the command alone")
    if isinstance(options.get("resume"), bool):
        options["resume"] = str(options.get("name", "")) if options["resume"] else None
    request = make_request({"space": space, **options}, where)
    return shown_inline(launch(request, Console(width=WIDTH) if in_notebook() else Console()))


def launch(request: Request, console: Console) -> SearchResult:
    """Runs to the end, the budget, or Ctrl-C; then judges what there is.

    Raises:
        ValueError: The search cannot run as asked, or another process is running it.
        KeyboardInterrupt: A person has ended it before it had results.
    """
    workspace = Workspace(request.settings, request.file)
    with Interrupts() as interrupts:
        try:
            if request.resume:
                workspace.claim()
            context, change = open_search(request)
            request = dataclasses.replace(request, settings=context.settings)
            context = session.check(request, context, workspace, console)
            changed = session.open_workspace(request, context, workspace, console, change)
            if not changed:
                workspace.claim()
                context = session.with_notes(context)
                result = session.run(request, context, workspace, console, interrupts)
                return dataclasses.replace(
                    result, interrupted=interrupts.received, exit_code=_exit_code(result, interrupts)
                )
        except SystemExit as error:
            # while Ray starts, SIGTERM is heard by Ray
            raise KeyboardInterrupt from error
        finally:
            workspace.release()
    return launch(session.successor(request, context, changed, console), console)


def _exit_code(result: SearchResult, interrupts: Interrupts) -> int:
    if interrupts.received:
        return interrupts.exit_code
    return 1 if result.failed or result.best is None else 0
