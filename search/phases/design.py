"""The design arm: the cells that the conflict table is judged from, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState

if TYPE_CHECKING:
    from search.scheduling.sampler import Sampler


class Design(Phase):
    """Every cell of the design on every seed block."""

    name, arm = "design", "design"
    description = "design arm: which tricks conflict"
    after = ("tune",)

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        for block, position, cell in state.runs(state.settings.seeds):
            yield self.request(
                state, f"{block}-{position:03d}", cell.recipe, block,
                tricks=cell.tricks, context=cell.context, title=cell.title,
            )  # fmt: skip

    def close(self, state: SearchState, sampler: Sampler) -> None:
        """Warm start: the sampler learns the means of the cells that finished on every seed."""
        planned: dict[str, set[int]] = {}
        for request in self.plan(state):
            planned.setdefault(request.recipe.plan.id, set()).add(request.seed)
        for cell in state.factory.cells:
            plan = cell.recipe.plan.id
            means = state.objective_means(plan, (self.name,))
            if means is not None and len(state.values(plan, (self.name,))) >= len(planned.get(plan, ())):
                sampler.learn(cell.recipe, means)

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return len(factory.cells) * settings.seeds
