"""Extra blocks (`--settle`): further seeds for declared pairs that are unresolved, decided at an interim analysis."""

from __future__ import annotations

from collections.abc import Iterator
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
        if state.extra_blocks is None or len(state.looks) >= LOOKS - 1:
            return None
        if any(trial.id in state.requests or trial.id not in state.records for trial in self.plan(state)):
            return None
        return plan_extra_blocks(state, state.extra_blocks)


def plan_extra_blocks(state: SearchState, budget: int) -> dict[str, Any] | None:
    """Which cells of the design get further blocks, and how many; `None` where no primary pair gets any.

    A pair asks for the blocks that would settle it with 80 % probability (`analysis.conflicts.further_blocks`). Its
    four cells get them; of a factorial, in which every run serves every pair, all cells do.
    """
    table = state.conflicts()
    if table is None:
        return None
    cells = state.cells
    chosen: dict[int, int] = {}
    granted = further_blocks(table, budget)
    granted = granted[granted["blocks"] > 0]
    for row in granted.to_dict("records"):
        in_context = [position for position, cell in cells.items() if cell.context == row["context"]]
        four = [position for position in in_context if set(cells[position].tricks) <= {row["a"], row["b"]}]
        factorial = row["context"].split("+")[0] == FACTORIAL
        for position in in_context if factorial or len(four) < 4 else four:
            chosen[position] = max(chosen.get(position, 0), row["blocks"])
    if not chosen:
        return None
    first = next_block(state)
    pairs = [f"{row['a']}×{row['b']}" for row in granted.to_dict("records")]
    return {"first": first, "cells": [list(pair) for pair in sorted(chosen.items())], "pairs": pairs}


def next_block(state: SearchState) -> int:
    """The first block after those of the design and of every interim analysis."""
    planned = max((block for block, _, _ in state.runs(state.settings.seeds)), default=-1)
    further = (int(look["first"]) + max(int(blocks) for _, blocks in look["cells"]) for look in state.looks)
    return max([planned + 1, *further])


def why_not(state: SearchState) -> list[str]:
    """Why unresolved primary pairs get no further blocks, one line for each pair."""
    if len(state.looks) >= LOOKS - 1:
        return [f"{LOOKS} looks are the most, and there were {len(state.looks) + 1}"]
    table = state.conflicts()
    if table is None:
        return ["the design arm cannot be judged"]
    rows = further_blocks(table, state.extra_blocks)
    unresolved = rows[rows["blocks"] == 0].to_dict("records")
    return [f"{row['a']} × {row['b']} {row['why']}" for row in unresolved] or ["none of them is unresolved"]
