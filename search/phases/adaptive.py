"""The adaptive arm: recipes that Optuna proposes; see `search.scheduling.proposer`."""

from __future__ import annotations

from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.settings import Settings
from search.state import SearchState


class Adaptive(Phase):
    """Proposals, one at a time; they are journaled when made, because they cannot be planned again."""

    name, arm = "adaptive", "adaptive"
    description = "adaptive arm: the best recipe"
    after = ("design", "start")
    first_seed = 1_000
    """Shared with the published recipes: a recipe that both have gets another block."""
    in_rounds = True

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return settings.trials

    def bound(self, state: SearchState) -> int:
        return state.proposals
