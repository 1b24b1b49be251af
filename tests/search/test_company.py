"""Seeds of one recipe in one network, in a search: who waits for whom, and that every record is there as ever."""

import dataclasses
import json

import pytest

import search
from search.recipes.factory import RecipeFactory
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings, SettingsError
from search.state import SearchState
from spaces.domain import Space, Stage, one_of
from trainables.data import standard
from trainables.pipeline.keys import stage_keys
from trainables.pipeline.store import StageStore
from trainables.trial import Trial
from trainables.trial_spec import TrialSpec

STANDARD = standard("digits-lt")
SPACE = Space(
    stages=[
        Stage("first", epochs=2, choose=[one_of(None, "cost_sensitive")]),
        one_of(
            Stage("finish", epochs=1, carry="all", keep=True),
            Stage("classifier", epochs=1, carry="weights", choose=["classifier"]),
        ),
    ],
    screen=["first/cost_sensitive"],
)


def keys(request):
    return stage_keys(request.recipe.plan, {"seed": request.seed, "company": list(request.joint_seeds)})


def orchestrator_of(folder, joint=lambda plan: True, store=True, seeds=5) -> Orchestrator:
    sampler = Sampler(SPACE, STANDARD, 1.0, None, "study", 0)
    settings = Settings(
        name="s", space="s", data="digits-lt", seeds=seeds, trials=0, race=False, start_points=False, check_seeds=0
    )
    state = SearchState(RecipeFactory(SPACE, STANDARD), settings, 0.02)
    locks = StageLocks(keys, StageStore(folder / "stages") if store else None)
    return Orchestrator(state, sampler, Journal(folder / "j"), locks, joint)


def test_seeds_of_a_recipe_come_in_fours_and_wait_for_the_first(tmp_path):
    driver = orchestrator_of(tmp_path)
    companies = {(task.recipe.title, task.seed): task.joint_seeds for task in driver.state.requests.values()}
    assert {seed: company for (_, seed), company in companies.items()} == {
        **dict.fromkeys(range(4), (0, 1, 2, 3)), 4: (),
    }  # fmt: skip
    first, second, third, fourth = (driver.next() for _ in range(4))
    # of each recipe one of the four, then those that are alone
    assert [task.seed for task in (first, second, third, fourth)] == [0, 0, 4, 4]
    assert first.recipe.plan.id != second.recipe.plan.id and driver.next() is None
    for task in (first, second):
        written = {
            key for seed in task.joint_seeds for stage in keys(dataclasses.replace(task, seed=seed)) for key in stage
        }
        assert driver.locks.held[task.id] == written
    for key in driver.locks.held[first.id]:
        driver.locks._store.folder(key).mkdir(parents=True)
        (driver.locks._store.folder(key) / "manifest.json").write_text("{}")
    rest = [driver.next() for _ in range(3)]
    assert [(task.recipe.plan.id, task.seed) for task in rest] == [(first.recipe.plan.id, seed) for seed in (1, 2, 3)]
    assert TrialRequest.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    old = {name: value for name, value in first.to_dict().items() if name != "joint_seeds"}
    assert TrialRequest.from_dict(old).joint_seeds == ()
    assert TrialRequest.from_dict(old | {"company": [3, 5]}).joint_seeds == (3, 5)  # of a journal from before


def test_without_a_store_or_the_wish_each_is_alone(tmp_path):
    for place, more in (("a", {"store": False}), ("b", {"joint": lambda plan: False})):
        (tmp_path / place).mkdir()
        assert {task.joint_seeds for task in orchestrator_of(tmp_path / place, **more).state.requests.values()} == {()}
    with pytest.raises(SettingsError, match=r"--fused-trials must be off with --no-reuse, because .* got 'auto'"):
        Settings(name="a", space="b", data="digits-lt", fused_trials="auto", reuse=False)


def test_a_trial_trains_its_companions_stages(tmp_path, make_plan):
    plan = make_plan(
        Stage("a", epochs=2), Stage("b", epochs=1, carry="all"), Stage("c", epochs=1, choose=["classifier"])
    )

    def ran(seed, place, company=(3, 5)):
        spec = TrialSpec(
            plan=plan.to_dict(), seed=seed, split_seed=seed, data="digits-lt", root=None, imbalance=50.0,
            model="resnet8", store=str(tmp_path / place), device="cpu", joint_seeds=company,
            numerics={"fused_trials": "on"},
        )  # fmt: skip
        trial = Trial({"spec": json.dumps(spec.to_dict())})
        results = [trial.step()]
        while not results[-1]["done"]:
            results.append(trial.step())
        trial.stop()
        return results[-1]["payload"]

    first, second, alone = ran(3, "s"), ran(5, "s"), ran(5, "t")
    assert first["epochs"] == 4 and first["epochs_trained"] == 4 + 3 and first["seconds_saved"] < 0
    assert second["reused"] == ["a", "b"] and second["epochs_trained"] == 1
    assert first["seconds_saved"] + second["seconds_saved"] == pytest.approx(0, abs=1e-9)
    # whoever has trained them, and with an empty store
    assert second["metrics"] == alone["metrics"] and second["curve"] == alone["curve"]
    assert second["first_stage"] == alone["first_stage"] != ran(5, "u", ())["first_stage"]


@pytest.mark.slow
def test_a_search_with_fused_trials(tmp_path):
    common = {
        "data": "digits-lt", "trials": 0, "seeds": 2, "race": False, "start_points": False, "check_seeds": 0,
        "output": str(tmp_path), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "max_concurrent": 1,
    }  # fmt: skip
    one = search.run(SPACE, name="fused", fused_trials="on", **common)
    other = search.run(SPACE, name="plain", **common)
    assert one.complete and other.complete
    tables = [result.trials.sort_values(["recipe", "seed"]).reset_index(drop=True) for result in (one, other)]
    for column in ("recipe", "seed", "epochs", "images", "steps", "outcome"):
        assert tables[0][column].tolist() == tables[1][column].tolist()
    # the same epochs in all, and as many saved
    assert tables[0]["epochs_trained"].sum() == tables[1]["epochs_trained"].sum()
    assert tables[0]["reused"].map(bool).sum() == len(tables[0]) // 2  # of each recipe one leads
    close = (tables[0]["final/accuracy"] - tables[1]["final/accuracy"]).abs()
    assert close.max() < 0.1 and list(one.conflicts["a"]) == list(other.conflicts["a"])
