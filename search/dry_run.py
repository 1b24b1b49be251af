"""`--dry-run` without torch and Ray, which take seconds to import, as long as nothing is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainables.stand_ins import StandInUsed, is_genuine, only_looking

if TYPE_CHECKING:
    from rich.console import Console

    from search.run import Launch


def dry_run(make: Callable[[], Launch], console: Console, measure: bool = False) -> None:
    """Shows what would run.

    Args:
        make: Reads what the search is started with; called again where a trick cannot be looked at without torch.
        console: Rich console for user-facing output.
        measure: Train the baseline for some seconds to say how long everything takes.

    Raises:
        ValueError: The search cannot be started as asked.
    """
    if not measure:
        try:
            with only_looking():
                _show(make, console)
                return
        except (Exception, StandInUsed) as error:
            if is_genuine(error):
                raise
    _show(make, console, measure)


def _show(make: Callable[[], Launch], console: Console, measure: bool = False) -> None:
    # with what they import, inside the stand-ins
    from search.console.preview import show
    from search.context import SearchContext

    order = make()
    show(console, SearchContext.make(order.space, order.settings), measure)
