"""The race: contenders on fresh seeds, then the best of them on more, then winner and baseline on others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search.design.removal import own_length
from search.phases.phase import Phase
from search.recipes.factory import RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from trainables.plan import Recipe


class OfTheRace(Phase):
    """A phase that a search has unless `--no-race` is given."""

    def enabled(self, settings: Settings) -> bool:
        return settings.race


@dataclass(frozen=True)
class Race(OfTheRace):
    """The best recipes of both arms, the start points and the baseline on fresh seeds.

    Args:
        contenders: Number of best recipes, the start points and the baseline not counted.
        seeds: Seeds of each.
    """

    name, arm = "race", "race"
    description = "race: contenders on fresh seeds"
    after = ("design", "start", "adaptive")
    first_seed = 2_000

    contenders: int = 8
    seeds: int = 3

    def plan(self, state: SearchState) -> Iterable[TrialRequest]:
        return self.over_blocks(state, (state.factory.baseline, *self.chosen(state)), self.seeds)

    def chosen(self, state: SearchState) -> list[Recipe]:
        """The best by their means so far, the start points that finished, and those that have raced before."""
        arms = ("adaptive", "design", "start")
        # a cell that the design has prolonged races at the length that the space gives it
        recipes = {
            recipe.plan.id: recipe
            for recipe in (own_length(state.factory, one) for one in state.ranked(state.tried(arms), arms))
        }
        recipes.pop(state.factory.baseline.plan.id, None)
        ranked = list(recipes.values())
        starts = set(state.factory.starts(state.settings.start_points))
        best = [recipe for recipe in ranked if recipe.plan.id not in starts][: self.contenders]
        raced = {record.recipe for record in state.records.values() if record.arm == self.arm}
        chosen = {recipe.plan.id for recipe in best}
        return best + [recipe for recipe in ranked if recipe.plan.id in (starts | raced) - chosen]

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return (self.contenders + 1 + len(factory.starts(settings.start_points))) * self.seeds


@dataclass(frozen=True)
class Final(OfTheRace):
    """The best of the race and the baseline on more seeds.

    Args:
        race: The race.
        finalists: Number of best contenders.
        seeds: Seeds of each.
    """

    name, arm = "final", "race"
    description = "race: finalists on more seeds"
    after = ("race",)
    first_seed = Race.first_seed
    """Its blocks follow those of the race."""

    race: Race = Race()
    finalists: int = 3
    seeds: int = 5

    def plan(self, state: SearchState) -> Iterable[TrialRequest]:
        raced = state.ranked(state.tried(("race",)), ("race",), self.race.blocks(state, self.race.seeds))
        recipes = (state.factory.baseline, *raced[: self.finalists])
        return self.over_blocks(state, recipes, self.seeds, skip=self.race.seeds)

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return (self.finalists + 1) * self.seeds


@dataclass(frozen=True)
class Confirm(OfTheRace):
    """Winner and baseline on seeds that have chosen nothing; the only phase that reads the test split.

    Args:
        seeds: Seeds of both.
    """

    name, arm = "confirm", "confirm"
    description = "confirmation: winner and baseline"
    after = ("final",)
    first_seed = 3_000

    seeds: int = 8

    def plan(self, state: SearchState) -> Iterable[TrialRequest]:
        recipes = [state.factory.baseline, *filter(None, [state.winner])]
        return self.over_blocks(state, recipes, self.seeds, read_test=True)

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return 2 * self.seeds
