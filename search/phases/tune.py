"""Tuning of the baseline: a small grid of learning rate and weight decay, whose best point holds for the search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from search.phases.phase import Phase
from search.recipes.factory import MAX_GRID, Context, RecipeFactory
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState

if TYPE_CHECKING:
    from search.scheduling.sampler import Sampler


@dataclass(frozen=True)
class Tune(Phase):
    """The baseline on a grid of learning rate and weight decay.

    Args:
        seeds: Seeds of every point of the grid.
        kept: Number of best points that get more seeds.
        more_seeds: How many more.
    """

    name, arm = "tune", "tune"
    description = "tuning: learning rate and weight decay of the baseline"
    first_seed = 4_000
    in_rounds = True

    seeds: int = 2
    kept: int = 3
    more_seeds: int = 3

    def enabled(self, settings: Settings) -> bool:
        return settings.tune_baseline

    def plan(self, state: SearchState) -> Iterator[TrialRequest]:
        """The whole grid, then its best points on more seeds."""
        if state.tuned is not None:
            return
        points = [state.factory.point(point) for point in state.factory.grid()]
        yield from self.over_blocks(state, points, self.seeds)
        if len(points) > 1:
            best = state.ranked(points, (self.name,), self.blocks(state, self.seeds))
            first = state.first_seed + self.first_seed
            ended = all(f"{self.name}-{point.plan.id}-{first}" in state.requests for point in points)
            yield from self.over_blocks(state, best[: self.kept] if ended else (), self.more_seeds, skip=self.seeds)

    def close(self, state: SearchState, sampler: Sampler) -> None:
        """Moves every recipe of the search to the best point."""
        context = state.tuned or self.best(state)
        if context is not None:
            state.factory = state.factory.at(context)
            sampler.use(state.factory.space)

    def best(self, state: SearchState) -> Context | None:
        """The point with the best mean among those with most seeds, the first of equals; `None` if none finished."""
        scored = []
        for point in state.factory.grid():
            values = state.values(state.factory.point(point).plan.id, (self.name,))
            if values:
                scored.append((len(values), fmean(values), point))
        if not scored:
            return None
        seeds = max(count for count, _, _ in scored)
        return max((row for row in scored if row[0] == seeds), key=lambda row: row[1])[2]

    def max_trials(self, settings: Settings, factory: RecipeFactory) -> int:
        return MAX_GRID**2 * self.seeds + self.kept * self.more_seeds
