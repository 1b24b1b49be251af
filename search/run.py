"""Runs a search: design arm, adaptive arm, race; Ray schedules, Optuna proposes, MLflow keeps the record.

Ray, torch and MLflow take seconds to import, so what needs them is imported when a search begins: `--help`, `--dry-run`
and whoever imports `search` do not wait for them.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.console import Console
from search.execution.gpu_shares import WORKER_ENVIRONMENT
from search.execution.interrupts import Interrupts
from search.result import SearchResult
from search.settings import Settings, SettingsError, checked, gpus
from spaces.domain import Space

__all__ = ["WORKER_ENVIRONMENT", "Launch", "SearchResult", "launch", "run"]


@dataclass(frozen=True)
class Launch:
    """What a search is started with.

    Args:
        space: What may vary.
        settings: Everything else.
        file: The space's file, which is kept beside the results; `None` for a space made in Python.
        resume: Whether an earlier search is continued.
        extra_blocks: Further blocks that unresolved primary pairs may get, over all of them; `None` for a search that
            continues as planned.
        accept_changes: Whether a search whose data, space or code has changed is followed by a new one.
        explain: Whether to print why a trial is stopped, as it happens.
    """

    space: Space
    settings: Settings
    file: Path | None = None
    resume: bool = False
    extra_blocks: int | None = None
    accept_changes: bool = False
    explain: bool = False


def run(
    space: Space | str | Path,
    *,
    data: str | None = None,
    name: str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    **settings: Any,
) -> SearchResult:
    """Searches a space; the same as `run_search.py`.

    Args:
        space: A `Space`, or the path of a space file.
        data: Name of the data set; the space's own, or digits-lt, where absent.
        name: Name of the search; made of the space's name and the time where absent.
        resume: Whether to continue the search of that name, whose space, data, code and settings must be the same.
        accept_changes: With `resume`: whether a search of which one has changed is followed by a new one with the same
            settings on fresh seed blocks.
        **settings: Fields of `search.settings.Settings`; `gpus_per_trial` may be "auto".

    Returns:
        Tables and files of the search.

    Raises:
        ValueError: Anything that cannot be started as asked, in one sentence.
    """
    from search.space_file import load_space

    loaded = space if isinstance(space, Space) else load_space(space)
    path = None if isinstance(space, Space) else Path(space)
    if "gpus_per_trial" in settings:
        settings |= gpus(settings["gpus_per_trial"])
    given = settings if data is None else {**settings, "data": data}
    if accept_changes and not resume:
        raise SettingsError("search.run: accept_changes needs an existing search: give its name and resume=True")
    if resume:
        stored = Settings.stored(str(settings.get("output", "results")), str(name or ""))
        changed = stored.changed({"time_budget": None, **given})
        return launch(Launch(loaded, changed, path, resume=True, accept_changes=accept_changes), Console())
    stem = path.stem if path is not None else "space"
    chosen = checked(
        {
            "name": name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}",
            "space": str(path or "<python>"),
            "data": loaded.data or "digits-lt",
            **given,
        },
        "search.run: ",
    )
    return launch(Launch(loaded, chosen, path), Console())


def launch(order: Launch, console: Console) -> SearchResult:
    """Runs to the end, the budget, or Ctrl-C; then judges what there is.

    Args:
        order: What to start.
        console: Rich console for user-facing output.

    Raises:
        ValueError: The search cannot run as asked, or another process is running it.
        KeyboardInterrupt: A person has ended it before it had results.
    """
    from search.context import SearchContext
    from search.execution import session
    from search.workspace import Workspace

    context = SearchContext.make(order.space, order.settings)
    order = dataclasses.replace(order, settings=context.settings)
    workspace = Workspace(order.settings, order.file)
    with Interrupts() as interrupts:
        try:
            if order.resume:
                workspace.claim()
            context = session.checked(order, context, workspace, console)
            changed = session.opened(order, context, workspace, console)
            if not changed:
                workspace.claim()
                result = session.run(order, context, workspace, console, interrupts)
                return dataclasses.replace(result, interrupted=interrupts.received)
        except SystemExit as error:
            # while Ray starts, SIGTERM is heard by Ray
            raise KeyboardInterrupt from error
        finally:
            workspace.release()
    return launch(session.successor(order, context, changed, console), console)
