"""Further blocks for directions that are not known yet, paid for by an early end (`--spend-on verdicts`)."""

from __future__ import annotations

from typing import Any

from analysis.conflicts import open_directions
from analysis.formatting import counted
from analysis.stats.alpha_spending import LOOKS
from search.design.labels import FACTORIAL
from search.phases.extra_blocks import ExtraBlocks, next_block
from search.scheduling.epochs import of_proposals, paid
from search.settings import Settings
from search.state import SearchState
from trainables.plan import Plan

MOST = 20
"""A direction that needs more blocks gets none."""


class Verdicts(ExtraBlocks):
    """Further blocks of the two cells of each direction that is not known yet, for no more epochs than were saved.

    They are an interim analysis like any other that adds blocks: the declared pairs have left it a share of their error
    rate, and one that comes later finds less of it.
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
        """The decision after an early end; `None` where there is none, or nothing can be spent."""
        if len(self.looks(state)) >= len(state.early_ends):
            return None
        return plan_verdicts(state, saved_epochs(state))


def saved_epochs(state: SearchState) -> int:
    """Epochs that the last early end has saved: its proposals would have cost what those before them did on average."""
    end = state.early_ends[-1]
    proposals = sorted(name for name, request in state.requests.items() if request.number is not None)[: end.asked]
    return of_proposals(state, proposals) * end.saved // end.asked


def plan_verdicts(state: SearchState, saved: int) -> dict[str, Any] | None:
    """Which cells get further blocks, and how many; `None` where none do.

    Directions that need the fewest blocks come first. Each gets what it needs to be known with 80 % probability, or as
    much of it as the rest of the saved epochs pays for.
    """
    table = state.conflicts()
    if table is None or len(state.added_blocks) >= LOOKS - 1:
        return None
    cells, first = state.cells, next_block(state)
    chosen: dict[int, int] = {}
    directions = []
    for row in open_directions(table).to_dict("records"):
        in_context = [position for position, cell in cells.items() if cell.context == row["context"]]
        pair = {row["base"], row["added"]}
        two = [at for at in in_context if row["base"] in cells[at].tricks and set(cells[at].tricks) <= pair]
        needed = in_context if row["context"].split("+")[0] == FACTORIAL or len(two) < 2 else two
        for blocks in range(row["blocks"], 0, -1) if row["blocks"] <= MOST else ():
            more = {at: max(chosen.get(at, 0), blocks) for at in needed}
            if _epochs(state, chosen | more) <= saved:
                chosen |= more
                directions.append(f"{row['added']} added to {row['base']}, {blocks} of {row['blocks']} seeds")
                break
    if not chosen:
        return None
    return {
        "first": first, "cells": [list(pair) for pair in sorted(chosen.items())], "directions": directions,
        "saved": saved, "spent": _epochs(state, chosen),
    }  # fmt: skip


def _epochs(state: SearchState, chosen: dict[int, int]) -> int:
    """Epochs of further blocks of cells."""
    cells = state.cells
    plans: list[tuple[int, Plan]] = [
        (block, cells[position].recipe.plan) for position, blocks in chosen.items() for block in range(blocks)
    ]
    return paid(plans, state.settings.reuse)


def notes(state: SearchState) -> list[str]:
    """What a person should know of an early end and of what became of the epochs that it saved, whole sentences."""
    said = [f"{end}." for end in state.early_ends]
    spent = Verdicts().looks(state)
    for look in spent:
        said.append(
            f"Of about {counted(look['saved'], 'epoch')} that this saved, {look['spent']} went to further seeds for "
            f"declared pairs: {'; '.join(look['directions'])}."
        )
    if len(spent) < len(state.early_ends):
        saved = f"about {counted(saved_epochs(state), 'epoch')}"
        said.append(
            f"This saved {saved}, which no direction of a declared pair has a use for: {_why_not(state)}."
            if state.settings.spend_on == "verdicts"
            else f"This saved {saved}."
        )
    return said


def _why_not(state: SearchState) -> str:
    """Why nothing was spent, in words."""
    if len(state.added_blocks) >= LOOKS - 1:
        return f"{LOOKS} looks are the most, and all of them were used"
    table = state.conflicts()
    if table is None:
        return "the design arm cannot be judged"
    blocks = open_directions(table)["blocks"]
    if not len(blocks):
        return "all of them are known, or cannot be judged"
    if blocks.min() > MOST:
        return f"those that are not known yet need more than {MOST} further seeds each"
    return "a single further seed of one that is not known yet takes more"
