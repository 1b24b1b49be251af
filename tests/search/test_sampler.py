"""What Optuna is asked and told, on a real study."""

import json

import pytest
from optuna.trial import TrialState

from search.design.labels import make_design
from search.scheduling.sampler import Sampler, SpaceExhausted
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


def make(space=SPACE, seed=0) -> Sampler:
    return Sampler(space, STANDARD, 1.0, None, "study", seed)


def contents(sampler: Sampler) -> list[tuple]:
    """All that a study holds, except times."""
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values, t.user_attrs, t.system_attrs)
        for t in sampler.study.trials
    ]


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


def tell(sampler: Sampler, number: int) -> None:
    outcome = ("finished", "stopped", "finished", "diverged")[number % 4]
    sampler.tell(number, outcome, 0.1 + number / 1000 if outcome == "finished" else None, [(3, 0.5), (6, number / 100)])


def played(draws: int) -> tuple[Sampler, list[dict], list[int]]:
    """A study with lessons and proposals, of which the last two are running; what a journal keeps; who was told."""
    sampler, numbers = make(), []
    for cell in make_design(SPACE, STANDARD).cells:
        sampler.learn(cell.recipe, 0.5)
    events = [{"event": "lesson", **lesson} for lesson in sampler.take_in()]
    for draw in range(draws):
        proposal = sampler.ask(draw)
        recipe = proposal.recipe
        own = {"plan": recipe.plan.to_dict(), "params": dict(recipe.params), "labels": list(recipe.labels)}
        task = {"number": proposal.number, "recipe": own}
        events.append({"event": "task", "task": task, "drawn": proposal.drawn})
        numbers.append(proposal.number)
        if len(numbers) > 2:
            tell(sampler, numbers[-3])
    return sampler, json.loads(json.dumps(events)), numbers[:-2]


@pytest.mark.parametrize("draws", [0, 1, 9, 30])
def test_the_study_follows_from_the_journal(draws):
    """Rebuilt, it holds the same and proposes the same: forbidden draws, which take numbers, included."""
    whole, events, told = played(draws)
    again = make()
    assert again.rebuild(events) == []
    for number in told:
        tell(again, number)
    assert contents(again) == contents(whole)
    assert again.ask(draws).recipe == whole.ask(draws).recipe and contents(again) == contents(whole)
    if draws == 30:
        drawn = [event["drawn"] for event in events if event["event"] == "task"]
        assert any(each.get("refused") for each in drawn) and any(each["system"] for each in drawn)


def test_a_journal_without_lessons_and_draws_still_makes_a_study():
    """As earlier versions wrote them: what was learned came first, and what is lacking has failed."""
    sampler = make()
    for cell in make_design(SPACE, STANDARD).cells:
        sampler.learn(cell.recipe, 0.5)
    taught = len(sampler._taught)
    recipe = build(SPACE, defaults(), STANDARD)
    own = {"plan": recipe.plan.to_dict(), "params": dict(recipe.params), "labels": list(recipe.labels)}
    tasks = [{"event": "task", "task": {"number": taught + place, "recipe": own}} for place in (0, 3)]
    lessons = sampler.rebuild(tasks)
    assert [lesson["number"] for lesson in lessons] == list(range(taught)) and sampler.take_in() == []
    states = [trial.state for trial in sampler.study.trials]
    assert states == [TrialState.COMPLETE] * taught + [
        TrialState.RUNNING, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING,
    ]  # fmt: skip
    sampler.tell(taught, "finished", 0.25, [])
    assert sampler.study.trials[taught].value == 0.25 and sampler.study.trials[taught].params == recipe.params


def test_the_design_teaches_what_the_space_can_express(sampler):
    cells = {(cell.context, cell.tricks): cell.recipe for cell in make_design(SPACE, STANDARD).cells}
    for recipe in cells.values():
        sampler.learn(recipe, 0.5)
    sampler.take_in()
    taught = {trial.user_attrs["recipe"] for trial in sampler.study.trials}
    # the space offers no stage "deferred" without a trick
    assert cells["deferred", ()].plan.id not in taught
    assert cells["deferred", ("deferred/class_balanced",)].plan.id in taught
    assert cells["", ()].plan.id in taught and cells["", ("deferred",)].plan.id in taught
    assert all(trial.state == TrialState.COMPLETE and trial.value == 0.5 for trial in sampler.study.trials)
    # once
    before = len(sampler.study.trials)
    sampler.learn(cells["", ()], 0.6)
    assert sampler.take_in() == []
    assert len(sampler.study.trials) == before


def test_what_is_out_of_range_is_not_taught(sampler):
    narrow = make(Space(stages=[Stage("first", length=1, lr=log_uniform(0.2, 0.3))]))
    wide = Space(stages=[Stage("first", length=1, lr=log_uniform(0.01, 0.3))])
    narrow.learn(build(wide, defaults(), STANDARD), 0.5)  # 0.1, the standard one
    assert narrow.take_in() == [] and narrow.study.trials == []


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
