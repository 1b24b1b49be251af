"""Ablation: the winner without each of its tricks, without two of them, and step by step down to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

import pandas as pd

from analysis.recipes.ablation import best_step, missed_least, path, removals
from analysis.records.schema import NUMBERS
from search.design.removal import removable, without
from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from trainables.plan import Recipe
from trainables.registry import PlanError

MAX_PAIRED = 4
"""Tricks of the winner that are also removed in pairs: those whose removal seems to cost least."""

BRANCHES = 2
"""Candidates of each further step from the winner down to the baseline."""

Cell = frozenset[str]
"""The tricks that stay."""


class Ablation(Phase):
    """The winner with some of its tricks removed, every cell on the same fresh blocks.

    The tricks whose removal seems to cost least are also removed in pairs. Each further step towards the baseline
    tries the candidates that seem to cost least and continues from the best.
    """

    name, arm = "around", "around"
    description = "ablation: which tricks of the winner may be removed"
    after = ("final",)
    first_seed = 6_000
    in_rounds = True

    def enabled(self, settings: Settings) -> bool:
        return settings.check_seeds > 0 and settings.race

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        """Round after round, as far as the rounds before have ended."""
        if state.winner is None:
            return
        cells = _Cells(state.factory, state.winner)
        for group in self._rounds(state, cells):
            recipes = {cell: recipe for cell in group if (recipe := cells.recipe(cell)) is not None}
            for block in range(self.first_seed, self.first_seed + state.settings.check_seeds):
                for cell, recipe in recipes.items():
                    yield self._request(state, cells, cell, recipe, block)

    def _rounds(self, state: SearchState, cells: _Cells) -> Iterator[list[Cell]]:
        whole = cells.whole
        group = [Cell(), whole, *(cells.less(whole, unit) for unit in cells.units)]
        asked = set(group)
        yield group
        if not cells.units or not self._ended(state, cells, group):
            return
        order = missed_least(self._values(state, cells), whole)
        least = sorted(cells.units, key=lambda unit: order.get(cells.less(whole, unit), len(order)))
        pairs = combinations(least[:MAX_PAIRED], 2)
        group = list(dict.fromkeys(cells.less(cells.less(whole, a), b) for a, b in pairs))
        asked |= set(group)
        yield group
        if not self._ended(state, cells, group):
            return
        here: Cell | None = whole
        while here is not None and (left := [unit for unit in least if unit in here]):
            below = [cell for unit in left if cells.recipe(cell := cells.less(here, unit)) is not None]
            group = [cell for cell in below if cell not in asked][: max(0, BRANCHES - sum(c in asked for c in below))]
            asked |= set(group)
            yield group
            if not self._ended(state, cells, group):
                return
            here = best_step(self._values(state, cells), here)

    def _request(self, state: SearchState, cells: _Cells, on: Cell, recipe: Recipe, block: int) -> TrialRequest:
        # cells of another winner, which added trials may bring, are other trials even where the recipe is the same
        name = f"{cells.winner.plan.id}-{recipe.plan.id}-{state.first_seed + block}"
        return self.request(
            state, name, recipe, block, tricks=tuple(sorted(on)), context=f"around:{cells.winner.plan.id}",
            title=f"{recipe.title} at the winner's numbers" if on == {NUMBERS} else recipe.title,
        )  # fmt: skip

    def _ended(self, state: SearchState, cells: _Cells, group: Iterable[Cell]) -> bool:
        """Whether a round has been run: a phase is asked again only when none of its trials waits or runs."""
        block = self.first_seed + state.settings.check_seeds - 1
        recipes = [(cell, recipe) for cell in group if (recipe := cells.recipe(cell)) is not None]
        return all(self._request(state, cells, cell, recipe, block).id in state.requests for cell, recipe in recipes)

    def _values(self, state: SearchState, cells: _Cells) -> dict[Cell, dict[int, float]]:
        """Accuracies of the cells by seed."""
        found: dict[Cell, dict[int, float]] = {}
        for request, record in state.results((self.name,)):
            if record.outcome == "finished" and request.context == f"around:{cells.winner.plan.id}":
                found.setdefault(frozenset(request.tricks), {})[record.seed] = record.metrics["final/accuracy"]
        return found

    def tables(self, state: SearchState, trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """removals: what the winner loses without a trick; path: the steps from the baseline up to the winner."""
        winner = None if state.winner is None else state.winner.plan.id
        return {
            "removals": removals(trials, margin=state.margin, winner=winner),
            "path": path(trials, winner=winner),
        }

    def tags(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
        rows = tables["removals"].to_dict("records")
        return {f"removal/{row['removed'][0]}": row["word"] for row in rows if len(row["removed"]) == 1}

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        tricks = MAX_PAIRED + 1
        recipes = 2 + tricks + MAX_PAIRED * (MAX_PAIRED - 1) // 2 + BRANCHES * (tricks - 2)
        return recipes * settings.check_seeds

    def bound(self, state: SearchState) -> int:
        """By the winner's own tricks; which of them are removed in pairs does not matter."""
        if state.winner is None:
            return super().bound(state)
        cells = _Cells(state.factory, state.winner)
        whole, units = cells.whole, cells.units
        paired = [cells.less(cells.less(whole, a), b) for a, b in combinations(units[:MAX_PAIRED], 2)]
        first = {Cell(), whole, *(cells.less(whole, unit) for unit in units), *paired}
        recipes = sum(cells.recipe(cell) is not None for cell in first)
        return (recipes + BRANCHES * max(0, len(units) - 2)) * state.settings.check_seeds


class _Cells:
    """The recipes of a winner with some of its tricks removed."""

    def __init__(self, factory: RecipeFactory, winner: Recipe) -> None:
        self.factory, self.winner = factory, winner
        self.units = removable(factory, winner)
        self._recipes: dict[Cell, Recipe | None] = {}
        self._plans: dict[str, Cell] = {}
        plain = self._without(Cell())
        numbers = plain is None or plain.plan.id != factory.baseline.plan.id
        self.whole = Cell(self.units) | (Cell({NUMBERS}) if numbers else Cell())

    def less(self, cell: Cell, unit: str) -> Cell:
        """A cell without one more of its tricks; a stage takes its tricks along."""
        return Cell(on for on in cell if on != unit and not on.startswith(f"{unit}/"))

    def recipe(self, cell: Cell) -> Recipe | None:
        """What is trained for a cell; `None` where that cannot be trained, or is another cell's recipe."""
        if cell not in self._recipes:
            found = self._without(cell) if cell else self.factory.baseline
            if found is not None and self._plans.setdefault(found.plan.id, cell) != cell:
                found = None
            self._recipes[cell] = found
        return self._recipes[cell]

    def _without(self, cell: Cell) -> Recipe | None:
        gone = [unit for unit in self.units if unit not in cell]
        try:
            return without(self.factory, self.winner, gone) if gone else self.winner
        except PlanError:
            return None
