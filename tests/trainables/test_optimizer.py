"""The optimiser of a stage: hand-worked steps, layer-wise rates, clipping, and what is carried over."""

import json

import pytest
import torch
from torch import nn

from spaces.domain import Space, Stage, one_of
from trainables.data import standard
from trainables.models import Network, build
from trainables.models.heads import LinearHead
from trainables.models.layers import layers_of
from trainables.pipeline.joint_seeds import fused_stages
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan, choices_of, defaults
from trainables.plan import build as planned
from trainables.plan.model import FINE_TUNING
from trainables.registry import PlanError
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.acceleration.cuda_graph import can_be_captured
from trainables.training.context import TrainingContext
from trainables.training.numerics import Numerics, can_be_fused
from trainables.training.optimizer import clip_gradient, load_optimizer, make_optimizer, save_optimizer, set_rate
from trainables.training.stage_run import StageRun

CPU = torch.device("cpu")
ADAMW = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "clip": 0.5, "layer_decay": 0.5}


def of_one(value: float, **numbers):
    """A network with one number that learns, and its optimiser."""
    network = Network({"body": nn.Flatten()}, nn.Linear(1, 1, bias=False).double(), features=1, classes=1)
    nn.init.constant_(network.head.weight, value)
    return network.head.weight, network, numbers


def stepped(make_plan, value, gradients, **numbers):
    weight, network, numbers = of_one(value, **numbers)
    stage = make_plan(Stage("a", epochs=1, **numbers)).stages[0]
    optimizer = make_optimizer(stage, [{"params": [weight]}], network)
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        clip_gradient(optimizer, stage.clip)
        optimizer.step()
    return float(weight.detach())


def test_adamw_by_hand(make_plan):
    """w ← w − η λ w − η m̂ / (√v̂ + ε); the first step of any gradient is η in its direction."""
    numbers = {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.5}
    assert stepped(make_plan, 2.0, [0.3], **numbers) == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-6)
    # second step, gradients 0.3 and −0.1: m = 0.9·0.03 − 0.01 = 0.017, v = 0.999·9e-5 + 1e-5 = 9.991e-5
    mean, square = 0.017 / (1 - 0.9**2), 9.991e-5 / (1 - 0.999**2)
    expected = 1.8 * (1 - 0.05) - 0.1 * mean / square**0.5
    assert stepped(make_plan, 2.0, [0.3, -0.1], **numbers) == pytest.approx(expected, abs=1e-6)
    # β₁ is the stage's momentum: without one, the second step is along the second gradient alone
    expected = 1.8 * 0.95 + 0.1 * 0.1 / square**0.5
    assert stepped(make_plan, 2.0, [0.3, -0.1], momentum=0.0, **numbers) == pytest.approx(expected, abs=1e-6)


def test_clipping_by_hand(make_plan):
    sgd = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}
    assert stepped(make_plan, 2.0, [5.0], clip=0.5, **sgd) == pytest.approx(2.0 - 0.1 * 0.5, abs=1e-5)
    assert stepped(make_plan, 2.0, [0.3], clip=0.5, **sgd) == pytest.approx(2.0 - 0.1 * 0.3)
    assert stepped(make_plan, 2.0, [5.0], **sgd) == pytest.approx(2.0 - 0.1 * 5.0)
    # over all parameters together: a gradient of norm 5 becomes one of norm 1 in the same direction
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([0.0, 4.0])
    clip_gradient(torch.optim.SGD(weights, lr=1.0), 1.0)
    torch.testing.assert_close(torch.cat([w.grad for w in weights]), torch.tensor([0.6, 0.0, 0.8]), atol=1e-5, rtol=0)


def test_layer_wise_rates_by_hand(make_plan):
    """Stem and three blocks of resnet8: ½⁴, ½³, ½², ½, and the head 1; a group's own factor multiplies."""
    stage = make_plan(Stage("a", epochs=1, lr=0.8, layer_decay=0.5)).stages[0]
    network = build("resnet8", classes=10, channels=1, generator=torch.Generator())
    groups = [
        {"params": list(network.backbone.parameters())},
        {"params": list(network.head.parameters()), "lr_scale": 3.0},
    ]
    optimizer = make_optimizer(stage, groups, network)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.1, 0.2, 0.4, 2.4])
    set_rate(optimizer, 0.08)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.01, 0.02, 0.04, 0.24])
    assert [group["params"] for group in optimizer.param_groups[:4]] == layers_of(network.backbone)
    assert len(make_optimizer(make_plan(Stage("a", epochs=1)).stages[0], groups, network).param_groups) == 2


def test_layer_wise_rates_are_timms(make_plan):
    timm = pytest.importorskip("timm", reason="timm is in the extra 'pretrained'")
    from timm.optim import param_groups_layer_decay

    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8, depth=3)
    theirs = {}
    for group in param_groups_layer_decay(vit, weight_decay=0.1, no_weight_decay_list=(), layer_decay=0.7):
        theirs |= {id(parameter): group["lr_scale"] for parameter in group["params"]}
    head = vit.head
    vit.head = nn.Identity()
    network = Network({"body": vit}, head, features=192, classes=5)
    stage = make_plan(Stage("a", epochs=1, lr=1.0, layer_decay=0.7)).stages[0]
    optimizer = make_optimizer(stage, [{"params": list(network.parameters())}], network)
    ours = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert ours.keys() == theirs.keys() == {id(parameter) for parameter in network.parameters()}
    assert all(ours[key] == pytest.approx(scale) for key, scale in theirs.items())


@pytest.mark.parametrize("numbers", [ADAMW, {**ADAMW, "optimizer": "sgd"}], ids=["adamw", "sgd"])
def test_a_stage_cut_in_two_and_resumed_is_the_same(numbers, make_plan, pipeline):
    whole = pipeline(make_plan(Stage("a", epochs=4, **numbers)))
    whole.run()
    cut = make_plan(Stage("a", epochs=2, **numbers), Stage("b", epochs=2, carry="all"))
    assert [stage.optimizer for stage in cut.stages] == [numbers["optimizer"]] * 2
    run = pipeline(cut)
    while not run.finished:
        run.advance()
        tensors, rest = run.state()
        run = pipeline(cut)
        run.load_state(tensors, json.loads(json.dumps(rest)))
    one, other = whole.network().state_dict(), run.network().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_kept_is_a_copy_and_comes_back(make_plan):
    network = build("resnet8", classes=10, channels=1, generator=torch.Generator())
    stage = make_plan(Stage("a", epochs=1, **ADAMW)).stages[0]
    optimizer = make_optimizer(stage, [{"params": list(network.parameters())}], network)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = save_optimizer(optimizer)
    assert {key.partition("/")[2] for key in kept} == {"exp_avg", "exp_avg_sq", "step"}
    before = {key: value.clone() for key, value in kept.items()}
    optimizer.step()
    assert all(kept[key].equal(value) for key, value in before.items())
    again = make_optimizer(stage, [{"params": list(network.parameters())}], network)
    load_optimizer(again, kept)
    assert all(save_optimizer(again)[key].equal(value) for key, value in kept.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_batch_in_parts_is_clipped_as_a_whole(optimizer, make_plan, digits):
    def network(generator):
        body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())
        with torch.no_grad():
            for parameter in body.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        return Network({"body": body}, LinearHead(16, 10, generator), features=16, classes=10)

    plan = make_plan(Stage("a", epochs=1, batch_size=32, **{**ADAMW, "clip": 0.05, "optimizer": optimizer}))
    runs = [
        StageRun(TrainingContext(digits, network, 0, CPU, sharding=each), plan, 0, 0, None)
        for each in (BatchSharding(), BatchSharding(2))
    ]
    for run in runs:
        run.train_epoch()
    for one, other in zip(runs[0].network.parameters(), runs[1].network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_takes_other_steps_is_trained_by_itself(make_plan):
    """Fused networks and CUDA graphs know plain SGD alone; such stages are trained as without them."""
    for numbers in ({}, {"optimizer": "adamw"}, {"clip": 1.0}, {"layer_decay": 0.9}):
        plain = not numbers
        plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, members=2, choose=["average"], **numbers))
        assert can_be_fused(plan.stages[1]) is plain
        assert can_be_captured(plan.stages[1], torch.device("cuda")) is plain
        alone = make_plan(Stage("a", epochs=1, **numbers))
        assert fused_stages(alone, Numerics(fused_trials="on"), "cpu", 64) == ([0] if plain else [])


# --- in the plan ------------------------------------------------------------------------------------------


def test_a_plan_without_them_has_the_content_of_before(make_plan):
    plan = make_plan(Stage("a", epochs=2))
    assert not set(FINE_TUNING) & set(plan.to_dict()["stages"][0])
    fields = plan.to_dict()
    assert Plan.from_dict(fields) == plan
    tuned = make_plan(Stage("a", epochs=2, optimizer="adamw", layer_decay=0.75, clip=1.0))
    assert Plan.from_dict(tuned.to_dict()) == tuned
    assert tuned.id != plan.id
    assert "optimizer adamw, layer_decay 0.75, clip 1.0" in str(tuned)


def test_each_may_be_a_choice():
    stage = Stage(
        "a",
        epochs=2,
        optimizer=one_of("sgd", "adamw"),
        layer_decay=one_of(1.0, 0.75),
        clip=one_of(None, 1.0),
        schedule=one_of("cosine", "cosine(warm_up=5, of=100)"),
        batch_size=one_of(32, 64),
    )
    space = Space(stages=[stage])
    plain = planned(space, defaults(), standard("digits-lt"))
    assert (plain.plan.stages[0].optimizer, plain.plan.stages[0].clip) == ("sgd", None)
    last = {"a/optimizer": "adamw", "a/layer_decay": 0.75, "a/clip": 1.0}
    tuned = planned(space, lambda name, domain, default: last.get(name, default), standard("digits-lt"))
    assert {key: tuned.choices[key] for key in last} == last
    assert set(tuned.choices) <= set(choices_of(space))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"optimizer": "adam"}, "stage 'a': unknown optimizer 'adam': did you mean 'adamw'"),
        ({"layer_decay": 0.0}, r"stage 'a': layer_decay must be a number in \(0, 1\], got 0.0"),
        ({"clip": 0.0}, "stage 'a': clip must be a number above 0, or none, got 0.0"),
        ({"optimizer": "adamw", "nesterov": True}, "stage 'a': adamw has no Nesterov momentum"),
    ],
)
def test_what_cannot_be_meant(numbers, said, make_plan):
    with pytest.raises(PlanError, match=said):
        make_plan(Stage("a", epochs=1, **numbers))


def test_it_is_taken_over_in_a_chain(make_plan):
    with pytest.raises(PlanError, match="takes optimizer over from the stage before"):
        make_plan(Stage("a", epochs=1), Stage("b", epochs=1, carry="all", optimizer="adamw"))


def test_a_pipeline_learns_with_it(make_plan, digits):
    plan = make_plan(Stage("a", epochs=12, schedule="cosine(warm_up=10, of=100)", **{**ADAMW, "layer_decay": 0.9}))
    run = Pipeline(plan, digits, "resnet8", 0, CPU)
    run.run()
    assert run.result()[0]["final/accuracy"] > 0.25
    assert isinstance(StageRun(run.context, plan, 0, 0, None).optimiser, torch.optim.AdamW)
