"""Predicts how long a search still takes: what is left to train, at the measured time of such stages.

The work that is left is that of all phases. Trials that are planned count with the stages that nobody has trained yet.
Phases that have not begun are planned as if they began now: the recipes that lead are the winners, and the verdicts are
those of the blocks that are complete. So the prediction changes little where one phase ends and the next one begins.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.records.schema import Record
from search.phases.adaptive import Adaptive
from search.phases.phase import Phase
from search.scheduling import objective
from search.scheduling.proposer import LAG
from search.scheduling.schedule import Schedule
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from trainables.pipeline.keys import stage_keys
from trainables.plan import Plan, Recipe
from trainables.registry import PlanError

START_SECONDS = 10.0
"""From the command to the first trial: Ray, and the imports of its workers."""

END_SECONDS = 6.0
"""After the last trial: tables, report, and the last of MLflow."""

TRIAL_SECONDS = 0.35
"""What a trial costs besides training: Ray, the first report, the record; by `tests/benchmarks/overhead.py`."""

PRIOR_EPOCHS = 20.0
"""Weight of the mean over all stages in the time of a kind of stage, in epochs."""

PRIOR_TRIALS = 4.0
"""Weight of what was expected, in trials, against what trials have shown."""

KNOWN_EPOCHS = 200.0
"""Weight of the epoch time that an earlier search has shown, in epochs."""

RECENT_TRIALS = 64
"""After so many further trials, a trial counts half in the pace: a machine may become slower or faster."""

REFRESH_SECONDS = 2.0
"""After how long the prediction is made again."""

STEADINESS = 0.05
"""Share of the time left within which the prediction that is shown approaches the newest one."""

FEWEST_ENDED = 3
"""Trials, and at least one for each slot, that must have ended before anything is predicted from them."""

USUAL_EFFICIENCY, EFFICIENCY_SECONDS = 0.9, 20.0
"""Share of the slots that trains before anything is known of it, and the weight of that, in seconds."""

PAUSE_SECONDS = 5.0
"""Shorter gaps between trials are a part of the search's usual course: Ray, locks of stages, the ends of phases."""

SWEEPS = 8
"""Steps towards the best fit; each begins where the last fit ended."""

LEADERS = 12
"""Recipes that may race as things stand, besides the start points."""

FEWEST_BLOCKS = 3
"""Blocks of the design from which leaders and verdicts are known."""

LEARNING_PHASES = ("adaptive", "design", "start")
"""Phases whose results say which recipes lead."""

Kind = tuple[str, ...]
"""A stage's name and those of its tricks, which decide how long its epochs take."""


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


class StageTimes:
    """Seconds of one epoch by kind of stage, and those of a trial besides training, from whole trials.

    A trial's seconds are a sum over the stages that it trained. The times are fitted by multiplicative updates, as
    those of a Poisson mean, so none is ever negative.

    Args:
        seconds_per_epoch: What is known before the first trial; `None` for nothing.

    >>> times = StageTimes()
    >>> for _ in range(20):
    ...     times.add({("first",): 10, ("second",): 10}, 5.0)
    ...     times.add({("first",): 10, ("second", "mixup"): 10}, 9.0)
    ...     times.add({("second",): 10}, 3.0)
    ...     times.fit()
    >>> [round(10 * times.of(kind), 1) for kind in (("second",), ("second", "mixup"))]  # 3.0 and 7.0, drawn together
    [2.5, 5.7]
    """

    def __init__(self, seconds_per_epoch: float | None = None) -> None:
        self.known = self.mean = seconds_per_epoch
        self.pace = 1.0
        """Seconds of the last trials for each second that was to be expected of them."""
        self.overhead = TRIAL_SECONDS
        self._rates: dict[Kind, float] = {}
        self._trials: list[tuple[Mapping[Kind, float], float]] = []
        self._nearest: dict[Kind, Kind | None] = {}

    def add(self, epochs: Mapping[Kind, float], seconds: float) -> None:
        """A trial has trained some epochs of each kind in so many seconds."""
        self._trials.append((epochs, seconds))

    def fit(self) -> None:
        """Takes in what was added."""
        if not self._trials:
            return
        kinds = list(dict.fromkeys(kind for epochs, _ in self._trials for kind in epochs))
        column = {kind: number for number, kind in enumerate(kinds)}
        work = np.zeros((len(self._trials), len(kinds) + 1))
        work[:, -1] = 1.0  # every trial once: what it costs besides training
        for row, (epochs, _) in enumerate(self._trials):
            for kind, count in epochs.items():
                work[row, column[kind]] = count
        seconds = np.array([took for _, took in self._trials])
        total = work[:, :-1].sum()
        trained = max(0.0, float(seconds.sum()) - TRIAL_SECONDS * len(seconds))
        known = 0.0 if self.known is None else KNOWN_EPOCHS
        if total + known:
            self.mean = (trained + known * (self.known or 0.0)) / (total + known)
        prior = self.mean or 0.0
        rates = np.array([*(self._rates.get(kind, prior) for kind in kinds), self.overhead])
        weight = np.array([*[PRIOR_EPOCHS] * len(kinds), PRIOR_TRIALS])
        anchor = np.array([*[prior] * len(kinds), TRIAL_SECONDS]) * weight
        exposure = work.sum(axis=0) + weight
        for _ in range(SWEEPS):
            ratio = seconds / np.maximum(work @ rates, 1e-9)
            rates = (rates * (ratio @ work) + anchor) / exposure
        self._rates, self.overhead = dict(zip(kinds, rates[:-1].tolist(), strict=True)), float(rates[-1])
        self._nearest = {}
        recent = 0.5 ** (np.arange(len(seconds))[::-1] / RECENT_TRIALS)
        self.pace = float(recent @ seconds) / max(1e-9, float(recent @ (work @ rates)))

    def of(self, kind: Kind) -> float:
        """Seconds of one epoch; of a kind that no trial has shown, those of the kind most like it."""
        if kind not in self._rates:
            if kind not in self._nearest:
                self._nearest[kind] = max(
                    (known for known in self._rates if known[0] == kind[0]),
                    key=lambda known: 2 * len(set(known) & set(kind)) - len(known),
                    default=None,
                )
            near = self._nearest[kind]
            return (self.mean or 0.0) if near is None else self._rates[near]
        return self._rates[kind]


class _Provisional(SearchState):
    """A search as if the recipes that lead now had won: what phases that have not begun would run."""

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
        self._plans: dict[str, tuple[_Stage, ...]] = {}
        self._trained: set[tuple[int, str]] = set()
        self._epochs_expected = self._epochs_trained = 0.0
        self._proposals: list[float] = []
        self._seconds_of_all = 0.0
        self._busy = self._covered = self._until = 0.0  # in seconds: of slots, of the clock; up to when
        self._records = 0
        self._end: float | None = None  # of the search, on the clock of `seconds_left`
        self._predicted = 0.0
        self._leaders: list[Recipe] = []
        self._share_of_blocks = 0.0
        self._known = 0  # trials that had ended when that was planned
        self._planned: dict[str, tuple[list[TrialRequest], int]] = {}  # of phases that have not begun
        self._stages_of: dict[str, tuple[_Stage, ...]] = {}

    def add(self, record: Record) -> None:
        """A trial has ended."""
        if record.outcome == "failed":
            return
        self._records += 1
        self._seconds_of_all += record.seconds
        request = self._state.requests.get(record.trial)
        if request is not None and request.may_stop:
            self._proposals.append(record.seconds)
        else:
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
        stages = self._plans.get(record.recipe) or self._stages(plan, record.recipe)
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

    def seconds_left(self, progress: Mapping[str, float], elapsed: float) -> float | None:
        """Seconds to the end of the search; `None` while too little is known of its trials.

        It is computed at most every `REFRESH_SECONDS`. Between that the time passes, and what a new prediction changes
        is taken in little by little, so that one odd trial moves nobody's plans.

        Args:
            progress: Fraction of its plan that each running trial has behind it.
            elapsed: Seconds since the search began, or since any other moment.
        """
        if self._end is None or elapsed - self._predicted >= REFRESH_SECONDS:
            left = self._predict(progress)
            if left is None:
                return None
            now, end = self._predicted, elapsed + left
            self._predicted = elapsed
            if self._end is None:
                self._end = end
            else:
                slowness = max(REFRESH_SECONDS, STEADINESS * min(left, elapsed))
                self._end += (end - self._end) * -math.expm1(-(elapsed - now) / slowness)
        return max(0.0, self._end - elapsed)

    def _predict(self, progress: Mapping[str, float]) -> float | None:
        state = self._state
        self.times.fit()
        enough = min(max(FEWEST_ENDED, self._slots), self._schedule.planned)
        if self.times.mean is None or (not self.times.known and self._records < enough):
            return None
        unplanned, trained = self._schedule.unplanned, set(self._trained)
        waiting: dict[str, list[TrialRequest]] = defaultdict(list)
        for request in list(state.requests.values()):
            if request.id not in state.records and request.id not in state.failures:
                waiting[request.phase].append(request)
        self._look_ahead()
        each = {
            phase.name: list(
                self._seconds_of(phase, waiting[phase.name], unplanned.get(phase.name, 0), progress, trained)
            )
            for phase in self._schedule.phases
        }
        longest = {name: max(seconds, default=0.0) for name, seconds in each.items()}
        if Adaptive.name in each:
            # a proposal waits for results of those before it, and those of a start for its first trial
            settings = state.settings
            apart = min(1.0, 1 / (settings.lag or LAG) + 1 / settings.children_per_start)
            longest[Adaptive.name] *= max(1.0, apart * len(each[Adaptive.name]))
        trials = sum(map(sum, each.values())) / (self._slots * self._efficiency)
        return self.times.pace * max(trials, self._critical_path(longest)) + END_SECONDS

    def _seconds_of(
        self, phase: Phase, waiting: Sequence[TrialRequest], unplanned: int, progress: Mapping[str, float],
        trained: set[tuple[int, str]],
    ) -> Iterator[float]:  # fmt: skip
        """Seconds of each trial of a phase that has not ended."""
        for request in waiting:
            seconds = self._proposal() if request.may_stop else self._seconds(request, trained)
            yield seconds * (1 - progress.get(request.id, 0.0))
        if phase.name == Adaptive.name:
            yield from [self._proposal()] * unplanned
            return
        typical = self._typical()
        if phase.name not in self._schedule.open and self._leaders:
            trials, bound = self._as_things_stand(phase)
            each = [self._seconds(request, trained) for request in trials[:unplanned]]
            yield from each
            typical = statistics.fmean(each) if each else typical
            usual = phase.usual_share * unplanned
            if phase.in_rounds:
                usual = (usual + bound) / 2  # the winner has as many tricks as the leader, or as winners have as a rule
            # verdicts become certain as the blocks of the design do
            doubt = 1.0 if phase.in_rounds or phase.usual_share == 1 else 1.0 - self._share_of_blocks
            unplanned = round(doubt * max(0.0, usual - len(each)))
        elif phase.name not in self._schedule.open:
            unplanned = round(phase.usual_share * unplanned)
        yield from [typical] * unplanned

    def _whole(self, plan: Plan) -> float:
        """Seconds of all stages of a plan."""
        return sum(stage.epochs * len(stage.keys) * self.times.of(stage.kind) for stage in self._stages(plan))

    def _seconds(self, request: TrialRequest, trained: set[tuple[int, str]]) -> float:
        """Seconds of a trial, which trains what is not in `trained`; that then is."""
        if request.id not in self._stages_of:
            self._stages_of[request.id] = self._stages(request.recipe.plan)
        seconds = 0.0
        for stage in self._stages_of[request.id]:
            keys = [(request.seed, key) for key in stage.keys]
            left = [key for key in keys if key not in trained] if self._reuses else keys
            seconds += stage.epochs * len(left) * self.times.of(stage.kind)
            trained.update(left)
        return self.times.overhead + self._share_trained * seconds

    @property
    def _share_trained(self) -> float:
        """Epochs that were trained for each one that was expected: earlier searches leave stages as well."""
        if not self._reuses:
            return 1.0
        prior = self._state.factory.baseline.plan.cost
        return (self._epochs_trained + prior) / (self._epochs_expected + prior)

    def _typical(self) -> float:
        """Seconds of a trial of which nothing is known: the mean over those that ended, else the baseline's."""
        if self._records:
            return self._seconds_of_all / self._records
        return self.times.overhead + (self.times.mean or 0.0) * self._state.factory.baseline.plan.cost

    def _proposal(self) -> float:
        """Seconds of a proposal: what the rungs leave of a trial at first, then the mean over those that ended."""
        settings = self._state.settings
        expected, kept, before = 0.0, 1.0, 0.0
        for rung in (*settings.rungs, 1.0):
            expected += kept * (rung - before) * self._typical()
            kept, before = kept / settings.reduction_factor, rung
        return (sum(self._proposals) + PRIOR_TRIALS * expected) / (len(self._proposals) + PRIOR_TRIALS)

    def _look_ahead(self) -> None:
        """Finds the recipes that lead now; phases that have not begun are planned again when a tenth more is known."""
        state = self._state
        blocks, planned = state.complete_blocks()
        if len(blocks) < min(FEWEST_BLOCKS, planned) or self._records < 1.1 * self._known:
            return
        self._known, self._planned = self._records, {}
        self._share_of_blocks = len(blocks) / planned if planned else 1.0
        values: dict[str, list[float]] = defaultdict(list)
        recipes: dict[str, Recipe] = {}
        for request, record in state.results(LEARNING_PHASES):
            if record.outcome == "finished":
                values[record.recipe].append(objective.scalar(record.metrics, state.settings.objective))
                recipes[record.recipe] = request.recipe
        ranked = sorted(values, key=lambda name: (-statistics.fmean(values[name]), name))
        # of the first three, the one that trains longest counts as the winner: better too long than too short
        first = sorted(ranked[:3], key=lambda name: -self._whole(recipes[name].plan))
        starts = [recipe for recipe, _ in state.factory.starts(state.settings.start_points).values()]
        leaders = [*(recipes[name] for name in (*first, *ranked[3:LEADERS])), *starts]
        self._leaders = list({recipe.plan.id: recipe for recipe in leaders}.values())

    def _as_things_stand(self, phase: Phase) -> tuple[list[TrialRequest], int]:
        """What a phase would run if it began now, and the most that it may run then."""
        if phase.name not in self._planned:
            provisional = _Provisional(**vars(self._state))
            provisional.leaders = self._leaders
            self._planned[phase.name] = list(phase.plan(provisional)), phase.bound(provisional)
        return self._planned[phase.name]

    # --- how it is run ------------------------------------------------------------------------------------

    @property
    def _efficiency(self) -> float:
        """Share of the slots that trains as a rule: trials wait for stages, and slots for trials."""
        usual = USUAL_EFFICIENCY * EFFICIENCY_SECONDS * self._slots
        return min(1.0, (self._busy + usual) / (self._slots * (self._covered + EFFICIENCY_SECONDS)))

    def _critical_path(self, longest: Mapping[str, float]) -> float:
        """Seconds of the longest chain of phases that wait for each other, where slots do not count."""
        end: dict[str, float] = {}
        for phase in self._schedule.phases:
            start = max((end.get(name, 0.0) for name in phase.after), default=0.0)
            end[phase.name] = start + longest[phase.name]
        return max(end.values(), default=0.0)

    def _stages(self, plan: Plan, name: str = "") -> tuple[_Stage, ...]:
        name = name or plan.id
        if name not in self._plans:
            keyed = zip(plan.stages, stage_keys(plan, {}), strict=True)
            self._plans[name] = tuple(
                _Stage(
                    stage.name, (stage.name, *(trick.name for trick in stage.tricks)), stage.epochs,
                    tuple(keys[: stage.members]),
                )
                for stage, keys in keyed
            )  # fmt: skip
        return self._plans[name]
