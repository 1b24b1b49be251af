"""What is maximised, as Optuna is told it and as the race ranks by it."""

import dataclasses

import optuna
import pytest
from optuna.trial import TrialState

from analysis.records.schema import Point, Record
from search.recipes.factory import RecipeFactory
from search.scheduling.journal import Journal
from search.scheduling.objective import check_objective, scalar, values
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.settings import OBJECTIVES, Settings, SettingsError
from search.state import SearchState
from spaces.domain import Space, Stage, one_of
from trainables.data import standard
from trainables.pipeline.keys import stage_keys
from trainables.plan import build, defaults

METRICS = {"final/accuracy": 0.8, "final/harmonic_mean": 0.1, "final/smoothed_harmonic_mean": 0.4}
SPACE = Space(stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")])])


def test_every_objective_has_its_values():
    assert {name: values(METRICS, name) for name in OBJECTIVES} == {
        "accuracy": [0.8], "harmonic_mean": [0.4], "both": [0.8, 0.4],
    }  # fmt: skip
    assert [scalar(METRICS, name) for name in OBJECTIVES] == pytest.approx([0.8, 0.4, 0.6])
    assert values({}, "accuracy") is None and values({"final/accuracy": 0.5}, "both") is None


def test_an_objective_that_is_none_is_refused():
    with pytest.raises(SettingsError, match="--objective must be accuracy, harmonic_mean or both, got 'recall'"):
        Settings(name="x", space="y", data="digits-lt", objective="recall")


@pytest.mark.parametrize("objective", ["harmonic_mean", "both"])
def test_worst_classes_need_images(objective):
    check_objective(objective, "cifar10-lt", [500] * 10)
    check_objective("accuracy", "digits-lt", [24] * 10)
    with pytest.raises(
        SettingsError, match=f"--objective {objective} needs at least 50 val images per class, .* has 24"
    ):
        check_objective(objective, "digits-lt", [24] * 10)


def test_two_objectives_are_a_study_of_two(tmp_path):
    file, names = tmp_path / "optuna.db", ["accuracy", "smoothed_harmonic_mean"]
    sampler = Sampler(SPACE, standard("digits-lt"), 1.0, file, "two", 0, names)
    sampler.learn(build(SPACE, defaults(), standard("digits-lt")), [0.5, 0.2])
    sampler.take_in()
    for draw, found in enumerate(([0.9, 0.1], [0.1, 0.9], [0.1, 0.1])):
        # what it has on its way cannot be told, and does not need to be
        sampler.tell(sampler.ask(draw).number, "finished", found, [(1, 0.3)])
    sampler.tell(sampler.ask(3).number, "diverged", None, [])
    assert sampler.keep() == ""
    loaded = optuna.load_study(study_name="two", storage=f"sqlite:///{file}")
    assert loaded.metric_names == names
    assert sorted(trial.values for trial in loaded.best_trials) == [[0.1, 0.9], [0.5, 0.2], [0.9, 0.1]]
    states = [trial.state for trial in loaded.trials]
    assert states.count(TrialState.COMPLETE) == 4 and states.count(TrialState.FAIL) == 1


def test_a_harmonic_mean_alone_is_a_study_of_one():
    sampler = Sampler(SPACE, standard("digits-lt"), 1.0, None, "one", 0, ["harmonic_mean"])
    sampler.tell(sampler.ask(0).number, "finished", values(METRICS, "harmonic_mean"), [(1, 0.3)])
    assert sampler.study.best_value == 0.4


# --- in a search ------------------------------------------------------------------------------------------


def record(task: TrialRequest, outcome: str = "finished") -> Record:
    """A world in which `cost_sensitive` is worth accuracy and `class_balanced` the worst classes."""
    labels = task.recipe.labels
    accuracy = 0.5 + 0.2 * ("only/cost_sensitive" in labels) + 0.05 * ("only/class_balanced" in labels)
    worst = 0.1 + 0.3 * ("only/class_balanced" in labels) - 0.05 * ("only/cost_sensitive" in labels)
    found = {"final/accuracy": accuracy, "final/smoothed_harmonic_mean": worst}
    return Record(
        search="s", trial=task.id, arm=task.arm, recipe=task.recipe.plan.id, title=task.title, seed=task.seed,
        split_seed=task.seed, first_stage="f", tricks=task.tricks, context=task.context, outcome=outcome, choices={},
        plan=task.recipe.plan.to_dict(), data="d", model="m", imbalance=50.0, fingerprint="", counts=(), val_counts=(),
        epochs=1, epochs_trained=1, images=1, steps=1, seconds=0.1, seconds_saved=0.0, reused=(),
        metrics=found if outcome == "finished" else {}, curve=(Point("only", 0, 1, 1.0, {"accuracy": accuracy}),),
    )  # fmt: skip


def played(folder, objective: str, trials: int = 6, race: bool = True) -> tuple[Orchestrator, list[TrialRequest]]:
    """A whole search of `SPACE`, without Ray."""
    metrics = {"accuracy": 1, "harmonic_mean": 1, "both": 2}[objective]
    space = dataclasses.replace(SPACE, screen=["only/cost_sensitive", "only/class_balanced"])
    sampler = Sampler(space, standard("digits-lt"), 1.0, None, "s", 0, [f"m{n}" for n in range(metrics)])
    few = {"seeds": 1, "start_points": False, "check_seeds": 0}
    settings = Settings(name="s", space="s", data="digits-lt", trials=trials, race=race, objective=objective, **few)
    state = SearchState(RecipeFactory(space, standard("digits-lt")), settings, 0.005)
    locks = StageLocks(lambda request: stage_keys(request.recipe.plan, {"seed": request.seed}), None)
    driver, requests = Orchestrator(state, sampler, Journal(folder / "journal.jsonl"), locks), []
    while (request := driver.next()) is not None:
        requests.append(request)
        driver.record(record(request))
    return driver, requests


@pytest.mark.parametrize(
    "objective, winner",
    [
        ("accuracy", "only/cost_sensitive + only/class_balanced"),  # 0.75
        ("harmonic_mean", "only/class_balanced"),  # 0.40, with cost_sensitive 0.35
        ("both", "only/cost_sensitive + only/class_balanced"),  # (0.75 + 0.35) / 2 against (0.55 + 0.40) / 2
    ],
)
def test_the_race_is_won_by_the_objective(tmp_path, objective, winner):
    driver, _ = played(tmp_path, objective)
    assert driver.state.winner.title == winner
    told = [trial.values for trial in driver.sampler.study.get_trials(states=(TrialState.COMPLETE,))]
    known = [values(record(task).metrics, objective) for task in driver.state.requests.values()]
    # the design's means and every proposal
    assert len(told) == 4 + 6 and all(any(pytest.approx(one) == other for other in known) for one in told)


def test_a_recipe_that_is_proposed_again_runs_on_a_new_seed(tmp_path):
    _, tasks = played(tmp_path, "accuracy", trials=12, race=False)
    seeds: dict[str, list[int]] = {}
    for task in tasks:
        if task.phase == "adaptive":
            seeds.setdefault(task.recipe.plan.id, []).append(task.seed)
    # four recipes, twelve trials
    assert len(seeds) <= 4 and sum(map(len, seeds.values())) == 12
    for own in seeds.values():
        assert own == list(range(1000, 1000 + len(own)))
