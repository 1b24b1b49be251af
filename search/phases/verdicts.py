"""Further blocks for directions that are not known yet, paid for by an early end (`--spend-on verdicts`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from analysis.conflicts import open_directions
from analysis.formatting import counted
from analysis.stats.alpha_spending import LOOKS
from search.phases.extra_blocks import ExtraBlocks, cells_of, looks_left, next_block
from search.scheduling.early_end.rule import EarlyEnd
from search.scheduling.epochs import of_proposals, paid
from search.settings import Settings
from search.state import SearchState
from trainables.plan import Plan

MOST = 20
"""A direction that needs more blocks gets none."""


class Verdicts(ExtraBlocks):
    """Further blocks of the two cells of each direction that is not known yet, for no more epochs than were saved.

    Each early end is spent at most once. Its blocks are an interim analysis like any other, with a share of the error
    rate of the declared pairs, and count as one of the three looks.
    """

    name, arm = "verdicts", "design"
    description = "further blocks for directions that are not known yet"
    after = ("adaptive",)

    def enabled(self, settings: Settings) -> bool:
        return settings.spend_on == "verdicts"

    def looks(self, state: SearchState) -> list[dict[str, Any]]:
        """The interim analyses that have spent saved epochs."""
        return [look for look in state.looks if "saved" in look]

    def decide(self, state: SearchState) -> dict[str, Any] | None:
        """The decision about the first early end that is not spent and can be; `None` where there is none."""
        spent = {look["asked"] for look in self.looks(state)}
        left = [end for end in state.early_ends if end.asked not in spent]
        return next((look for look in (plan_verdicts(state, end) for end in left) if look is not None), None)


def saved_epochs(state: SearchState, end: EarlyEnd) -> int:
    """Epochs that an early end has saved, at the average cost of the proposals before it."""
    proposals = [name for name, request in state.requests.items() if request.number is not None]
    return of_proposals(state, proposals[: end.asked]) * end.saved // end.asked


def plan_verdicts(state: SearchState, end: EarlyEnd) -> dict[str, Any] | None:
    """Which cells get further blocks for the epochs that an early end has saved; `None` where none do."""
    table = state.conflicts()
    if table is None or not looks_left(state):
        return None
    saved = saved_epochs(state, end)
    chosen, blocks = choose(
        open_directions(table).to_dict("records"),
        lambda row: cells_of(state, row["context"], (row["base"], row["added"]), (row["base"],)),
        lambda cells: _epochs(state, cells),
        saved,
    )
    if not chosen:
        return None
    directions = [
        f"{row['added']} added to {row['base']}, {granted} of {row['blocks']} seeds" for row, granted in blocks
    ]
    return {
        "first": next_block(state), "cells": [list(pair) for pair in sorted(chosen.items())], "directions": directions,
        "asked": end.asked, "saved": saved, "spent": _epochs(state, chosen),
    }  # fmt: skip


def choose(
    directions: Iterable[Mapping[str, Any]],
    needed: Callable[[Mapping[str, Any]], Iterable[int]],
    cost: Callable[[Mapping[int, int]], float],
    saved: float,
) -> tuple[dict[int, int], list[tuple[Mapping[str, Any], int]]]:
    """Spends what was saved on the directions in their order.

    Each gets the blocks after which it is known with 80 % probability, or as many of them as the rest pays for.

    Args:
        directions: Rows of `analysis.conflicts.open_directions`, those that need the fewest blocks first.
        needed: The cells of a direction.
        cost: Of blocks by cell.
        saved: What may be spent, in the unit of the cost.

    Returns:
        Blocks by cell, and each direction that gets blocks with their number.
    """
    chosen: dict[int, int] = {}
    granted = []
    for row in directions:
        for blocks in range(row["blocks"], 0, -1) if row["blocks"] <= MOST else ():
            more = {cell: max(chosen.get(cell, 0), blocks) for cell in needed(row)}
            if cost(chosen | more) <= saved:
                chosen |= more
                granted.append((row, blocks))
                break
    return chosen, granted


def _epochs(state: SearchState, chosen: Mapping[int, int]) -> int:
    """Epochs of further blocks of cells."""
    cells = state.cells
    plans: list[tuple[int, Plan]] = [
        (block, cells[position].recipe.plan) for position, blocks in chosen.items() for block in range(blocks)
    ]
    return paid(plans, state.settings.reuse)


def notes(state: SearchState) -> list[str]:
    """What a person should know of early ends and of the epochs that they saved, whole sentences."""
    said = []
    looks = {look["asked"]: look for look in Verdicts().looks(state)}
    for end in state.early_ends:
        said.append(f"{end}.")
        if end.asked in looks:
            look = looks[end.asked]
            said.append(
                f"Of about {counted(look['saved'], 'epoch')} that this saved, {look['spent']} went to further seeds "
                f"for declared pairs: {'; '.join(look['directions'])}."
            )
            continue
        said.append(f"This saved about {counted(saved_epochs(state, end), 'epoch')}{_unused(state, end)}.")
    return said


def _unused(state: SearchState, end: EarlyEnd) -> str:
    """That nothing was spent of what an early end has saved, and why; "" where nothing was to be spent."""
    if state.settings.spend_on != "verdicts":
        return ""
    # of an earlier end, what stood against it then is not known
    why = f": {_why_not(state)}" if end is state.early_ends[-1] else ""
    return f", but no declared direction could use it{why}"


def _why_not(state: SearchState) -> str:
    """Why nothing can be spent, in words."""
    if not looks_left(state):
        return f"all {LOOKS} looks have been used"
    table = state.conflicts()
    if table is None:
        return "the design arm cannot be judged"
    blocks = open_directions(table)["blocks"]
    if not len(blocks):
        return "every direction is known or cannot be judged"
    if blocks.min() > MOST:
        return f"every open direction needs more than {MOST} further seeds"
    return "one further seed of an open direction costs more"
