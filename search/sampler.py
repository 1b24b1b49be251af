"""A space as Optuna sees it: TPE proposes recipes, define-by-run, and is told the truth about them.

The study lies in an Optuna storage (`results/<search>/optuna.db`), so that `optuna-dashboard` opens it and a
resumed search goes on with it. Stopped trials are pruned at their step, not complete; diverged and failed
ones are failures; a recipe that comes again is a new seed of the same cell.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from spaces.domain import Domain, Integer, LogUniform, OneOf, Space, Uniform
from trainables.data import Standard
from trainables.plan import Plan, Recipe, build
from trainables.registry import PlanError
from trainables.stage_store import stage_keys

ATTEMPTS = 50
"""Proposals that a space forbids or that cannot be trained, in a row, before the search gives up."""


@dataclass(frozen=True)
class Proposal:
    """A recipe that Optuna proposed, with the number of its trial in the study."""

    number: int
    recipe: Recipe


class SpaceExhausted(RuntimeError):
    """Every proposal is forbidden or cannot be trained."""


class Sampler:
    """Asks Optuna for recipes and tells it how they did.

    Args:
        space: What may vary.
        standard: Of the data set.
        epochs_scale: Multiplies every stage's epochs.
        storage: URL of the study's storage.
        name: Of the study; one that exists goes on.
        seed: Of the sampler.
        metrics: Names of what is maximised; with several, Optuna looks for their Pareto front.
    """

    def __init__(
        self,
        space: Space,
        standard: Standard,
        epochs_scale: float,
        storage: str,
        name: str,
        seed: int,
        metrics: Sequence[str] = ("accuracy",),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._standard, self._scale, self._seed = space, standard, epochs_scale, seed
        self.study = optuna.create_study(
            storage=storage, study_name=name, directions=["maximize"] * len(metrics), load_if_exists=True
        )
        with warnings.catch_warnings():
            # what the dashboard's axes are called: nothing depends on it
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(metrics))

    def ask(self, draw: int, fixed: Mapping[str, Any] | None = None) -> Proposal:
        """A new recipe, with some choices given.

        Args:
            draw: Number of the proposal. It seeds the draw, so that a resumed search proposes what it would
                have proposed without the break.
            fixed: Choices by name.

        Raises:
            SpaceExhausted: Nothing trainable came up.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            self.study.sampler = _tpe((self._seed, draw, attempt))
            if fixed:
                self.study.enqueue_trial(dict(fixed))
            trial = self.study.ask()
            try:
                recipe = build(self._space, partial(_suggest, trial), self._standard, self._scale)
            except PlanError as error:
                reason = str(error)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("recipe", recipe.plan.id)
            trial.set_user_attr("title", recipe.title)
            return Proposal(trial.number, recipe)
        raise SpaceExhausted(f"{ATTEMPTS} proposals in a row cannot be trained; the last one: {reason}")

    def siblings(self, recipe: Recipe) -> list[dict[str, Any]]:
        """What may be fixed to propose another child of a recipe's start; see `siblings`."""
        return siblings(self._space, self._standard, self._scale, recipe)

    def tell(
        self, number: int, outcome: str, value: float | Sequence[float] | None, steps: Sequence[tuple[int, float]]
    ) -> None:
        """How a proposal did.

        Args:
            number: Of the proposal.
            outcome: As in the record.
            value: Of a finished trial, a fraction; one for each of the metrics, where there are several.
            steps: (epoch, score) of its evaluations, for trials that were stopped.
        """
        trial = self._trials()[number]
        # Optuna takes nothing on the way where there are several metrics
        steps = steps if len(self.study.directions) == 1 else ()
        if trial.state == TrialState.FAIL and outcome in ("finished", "stopped"):
            self._mend(trial, None if outcome == "stopped" else value, dict(steps))
        if trial.state.is_finished():
            return
        live = optuna.trial.Trial(self.study, trial._trial_id)
        for epoch, score in steps:
            if epoch not in trial.intermediate_values:
                live.report(score, epoch)
        if outcome == "finished":
            self.study.tell(number, values_of(value))
        elif outcome == "stopped":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def forget(self, known: Container[int]) -> None:
        """Gives up what was asked for and never came to be known: a crash fell between the two.

        Optuna would take such a trial for one that is running, and a queued one for the next to hand out.
        """
        for trial in self._trials():
            if not trial.state.is_finished() and trial.number not in known:
                self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def use(self, space: Space) -> None:
        """Goes on with the space at other numbers, once the baseline's are known."""
        self._space = space

    def learn(self, recipe: Recipe, value: float | Sequence[float], arm: str = "design") -> None:
        """Adds a recipe that was measured elsewhere, once, if the space can express it."""
        if any(t.user_attrs.get("recipe") == recipe.plan.id and "arm" in t.user_attrs for t in self._trials()):
            return
        distributions: dict[str, BaseDistribution] = {}

        def replay(name: str, domain: Domain, default: Any) -> Any:
            distributions[name] = _distribution(domain)
            value = recipe.params[name]
            if not distributions[name]._contains(distributions[name].to_internal_repr(value)):
                raise PlanError(f"{name}: {value!r} is not offered by the space")
            return value

        try:
            again = build(self._space, replay, self._standard, self._scale)
        except (PlanError, KeyError, ValueError):
            return
        if again.plan.id == recipe.plan.id:
            self.study.add_trial(
                create_trial(
                    params=dict(recipe.params),
                    distributions=distributions,
                    values=values_of(value),
                    user_attrs={"recipe": recipe.plan.id, "title": recipe.title, "arm": arm},
                )
            )

    def _mend(
        self, failed: optuna.trial.FrozenTrial, value: float | Sequence[float] | None, steps: Mapping[int, float]
    ) -> None:
        """Adds a failed proposal again, once, that has done better since: Optuna never changes a finished trial.

        Args:
            failed: As the study has it.
            value: What it has reached; `None` where it was stopped.
            steps: Epoch to score of its evaluations.
        """
        if any(trial.user_attrs.get("retry of") == failed.number for trial in self._trials()):
            return
        attributes = {**failed.user_attrs, "retry of": failed.number}
        self.study.add_trial(
            create_trial(
                params=failed.params,
                distributions=failed.distributions,
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                values=values_of(value),
                intermediate_values=dict(steps),
                user_attrs=attributes,
            )
        )

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        trials: list[optuna.trial.FrozenTrial] = self.study.get_trials(deepcopy=False)
        return trials


def values_of(value: float | Sequence[float] | None) -> list[float] | None:
    """One value or several, as Optuna takes them."""
    if value is None:
        return None
    return [value] if isinstance(value, (int, float)) else list(value)


def siblings(space: Space, standard: Standard, epochs_scale: float, recipe: Recipe) -> list[dict[str, Any]]:
    """What children of a recipe's start have in common with it: everything but the last stage.

    Where the space has several last stages, those are offered that leave the earlier stages as they are: a chain that
    ends elsewhere has another schedule, so its first stage would be trained anew.

    Returns:
        Choices by name, one dict for each last stage that may be tried; the recipe's own first.
    """
    slot = space.stages[-1]
    options = slot.options if isinstance(slot, OneOf) else (slot,)
    last = [f"{stage.name}/" for stage in options if stage is not None]
    shared = {name: value for name, value in recipe.params.items() if not name.startswith(tuple(last))}
    if len(space.stages) == 1 or not isinstance(slot, OneOf):
        return [shared]
    # the choice of the last stage is the last one that is not a number or a trick of a stage
    choice = [name for name in shared if "/" not in name][-1]
    wanted = _before_last(recipe.plan)
    found = []
    for option in ("none" if stage is None else stage.name for stage in options):
        fixed = shared | {choice: option}
        if option == recipe.params[choice]:
            found.append(fixed)
            continue
        try:
            other = build(space, partial(_given, fixed), standard, epochs_scale)
        except PlanError:
            continue
        if _before_last(other.plan) == wanted:
            found.append(fixed)
    return sorted(found, key=lambda fixed: fixed[choice] != recipe.params[choice])


def _given(fixed: Mapping[str, Any], name: str, domain: Domain, default: Any) -> Any:
    return fixed.get(name, default)


def _before_last(plan: Plan) -> list[list[str]]:
    """Keys of the stages before the last, for comparison."""
    return stage_keys(plan, {})[:-1]


def _tpe(seeds: Sequence[int]) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _suggest(trial: optuna.Trial, name: str, domain: Domain, default: Any) -> Any:
    if isinstance(domain, Uniform):
        return domain.nearest(trial.suggest_float(name, domain.low, domain.nearest(domain.high), step=domain.step))
    if isinstance(domain, LogUniform):
        return domain.nearest(trial.suggest_float(name, domain.low, domain.high, log=True))
    if isinstance(domain, Integer):
        return trial.suggest_int(name, domain.low, domain.high)
    return trial.suggest_categorical(name, list(domain.options))


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Uniform):
        return FloatDistribution(domain.low, domain.nearest(domain.high), step=domain.step)
    if isinstance(domain, LogUniform):
        return FloatDistribution(domain.low, domain.high, log=True)
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high)
    assert isinstance(domain, OneOf)
    return CategoricalDistribution(list(domain.options))


logging.getLogger("optuna").setLevel(logging.WARNING)
