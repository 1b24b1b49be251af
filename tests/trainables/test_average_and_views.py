"""Averaged weights through whole plans, and stages that learn from the kept features of fixed views."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from spaces.domain import Stage, trick
from trainables import registry
from trainables.data.augment import shift_and_flip
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan
from trainables.registry import PlanError, discover
from trainables.training.evaluator import Evaluator
from trainables.training.feed import StageFeed
from trainables.training.network_setup import trained_network
from trainables.training.schedule import one_cycle
from trainables.training.seeding import generator
from trainables.training.stage_run import StageRun

EMA, SWA = trick("ema", decay=0.9), trick("swa", start=0.5)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one, other):
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], rtol=1e-4, atol=1e-6) for n in one)


def ended(run: Pipeline):
    """Weights and evaluations that a plan ends with."""
    run.run()
    return run.network().state_dict(), [point.metrics for point in run.points], run.result()


def same_end(one, other):
    return equal(one[0], other[0]) and repr(one[1:]) == repr(other[1:])


def states_by_epoch(run: Pipeline):
    """The weights behind every epoch, as they are trained."""
    states = []
    while not run.finished:
        run.advance()
        state = (
            run.executor.state.carry_over.model
            if run.executor.training is None
            else run.executor.training.run.network.state_dict()
        )
        states.append({name: tensor.clone() for name, tensor in state.items()})
    return states


def mean_of(states):
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(last)
        if (last := states[-1][name]).is_floating_point()
        else last
        for name in states[0]
    }


# --- averages ---------------------------------------------------------------------------------------------


def test_swa_is_the_mean_over_the_last_epochs(make_plan, pipeline):
    states = states_by_epoch(pipeline(make_plan(Stage("a", epochs=6))))
    run = pipeline(make_plan(Stage("a", epochs=6, choose=[SWA])))
    run.run()
    assert close(run.network().state_dict(), mean_of(states[2:]))
    assert not close(run.network().state_dict(), states[-1])


def test_ema_is_the_moving_average_over_the_steps(make_plan, pipeline):
    """Batches as large as the data, so that an epoch is a step."""
    states = states_by_epoch(pipeline(make_plan(Stage("a", epochs=6, batch_size=512))))
    run = pipeline(make_plan(Stage("a", epochs=6, batch_size=512, choose=[trick("ema", decay=0.45)])))
    run.run()
    assert run.cost.steps == 6
    expected = states[0]
    for step, state in enumerate(states[1:], start=2):
        # (1 + t) / (10 + t) reaches 0.45 behind the sixth step
        decay = {2: 3 / 12, 3: 4 / 13, 4: 5 / 14, 5: 6 / 15, 6: 7 / 16}[step]
        expected = {
            name: decay * expected[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
    assert close(run.network().state_dict(), expected)


@pytest.mark.parametrize("average", [EMA, SWA])
def test_training_itself_does_not_change(average, make_plan, pipeline):
    plain, other = (pipeline(make_plan(Stage("a", epochs=4, choose=choose))) for choose in ([], [average]))
    assert all(equal(a, b) for a, b in zip(states_by_epoch(plain), states_by_epoch(other), strict=True))
    assert plain.points[-1].metrics["train_loss"] == other.points[-1].metrics["train_loss"]
    assert plain.points[-1].metrics["loss"] != other.points[-1].metrics["loss"]


@pytest.mark.parametrize("average", [EMA, SWA])
def test_what_is_evaluated_is_the_average(average, make_plan, pipeline):
    plan = make_plan(Stage("a", epochs=4, choose=[average]))
    run = pipeline(plan)
    run.run()
    measured = Evaluator(run.context, plan, 0)(run.network())
    assert {name: run.points[-1].metrics[name] for name in ("loss", "accuracy", "class_means")} == {
        name: measured[name] for name in ("loss", "accuracy", "class_means")
    }


@pytest.mark.parametrize("average", [trick("ema", decay=0), trick("swa", start=1)])
def test_a_neutral_average_changes_nothing(average, make_plan, pipeline):
    plain, other = (pipeline(make_plan(Stage("a", epochs=3, choose=choose))) for choose in ([], [average]))
    plain.run()
    other.run()
    assert equal(plain.network().state_dict(), other.network().state_dict())
    assert plain.points[-1].metrics == other.points[-1].metrics


@pytest.mark.parametrize("average", [EMA, SWA])
def test_a_split_stage_is_bit_identical(average, make_plan, pipeline, tmp_path):
    whole = ended(pipeline(make_plan(Stage("a", epochs=5, choose=[average]))))
    for first in (1, 3, 4):
        split = (
            Stage("a", epochs=first, choose=[average]),
            Stage("b", epochs=5 - first, carry="all", keep=True),
        )
        parts = ended(pipeline(make_plan(*split)))
        assert equal(whole[0], parts[0])
        assert whole[2] == parts[2]
        stored = [ended(pipeline(make_plan(*split), store=StageStore(tmp_path / str(first)))) for _ in range(2)]
        assert all(same_end(parts, other) for other in stored)


@pytest.mark.parametrize("average", [EMA, SWA])
def test_a_state_in_the_middle_keeps_the_average(average, make_plan, pipeline):
    plan = make_plan(Stage("a", epochs=3), Stage("b", epochs=4, choose=[average]))
    expected = ended(pipeline(plan))
    for epochs in (1, 4, 6):
        run = pipeline(plan)
        for _ in range(epochs):
            run.advance()
        tensors, rest = run.state()
        again = pipeline(plan)
        again.load_state(tensors, json.loads(json.dumps(rest)))
        assert same_end(expected, ended(again))


@pytest.mark.parametrize("average", [EMA, SWA])
def test_a_new_chain_starts_from_the_average(average, make_plan, pipeline):
    plan = make_plan(Stage("a", epochs=3, choose=[average]), Stage("b", epochs=1, carry="weights"))
    run = pipeline(plan)
    while run.executor.state.stage == 0:
        run.advance()
    handed = run.executor.state.carry_over
    assert not equal(handed.averaged, handed.model)
    started = StageRun(run.context, plan, 1, 0, handed)
    assert equal(started.network.state_dict(), handed.averaged)
    assert started.average.state == {}
    assert started.average.network(started.network) is started.network


@pytest.mark.parametrize("average", [EMA, SWA])
def test_an_average_ends_with_its_trick(average, make_plan, pipeline):
    """A stage that goes on without it is judged by its own weights, not by what was averaged before."""
    plain, other = (
        ended(pipeline(make_plan(Stage("a", epochs=3, choose=choose), Stage("b", epochs=2, carry="all"))))
        for choose in ([], [average])
    )
    assert equal(plain[0], other[0])
    assert plain[1][-1] == other[1][-1]


@pytest.mark.parametrize("before", [[], [EMA], [trick("swa", start=0)]])
def test_an_average_that_comes_on_late_begins_there(before, make_plan, pipeline):
    states = states_by_epoch(pipeline(make_plan(Stage("a", epochs=7))))
    late = trick("swa", start=0.25)
    run = pipeline(
        make_plan(
            Stage("a", epochs=3, choose=before),
            Stage("b", epochs=2, carry="all", choose=[late]),
            Stage("c", epochs=2, carry="all", keep=True),
        )
    )
    run.run()
    assert close(run.network().state_dict(), mean_of(states[3:]))


def test_a_moving_average_with_another_decay_begins_anew(make_plan, pipeline):
    """At the ninetieth part of a step away from where it begins: d of the first step takes the weights as they are."""
    states = states_by_epoch(pipeline(make_plan(Stage("a", epochs=3, batch_size=512))))
    run = pipeline(
        make_plan(
            Stage("a", epochs=2, batch_size=512, choose=[EMA]),
            Stage("b", epochs=1, carry="all", choose=[trick("ema", decay=0.99)]),
        )
    )
    run.run()
    assert equal(run.network().state_dict(), states[-1])


def test_members_hand_over_their_averages(make_plan, pipeline):
    def plan(**more) -> Plan:
        return make_plan(Stage("a", epochs=1), Stage("b", epochs=2, choose=["few_shot", SWA, "average"], **more))

    alone, run = pipeline(plan()), pipeline(plan(members=2))
    alone.run()
    while not run.executor.state.members:
        run.advance()
    assert equal(run.executor.state.members[0], alone.network().state_dict())
    assert not equal(run.executor.state.members[0], alone.executor.state.carry_over.model)


# --- views ------------------------------------------------------------------------------------------------

RETRAINED = ["classifier", "class_balanced"]
SMOOTHED = [trick("classifier", reset=False), "label_over_smoothing"]
SCALED = ["learnable_scale", "class_balanced"]
SECOND = {"cRT": RETRAINED, "LOS": SMOOTHED, "LWS": SCALED}


@pytest.fixture
def second(make_plan):
    """second(tricks, …): a plan whose second stage learns the classifier from three views."""

    def made(choose, views=3, epochs=3, lr=0.05, first=(), **more) -> Plan:
        stage = Stage("b", epochs=epochs, lr=lr, carry="weights", views=views, choose=list(choose), **more)
        return make_plan(Stage("a", epochs=2, choose=list(first)), stage)

    return made


@pytest.fixture
def computed(monkeypatch):
    """How often features were computed."""
    calls = []
    compute = StageFeed.compute_features
    monkeypatch.setattr(StageFeed, "compute_features", lambda *given: (calls.append(1), compute(*given))[1])
    return calls


@pytest.mark.parametrize("kind", SECOND)
def test_the_store_changes_nothing(kind, second, pipeline, tmp_path, computed):
    store = StageStore(tmp_path)
    plan = second(SECOND[kind])
    without = ended(pipeline(plan))
    empty = ended(pipeline(plan, store=StageStore(tmp_path / "empty")))
    assert len(computed) == 2
    # another stage from the same start leaves its features, not its weights
    pipeline(second(SECOND[kind], lr=0.01), store=store).run()
    assert len(computed) == 3
    run = pipeline(plan, store=store)
    warm = ended(run)
    assert (len(computed), run.reused, run.cost.epochs_trained) == (3, ["a"], 3)
    run = pipeline(plan, store=store)
    whole = ended(run)
    assert (len(computed), run.reused) == (3, ["a", "b"])
    assert all(same_end(without, other) for other in (empty, warm, whole))


def test_stages_from_one_start_share_their_features(second, pipeline, tmp_path, computed):
    store = StageStore(tmp_path)
    for number, choose in enumerate(SECOND.values(), start=1):
        pipeline(second(choose, lr=0.01 * number), store=store).run()
    assert len(computed) == 1
    pipeline(second(RETRAINED, views=2), store=store).run()
    pipeline(second([*RETRAINED, "cutout"]), store=store).run()
    pipeline(second(RETRAINED), seed=1, store=store).run()
    pipeline(second(RETRAINED, first=["balanced_softmax"]), store=store).run()
    assert len(computed) == 5


def test_what_looks_through_the_network_sees_the_trained_one(second, pipeline, tmp_path, computed):
    """Not the classifier that the stage has just reset or replaced: all stages from one start see the same."""
    run = pipeline(second(RETRAINED))
    while run.executor.state.stage == 0:
        run.advance()
    features = [
        StageRun(run.context, second([*tricks, "cam_foreground"]), 1, 0, run.executor.state.carry_over).feed.features
        for tricks in (["classifier"], [trick("classifier", reset=False)], ["learnable_scale"])
    ]
    features.append(
        StageRun(
            run.context, second(["cosine_head", "classifier", "cam_foreground"]), 1, 0, run.executor.state.carry_over
        ).feed.features
    )
    assert all(other.equal(features[0]) for other in features)
    handed = second(["learnable_scale", "cam_foreground"])
    alone = ended(pipeline(handed))
    store = StageStore(tmp_path)
    pipeline(second(["classifier", "cam_foreground"]), store=store).run()
    assert same_end(alone, ended(pipeline(handed, store=store)))


def test_one_view_by_hand(second, pipeline, digits):
    """Features of one view of every image, and a plain loop over them."""
    plan = second([trick("classifier", reset=False)], views=1)
    run = pipeline(plan)
    while run.executor.state.stage == 0:
        run.advance()
    network = trained_network(run.context, run.plan, 0, run.executor.state.carry_over.result).eval()
    images = shift_and_flip(digits.train_images[None], digits.pad, digits.flip, generator(0, "view", 0, "shift"))
    with torch.no_grad():
        features = network(digits.normalise(images[0])).features
    weight, bias = (network.head.weight.detach().clone(), network.head.bias.detach().clone())
    momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
    stage = plan.stages[1]
    for epoch in range(3):
        order = torch.randperm(len(features), generator=generator(0, 1, 0, "draw", epoch))
        batches = order.split(64)
        assert len(batches[-1]) > 1
        for step, index in enumerate(batches):
            lr = 0.05 * one_cycle(epoch + step / len(batches), 3)
            x, y = features[index], functional.one_hot(digits.train_labels[index], 10).float()
            error = ((x @ weight.T + bias).softmax(dim=1) - y) / len(index)
            for parameter, momentum, gradient in zip(
                (weight, bias), momenta, (error.T @ x, error.sum(dim=0)), strict=True
            ):
                momentum.mul_(stage.momentum).add_(gradient + stage.weight_decay * parameter)
                parameter.sub_(lr * momentum)
    run.run()
    after = run.network().state_dict()
    assert torch.allclose(after["head.weight"], weight, atol=1e-5)
    assert torch.allclose(after["head.bias"], bias, atol=1e-5)
    assert (after["head.weight"] - network.head.weight).abs().max() > 1e-3


def test_views_differ_and_are_all_drawn(second, pipeline, digits):
    run = pipeline(second(RETRAINED))
    while run.executor.state.stage == 0:
        run.advance()
    stage = StageRun(run.context, run.plan, 1, 0, run.executor.state.carry_over)
    features = stage.feed.features
    assert features.shape == (3, len(digits.train_labels), 64)
    assert not torch.allclose(features[0], features[1])
    # the first views are those of a stage with fewer of them
    fewer = StageRun(run.context, second(RETRAINED, views=2), 1, 0, run.executor.state.carry_over).feed.features
    assert features[:2].equal(fewer)
    # to the last bit whatever the batch, though batches of so many pixels are laid out in another way
    for batch_size in (8, 512):
        assert StageRun(
            run.context, second(RETRAINED, batch_size=batch_size), 1, 0, run.executor.state.carry_over
        ).feed.features.equal(features)


@pytest.mark.parametrize("readout", [trick("tau_norm", tau=0.7), "flip_tta", "nearest_mean", "post_hoc_adjustment"])
def test_readouts_evaluate_as_they_do_without_kept_features(readout, second, pipeline):
    plan = second([*RETRAINED, readout])
    run = pipeline(plan)
    run.run()
    anew = Evaluator(run.context, Plan((plan.stages[0], replace(plan.stages[1], views=0))), 1)(run.network())
    kept = run.executor.state.last
    assert all(kept[name] == pytest.approx(anew[name], nan_ok=True, abs=1e-6) for name in anew)
    assert kept["predicted"] == anew["predicted"]
    assert kept["class_means"] == anew["class_means"]


@pytest.mark.parametrize("average", [EMA, SWA])
def test_averages_are_judged_on_kept_features(average, second, pipeline):
    plan = second([*RETRAINED, average])
    run = pipeline(plan)
    run.run()
    anew = Evaluator(run.context, Plan((plan.stages[0], replace(plan.stages[1], views=0))), 1)(run.network())
    assert run.executor.state.last["recalls"] == anew["recalls"]
    assert run.executor.state.last["loss"] == pytest.approx(anew["loss"], abs=1e-6)


def test_a_split_stage_of_views_is_bit_identical(make_plan, pipeline):
    first = Stage("a", epochs=2)
    whole = Stage("b", epochs=4, carry="weights", views=2, choose=RETRAINED)
    head, tail = replace(whole, epochs=3), Stage("c", epochs=1, carry="all", views=2, keep=True)
    one, two = (pipeline(make_plan(*stages)) for stages in ((first, whole), (first, head, tail)))
    one.run()
    two.run()
    assert equal(one.network().state_dict(), two.network().state_dict())
    assert one.result() == two.result()


def test_members_learn_from_the_same_views(make_plan, pipeline, tmp_path, computed):
    members = Stage("b", epochs=2, views=2, members=2, choose=["classifier", "few_shot", "average"])
    plan = make_plan(Stage("a", epochs=1), members)
    without = ended(pipeline(plan))
    assert len(computed) == 2
    assert same_end(without, ended(pipeline(plan, store=StageStore(tmp_path))))
    assert len(computed) == 3


PENALTY = '''
"""Looks at images."""
from dataclasses import dataclass

from trainables.registry import trick


@trick(seam="penalty", family="toys", source="nobody")
@dataclass(frozen=True)
class Looker:
    def build(self, facts):
        return lambda outputs, batch, generator: batch.images.float().mean(dim=(0, 2, 3, 4))
'''


@pytest.fixture
def looker(tricks_folder):
    discover()
    known = dict(registry._ENTRIES)
    (tricks_folder / "looker.py").write_text(PENALTY)
    discover(tricks_folder)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(known)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        ([], r"stage 'b': views=3 computes features once, but the backbone moves; add 'classifier' or"),
        (["class_balanced"], "the backbone moves"),
        ([trick("classifier", batchnorm="moving")], "the backbone moves; .* with batchnorm='fixed'"),
        ([trick("learnable_scale", batchnorm="moving")], "the backbone moves"),
        (["classifier", "input_mixup"], "trains on features, but input_mixup mixes before them; mix at layer 'pool'"),
        (["classifier", "remix"], "but remix mixes before them"),
        (["classifier", "cutmix"], "but cutmix mixes before them"),
        (["classifier", trick("manifold_mixup", layer="layer3")], "but manifold_mixup mixes before them"),
        (["classifier", "looker"], "stage 'b': views=3 has no images for the penalty looker; leave views= out"),
    ],
)
def test_what_cannot_learn_from_kept_features(choose, message, second, looker):
    with pytest.raises(PlanError, match=message):
        second(choose)
    if "looker" in choose:
        assert second(choose, views=0).stages[1].views == 0


def test_views_of_the_first_stage_or_of_a_moving_chain(make_plan):
    with pytest.raises(PlanError, match="stage 'a': views=2 computes features once, but the backbone moves"):
        make_plan(Stage("a", epochs=1, views=2))
    with pytest.raises(PlanError, match="stage 'b': views=2 computes features once, but the backbone moves"):
        make_plan(Stage("a", epochs=1), Stage("b", epochs=1, carry="all", views=2))
    with pytest.raises(PlanError, match="stage 'c': views=2 computes features once, but the backbone moves"):
        frozen = Stage("b", epochs=1, choose=["classifier"])
        make_plan(Stage("a", epochs=1), frozen, Stage("c", epochs=1, carry="weights", views=2))


@pytest.mark.parametrize("layer", ["pool", "logits"])
def test_features_can_be_mixed(layer, second, pipeline, tmp_path):
    plan = second([*RETRAINED, trick("manifold_mixup", layer=layer)])
    without = ended(pipeline(plan))
    assert same_end(without, ended(pipeline(plan, store=StageStore(tmp_path))))
    assert not same_end(without, ended(pipeline(second(RETRAINED))))
