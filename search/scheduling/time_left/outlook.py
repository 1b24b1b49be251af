"""What the phases that have not begun would run, for each of the recipes that may win."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

import pandas as pd

from search.phases.adaptive import Adaptive
from search.phases.phase import Phase
from search.scheduling.schedule import Schedule
from search.scheduling.time_left.random_recipes import random_recipes
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from trainables.plan import Recipe

LEARNING_PHASES = ("adaptive", "design", "start")
"""Phases whose results choose the recipes that race."""

RACES = ("race", "final")
"""Phases whose results choose the winner, in order."""

LEADERS = 12
"""Recipes that may race as things stand, and as many that are yet to be proposed."""

MORE = 1.1
"""The outlook is made again when so many times as many trials have ended."""

Planned = tuple[list[TrialRequest], int]
"""Trials of a phase as far as they can be planned, and the most that it may run."""


class _Provisional(SearchState):
    """A search as if the recipes that lead had raced, and the first of them had won."""

    leaders: Sequence[Recipe] = ()

    def tried(self, phases: Sequence[str]) -> list[Recipe]:
        return list(self.leaders)

    def ranked(
        self, recipes: Iterable[Recipe], phases: Sequence[str], seeds: Collection[int] | None = None
    ) -> list[Recipe]:
        return list(self.leaders)

    def conflicts(self, seeds: Collection[int] | None = None) -> pd.DataFrame | None:
        return super().conflicts(self.complete_blocks()[0])

    @property
    def winner(self) -> Recipe | None:
        return next(iter(self.leaders), None)


class Outlook:
    """The trials of phases that have not begun, as if they began now.

    Args:
        state: The search.
        schedule: Its phases.
    """

    def __init__(self, state: SearchState, schedule: Schedule) -> None:
        self._state, self._schedule = state, schedule
        self._made_at = (-1, 0)  # records, phases that have begun
        self._leaders: list[Recipe] = []
        self._planned: dict[str, Planned] = {}
        self._of_winner: dict[tuple[str, str], Planned] = {}
        self.winners: list[Recipe] = []
        """Recipes that may win, none more likely than another."""

    def refresh(self) -> None:
        """Finds the recipes that may win again, if that is worth its while."""
        made_at = (len(self._state.records), len(self._schedule.open))
        if made_at[0] > MORE * self._made_at[0] or made_at[1] != self._made_at[1]:
            self._made_at, self._planned = made_at, {}
            self._leaders, self.winners = self._contenders()

    def plan(self, phase: Phase, winner: Recipe) -> Planned:
        """What a phase would run."""
        if phase.after == RACES[-1:]:
            # it follows from the winner alone
            key = phase.name, winner.plan.id
            if key not in self._of_winner:
                self._of_winner[key] = self._make(phase, [winner])
            return self._of_winner[key]
        if phase.name not in self._planned:
            self._planned[phase.name] = self._make(phase, self._leaders)
        return self._planned[phase.name]

    def _make(self, phase: Phase, leaders: Sequence[Recipe]) -> Planned:
        state = _Provisional(**vars(self._state))
        state.leaders = leaders
        return list(phase.plan(state)), phase.bound(state)

    def _contenders(self) -> tuple[list[Recipe], list[Recipe]]:
        """Recipes that may race, or that race, best first, and those of them that may win."""
        state = self._state
        race = next((name for name in reversed(RACES) if name in self._schedule.open), None)
        requests = [request for request in list(state.requests.values()) if request.phase == race]
        raced = {request.recipe.plan.id: request.recipe for request in requests}
        raced.pop(state.factory.baseline.plan.id, None)
        if raced:
            ranked = state.ranked(raced.values(), RACES) or list(raced.values())
            return ranked, ranked
        ranked = state.ranked(state.tried(LEARNING_PHASES), LEARNING_PHASES)[:LEADERS]
        to_come = self._schedule.unplanned.get(Adaptive.name, 0) / max(1, state.settings.trials)
        may_win = [*self._drawn[: round(to_come * LEADERS)], *ranked] or [state.factory.baseline]
        starts = [recipe for recipe, _ in state.factory.starts(state.settings.start_points).values()]
        return list({recipe.plan.id: recipe for recipe in (*may_win, *starts)}.values()), may_win

    @cached_property
    def _drawn(self) -> list[Recipe]:
        """Proposals that are yet to be made, as if they were drawn at random."""
        settings = self._state.settings
        return list(random_recipes(self._state.factory, LEADERS, 1)) if settings.trials else []
