"""From a space to plans: labels, chains, what is kept, and what is refused before anything is trained."""

import dataclasses
import json
import math
import random
from dataclasses import replace

import pytest

from search.scheduling.time_left.random_recipes import random_pick
from spaces.domain import OneOf, Space, Stage, forbid, integer, log_uniform, one_of, some_of, trick
from spaces.domain import uniform as uniform_
from spaces.full_combo import SPACE
from trainables.data import standard
from trainables.pipeline.keys import stage_keys
from trainables.plan import NONE, Forbidden, Plan, build, check, check_space, defaults, tricks_of
from trainables.registry import PlanError, name_of

DIGITS = replace(standard("digits-lt"), epochs=30, final_epochs=30)


def recipe(stages, *on, off=(), scale=1.0, **more):
    return build(Space(stages=stages, **more), defaults(on, off), DIGITS, scale)


THREE_ENDS = [
    Stage("first", length=0.8, choose=[one_of(None, "cost_sensitive"), one_of(None, "input_mixup")]),
    one_of(
        Stage("finish", length=0.2, carry="all", keep=True),
        Stage("deferred", length=0.2, carry="all", keep=("mix",), choose=[one_of("class_balanced", "cost_sensitive")]),
        Stage("classifier", length=0.2, lr=0.05, carry="weights", choose=["classifier"]),
    ),
]


# --- labels -----------------------------------------------------------------------------------------------


def test_the_baseline_has_no_labels():
    plain = recipe(THREE_ENDS)
    assert plain.labels == ()
    assert plain.title == "baseline"
    assert [stage.name for stage in plain.plan.stages] == ["first", "finish"]
    assert plain.params == {"first/weight": NONE, "first/mix": NONE, "stage_2": "finish"}


def test_labels_of_tricks_and_of_whole_stages():
    both = recipe(THREE_ENDS, "first/input_mixup", "deferred")
    assert both.labels == ("first/input_mixup", "deferred", "deferred/class_balanced")
    assert both.title == "first/input_mixup + deferred/class_balanced"
    # a label inside an optional stage brings the stage
    assert recipe(THREE_ENDS, "deferred/cost_sensitive").labels == ("deferred", "deferred/cost_sensitive")
    assert recipe(THREE_ENDS, "classifier").labels == ("classifier", "classifier/classifier")


def test_off_takes_a_trick_away_even_where_none_is_no_option():
    without = recipe(THREE_ENDS, "deferred", off=("deferred/class_balanced",))
    assert without.labels == ("deferred",)
    assert without.plan.stages[1].on("draw") == []
    # of a choice of stages, the first option stays
    assert recipe(THREE_ENDS, off=("deferred",)).labels == ()
    optional = [Stage("a", epochs=1), one_of(None, Stage("b", epochs=1))]
    assert [stage.name for stage in recipe(optional).plan.stages] == ["a"]
    assert [stage.name for stage in recipe(optional, "b").plan.stages] == ["a", "b"]


def test_choices_are_readable():
    choices = recipe(THREE_ENDS, "first/cost_sensitive", "first/input_mixup").choices
    assert choices["stages"] == "first > finish"
    assert choices["first/weight"] == "cost_sensitive"
    assert choices["first/mix"] == "input_mixup"
    assert choices["first/cost_sensitive.power"] == 1.0
    assert (choices["first/epochs"], choices["first/lr"], choices["first/members"]) == (24, 0.1, 1)


def test_some_of_and_names_of_choices():
    stages = [Stage("a", epochs=1, choose=[some_of("cutout", "auto_augment", at_most=1)])]
    assert recipe(stages, "a/cutout").labels == ("a/cutout",)
    assert recipe(stages).params == {"a/cutout": NONE, "a/auto_augment": NONE}
    with pytest.raises(Forbidden, match=r"stage 'a': some_of\(…\) takes 0 to 1 tricks, got 2"):
        recipe(stages, "a/cutout", "a/auto_augment")
    twice = [Stage("a", epochs=1, choose=[one_of(None, "cutout"), one_of(None, "auto_augment")])]
    assert list(recipe(twice).params) == ["a/augment", "a/augment_2"]


# --- numbers ----------------------------------------------------------------------------------------------


def test_numbers_come_from_the_stage_or_the_data_set():
    first, second = recipe(
        [Stage("a", length=0.5, weight_decay=0.0, schedule="cosine"), Stage("b", epochs=7, lr=0.01, momentum=0.5)]
    ).plan.stages
    assert (first.epochs, first.lr, first.weight_decay, first.schedule) == (15, DIGITS.lr, 0.0, "cosine")
    assert (second.epochs, second.lr, second.momentum, second.schedule) == (7, 0.01, 0.5, DIGITS.schedule)
    assert (first.carry, second.carry) == ("start", "weights")
    assert [stage.epochs for stage in recipe(THREE_ENDS, scale=0.1).plan.stages] == [2, 1]


def test_defaults_of_open_numbers_are_the_nearest_to_the_standard():
    stage = Stage(
        "a", length=uniform_(0.5, 1), lr=log_uniform(0.01, 0.3, step="thirds"), members=integer(1, 3),
        weight_decay=one_of(1e-4, 1e-3), batch_size=one_of(32, 128),
        choose=[one_of(None, trick("effective_number", beta=one_of(0.9, 0.99, 0.9999))), "average"],
    )  # fmt: skip
    found = recipe([stage], "a/effective_number")
    assert found.params == {
        "a/weight": "effective_number", "a/effective_number.beta": 0.9999, "a/lr": 0.1, "a/weight_decay": 1e-3,
        "a/batch_size": 32, "a/length": 0.75, "a/members": 1,
    }  # fmt: skip
    # every number is written out, those that nobody chose as well
    assert found.plan.stages[0].tricks[0].numbers.keys() == {"beta", "normalise"}


def test_bad_numbers_are_refused():
    for key, value, message in (
        ("lr", 0, "lr must be a number above 0, got 0"),
        ("lr", "1e-3", "lr must be a number above 0, got '1e-3'"),
        ("lr", math.inf, "lr must be a number above 0, got inf"),
        ("weight_decay", -1, "weight_decay must be a number of at least 0, got -1"),
        ("momentum", 1, r"momentum must be a number in \[0, 1\), got 1"),
        ("epochs", 0, "epochs must be a whole number from 1 to 1,000,000, got 0"),
        ("epochs", 1.5, "epochs must be a whole number from 1 to 1,000,000, got 1.5"),
        ("batch_size", 1, "batch_size must be a whole number from 2 to 10,000,000, got 1"),
        ("members", True, "members must be a whole number from 1 to 10,000, got True"),
        ("schedule", "one_cicle", "unknown schedule 'one_cicle': did you mean 'one_cycle'"),
        ("reduction", "sum", "unknown reduction 'sum': known are expected, mean, weighted_mean"),
        ("carry", "most", "unknown carry 'most'"),
    ):
        stage = dataclasses.replace(recipe(THREE_ENDS).plan.stages[0], **{key: value})
        with pytest.raises(PlanError, match=f"^stage 'first': {message}"):
            check(Plan((stage,)))
    with pytest.raises(PlanError, match=r"stage 'a': length must be above 0, got 0"):
        recipe([Stage("a", length=0)])
    with pytest.raises(PlanError, match=r"a plan needs at least one stage"):
        check(Plan(()))


# --- chains -----------------------------------------------------------------------------------------------


def keys_of_first(*on):
    return stage_keys(recipe(THREE_ENDS, *on).plan, {})[0]


def test_plain_and_deferred_share_their_first_stage_and_the_classifier_does_not():
    assert keys_of_first() == keys_of_first("deferred") == keys_of_first("deferred/cost_sensitive")
    assert keys_of_first() != keys_of_first("classifier")
    assert keys_of_first() != keys_of_first("first/input_mixup")
    plan = recipe(THREE_ENDS, "deferred").plan
    assert [plan.starts_chain(index) for index in (0, 1)] == [True, False]
    assert plan.chain(0) == plan.chain(1) == range(2)
    plan = recipe(THREE_ENDS, "classifier").plan
    assert [plan.chain(index) for index in (0, 1)] == [range(1), range(1, 2)]
    assert [plan.chain_number(index) for index in (0, 1)] == [0, 1]


def test_a_merge_ends_a_chain_and_its_learning_rate_is_inherited():
    plan = recipe(
        [
            Stage("a", epochs=4, lr=0.2, reduction="mean"),
            Stage("b", epochs=2, lr=0.01, weight_decay=0.0, members=3, choose=["few_shot", "average"]),
            Stage("c", epochs=2, carry="all"),
            Stage("d", epochs=2, carry="all"),
        ]
    ).plan
    assert [plan.starts_chain(index) for index in range(4)] == [True, True, True, False]
    assert [plan.chain_number(index) for index in range(4)] == [0, 1, 2, 2]
    assert plan.chain(2) == plan.chain(3) == range(2, 4)
    assert [(stage.lr, stage.weight_decay) for stage in plan.stages[1:]] == [(0.01, 0.0)] * 3
    assert [stage.reduction for stage in plan.stages] == ["mean", "expected", "expected", "expected"]
    assert (plan.epochs, plan.cost) == (10, 14)


def test_a_chain_keeps_its_numbers():
    stages = [Stage("a", epochs=1, lr=0.3, batch_size=8, reduction="mean"), Stage("b", epochs=1, carry="all")]
    first, second = recipe(stages).plan.stages
    assert dataclasses.replace(second, name="a", carry="start") == first
    for key, value in (("lr", 0.1), ("batch_size", 4), ("schedule", "cosine")):
        with pytest.raises(PlanError, match=rf"stage 'b': carry='all' takes {key} over from the stage before; remove"):
            recipe([stages[0], Stage("b", epochs=1, carry="all", **{key: value})])


def test_what_is_kept():
    first = Stage("a", epochs=1, choose=["cost_sensitive", "input_mixup", "cutout", "cosine_head", "focal"])

    def kept(**more):
        plan = recipe([first, Stage("b", epochs=1, **({"carry": "all"} | more))]).plan
        return [(trick.name, trick.kept) for trick in plan.stages[1].tricks]

    assert kept(keep=False) == []
    # heads have had their effect
    everything = [("cost_sensitive", True), ("input_mixup", True), ("cutout", True), ("focal", True)]
    assert kept(keep=True) == everything
    assert kept(keep=("mix", "augment")) == [("input_mixup", True), ("cutout", True)]
    assert kept(keep=True, carry="weights", choose=["effective_number"]) == [
        *everything[1:],
        ("effective_number", False),
    ]
    with pytest.raises(PlanError, match=r"stage 'b': keep= names no seam 'mixx': did you mean 'mix'\?"):
        kept(keep=("mixx",))


def test_what_members_do_ends_with_their_merge():
    plan = recipe(
        [
            Stage("a", epochs=1, choose=["input_mixup"]),
            Stage("b", epochs=1, members=2, choose=["few_shot", "average"]),
            Stage("c", epochs=1, carry="all", keep=True),
        ]
    ).plan
    assert [trick.name for trick in plan.stages[2].tricks] == ["input_mixup"]


# --- refusals ---------------------------------------------------------------------------------------------

PLAIN = Stage("a", epochs=1)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", epochs=1, choose=["cam_foreground"])],
         r"stage 'a': cam_foreground reads a trained network, so it cannot sit in the first stage"),
        ([Stage("a", epochs=1, choose=["classifier"])], r"classifier reads a trained network"),
        ([PLAIN, Stage("b", epochs=1, carry="all", choose=["classifier"])],
         r"stage 'b': classifier changes what learns, so it cannot sit in .* use carry='weights'"),
        ([PLAIN, Stage("b", epochs=1, carry="all", choose=["cosine_head"])], r"stage 'b': cosine_head changes what"),
        ([Stage("a", epochs=1, members=2)], r"stage 'a': 2 members need a merge, e.g. choose=\['average', …\]"),
        ([Stage("a", epochs=1, choose=["cosine_head"]), Stage("b", epochs=1, choose=["tau_norm"])],
         r"stage 'b': tau_norm needs 'linear', which nothing in the plan provides"),
        ([Stage("a", epochs=1, choose=["focal", "softmax_focal"])],
         r"stage 'a': focal, softmax_focal all sit on seam 'loss', which takes one trick per stage; keep one, or move"),
        ([Stage("a", epochs=1, choose=["fokal"])], r"unknown trick 'fokal': did you mean 'focal'\?"),
        ([Stage("a", epochs=1, choose=[trick("focal", gamma=-1)])], r"trick 'focal': gamma must be a number in"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(stages, message):
    with pytest.raises(PlanError, match=message):
        recipe(stages)


def test_capabilities_are_inherited():
    plan = recipe([Stage("a", epochs=1, choose=["cosine_head"]), Stage("b", epochs=1, choose=["ldam"])]).plan
    assert plan.stages[1].on("logits")[0].name == "ldam"
    recipe([PLAIN, Stage("b", epochs=1, carry="all", choose=["cam_foreground"])])
    recipe([PLAIN, Stage("b", epochs=1, members=2, carry="all", choose=["average"])])


def test_what_the_space_forbids():
    rule = forbid("first/cost_sensitive", "deferred", reason="nobody wants it")
    with pytest.raises(Forbidden, match=r"first/cost_sensitive and deferred are forbidden together: nobody wants it"):
        recipe(THREE_ENDS, "first/cost_sensitive", "deferred", forbid=[rule])
    assert recipe(THREE_ENDS, "deferred", forbid=[rule]).labels[0] == "deferred"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Space([Stage("a", epochs=1, choose=[one_of(None, "cutuot")])]), r"unknown trick 'cutuot': did you mean 'cuto"),
        (Space([Stage("a", epochs=1, choose=[one_of(None, trick("focal", gamma=uniform_(-1, 2)))])]),
         r"^stage 'a': trick 'focal': gamma must be .* got -1"),
        (Space([Stage("a", epochs=1, choose=[one_of(None, trick("focal", gamma=one_of(1, -2)))])]),
         r"^stage 'a': trick 'focal': gamma must be .* got -2"),
        (Space(THREE_ENDS, screen=["first/class_balanced"]),
         r"screen: no choice of the space has the label 'first/class_balanced': did you mean"),
        (Space(THREE_ENDS, forbid=[forbid("finish", "deferred", reason="r")]), r"forbid: .* has the label 'finish'"),
        (Space([Stage("a", epochs=1, choose=["classifier"])]), r"classifier reads a trained network"),
        (Space([Stage("a", epochs=1, choose=[one_of(None, "classifier")])], screen=["a/classifier"]),
         r"screen: 'a/classifier' alone cannot be trained: stage 'a': classifier reads a trained network"),
    ],
)  # fmt: skip
def test_spaces_are_checked_when_they_are_read(space, message):
    with pytest.raises(PlanError, match=message):
        check_space(space, DIGITS)


# --- as data ----------------------------------------------------------------------------------------------


def test_a_plan_survives_json_and_has_an_id():
    plan = recipe(THREE_ENDS, "first/input_mixup", "classifier").plan
    restored = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert restored == plan
    assert restored.id == plan.id
    assert len(plan.id) == 10
    assert plan.id != recipe(THREE_ENDS, "first/input_mixup").plan.id
    assert "first: 24 epochs, lr 0.1, wd 0.0005; input_mixup(" in str(plan)
    assert "classifier: 6 epochs, lr 0.05, wd 0.0005, carries weights; classifier(" in str(plan)


@pytest.mark.parametrize("broken", [{}, {"stages": [{"name": "a"}]}, {"stages": "a"}, {"stages": [{"tricks": [{}]}]}])
def test_what_is_no_plan(broken):
    with pytest.raises(PlanError, match=r"plan: not a plan of this version"):
        Plan.from_dict(broken)


# --- the default space ------------------------------------------------------------------------------------


def some_recipes(space: Space, number: int, scale: float = 1.0):
    draws, refused = random.Random(0), 0
    recipes = []
    while len(recipes) < number:
        try:
            recipes.append(build(space, random_pick(draws, {}), DIGITS, scale))
        except PlanError:
            refused += 1
            assert refused < 10 * number
    return recipes, refused


def test_the_default_space_gives_plans():
    labels = check_space(SPACE, DIGITS)
    assert set(SPACE.screen) <= set(labels)
    recipes, refused = some_recipes(SPACE, 300)
    assert refused < 200
    assert len({recipe.plan.id for recipe in recipes}) > 250
    # every trick of the space is met, so what was built was not a corner of it
    slots = (slot.options if isinstance(slot, OneOf) else (slot,) for slot in SPACE.stages)
    offered = {trick.name for options in slots for stage in options if stage for trick in tricks_of(stage)}
    assert {trick.name for recipe in recipes for stage in recipe.plan.stages for trick in stage.tricks} == offered
    for recipe_ in recipes:
        assert Plan.from_dict(recipe_.plan.to_dict()) == recipe_.plan
        for stage in recipe_.plan.stages:
            assert [name_of(trick.made()) for trick in stage.tricks] == [trick.name for trick in stage.tricks]


def test_random_recipes_of_the_default_space_train(pipeline):
    recipes, _ = some_recipes(SPACE, 12, scale=0.07)
    assert {recipe.plan.stages[0].epochs for recipe in recipes} == {2}
    assert len({tuple(stage.name for stage in recipe.plan.stages) for recipe in recipes}) >= 4
    for number, recipe_ in enumerate(recipes):
        run = pipeline(recipe_.plan, seed=number)
        run.run()
        assert 0 <= run.result()[0]["final/accuracy"] <= 1
        assert run.cost.epochs == recipe_.plan.cost
