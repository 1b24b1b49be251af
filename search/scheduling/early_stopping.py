"""ASHA that compares like with like.

A two-stage trick often looks worse until its second stage, so a trial is judged at fractions of its own plan,
by a score that looks ahead (`class_means` or `adjusted`, what a second stage would roughly reach; or `shortened`,
the final value of the whole plan with every stage cut to that fraction), and only against its **cohort**: trials at
the same rung, in the same stage of the plan, with the same kinds of stages still to come (shortened plans have been
through theirs: all are one cohort). A cohort of fewer than four stops nobody. A trial that re-used a stage is judged at
the rungs it would have passed. Which score decides best is measured in `docs/rung_scores.md`.

The rule is asynchronous successive halving, Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning" (arXiv:1810.05934), in its stopping form: at a rung a trial continues if it is in the best 1/η of what
its cohort has shown so far. Differs: the cohorts, and fractions of the plan instead of epochs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.records.schema import Record
    from trainables.plan import Plan

SHORTENED = "shortened"
"""The score for which a trial trains its whole plan shortened to each rung, before it trains the plan itself."""

SCORES = ("accuracy", "adjusted", "class_means", SHORTENED)


class RuleError(ValueError):
    """A stopping rule that cannot be."""


@dataclass(frozen=True)
class Decision:
    """Why a trial was stopped.

    Args:
        rung: Fraction of the plan.
        score: What was compared, one of `SCORES`.
        value: The trial's, in [0, 1].
        cut: What it had to reach.
        among: Trials in the cohort, this one included.
        cohort: The stage and what was still to come.
        epoch: At which it was judged.
    """

    rung: float
    score: str
    value: float
    cut: float
    among: int
    cohort: str
    epoch: int

    def __str__(self) -> str:
        return (
            f"stopped at {self.rung:.0%} of its plan: {self.score} {self.value:.1%} is below {self.cut:.1%}, "
            f"the cut among {self.among} trials in {self.cohort}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as the record keeps them."""
        return dataclasses.asdict(self)


class CohortASHA:
    """Asynchronous successive halving within cohorts, without Ray.

    Defaults are declared in `search.settings.Settings` alone.

    Args:
        rungs: Fractions of the plan, ascending, in (0, 1).
        factor: η, above 1: the best 1/η of a cohort continue.
        score: Which metric of a point is compared, one of `SCORES`.
        least: A smaller cohort stops nobody.

    >>> halving = CohortASHA(rungs=(0.5,), factor=2, score="accuracy", least=4)
    >>> def judged(name, value):
    ...     point = {"stage": "a", "epoch": 5, "progress": 0.5, "metrics": {"accuracy": value}}
    ...     return halving.judge(name, {"a": ""}, [point])
    >>> [judged(name, value) is None for name, value in zip("abcd", (0.6, 0.5, 0.7, 0.4))]
    [True, True, True, False]
    """

    def __init__(self, rungs: Sequence[float], factor: float, score: str, least: int = 4) -> None:
        if list(rungs) != sorted(set(rungs)) or not all(0 < rung < 1 for rung in rungs):
            raise RuleError(f"--rungs must be ascending fractions in (0, 1), got {', '.join(map(str, rungs))}")
        if not factor > 1:
            raise RuleError(f"--reduction-factor must be above 1, got {factor}")
        if score not in SCORES:
            raise RuleError(f"--rung-score must be one of {', '.join(SCORES)}, got {score!r}")
        self.rungs, self.factor, self.score, self.least = tuple(rungs), factor, score, least
        self._scores: dict[tuple[float, str], dict[str, float]] = defaultdict(dict)
        self._behind: dict[str, float] = defaultdict(float)

    def judge(
        self,
        trial: str,
        kinds: Mapping[str, str],
        points: Sequence[Mapping[str, Any]],
        peers: Callable[[str], bool] = lambda trial: True,
    ) -> Decision | None:
        """Judges a trial at every rung that its new points pass.

        Args:
            trial: Its id.
            kinds: `stages_of(plan)`.
            points: New evaluations in order.
            peers: Which other trials of its cohort it is compared with.

        Returns:
            The first rung at which it falls short, or `None` to continue.
        """
        for rung, point in self._passed(trial, points):
            decision = self._at_rung(trial, rung, self._cohort(kinds, point), point, peers)
            if decision is not None:
                return decision
        return None

    def recall(
        self, trial: str, kinds: Mapping[str, str], points: Sequence[Mapping[str, Any]], last: float = 1.0
    ) -> None:
        """Notes the scores of a trial that is over: later ones are judged against it.

        Args:
            trial: Its id.
            kinds: As in `judge`.
            points: Its evaluations in order.
            last: The rung at which it was stopped: one point may lie behind two rungs, and the later of them it never
                came to.
        """
        for rung, point in self._passed(trial, points):
            if rung <= last:
                self._at_rung(trial, rung, self._cohort(kinds, point), point)

    def remember(self, records: Iterable[Record]) -> None:
        """Notes what recorded trials of the adaptive arm have shown, after which the rungs hold what they held."""
        for record in records:
            if record.arm == "adaptive":
                kinds = kinds_to_come([(stage["name"], stage["carry"]) for stage in record.plan["stages"]])
                points = [dataclasses.asdict(point) for point in record.curve]
                self.recall(record.trial, kinds, points, record.stop.get("rung", 1.0))

    @property
    def scores(self) -> Mapping[tuple[float, str], Mapping[str, float]]:
        """(rung, cohort) to what every trial had there."""
        return self._scores

    def _passed(self, trial: str, points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """The rungs that new points pass for the first time."""
        for point in points:
            if self.score not in point["metrics"]:
                continue  # of the plan itself, where the shortened ones decide
            for rung in self.rungs:
                if self._behind[trial] < rung <= point["progress"] + 1e-9:
                    self._behind[trial] = rung
                    yield rung, point

    def _cohort(self, kinds: Mapping[str, str], point: Mapping[str, Any]) -> str:
        """With whom a trial is compared. A shortened plan has been to its end, so nothing is still to come."""
        if self.score == SHORTENED:
            return "all shortened plans"
        to_come = kinds.get(point["stage"], "")
        return f"{point['stage']}, with " + (f"stages to come that carry {to_come}" if to_come else "no stage to come")

    def _at_rung(
        self,
        trial: str,
        rung: float,
        cohort: str,
        point: Mapping[str, Any],
        peers: Callable[[str], bool] = lambda trial: True,
    ) -> Decision | None:
        value = self._scores[rung, cohort][trial] = point["metrics"][self.score]
        scores = {name: score for name, score in self._scores[rung, cohort].items() if name == trial or peers(name)}
        if len(scores) < self.least:
            return None
        kept = max(1, math.floor(len(scores) / self.factor))
        cut = sorted(scores.values(), reverse=True)[kept - 1]
        if value >= cut:
            return None
        return Decision(rung, self.score, value, cut, len(scores), cohort, point["epoch"])


def stages_of(plan: Plan) -> dict[str, str]:
    """By stage, the kinds of the stages that come after it: how they carry over, "all" or "weights".

    Not their names: sixteen ways to go on would leave cohorts in which nobody is ever compared (measured in
    `docs/rung_scores.md`).

    >>> from spaces.domain import Space, Stage
    >>> from trainables.data import standard
    >>> from trainables.plan import build, defaults
    >>> stages = [Stage("first", epochs=9), Stage("second", epochs=1, carry="weights"), Stage("third", epochs=1)]
    >>> stages_of(build(Space(stages=stages), defaults(), standard("digits-lt")).plan)
    {'first': 'weights', 'second': 'weights', 'third': ''}
    """
    return kinds_to_come([(stage.name, stage.carry) for stage in plan.stages])


def kinds_to_come(stages: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The same from (name, carry) of the stages."""
    return {
        name: " and ".join(sorted({carry for _, carry in stages[number:]}))
        for number, (name, _) in enumerate(stages, start=1)
    }
