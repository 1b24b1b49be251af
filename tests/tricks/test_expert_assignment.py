import json

import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.final.serving import export, serving_module
from trainables.models import build
from trainables.pipeline.store import StageStore
from trainables.registry import PlanError, make

EXPERTS = Stage("experts", epochs=2, choose=["experts", "sade"])


def routing(epochs=2, **more):
    choose = ["expert_assignment", "routing_loss", "class_balanced"]
    return Stage("routing", epochs=epochs, lr=0.002, choose=choose, **more)


@pytest.fixture(scope="module")
def trained(make_plan, pipeline):
    """A pipeline behind both stages, and the network's state at the end of the first one."""
    run = pipeline(make_plan(EXPERTS, routing()))
    while run.executor.state.stage == 0:
        run.advance()
    before = run.executor.state.carry_over.model
    run.run()
    return run, before


def one_by_one(network, x):
    """Logits and number of experts of each image, taken one after another until a router has enough of them."""
    head, found = network.head, []
    maps = x
    for part in network.backbone.values():
        maps = part(maps)
    for image in maps.split(1):
        total, count = 0, 0
        for parts, classify in zip(head.branches, head.heads, strict=True):
            feature = image
            for part in parts.values():
                feature = part(feature)
            feature = feature.mean(dim=(2, 3))
            total, count = total + classify(feature), count + 1
            if count == len(head.heads):
                break
            seen = head.routers.hidden[count - 1](feature / feature.norm()).clamp(min=0)[0]
            sure = (total / count)[0].sort(descending=True).values[: head.routers.top]
            weight, bias = head.routers.last.weight[0], head.routers.last.bias[0]
            if weight @ torch.cat((sure, seen)) + bias <= 0:
                break
        found.append((total / count, count))
    return torch.cat([z for z, _ in found]), [count for _, count in found]


@torch.no_grad()
def test_an_image_takes_experts_until_a_router_has_enough(facts):
    random = torch.Generator().manual_seed(0)
    network = build("resnet8", classes=10, channels=1, generator=random)
    at = facts(*[5] * 10)
    network = make("experts", count=4).build(at)(network)
    groups = make("expert_assignment", top=4).build(at)(network)
    assert sum(p.numel() for group in groups for p in group["params"]) == 3 * (48 * 16 + 16) + 20 + 1
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in network.parameters() if p.requires_grad}
    network = network.double().eval()
    x = torch.randn(60, 1, 8, 8, dtype=torch.float64, generator=random)
    routers = network.head.routers
    # each router asks for half of the images: its first unit is an offset of its own
    routers.last.weight[0, routers.top] = -1
    routers.last.bias.fill_(10)
    for layer in routers.hidden:
        layer.weight[0], layer.bias[0] = 0, 100
    for layer, median in zip(routers.hidden, network(x).routing.median(dim=1).values, strict=True):
        layer.bias[0] += median
    logits, counts = one_by_one(network, x)
    assert set(counts) == {1, 2, 3, 4}
    outputs = network(x)
    torch.testing.assert_close(outputs.logits, logits)
    assert outputs.experts_used.tolist() == counts
    # two views of each image, as some readouts have them
    twice = network(torch.stack((x, x.flip(0))))
    torch.testing.assert_close(twice.views[0].logits.flip(0), logits)
    assert twice.views[0].experts_used.flip(0).tolist() == counts
    # a router that always asks, and one that never does
    for bias, expected in ((1e6, outputs.experts.mean(dim=0)), (-1e6, outputs.experts[0])):
        routers.last.bias.fill_(bias)
        torch.testing.assert_close(network(x).logits, expected)


def test_only_the_routers_learn(trained):
    run, before = trained
    after = run.executor.state.carry_over.model
    assert {name for name in after if name not in before} == {
        f"head.routers.{layer}.{kind}" for layer in ("hidden.0", "hidden.1", "last") for kind in ("weight", "bias")
    }
    # the statistics of BatchNorm as well
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert len({point.metrics["train_loss"] for point in run.points}) > 1


def test_what_is_spared_is_measured(trained):
    run, _ = trained
    metrics = run.result()[0]
    used = run.network()(run.data.normalise(run.data.val_images)).experts_used.double().mean()
    assert metrics["final/experts_used"] == pytest.approx(float(used)) and 1 <= used <= 3

    def convolution(inputs, outputs, side):
        return 2 * inputs * outputs * 9 * side**2

    shared = convolution(1, 16, 8) + 2 * convolution(16, 16, 8)
    own = convolution(16, 24, 4) + convolution(24, 24, 4) + convolution(24, 48, 2) + convolution(48, 48, 2)
    own, routers = own + 2 * 48 * 10, 2 * 2 * (48 * 16 + 26)
    expected = (shared + float(used) * (own + routers / 3)) / (shared + 3 * own + routers)
    assert metrics["final/flops_share"] == pytest.approx(expected, rel=1e-3)
    assert "experts_used" in run.points[-1].metrics and "experts_used" not in run.points[0].metrics


@torch.no_grad()
def test_the_exported_program_routes(trained):
    run, _ = trained
    module, images = serving_module(run), run.data.val_images
    seen = run.data.normalise(images)
    module.network.head.routers.last.bias -= module.network(seen).routing[0].median()
    assert len(set(module.network(seen).experts_used.tolist())) > 1
    program = export(module, (1, 8, 8)).module()
    for some in (images, images[:1], images[7:12]):
        torch.testing.assert_close(program(some), module(some))


def equal(one, other):
    states = [run.executor.state.carry_over.model for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())
    assert one.result() == other.result()


def test_resuming_reuse_and_a_chain_are_exact(trained, make_plan, pipeline, tmp_path):
    run, _ = trained
    middle = pipeline(run.plan)
    for _ in range(3):
        middle.advance()
    tensors, rest = middle.state()
    again = pipeline(run.plan)
    again.load_state(tensors, json.loads(json.dumps(rest)))
    again.run()
    equal(run, again)
    for _ in range(2):
        stored = pipeline(run.plan, store=StageStore(tmp_path))
        stored.run()
        equal(run, stored)
    assert stored.reused == ["experts", "routing"]
    # one stage, or a chain of two
    split = pipeline(make_plan(EXPERTS, routing(1), Stage("more", epochs=1, carry="all", keep=True)))
    split.run()
    equal(run, split)


def test_stages_behind(make_plan, pipeline):
    """Everything learns again, with the routers that are there; of fewer experts none are left."""
    last = Stage("last", epochs=1, choose=["sade"])
    run = pipeline(make_plan(EXPERTS, routing(1), last))
    run.run()
    assert run.network().head.routers is not None and "final/experts_used" in run.result()[0]
    fewer = Stage("last", epochs=1, choose=[trick("experts", count=2)])
    run = pipeline(make_plan(EXPERTS, routing(1), fewer))
    run.run()
    assert run.network().head.routers is None and "final/experts_used" not in run.result()[0]
    assert np.isfinite(run.result()[0]["final/accuracy"])


@pytest.mark.parametrize(
    ("before", "choose", "message"),
    [
        (
            [],
            ["experts", "expert_assignment", "routing_loss"],
            r"expert_assignment reads a trained network, so it cannot",
        ),
        ([["experts"]], ["expert_assignment"], r"expert_assignment needs 'routing loss', .*; routing_loss provides it"),
        ([["experts"]], ["routing_loss"], r"routing_loss needs 'routers', .*; expert_assignment provides it"),
        (
            [[trick("experts", count=1)]],
            ["expert_assignment", "routing_loss"],
            r"expert_assignment needs 'several experts', .*; experts provides it",
        ),
        (
            [["reslt_head"]],
            ["expert_assignment", "routing_loss"],
            r"expert_assignment needs 'several experts', .*; experts provides it",
        ),
    ],
)
def test_what_cannot_be_trained(make_plan, before, choose, message):
    stages = [Stage(f"before_{number}", epochs=1, choose=tricks) for number, tricks in enumerate(before)]
    with pytest.raises(PlanError, match=rf"^stage 'last': {message}"):
        make_plan(*stages, Stage("last", epochs=1, choose=choose))


def test_routers_learn_by_their_loss_alone(make_plan):
    """Also in a later stage of the chain, where nothing else learns."""
    with pytest.raises(PlanError, match=r"stage 'more': expert_assignment needs 'routing loss'"):
        make_plan(EXPERTS, routing(1), Stage("more", epochs=1, carry="all"))


@pytest.mark.parametrize("number", ["hidden", "top"])
def test_numbers_out_of_range(number):
    with pytest.raises(PlanError, match=rf"{number} must be a whole number in \[1, inf\), got 0"):
        make("expert_assignment", **{number: 0})
