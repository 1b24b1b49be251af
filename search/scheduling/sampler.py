"""The adaptive arm's sampler: a define-by-run study of Optuna, in which TPE proposes recipes.

The study lies in memory and follows from the journal alone; `results/<search>/optuna.db` is a copy that
`optuna-dashboard` opens. Stopped trials are pruned at their step, not complete; diverged and failed ones are failures;
a recipe that comes again is a new seed of the same cell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.recipes.factory import in_own_words
from search.scheduling.study_file import StudyFile
from spaces.domain import Domain, Integer, LogUniform, OneOf, Space, Uniform
from trainables.data import Standard
from trainables.pipeline.keys import stage_keys
from trainables.plan import Plan, Recipe, build
from trainables.registry import PlanError

ATTEMPTS = 50
"""Proposals that a space forbids or that cannot be trained, in a row, before the search gives up."""


@dataclass(frozen=True)
class Proposal:
    """A recipe that Optuna proposed.

    Args:
        number: Number of its trial in the study.
        recipe: What to train.
        drawn: How it came about, for the journal: what was drawn for it, and for those before it that cannot be
            trained.
    """

    number: int
    recipe: Recipe
    drawn: dict[str, Any]


class SpaceExhausted(RuntimeError):
    """Every proposal is forbidden or cannot be trained.

    Args:
        why: Why, in words.
        number: Number of the first of these proposals in the study.
        refused: What was drawn for each of them.
    """

    def __init__(self, why: str, number: int = 0, refused: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(why)
        self.number, self.refused = number, list(refused)


class Sampler:
    """Asks Optuna for recipes and tells it their results.

    The study lies in memory. It follows from the journal (`rebuild`), and is written to a file for people to look at.

    Args:
        space: What may vary.
        standard: Standard recipe of the data set.
        epochs_scale: Multiplies every stage's epochs.
        file: SQLite file that follows the study; `None` for none.
        name: Name of the study.
        seed: Seed of the sampler.
        metrics: Names of what is maximised; with several, Optuna looks for their Pareto front.
    """

    def __init__(
        self,
        space: Space,
        standard: Standard,
        epochs_scale: float,
        file: Path | None,
        name: str,
        seed: int,
        metrics: Sequence[str] = ("accuracy",),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._standard, self._scale, self._seed = space, standard, epochs_scale, seed
        # its own, because a trial of a resumed search can be reported on through the storage alone
        self._storage = optuna.storages.InMemoryStorage()
        directions = ["maximize"] * len(metrics)
        self.study = optuna.create_study(storage=self._storage, study_name=name, directions=directions)
        self._id = self._storage.get_study_id_from_name(name)
        self._file = None if file is None else StudyFile(file, self.study, metrics)
        self._taught: dict[str, FrozenTrial] = {}  # by recipe: learned from other arms, not yet in the study
        self._common = IntersectionSearchSpace(include_pruned=True)
        self._earlier: list[tuple[Recipe, Sequence[float]]] = []

    def ask(self, draw: int, fixed: Mapping[str, Any] | None = None) -> Proposal:
        """A new recipe, with some choices given.

        Args:
            draw: Number of the proposal. It seeds the draw, so that a resumed search proposes what it would
                have proposed without the break.
            fixed: Choices by name.

        Raises:
            SpaceExhausted: Nothing trainable came up.
        """
        reason, refused = "", []
        for attempt in range(ATTEMPTS):
            self.study.sampler = _TPE((self._seed, draw, attempt), self._common)
            if fixed:
                self.study.enqueue_trial(dict(fixed))
            trial = self.study.ask()
            try:
                recipe = build(self._space, partial(_suggest, trial), self._standard, self._scale)
            except PlanError as error:
                reason = str(error)
                refused.append(_drawn(self.trials[trial.number]))
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("recipe", recipe.plan.id)
            trial.set_user_attr("title", recipe.title)
            drawn = _drawn(self.trials[trial.number]) | ({"refused": refused} if refused else {})
            return Proposal(trial.number, recipe, drawn)
        raise SpaceExhausted(
            f"{ATTEMPTS} proposals in a row cannot be trained; the last one: {reason}",
            trial.number - ATTEMPTS + 1,
            refused,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials of the study, those that other arms have taught (user attribute "arm") included."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return found

    def preview(self, draw: int, count: int) -> list[FrozenTrial]:
        """The next proposals, were no further result to come; the study stays as it is.

        Args:
            draw: Number of the next proposal.
            count: How many; fewer where the space is exhausted before.
        """
        copy = Sampler(self._space, self._standard, self._scale, None, self.study.study_name, self._seed)
        copy.study.add_trials(self.trials)
        numbers = []
        with suppress(SpaceExhausted):
            for further in range(count):
                numbers.append(copy.ask(draw + further).number)
        return [copy.trials[number] for number in numbers]

    def siblings(self, recipe: Recipe) -> list[dict[str, Any]]:
        """What may be fixed to propose another child of a recipe's start; see `siblings`."""
        return siblings(self._space, self._standard, self._scale, recipe)

    def tell(
        self, number: int, outcome: str, value: float | Sequence[float] | None, steps: Sequence[tuple[int, float]]
    ) -> None:
        """Tells Optuna the result of a proposal.

        Args:
            number: Number of the proposal.
            outcome: Outcome in the record.
            value: Result of a finished trial, a fraction; one for each metric where there are several.
            steps: (epoch, score) of its evaluations, for trials that were stopped.
        """
        trial = self.trials[number]
        if trial.state.is_finished():
            return
        # Optuna takes nothing on the way where there are several metrics
        for epoch, score in steps if len(self.study.directions) == 1 else ():
            key = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
            self._storage.set_trial_intermediate_value(key, epoch, score)
        if outcome == "finished":
            self.study.tell(number, values_of(value))
        elif outcome == "stopped":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def use(self, space: Space) -> None:
        """Continues with the space at other numbers, once the baseline is tuned."""
        self._space = space

    def learn(self, recipe: Recipe, value: float | Sequence[float], arm: str = "design") -> None:
        """Keeps a recipe that was measured elsewhere for the study, if the space can express it; see `take_in`."""
        if recipe.plan.id in self._taught:
            return
        distributions: dict[str, BaseDistribution] = {}
        params = dict(recipe.params)
        kept = dict(self._space.defaults)

        def replay(name: str, domain: Domain, default: Any) -> Any:
            distributions[name] = _distribution(domain)
            if name in kept and isinstance(domain, Uniform):
                params[name] = domain.nearest(params[name])  # a default of a former space may lie beside the grid
            return recipe.params[name]

        try:
            again = build(self._space, replay, self._standard, self._scale)
            # refuses a value that the space does not offer
            trial = create_trial(
                params=params,
                distributions=distributions,
                values=values_of(value),
                user_attrs={"recipe": recipe.plan.id, "title": recipe.title, "arm": arm},
            )
        except (PlanError, KeyError, ValueError):
            return
        if again.plan.id == recipe.plan.id:
            self._taught[recipe.plan.id] = trial

    def learn_earlier(self, recipe: Recipe, value: Sequence[float]) -> None:
        """Keeps a recipe that another search has measured for `take_in`; what this search measures goes first."""
        self._earlier.append((recipe, value))

    def take_in(self) -> list[dict[str, Any]]:
        """Adds to the study what other arms have taught since, each recipe once.

        Returns:
            What was added, for the journal.
        """
        for recipe, value in self._earlier:
            self.learn(recipe, value, "earlier")
        known = {trial.user_attrs["recipe"] for trial in self.trials if "arm" in trial.user_attrs}
        new = [trial for recipe, trial in self._taught.items() if recipe not in known]
        self._taught = {}
        self.study.add_trials(new)
        return [_lesson(trial) for trial in self.trials[len(self.trials) - len(new) :]]

    def rebuild(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Makes the study as it was from a journal; proposals are running in it until they are told.

        What was proposed before the space was changed is in the study in the words of the new space, at the nearest
        values of its grids, as far as it lies inside; what other arms had taught before has to be taught again.

        To be called once, on an empty study, when the space is at the numbers that it had when the search proposed.

        Returns:
            What other arms had taught before journals said so, for the journal.
        """
        trials: dict[int, FrozenTrial] = {}
        failed = partial(self._again, state=TrialState.FAIL)
        changed = max((position for position, event in enumerate(events) if event["event"] == "space"), default=-1)
        for event in events[: changed + 1]:
            trials |= {number: create_trial(state=TrialState.FAIL) for number in _numbers(event)}
            if event["event"] == "task" and event["task"]["number"] is not None:
                moved = self._moved(_recipe(event["task"]["recipe"]))
                trials |= {} if moved is None else {event["task"]["number"]: moved}
        for event in events[changed + 1 :]:
            if event["event"] == "lesson":
                trials[event["number"]] = self._again(event, TrialState.COMPLETE)
            elif event["event"] == "exhausted":
                trials |= dict(enumerate(map(failed, event["refused"]), event["number"]))
            elif event["event"] == "task" and event["task"]["number"] is not None:
                number, recipe = event["task"]["number"], _recipe(event["task"]["recipe"])
                drawn = event.get("drawn", {"params": recipe.params})
                refused = drawn.get("refused", ())
                trials |= dict(enumerate(map(failed, refused), number - len(refused)))
                about = {"recipe": recipe.plan.id, "title": recipe.title}
                trials[number] = self._again({**drawn, "attributes": about}, TrialState.RUNNING)
        for trial in trials.values():
            if "arm" in trial.user_attrs:
                self._taught.pop(trial.user_attrs["recipe"], None)
        lessons = []
        for number in range(max(trials, default=-1) + 1):
            if number not in trials and self._taught:
                # of a journal that does not say what was learned: it came first
                trials[number] = self._taught.pop(next(iter(self._taught)))
                lessons.append(number)
            self.study.add_trial(trials.get(number) or create_trial(state=TrialState.FAIL))
        return [_lesson(self.trials[number]) for number in lessons]

    def keep(self, at_once: bool = False) -> str:
        """Brings the file up to date.

        Args:
            at_once: Whether to try even shortly after it went wrong.

        Returns:
            Why it is not up to date, in a sentence; empty where it is.
        """
        if self._file is None:
            return ""
        self._file.write(at_once)
        if not self._file.problem:
            return ""
        return (
            f"{self._file.path} could not be written ({self._file.problem}); the search does not need it, and writes "
            "it again when it is resumed"
        )

    def _again(self, drawn: Mapping[str, Any], state: TrialState) -> FrozenTrial:
        """A trial from what the journal says of it."""
        params, distributions = drawn["params"], {}

        def replay(name: str, domain: Domain, default: Any) -> Any:
            value = params[name]
            distributions[name] = _distribution(domain)
            return _nearest(domain, value)

        # what was refused ends in a PlanError, at the same place as then
        with suppress(PlanError, KeyError):
            build(self._space, replay, self._standard, self._scale)
        return create_trial(
            state=state,
            params={name: params[name] for name in distributions},
            distributions=distributions,
            values=drawn.get("values"),
            user_attrs=dict(drawn.get("attributes", {})),
            system_attrs=dict(drawn.get("system", {})),
        )

    def in_own_words(self, recipe: Recipe) -> Recipe | None:
        """A recipe of a former space as choices of this one; `None` where it has none for it."""
        return in_own_words(self._space, self._standard, self._scale, recipe)

    def _moved(self, recipe: Recipe) -> FrozenTrial | None:
        """The trial of a recipe that another space proposed; `None` where this space cannot express it."""
        own = self.in_own_words(recipe)
        if own is None:
            return None
        params = {}
        distributions: dict[str, BaseDistribution] = {}

        def replay(name: str, domain: Domain, default: Any) -> Any:
            value = own.params[name]
            # Optuna takes no value beside the grid of a distribution
            params[name] = domain.nearest(value) if isinstance(domain, Uniform) else value
            distributions[name] = _distribution(domain)
            return value

        build(self._space, replay, self._standard, self._scale)
        about = {"recipe": recipe.plan.id, "title": own.title}
        return create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=about
        )  # fmt: skip


def _drawn(trial: FrozenTrial) -> dict[str, Any]:
    """What was drawn for a trial, for the journal."""
    return {"params": dict(trial.params), "system": dict(trial.system_attrs)}


def _recipe(fields: Mapping[str, Any]) -> Recipe:
    """The recipe of a proposal in the journal."""
    return Recipe(Plan.from_dict(fields["plan"]), fields["params"], tuple(fields["labels"]))


def _numbers(event: Mapping[str, Any]) -> range:
    """Numbers that an event has taken up in the study."""
    if event["event"] == "lesson":
        return range(event["number"], event["number"] + 1)
    if event["event"] == "exhausted":
        return range(event["number"], event["number"] + len(event["refused"]))
    if event["event"] == "task" and event["task"]["number"] is not None:
        number = event["task"]["number"]
        return range(number - len(event.get("drawn", {}).get("refused", ())), number + 1)
    return range(0)


def _lesson(trial: FrozenTrial) -> dict[str, Any]:
    """A trial that was learned from another arm, for the journal."""
    return {
        "number": trial.number,
        "params": dict(trial.params),
        "values": list(trial.values),
        "attributes": dict(trial.user_attrs),
    }


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


class _TPE(optuna.samplers.TPESampler):  # type: ignore[misc]
    """TPE for one proposal, with the choices that all trials of the study have in common remembered between proposals.

    A sampler of Optuna's own would look for them in every trial again each time.
    """

    def __init__(self, seeds: Sequence[int], common: IntersectionSearchSpace) -> None:
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._common = common

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Name to distribution of the choices that are proposed jointly."""
        return {name: choice for name, choice in self._common.calculate(study).items() if not choice.single()}


def _suggest(trial: optuna.Trial, name: str, domain: Domain, default: Any) -> Any:
    if isinstance(domain, Uniform):
        drawn = trial.suggest_float(name, domain.low, domain.nearest(domain.high), step=domain.step)
    elif isinstance(domain, LogUniform):
        drawn = trial.suggest_float(name, domain.low, domain.high, log=True)
    elif isinstance(domain, Integer):
        drawn = trial.suggest_int(name, domain.low, domain.high)
    else:
        drawn = trial.suggest_categorical(name, list(domain.options))
    return _nearest(domain, drawn)


def _nearest(domain: Domain, drawn: Any) -> Any:
    """What a draw comes to: Optuna knows no steps on a logarithmic scale."""
    return domain.nearest(drawn) if isinstance(domain, (Uniform, LogUniform)) else drawn


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
