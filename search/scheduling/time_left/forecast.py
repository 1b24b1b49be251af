"""Predicts how long a search still takes: what is left to train, at the measured time of such stages.

The work that is left is that of all phases. Trials that are planned count with the stages that nobody has trained yet.
Phases that have not begun are planned as if they began now. Which recipe wins is not known then, and with it how long
its trials take and how many of them there are: so the prediction is a span, from a cheap winner to a costly one.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from analysis.records.schema import Record
from search.phases.adaptive import Adaptive
from search.phases.phase import Phase
from search.scheduling.proposer import LAG
from search.scheduling.schedule import Schedule
from search.scheduling.time_left.outlook import Outlook
from search.scheduling.time_left.stage_times import PRIOR_TRIALS, Kind, StageTimes
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from trainables.pipeline.keys import stage_keys
from trainables.plan import Plan, Recipe
from trainables.registry import PlanError

START_SECONDS = 10.0
"""From the command to the first trial: Ray, and the imports of its workers."""

END_SECONDS = 6.0
"""After the last trial: tables, report, and the last of MLflow."""

UNSHOWN = 1.5
"""A stage with a trick that no trial has shown takes so many times as long: methods take once to twice the time of a
plain training (docs/trick_costs.md)."""

SHOWN = (0.25, 0.75)
"""Quantiles of the time left over the recipes that may win between which it is shown to lie."""

DRIFT = 1.1
"""A machine is so many times as slow or as fast in the time to come as in the last trials."""

LAST_FALL = 0.5
"""Seconds by which it may fall in a second in any case, so that the end of a search is shown as it is."""

REFRESH_SECONDS = 2.0
"""After how long the prediction is made again."""

STEADINESS = 0.05
"""Share of the time left within which what is shown approaches the newest prediction."""

LARGEST_FALL = 1 / 180
"""Share of the time left by which it falls in a second at most, besides the second itself: a third in a minute."""

FEWEST_ENDED = 3
"""Trials, and at least one for each slot, that must have ended before anything is predicted from them."""

USUAL_EFFICIENCY, EFFICIENCY_SECONDS = 0.9, 20.0
"""Share of the slots that trains before anything is known of it, and the weight of that, in seconds."""

PAUSE_SECONDS = 5.0
"""Shorter gaps between trials are a part of the search's usual course: Ray, locks of stages, the ends of phases."""


@dataclass(frozen=True)
class Span:
    """Seconds that are left.

    Args:
        low: At least, where what is not known turns out cheap.
        high: At most, where it turns out costly.
    """

    low: float
    high: float


@dataclass(frozen=True)
class _Stage:
    """One stage of a plan.

    Args:
        name: Its name.
        kind: Its kind.
        epochs: Of one member.
        keys: What identifies the result of each member, but for the seed.
    """

    name: str
    kind: Kind
    epochs: int
    keys: tuple[str, ...]


class Steady:
    """The time left as it is shown: time passes, and what a new prediction changes is taken in little by little."""

    def __init__(self) -> None:
        self._at = 0.0
        self._ends: list[float] = []  # of the search, at the earliest and at the latest

    def show(self, predict: Callable[[], Span | None], elapsed: float) -> Span | None:
        """The span to show; one odd trial moves nobody's plans.

        Args:
            predict: Makes a new prediction; it is asked at most every `REFRESH_SECONDS`.
            elapsed: Seconds since the search began, or since any other moment.
        """
        passed = elapsed - self._at
        if not self._ends or passed >= REFRESH_SECONDS:
            left = predict()
            if left is None:
                return None
            new = [elapsed + left.low, elapsed + left.high]
            self._at, self._ends = (
                elapsed,
                [self._towards(*each, passed) for each in zip(self._ends or new, new, strict=True)],
            )
        return Span(*(max(0.0, end - elapsed) for end in self._ends))

    def _towards(self, end: float, new: float, passed: float) -> float:
        """An end on its way to a newly predicted one."""
        left = max(0.0, end - self._at)
        slowness = max(REFRESH_SECONDS, STEADINESS * left)
        return max(
            end + (new - end) * -math.expm1(-passed / slowness), end - max(LARGEST_FALL * left, LAST_FALL) * passed
        )


class Forecast:
    """The seconds that a search still takes.

    Args:
        state: The search.
        schedule: Its phases and what they have planned.
        slots: Trials at a time.
        seconds_per_epoch: What an earlier search here has shown; `None` for nothing.
    """

    def __init__(
        self, state: SearchState, schedule: Schedule, slots: int, seconds_per_epoch: float | None = None
    ) -> None:
        self._state, self._schedule, self._slots = state, schedule, max(1, slots)
        self.times = StageTimes(seconds_per_epoch)
        self._outlook = Outlook(state, schedule)
        self._plans: dict[str, tuple[_Stage, ...]] = {}
        self._trained: set[tuple[int, str]] = set()
        self._epochs_expected = self._epochs_trained = 0.0
        self._ended: dict[str, list[float]] = defaultdict(list)  # seconds of trials by phase
        self._busy = self._covered = self._until = 0.0  # in seconds: of slots, of the clock; up to when
        for record in state.records.values():
            self.add(record)

    def add(self, record: Record) -> None:
        """A trial has ended."""
        if record.outcome == "failed":
            return
        request = self._state.requests.get(record.trial)
        self._ended["" if request is None else request.phase].append(record.seconds)
        if request is None or not request.may_stop:
            # proposals wait for each other, so their slots are idle for another reason
            end = record.started + record.seconds
            self._busy += record.seconds
            idle = 0.0 < record.started - self._until < PAUSE_SECONDS
            self._covered += max(0.0, end - (self._until if idle else max(record.started, self._until)))
            self._until = max(end, self._until)
        try:
            plan = Plan.from_dict(record.plan) if request is None else request.recipe.plan
        except PlanError:
            return  # of another version, which a search that is resumed may hold
        stages = self._stages(plan, record.recipe)
        own: dict[Kind, float] = defaultdict(float)
        for stage in stages:
            if stage.name not in record.reused:
                own[stage.kind] += stage.epochs * len(stage.keys)
        # a trial that was stopped has trained less, one that trains other seeds as well has trained more
        share = record.epochs_trained / sum(own.values()) if own else 0.0
        self.times.add({kind: share * epochs for kind, epochs in own.items()}, record.seconds)
        if record.outcome == "finished":
            new = {(record.seed, key): stage.epochs for stage in stages for key in stage.keys} if self._reuses else {}
            self._epochs_expected += sum(epochs for key, epochs in new.items() if key not in self._trained)
            self._epochs_trained += record.epochs_trained
            self._trained |= new.keys()

    @property
    def _reuses(self) -> bool:
        return self._state.settings.reuse

    # --- the work that is left ----------------------------------------------------------------------------

    def left(self, progress: Mapping[str, float]) -> Span | None:
        """Seconds to the end of the search; `None` while too little is known of its trials.

        Args:
            progress: Fraction of its plan that each running trial has behind it.
        """
        self.times.fit()
        enough = min(max(FEWEST_ENDED, self._slots), self._schedule.planned)
        if self.times.mean is None or (not self.times.known and sum(map(len, self._ended.values())) < enough):
            return None
        low, high = np.quantile([self._seconds_left(each) for each in self.by_phase(progress)], SHOWN)
        return Span(float(low) / DRIFT + END_SECONDS, float(high) * DRIFT + END_SECONDS)

    def by_phase(self, progress: Mapping[str, float]) -> list[dict[str, list[float]]]:
        """Seconds of each trial of each phase that has not ended, for each recipe that may win.

        Args:
            progress: Fraction of its plan that each running trial has behind it.
        """
        state, trained, unplanned = self._state, set(self._trained), self._schedule.unplanned
        each: dict[str, list[float]] = {phase.name: [] for phase in self._schedule.phases}
        for request in list(state.requests.values()):
            if not any(request.id in ended for ended in (state.records, state.failures, state.set_aside)):
                seconds = self._proposal() if request.may_stop else self._seconds(request, trained)
                each[request.phase].append(seconds * (1 - progress.get(request.id, 0.0)))
        self._outlook.refresh()
        found = []
        for winner in self._outlook.winners:
            of_winner = trained.copy()
            found.append({
                phase.name: each[phase.name] + self._unplanned(phase, unplanned.get(phase.name, 0), winner, of_winner)
                for phase in self._schedule.phases
            })  # fmt: skip
        return found

    def _unplanned(self, phase: Phase, count: int, winner: Recipe, trained: set[tuple[int, str]]) -> list[float]:
        """Seconds of the trials that a phase has not planned yet."""
        if phase.name == Adaptive.name:
            return [self._proposal()] * count
        if phase.name in self._schedule.open:
            return [self._typical(phase.name)] * count
        requests, bound = self._outlook.plan(phase, winner)
        each = [self._seconds(request, trained) for request in requests]
        more = bound - len(each) if phase.in_rounds else 0 if each else bound // 4
        return each + [statistics.fmean(each) if each else self._typical("")] * max(0, more)

    def _seconds_left(self, each: Mapping[str, list[float]]) -> float:
        longest = {name: max(seconds, default=0.0) for name, seconds in each.items()}
        if Adaptive.name in each:
            # a proposal waits for results of those before it, and those of a start for its first trial
            settings = self._state.settings
            apart = min(1.0, 1 / (settings.lag or LAG) + 1 / settings.children_per_start)
            longest[Adaptive.name] *= max(1.0, apart * len(each[Adaptive.name]))
        trials = sum(map(sum, each.values())) / (self._slots * self._efficiency)
        return self.times.pace * max(trials, critical_path(self._schedule.phases, longest))

    def _whole(self, plan: Plan) -> float:
        """Seconds of all stages of a plan."""
        return sum(stage.epochs * len(stage.keys) * self._epoch(stage) for stage in self._stages(plan))

    def _epoch(self, stage: _Stage) -> float:
        return self.times.of(stage.kind) * (1.0 if self.times.shown(stage.kind) else UNSHOWN)

    def _seconds(self, request: TrialRequest, trained: set[tuple[int, str]]) -> float:
        """Seconds of a trial, which trains what is not in `trained`; that then is."""
        seconds = 0.0
        for stage in self._stages(request.recipe.plan):
            keys = [(request.seed, key) for key in stage.keys]
            left = [key for key in keys if key not in trained] if self._reuses else keys
            seconds += stage.epochs * len(left) * self._epoch(stage)
            trained.update(left)
        return self.times.overhead + self._share_trained * seconds

    @property
    def _share_trained(self) -> float:
        """Epochs that were trained for each one that was expected: earlier searches leave stages as well."""
        if not self._reuses:
            return 1.0
        prior = self._state.factory.baseline.plan.cost
        return (self._epochs_trained + prior) / (self._epochs_expected + prior)

    def _typical(self, phase: str) -> float:
        """Seconds of a trial of which nothing is known: the mean over those of its phase, of all, or the baseline's."""
        ended = self._ended[phase] or [*chain.from_iterable(self._ended.values())]
        return statistics.fmean(ended) if ended else self._whole(self._state.factory.baseline.plan)

    def _proposal(self) -> float:
        """Seconds of a proposal: what the rungs leave of a trial at first, then the mean over those that ended."""
        settings = self._state.settings
        expected, kept, before = 0.0, 1.0, 0.0
        for rung in (*settings.rungs, 1.0):
            expected += kept * (rung - before) * self._typical("")
            kept, before = kept / settings.reduction_factor, rung
        ended = self._ended[Adaptive.name]
        return (sum(ended) + PRIOR_TRIALS * expected) / (len(ended) + PRIOR_TRIALS)

    @property
    def _efficiency(self) -> float:
        """Share of the slots that trains as a rule: trials wait for stages, and slots for trials."""
        usual = USUAL_EFFICIENCY * EFFICIENCY_SECONDS * self._slots
        return min(1.0, (self._busy + usual) / (self._slots * (self._covered + EFFICIENCY_SECONDS)))

    def _stages(self, plan: Plan, name: str = "") -> tuple[_Stage, ...]:
        name = name or plan.id
        if name not in self._plans:
            keyed = zip(plan.stages, stage_keys(plan, {}), strict=True)
            self._plans[name] = tuple(
                _Stage(
                    stage.name, (f"{stage.name}/", *(trick.name for trick in stage.tricks)), stage.epochs,
                    tuple(keys[: stage.members]),
                )
                for stage, keys in keyed
            )  # fmt: skip
        return self._plans[name]


def critical_path(phases: Iterable[Phase], longest: Mapping[str, float]) -> float:
    """Seconds of the longest chain of phases that wait for each other, where slots do not count.

    Args:
        phases: In order.
        longest: Seconds of the longest trial of each.
    """
    end: dict[str, float] = {}
    for phase in phases:
        end[phase.name] = max((end.get(name, 0.0) for name in phase.after), default=0.0) + longest[phase.name]
    return max(end.values(), default=0.0)
