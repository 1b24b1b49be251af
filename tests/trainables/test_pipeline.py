"""Exactness: however a plan is cut, stopped, resumed or put together from finished stages, the result is the same."""

import json

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from spaces.domain import Stage, trick
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.registry import names

FIRST = Stage("a", epochs=2, choose=["input_mixup", "cutout"])
PLANS = {
    "all": [FIRST, Stage("b", epochs=2, carry="all", keep=("mix",), choose=["class_balanced"])],
    "weights": [FIRST, Stage("b", epochs=2, carry="weights", choose=["cost_sensitive", "cam_foreground"])],
    "members": [
        FIRST,
        Stage("b", epochs=1, members=2, carry="weights", choose=["few_shot", "average"]),
        Stage("c", epochs=1, carry="all", keep=True),
        Stage("d", epochs=1, carry="all", choose=["progressive"]),
    ],
    "classifier": [
        FIRST,
        Stage("b", epochs=2, choose=["classifier", "class_balanced", trick("max_norm", radius=0.5), "tau_norm"]),
        Stage("c", epochs=1, carry="all", choose=["label_over_smoothing"]),
    ],
    "views": [FIRST, Stage("b", epochs=2, views=2, choose=["classifier", "square_root"])],
    "heads": [
        Stage("a", epochs=1, choose=["cosine_head", "ldam"]),
        Stage("b", epochs=1, choose=["learnable_scale"]),
        Stage("c", epochs=1, members=2, choose=["few_shot", "interpolate", "flip_tta"]),
        Stage("d", epochs=1, choose=["classifier"]),
    ],
    **{
        f"average {name}": [Stage("a", epochs=2, choose=[name]), Stage("b", epochs=2, carry="all", keep=True),
                            Stage("c", epochs=1, choose=["classifier"])]
        for name in names(seam="average")
    },
}  # fmt: skip


def finished(run: Pipeline) -> Pipeline:
    run.run()
    return run


def equal(one: Pipeline, other: Pipeline) -> bool:
    """Bit-identical weights, the same curve, the same result, the same cost of the plan."""
    first, second = one.network().state_dict(), other.network().state_dict()
    cost = [(run.cost.epochs, run.cost.images, run.cost.steps) for run in (one, other)]
    return (
        first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
        and one.points == other.points
        and one.result() == other.result()
        and cost[0] == cost[1]
    )


@pytest.fixture(scope="module")
def alone(make_plan, pipeline):
    """alone(name): the plan, trained without a store and without a stop."""
    trained = {}

    def run(name: str) -> Pipeline:
        if name not in trained:
            trained[name] = finished(pipeline(make_plan(*PLANS[name])))
        return trained[name]

    return run


# --- a stage cut in two -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tricks",
    [
        [],
        ["input_mixup", "cutout", "cost_sensitive", "label_smoothing"],
        ["progressive", "rand_augment", "manifold_mixup"],
        ["cosine_head", "ldam", "few_shot"],
        [trick("max_norm", radius=0.3), "under_sampling"],
        *([name] for name in names(seam="average")),
    ],
)
@pytest.mark.parametrize("schedule", ["one_cycle", "multistep"])
def test_a_stage_cut_in_two_is_the_same_stage(tricks, schedule, make_plan, pipeline):
    numbers = {"schedule": schedule, "weight_decay": 1e-3, "batch_size": 32, "reduction": "mean"}
    whole = finished(pipeline(make_plan(Stage("a", epochs=6, choose=tricks, **numbers))))
    parts = [Stage("b", epochs=1, carry="all", keep=True), Stage("c", epochs=2, carry="all", keep=True)]
    cut = finished(pipeline(make_plan(Stage("a", epochs=3, choose=tricks, **numbers), *parts)))
    one, other = whole.network().state_dict(), cut.network().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.result() == cut.result()
    assert (whole.cost.images, whole.cost.steps) == (cut.cost.images, cut.cost.steps)
    # evaluations fall on the third and the sixth epoch, and at the end of every stage
    shared = {point.epoch: point.metrics for point in cut.points}
    assert [shared[point.epoch] for point in whole.points] == [point.metrics for point in whole.points]
    assert [(point.stage, point.epoch) for point in cut.points] == [("a", 3), ("b", 4), ("c", 6)]


def test_the_test_can_fail(make_plan, pipeline):
    whole = finished(pipeline(make_plan(Stage("a", epochs=4))))
    cut = finished(pipeline(make_plan(Stage("a", epochs=2), Stage("b", epochs=2, carry="weights", lr=0.1))))
    assert not equal(whole, cut)
    assert equal(whole, finished(pipeline(make_plan(Stage("a", epochs=4)))))


# --- stopped and resumed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_resuming_at_every_boundary_changes_nothing(name, alone, make_plan, pipeline):
    plan, steps = make_plan(*PLANS[name]), 0
    walking = pipeline(plan)
    while not walking.finished:
        walking.advance()
        steps += 1
        tensors, rest = walking.state()
        tensors, rest = load_tensors(save_tensors(tensors)), json.loads(json.dumps(rest))
        resumed = pipeline(plan)
        resumed.load_state(tensors, rest)
        assert resumed.progress == walking.progress
        assert resumed.points == walking.points
        assert equal(finished(resumed), alone(name))
        # and what was asked for its state goes on undisturbed
    assert steps == plan.cost
    assert equal(walking, alone(name))


def test_a_state_is_a_copy(make_plan, pipeline, alone):
    run = pipeline(make_plan(*PLANS["all"]))
    run.advance()
    tensors, _ = run.state()
    for tensor in tensors.values():
        tensor.zero_()
    assert equal(finished(run), alone("all"))


def test_resuming_with_a_store(make_plan, pipeline, tmp_path, alone):
    store = StageStore(tmp_path)
    plan = make_plan(*PLANS["members"])
    run = pipeline(plan, store=store)
    while run.progress < 0.5:  # in the middle of the members
        run.advance()
    tensors, rest = run.state()
    resumed = pipeline(plan, store=store)
    resumed.load_state(tensors, rest)
    assert equal(finished(resumed), alone("members"))
    assert equal(finished(pipeline(plan, store=store)), alone("members"))


# --- put together from finished stages --------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_a_store_changes_nothing(name, alone, make_plan, pipeline, tmp_path):
    plan, store = make_plan(*PLANS[name]), StageStore(tmp_path)
    cold = finished(pipeline(plan, store=store))
    warm = pipeline(plan, store=store)
    while not warm.finished:
        warm.advance()
    assert equal(cold, alone(name))
    assert equal(warm, alone(name))
    assert (cold.cost.epochs_trained, cold.cost.seconds_saved, cold.reused) == (plan.cost, 0, [])
    assert (warm.cost.epochs_trained, warm.cost.seconds) == (0, 0)
    assert warm.reused == [stage.name for stage in plan.stages]
    assert warm.cost.seconds_saved == pytest.approx(cold.cost.seconds)


@pytest.mark.parametrize("name", PLANS)
def test_every_prefix_can_be_re_used(name, alone, make_plan, pipeline, tmp_path):
    """Only the first stages are in the store; the rest is trained from what they hand over."""
    plan = make_plan(*PLANS[name])
    for number in range(1, len(plan.stages)):
        store = StageStore(tmp_path / str(number))
        first = pipeline(plan, store=store)
        while first.executor.state.stage < number:
            first.advance()
        run = finished(pipeline(plan, store=store))
        assert equal(run, alone(name))
        assert run.reused == [stage.name for stage in plan.stages[:number]]
        assert run.cost.epochs_trained == sum(stage.epochs * stage.members for stage in plan.stages[number:])


@pytest.mark.smoke
def test_plain_and_deferred_train_their_first_stage_once(make_plan, pipeline, tmp_path):
    store = StageStore(tmp_path)
    first = Stage("a", epochs=2)
    plain = make_plan(first, Stage("finish", epochs=1, carry="all"))
    deferred = make_plan(first, Stage("deferred", epochs=1, carry="all", choose=["class_balanced"]))
    one, other = finished(pipeline(plain, store=store)), finished(pipeline(deferred, store=store))
    assert (one.cost.epochs_trained, other.cost.epochs_trained) == (3, 1)
    assert other.reused == ["a"]
    assert one.first_stage == other.first_stage
    assert equal(other, finished(pipeline(deferred)))


def members(number: int, merge: str | None = "average", **more):
    tricks = ["few_shot", *([merge] if merge else []), *more.pop("tricks", [])]
    return [FIRST, Stage("b", epochs=2, members=number, choose=tricks, **more), Stage("c", epochs=1, carry="all")]


def test_fewer_members_are_a_prefix_of_more(make_plan, pipeline, tmp_path):
    store = StageStore(tmp_path)
    finished(pipeline(make_plan(*members(2)), store=store))
    three = finished(pipeline(make_plan(*members(3)), store=store))
    assert three.reused == ["a", "b#0", "b#1"]
    assert three.cost.epochs_trained == 2 + 1
    assert equal(three, finished(pipeline(make_plan(*members(3)))))
    # what the members took is counted with the merged entry, whoever trained them
    again = finished(pipeline(make_plan(*members(3)), store=store))
    assert again.reused == ["a", "b", "c"]
    assert equal(again, three)


def test_members_are_trained_once_for_all_merges_and_readouts(make_plan, pipeline, tmp_path):
    store = StageStore(tmp_path)
    finished(pipeline(make_plan(*members(2)), store=store))
    for more in ({"merge": "greedy_soup"}, {"merge": "interpolate"}, {"tricks": ["tau_norm"]}):
        plan = make_plan(*members(2, **more))
        run = finished(pipeline(plan, store=store))
        assert run.reused == ["a", "b#0", "b#1"]
        assert run.cost.epochs_trained == 1
        assert equal(run, finished(pipeline(plan)))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("merge", ["average", None])
def test_one_member_alone_is_measured(order, merge, make_plan, pipeline, tmp_path):
    """A stage without members is no member of a stage with them: one has a curve, the other has none."""
    store = StageStore(tmp_path)
    for number in order:
        stages = members(number, merge if number == 1 else "average")[:2]
        plan = make_plan(*stages)
        assert equal(finished(pipeline(plan, store=store)), finished(pipeline(plan)))


def test_a_re_used_curve_has_this_plans_names_and_epochs(make_plan, pipeline, tmp_path):
    store = StageStore(tmp_path)
    kinds = ("few_shot", "average")
    short = make_plan(Stage("a", epochs=6), Stage("b", epochs=1, members=2, choose=kinds), Stage("c", epochs=1))
    finished(pipeline(short, store=store))
    plan = make_plan(Stage("x", epochs=6), Stage("y", epochs=1, members=2, choose=kinds), Stage("z", epochs=3))
    run = pipeline(plan, store=store)
    given = [run.advance() for _ in range(2)]
    assert [[(p.stage, p.epoch, p.progress) for p in points] for points in given] == [
        [("x", 3, 0.3), ("x", 6, 0.6)],
        [("y", 7, 0.7)],
    ]
    assert run.progress == 0.7
    assert equal(finished(run), finished(pipeline(plan)))
    assert run.reused == ["x", "y"]


def test_trials_differ_by_seed_and_by_data(make_plan, pipeline, tmp_path, digits):
    store = StageStore(tmp_path)
    plan = make_plan(Stage("a", epochs=1))
    one = finished(pipeline(plan, store=store))
    other = finished(pipeline(plan, seed=1, store=store))
    assert other.reused == []
    assert not equal(one, other)
    assert one.first_stage != other.first_stage


# --- accounts ---------------------------------------------------------------------------------------------


def test_progress_and_cost(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=2), Stage("b", epochs=2, members=2, choose=["average"])))
    seen = [run.progress]
    while not run.finished:
        run.advance()
        seen.append(run.progress)
    # the members of a stage share its part of the plan
    assert seen == [0, 0.25, 0.5, 0.625, 0.75, 0.875, 1]
    assert run.cost.epochs == run.cost.epochs_trained == 6
    assert run.cost.steps == 6 * 3
    assert run.cost.images == 6 * len(run.data.train_labels)
    assert [(point.stage, point.epoch) for point in run.points] == [("a", 2), ("b", 4)]


def test_evaluations_fall_on_every_third_epoch_and_on_the_last(make_plan, pipeline):
    run = finished(pipeline(make_plan(Stage("a", epochs=7))))
    assert [point.epoch for point in run.points] == [3, 6, 7]
    metrics = run.points[-1].metrics
    assert {"accuracy", "adjusted", "class_means", "loss", "calibration_error", "train_loss"} <= metrics.keys()
    final, recalls, correct = run.result()
    assert final["final/accuracy"] == metrics["accuracy"] == pytest.approx(sum(recalls) / 10)
    assert sum(correct) == pytest.approx(60 * metrics["accuracy"])
    assert run.test()[0]["test/accuracy"] == pytest.approx(sum(run.test()[1]) / 10)


def test_without_evaluation_weights_are_the_same_and_kept_apart(make_plan, pipeline, tmp_path):
    plan = make_plan(*PLANS["members"])
    store = StageStore(tmp_path)
    silent = finished(pipeline(plan, evaluate=False, store=store))
    assert silent.points == []
    measured = finished(pipeline(plan, store=store))
    assert measured.reused == [] and measured.points
    assert finished(pipeline(plan, evaluate=False, store=store)).cost.epochs_trained == 0
    state, other = silent.network().state_dict(), measured.network().state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
