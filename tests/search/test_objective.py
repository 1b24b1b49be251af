"""What is maximised, as Optuna is told it and as the race ranks by it."""

import optuna
import pytest
from optuna.trial import TrialState

from search.objective import check_objective, scalar, values
from search.sampler import Sampler
from search.settings import OBJECTIVES, Settings, SettingsError
from spaces.domain import Space, Stage, one_of
from trainables.data import standard
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
    with pytest.raises(SettingsError, match="--objective must be one of accuracy, harmonic_mean, both, got 'recall'"):
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
    storage = f"sqlite:///{tmp_path}/optuna.db"
    sampler = Sampler(SPACE, standard("digits-lt"), 1.0, storage, "two", 0, ["accuracy", "smoothed_harmonic_mean"])
    sampler.learn(build(SPACE, defaults(), standard("digits-lt")), [0.5, 0.2])
    for draw, found in enumerate(([0.9, 0.1], [0.1, 0.9], [0.1, 0.1])):
        # what it has on its way cannot be told, and does not need to be
        sampler.tell(sampler.ask(draw).number, "finished", found, [(1, 0.3)])
    failed = sampler.ask(3).number
    sampler.tell(failed, "diverged", None, [])
    sampler.tell(failed, "finished", [0.2, 0.2], [])
    loaded = optuna.load_study(study_name="two", storage=storage)
    assert loaded.metric_names == ["accuracy", "smoothed_harmonic_mean"]
    assert sorted(trial.values for trial in loaded.best_trials) == [[0.1, 0.9], [0.5, 0.2], [0.9, 0.1]]
    states = [trial.state for trial in loaded.trials]
    assert states.count(TrialState.COMPLETE) == 5 and states.count(TrialState.FAIL) == 1
    # and it goes on
    again = Sampler(SPACE, standard("digits-lt"), 1.0, storage, "two", 0, ["accuracy", "smoothed_harmonic_mean"])
    assert again.ask(4).number == 6


def test_a_harmonic_mean_alone_is_a_study_of_one():
    sampler = Sampler(SPACE, standard("digits-lt"), 1.0, optuna.storages.InMemoryStorage(), "one", 0, ["harmonic_mean"])
    sampler.tell(sampler.ask(0).number, "finished", values(METRICS, "harmonic_mean"), [(1, 0.3)])
    assert sampler.study.best_value == 0.4
