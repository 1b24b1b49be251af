"""Start points of the adaptive arm, each trained once: the user's own recipes, and the published ones."""

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


class Published(Phase):
    """The user's own start points and the published recipes, each trained to its end."""

    name, arm = "start", "adaptive"
    description = "adaptive arm: the start points"
    after = ("tune",)
    first_seed = 1_000

    def enabled(self, settings: Settings) -> bool:
        return bool(settings.start_points or settings.start) and (settings.trials > 0 or settings.race)

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        for recipe, title in state.factory.starts(state.settings.start_points).values():
            yield self.request(state, recipe.plan.id, recipe, self.first_seed, title=title)

    def close(self, state: SearchState, sampler: Sampler) -> None:
        """Teaches the sampler the recipes that the space can express."""
        for recipe in state.tried((self.name,)):
            means = state.objective_means(recipe.plan.id, (self.name,))
            if means is not None:
                sampler.learn(recipe, means, self.name)

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return len(factory.starts(settings.start_points))
