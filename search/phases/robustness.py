"""Robustness checks: whether verdicts hold at other learning rates, on the design's own blocks."""

from __future__ import annotations

from collections.abc import Iterator

from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory, scaled
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState

FACTORS = {"lr/3": 1 / 3, "lr*3": 3.0}
"""Learning rates at which a verdict must hold to be robust, as multiples of each stage's own."""

FULL_LENGTH = "full length"

MAX_CONFLICTS = 2
"""Conflicts that the winner does not have and that are checked: those that cost most."""


class Robustness(Phase):
    """The four cells of a verdict at a third and at three times the learning rate.

    The costliest conflicts are checked, and every pair of the winner that is in conflict, harmful or a synergy. Where
    the search was shortened, the winner's pairs may be run at the final length as well.
    """

    name, arm = "check", "check"
    description = "checks: do the verdicts hold at other learning rates"
    after = ("design", "final", "verdicts")

    def enabled(self, settings: Settings) -> bool:
        return settings.check_seeds > 0 and settings.seeds > 0

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        """Four cells of each pair, setting and block."""
        of_winner, others = self.pairs(state)
        full_length = state.settings.check_full_length and state.factory.share < 1
        seen: set[str] = set()
        for setting in (*FACTORS, *([FULL_LENGTH] if full_length else ())):
            pairs = of_winner if setting == FULL_LENGTH else [*of_winner, *others]
            for block in range(min(state.settings.check_seeds, state.settings.seeds)):
                for a, b in pairs:
                    for request in self._four_cells(state, a, b, setting, block):
                        if request.id not in seen:
                            seen.add(request.id)
                            yield request

    def pairs(self, state: SearchState) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The pairs to check that the winner has, and the other ones."""
        table = state.conflicts()
        if table is None:
            return [], []
        labels = set(state.winner.labels) if state.winner is not None else set()
        rows = sorted(table.to_dict("records"), key=lambda row: (min(row["b_given_a"], row["a_given_b"]), row["a"]))
        of_winner = [
            (row["a"], row["b"]) for row in rows
            if {row["a"], row["b"]} <= labels and row["verdict"] in ("conflict", "harmful", "synergy")
        ]  # fmt: skip
        conflicts = [(row["a"], row["b"]) for row in rows if row["verdict"] == "conflict"]
        return of_winner, [pair for pair in conflicts if pair not in of_winner][:MAX_CONFLICTS]

    def _four_cells(self, state: SearchState, a: str, b: str, setting: str, block: int) -> Iterator[TrialRequest]:
        for cell in state.factory.four(a, b, full_length=setting == FULL_LENGTH):
            recipe = scaled(cell.recipe, FACTORS[setting]) if setting in FACTORS else cell.recipe
            context = cell.context.replace("+", "_") or "plain"
            yield self.request(
                state, f"{recipe.plan.id}-{context}-{state.first_seed + block}", recipe, block,
                tricks=cell.tricks, context=cell.context, title=f"{cell.title}, {setting}", setting=setting,
            )  # fmt: skip

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        """Without the winner's own pairs: as a rule it has no such pair."""
        return MAX_CONFLICTS * len(FACTORS) * 4 * min(settings.check_seeds, settings.seeds)
