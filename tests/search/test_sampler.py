"""What Optuna is asked and told, on a real study."""

import optuna
import pytest
from optuna.trial import TrialState

from search.design import make_design
from search.sampler import Sampler, SpaceExhausted
from spaces.domain import Space, Stage, forbid, integer, log_uniform, one_of, some_of, trick, uniform
from trainables.data import standard
from trainables.plan import build, defaults

STANDARD = standard("digits-lt")

SPACE = Space(
    stages=[
        Stage("first", length=0.5, lr=log_uniform(0.01, 0.3, step="thirds"), choose=[
            one_of(None, "cost_sensitive"),
            one_of(None, trick("input_mixup", alpha=uniform(0.2, 1.0, step=0.3))),
            some_of("cutout"),
        ]),
        one_of(None, Stage("balanced", length=0.2, members=integer(2, 3), choose=["few_shot", "average"])),
        one_of(Stage("finish", length=0.3, carry="all"),
               Stage("deferred", length=0.3, carry="weights", lr=0.01, choose=[
                   one_of("class_balanced", "square_root")])),
    ],
    screen=["first/cost_sensitive", "deferred/class_balanced", "deferred"],
    forbid=[forbid("first/cost_sensitive", "first/input_mixup", reason="a test")],
)  # fmt: skip


@pytest.fixture
def sampler():
    return make()


def make(space=SPACE, seed=0, storage=None, name="study") -> Sampler:
    return Sampler(space, STANDARD, 1.0, storage or optuna.storages.InMemoryStorage(), name, seed)


def ids(sampler: Sampler, count: int, value=0.5) -> list[str]:
    found = []
    for draw in range(count):
        proposal = sampler.ask(draw)
        sampler.tell(proposal.number, "finished", value, [])
        found.append(proposal.recipe.plan.id)
    return found


def test_a_finished_trial_is_complete_with_its_value(sampler):
    number = sampler.ask(0).number
    sampler.tell(number, "finished", 0.75, [(3, 0.5), (6, 0.75)])
    trial = sampler.study.trials[number]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.75, {3: 0.5, 6: 0.75})


def test_a_stopped_trial_is_pruned_at_its_step(sampler):
    number = sampler.ask(0).number
    sampler.tell(number, "stopped", None, [(3, 0.5), (6, 0.25)])
    trial = sampler.study.trials[number]
    assert trial.state == TrialState.PRUNED and trial.last_step == 6
    # and not the value that it had when it was stopped
    with pytest.raises(ValueError, match="No trials are completed"):
        _ = sampler.study.best_trial


@pytest.mark.parametrize("outcome", ["failed", "diverged"])
def test_what_has_no_value_has_failed(sampler, outcome):
    number = sampler.ask(0).number
    sampler.tell(number, outcome, None, [(3, 0.5)])
    assert sampler.study.trials[number].state == TrialState.FAIL


def test_told_twice_is_told_once(sampler):
    number = sampler.ask(0).number
    sampler.tell(number, "finished", 0.75, [(3, 0.5)])
    sampler.tell(number, "finished", 0.25, [(3, 0.1), (9, 0.9)])
    assert sampler.study.trials[number].value == 0.75
    assert sampler.study.trials[number].intermediate_values == {3: 0.5}


def test_told_again_after_a_crash_in_the_middle(sampler):
    number = sampler.ask(0).number
    optuna.trial.Trial(sampler.study, sampler.study.trials[number]._trial_id).report(0.5, 3)
    sampler.tell(number, "stopped", None, [(3, 0.5), (6, 0.25)])
    assert sampler.study.trials[number].intermediate_values == {3: 0.5, 6: 0.25}


def test_a_failure_that_succeeds_later_is_learnt_from_once(sampler):
    proposal = sampler.ask(0)
    sampler.tell(proposal.number, "failed", None, [])
    for _ in range(2):
        sampler.tell(proposal.number, "finished", 0.75, [])
    failed, again = sampler.study.trials[proposal.number :]
    assert (failed.state, again.state, again.value) == (TrialState.FAIL, TrialState.COMPLETE, 0.75)
    assert again.params == failed.params


def test_a_failure_that_is_stopped_the_next_time_is_pruned_at_its_step(sampler):
    proposal = sampler.ask(0)
    sampler.tell(proposal.number, "failed", None, [(3, 0.5)])
    for _ in range(2):
        sampler.tell(proposal.number, "stopped", None, [(3, 0.5), (6, 0.25)])
    failed, again = sampler.study.trials[proposal.number :]
    assert (failed.state, again.state, again.last_step) == (TrialState.FAIL, TrialState.PRUNED, 6)
    assert again.params == failed.params and again.intermediate_values == {3: 0.5, 6: 0.25}


def test_forbidden_combinations_are_never_returned(sampler):
    for draw in range(30):
        labels = set(sampler.ask(draw).recipe.labels)
        assert not {"first/cost_sensitive", "first/input_mixup"} <= labels
    # the study was told of those that came up
    states = [trial.state for trial in sampler.study.trials]
    assert states.count(TrialState.RUNNING) == 30 and states.count(TrialState.FAIL) > 0


def test_a_space_in_which_nothing_can_be_trained_says_so():
    space = Space(
        stages=[Stage("first", length=1, choose=[one_of("cost_sensitive"), one_of("class_balanced")])],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason="it is a test")],
    )
    with pytest.raises(SpaceExhausted, match=r"50 proposals in a row cannot be trained; the last one: .*it is a test"):
        make(space).ask(0)


def test_the_choices_of_a_start_are_kept():
    space = Space(stages=[*SPACE.stages[:2], one_of(
        Stage("plain", length=0.3, carry="weights", lr=log_uniform(0.01, 0.1)),
        Stage("deferred", length=0.3, carry="weights", choose=[one_of("class_balanced", "square_root")]))])  # fmt: skip
    sampler = make(space)
    recipe = sampler.ask(0).recipe
    starts = sampler.siblings(recipe)
    assert {start["stage_3"] for start in starts} == {"plain", "deferred"}
    assert starts[0]["stage_3"] == recipe.params["stage_3"]
    for draw, start in enumerate(starts * 6, start=1):
        plan = sampler.ask(draw, start).recipe.plan
        assert plan.stages[:-1] == recipe.plan.stages[:-1] and plan.stages[-1].name == start["stage_3"]
    # what comes last is free
    last = [str(trial.params) for trial in sampler.study.trials]
    assert len(set(last)) > 4


def test_a_start_is_known_where_its_last_stage_forbids_the_defaults():
    space = Space(
        stages=[Stage("first", length=0.5, choose=[one_of("cost_sensitive")]),
                one_of(Stage("last", length=0.5, choose=[one_of("class_balanced", "square_root")]),
                       Stage("other", length=0.5, choose=[one_of("class_balanced")]))],
        forbid=[forbid("first/cost_sensitive", "last/class_balanced", reason="a test")],
    )  # fmt: skip
    good = {"stage_2": "last", "last/draw": "square_root"}
    recipe = build(space, lambda name, domain, default: good.get(name, default), STANDARD)
    assert "last" in {start["stage_2"] for start in make(space).siblings(recipe)}


def test_grids_hold(sampler):
    """0.2 … 1.0 in steps of 0.3 is 0.2, 0.5, 0.8: Optuna would warn of the end that is not on the grid."""
    alphas, rates = set(), set()
    for draw in range(40):
        stage = sampler.ask(draw).recipe.plan.stages[0]
        rates.add(stage.lr)
        alphas |= {trick.numbers["alpha"] for trick in stage.tricks if trick.name == "input_mixup"}
    assert alphas <= {0.2, 0.5, 0.8} and len(alphas) > 1
    assert rates <= {0.01, 0.02154, 0.04642, 0.1, 0.2154} and len(rates) > 2


def test_the_same_seed_makes_the_same_proposals():
    assert ids(make(seed=3), 14) == ids(make(seed=3), 14)
    assert ids(make(seed=3), 14) != ids(make(seed=4), 14)


def test_a_study_that_goes_on_proposes_what_it_would_have_proposed():
    whole = ids(make(), 14)
    storage = optuna.storages.InMemoryStorage()
    first = ids(make(storage=storage), 12)
    again = make(storage=storage)
    assert len(again.study.trials) >= 12
    second = []
    for draw in (12, 13):
        proposal = again.ask(draw)
        again.tell(proposal.number, "finished", 0.5, [])
        second.append(proposal.recipe.plan.id)
    assert first + second == whole


def test_what_was_asked_for_and_never_known_is_given_up(sampler):
    known = sampler.ask(0).number
    lost = sampler.ask(1).number
    sampler.study.enqueue_trial({"first/lr": 0.1})
    sampler.forget({known})
    assert [trial.state for trial in sampler.study.trials if trial.number in (known, lost)] == [
        TrialState.RUNNING,
        TrialState.FAIL,
    ]
    assert TrialState.WAITING not in [trial.state for trial in sampler.study.trials]


def test_the_design_teaches_what_the_space_can_express(sampler):
    cells = {(cell.context, cell.tricks): cell.recipe for cell in make_design(SPACE, STANDARD).cells}
    for recipe in cells.values():
        sampler.learn(recipe, 0.5)
    taught = {trial.user_attrs["recipe"] for trial in sampler.study.trials}
    # the space offers no stage "deferred" without a trick
    assert cells["deferred", ()].plan.id not in taught
    assert cells["deferred", ("deferred/class_balanced",)].plan.id in taught
    assert cells["", ()].plan.id in taught and cells["", ("deferred",)].plan.id in taught
    assert all(trial.state == TrialState.COMPLETE and trial.value == 0.5 for trial in sampler.study.trials)
    # once
    before = len(sampler.study.trials)
    sampler.learn(cells["", ()], 0.6)
    assert len(sampler.study.trials) == before


def test_what_is_out_of_range_is_not_taught(sampler):
    narrow = make(Space(stages=[Stage("first", length=1, lr=log_uniform(0.2, 0.3))]))
    wide = Space(stages=[Stage("first", length=1, lr=log_uniform(0.01, 0.3))])
    narrow.learn(build(wide, defaults(), STANDARD), 0.5)  # 0.1, the standard one
    assert narrow.study.trials == []


def test_results_guide_the_proposals():
    """One option of four is worth 0.9, the others 0.1: TPE leans on it."""
    options = one_of(None, "class_balanced", "square_root", "progressive")
    space = Space(stages=[Stage("first", length=1, lr=log_uniform(0.01, 0.3), choose=[options])])
    sampler = make(space)
    good = []
    for draw in range(48):
        proposal = sampler.ask(draw)
        good.append("first/progressive" in proposal.recipe.labels)
        sampler.tell(proposal.number, "finished", 0.9 if good[-1] else 0.1, [])
    assert sum(good) >= 19  # 12 ± 3 by chance


def test_the_study_is_in_its_storage(tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    sampler = make(storage=storage, name="mine")
    sampler.tell(sampler.ask(0).number, "finished", 0.75, [(3, 0.75)])
    loaded = optuna.load_study(study_name="mine", storage=storage)
    assert loaded.best_value == 0.75 and loaded.direction == optuna.study.StudyDirection.MAXIMIZE
    assert make(storage=storage, name="mine").study.best_value == 0.75
