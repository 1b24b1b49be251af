"""Extra blocks (`--settle`): further seeds for declared pairs that are unresolved, decided at an interim analysis."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from analysis.conflicts import further_blocks
from analysis.stats.alpha_spending import LOOKS
from search.design.labels import FACTORIAL
from search.phases.phase import Phase
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState


class ExtraBlocks(Phase):
    """Further blocks of the four cells of unresolved primary pairs, or of the whole design if it is a factorial."""

    name, arm = "settle", "design"
    description = "further blocks for the primary pairs"
    after = ("design",)

    def enabled(self, settings: Settings) -> bool:
        """Never as planned: `--settle` runs this phase instead of those after the design."""
        return False

    def looks(self, state: SearchState) -> list[dict[str, Any]]:
        """The interim analyses whose blocks this phase runs."""
        return state.looks

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        """What every interim analysis of this phase has decided."""
        cells = state.cells
        for look in self.looks(state):
            for block in range(max(blocks for _, blocks in look["cells"])):
                for position, blocks in look["cells"]:
                    # a cell may have gone with a change of the space
                    if block < blocks and position in cells:
                        cell, number = cells[position], look["first"] + block
                        request = self.request(
                            state, "", cell.recipe, number,
                            tricks=cell.tricks, context=cell.context, title=cell.title,
                        )  # fmt: skip
                        yield replace(request, id=f"design-{number}-{position:03d}")

    def decide(self, state: SearchState) -> dict[str, Any] | None:
        """The decision of this run's interim analysis, for the journal; `None` where there is none to take.

        One decision is taken in each run, and none before the last one was carried out to its end.
        """
        if state.extra_blocks is None or not looks_left(state):
            return None
        if any(trial.id in state.requests or trial.id not in state.records for trial in self.plan(state)):
            return None
        return plan_extra_blocks(state, state.extra_blocks)


def plan_extra_blocks(state: SearchState, budget: int) -> dict[str, Any] | None:
    """Which cells of the design get further blocks, and how many; `None` where no primary pair gets any.

    A pair asks for the blocks that would settle it with 80 % probability (`analysis.conflicts.further_blocks`).
    """
    table = state.conflicts()
    if table is None:
        return None
    chosen: dict[int, int] = {}
    granted = further_blocks(table, budget)
    granted = granted[granted["blocks"] > 0]
    for row in granted.to_dict("records"):
        for position in cells_of(state, row["context"], (row["a"], row["b"])):
            chosen[position] = max(chosen.get(position, 0), row["blocks"])
    if not chosen:
        return None
    pairs = [f"{row['a']}×{row['b']}" for row in granted.to_dict("records")]
    return {"first": next_block(state), "cells": [list(pair) for pair in sorted(chosen.items())], "pairs": pairs}


def cells_of(state: SearchState, context: str, pair: Collection[str], base: Collection[str] = ()) -> list[int]:
    """Numbers of a pair's four cells, or of the two that have one of its tricks.

    All cells of the context where it lacks some of them, or is a factorial, in which every run serves every pair.

    Args:
        state: The search.
        context: Context of the cells.
        pair: The two tricks; the cells have no others.
        base: Tricks that the cells have in any case.
    """
    tricks = {number: set(cell.tricks) for number, cell in state.cells.items() if cell.context == context}
    chosen = [number for number, own in tricks.items() if set(base) <= own <= set(pair)]
    whole = len(chosen) >= 2 ** (len(pair) - len(base))
    return chosen if whole and context.split("+")[0] != FACTORIAL else list(tricks)


def looks_left(state: SearchState) -> int:
    """Further interim analyses that may claim anything."""
    return max(0, LOOKS - 1 - len(state.added_blocks))


def next_block(state: SearchState) -> int:
    """The first block after those of the design and of every interim analysis."""
    planned = max((block for block, _, _ in state.runs(state.settings.seeds)), default=-1)
    further = (int(look["first"]) + max(int(blocks) for _, blocks in look["cells"]) for look in state.looks)
    return max([planned + 1, *further])


def why_not(state: SearchState) -> list[str]:
    """Why unresolved primary pairs get no further blocks, one line for each pair."""
    if not looks_left(state):
        return [f"{LOOKS} looks are the most, and there were {len(state.added_blocks) + 1}"]
    table = state.conflicts()
    if table is None:
        return ["the design arm cannot be judged"]
    rows = further_blocks(table, state.extra_blocks)
    unresolved = rows[rows["blocks"] == 0].to_dict("records")
    return [f"{row['a']} × {row['b']} {row['why']}" for row in unresolved] or ["none of them is unresolved"]
