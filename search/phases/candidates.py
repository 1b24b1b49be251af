"""Candidate pairs: what the adaptive arm suggests and the design has not crossed, on fresh seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import pandas as pd

from analysis.conflicts.candidates import candidate_table, nominate
from search.design.labels import Cell
from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from trainables.registry import PlanError

MAX_PAIRS = 2


class Candidates(Phase):
    """The four cells of pairs that the adaptive arm suggests."""

    name, arm = "nominated", "nominated"
    description = "nominated pairs: four cells on fresh seeds"
    after = ("design", "adaptive")
    first_seed = 7_000

    def enabled(self, settings: Settings) -> bool:
        return settings.check_seeds > 0

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        """Four cells of each pair and block."""
        for a, b, cells in self.pairs(state):
            for block in range(self.first_seed, self.first_seed + state.settings.check_seeds):
                for cell in cells:
                    name = f"{cells[-1].recipe.plan.id}-{cell.recipe.plan.id}-{state.first_seed + block}"
                    context = f"nominated:{a}×{b}"
                    yield self.request(state, name, cell.recipe, block, tricks=cell.tricks, context=context)

    def pairs(self, state: SearchState) -> list[tuple[str, str, tuple[Cell, ...]]]:
        """The suggested pairs that can be crossed, with their four cells."""
        crossed = {pair for cell in state.factory.cells for pair in combinations(sorted(cell.tricks), 2)}
        found: list[tuple[str, str, tuple[Cell, ...]]] = []
        for row in nominate(state.frame(("adaptive",)), crossed).to_dict("records"):
            try:
                cells = state.factory.four(row["a"], row["b"])
            except PlanError:
                continue
            if len(found) < MAX_PAIRS:
                found.append((row["a"], row["b"], tuple(sorted(cells, key=lambda cell: len(cell.tricks)))))
        return found

    def tables(self, state: SearchState, trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """nominated: the verdicts of the pairs."""
        return {"nominated": candidate_table(trials, margin=state.margin)}

    def tags(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
        rows = tables["nominated"].to_dict("records")
        return {f"nominated/{row['a']}--{row['b']}": row["verdict"] for row in rows}

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return MAX_PAIRS * 4 * settings.check_seeds
