import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Blend
from trainables.models import build
from trainables.registry import PlanError, make


def fresh(name="resnet32", classes=10, channels=3):
    return build(name, classes=classes, channels=channels, generator=torch.Generator().manual_seed(0))


def test_the_published_cifar_network(facts):
    """Own layers of 24 and 48 channels, cosine classifiers of scale 30; counted by hand."""
    network = make("experts").build(facts(*[5] * 10))(fresh())
    head = network.head
    assert list(network.backbone) == ["stem", "layer1"] and head.reads == "layer1"

    def block(a, b):
        return 9 * a * b + 9 * b * b + 4 * b

    own = block(16, 24) + 4 * block(24, 24) + block(24, 48) + 4 * block(48, 48) + 10 * 48
    assert sum(p.numel() for p in head.parameters()) == 3 * own
    shared = 9 * 3 * 16 + 2 * 16 + 5 * block(16, 16)
    assert sum(p.numel() for p in network.parameters()) == shared + 3 * own
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = network.eval()(x)
    assert outputs.features.shape == (3, 2, 48) and outputs.each
    torch.testing.assert_close(outputs.logits, outputs.experts.mean(dim=0))
    # an expert by hand: its parts, the pool, and 30 times the cosine
    maps = network.backbone["layer1"](network.backbone["stem"](x))
    pooled = head.branches[1]["layer3"](head.branches[1]["layer2"](maps)).mean(dim=(2, 3))
    cosine = torch.nn.functional.cosine_similarity(pooled[:, None], head.heads[1].weight[None], dim=2)
    torch.testing.assert_close(outputs.experts[1], 30 * cosine)
    # the shortcut of 16 -> 24 channels pads four on each side
    shortcut = head.branches[0]["layer2"][0]
    assert (shortcut.before, shortcut.behind) == (4, 4)


@pytest.mark.parametrize("name", ["resnet10", "resnet50", "resnext50"])
def test_large_networks_split_their_last_two_parts(facts, name):
    network = make("experts").build(facts(*[5] * 10))(fresh(name)).eval()
    assert list(network.backbone) == ["stem", "layer1", "layer2"]
    outputs = network(torch.zeros(1, 3, 64, 64))
    assert outputs.features.shape == (3, 1, 384 if name == "resnet10" else 1536)
    if name == "resnext50":  # groups stay, and their width with the planes
        conv = network.head.branches[0]["layer3"][0].conv2
        assert (conv.groups, conv.out_channels) == (32, 384)


def test_one_linear_expert_of_full_width_is_the_plain_network(make_plan, pipeline):
    one = trick("experts", count=1, width=1.0, kind="linear")
    plain, single = (pipeline(make_plan(Stage("a", epochs=2, choose=choose))) for choose in ([], [one]))
    plain.run()
    single.run()
    state, other = plain.network().state_dict(), single.network().state_dict()
    assert len(state) == len(other)
    for name, tensor in state.items():
        renamed = name.replace("head.", "head.heads.0.")
        for part in ("layer2", "layer3"):
            renamed = renamed.replace(f"backbone.{part}", f"head.branches.0.{part}")
        assert tensor.equal(other[renamed]), name
    # a mean over one expert moves nothing either
    assert plain.points[-1].metrics == single.points[-1].metrics


def test_where_branches_begin(facts):
    for where, shared in (("pool", ["stem", "layer1", "layer2", "layer3"]), ("layer3", ["stem", "layer1", "layer2"])):
        network = make("experts", branch_from=where).build(facts(*[5] * 10))(fresh("resnet8"))
        assert list(network.backbone) == shared
    with pytest.raises(ValueError, match=r"branch_from must be one of last_two, pool, layer1, layer2, layer3, got 'x'"):
        make("experts", branch_from="x").build(facts(*[5] * 10))(fresh("resnet8"))
    linear = build("linear", classes=3, channels=8, generator=torch.Generator().manual_seed(0))
    outputs = make("experts").build(facts(5, 3, 1))(linear)(torch.randn(2, 8))
    assert outputs.experts.shape == (3, 2, 3)


def test_a_blend_inside_the_branches(facts):
    network = make("experts").build(facts(*[5] * 10))(fresh("resnet8")).eval()
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    order, share = torch.tensor([1, 2, 0]), torch.tensor([0.3, 0.6, 0.5])
    plain = network(x)
    mixed = network(x, Blend("logits", order, share))
    torch.testing.assert_close(mixed.experts[2], Blend("logits", order, share)(plain.experts[2]))
    pooled = network(x, Blend("pool", order, share))
    torch.testing.assert_close(pooled.features[1], Blend("pool", order, share)(plain.features[1]))
    assert not torch.allclose(network(x, Blend("layer2", order, share)).logits, plain.logits)


def test_what_needs_one_classifier_is_refused(make_plan):
    for name in ("max_norm", "tau_norm"):
        with pytest.raises(PlanError, match=rf"stage 'a': {name} needs "):
            make_plan(Stage("a", epochs=1, choose=["experts", name]))
    with pytest.raises(
        PlanError, match=r"stage 'b': classifier needs one linear or cosine classifier, and this plan's"
    ):
        make_plan(Stage("a", epochs=1, choose=["experts"]), Stage("b", epochs=1, choose=["classifier"]))
    with pytest.raises(PlanError, match=r"stage 'b': cosine_head would replace the head experts of an earlier stage"):
        make_plan(Stage("a", epochs=1, choose=["experts"]), Stage("b", epochs=1, choose=["cosine_head"]))
    for numbers in ({"count": 4}, {"count": 2, "width": 1.0}, {"learn": "fused"}):
        with pytest.raises(PlanError, match=r"stage 'b': experts would replace the head experts of an earlier stage"):
            make_plan(
                Stage("a", epochs=1, choose=["experts"]), Stage("b", epochs=1, choose=[trick("experts", **numbers)])
            )
    with pytest.raises(PlanError, match=r"stage 'a': ldam needs 'cosine'"):
        make_plan(Stage("a", epochs=1, choose=[trick("experts", kind="linear"), "ldam"]))
    make_plan(Stage("a", epochs=1, choose=["experts", "ldam"]))


def test_experts_through_stages_tricks_and_readouts(make_plan, pipeline):
    """Each expert's LDAM, mixing inside a branch, an average, a second stage that learns the mean, two views."""
    plan = make_plan(
        Stage("a", epochs=1, choose=["experts", "ldam", trick("manifold_mixup", layer="layer3"), "ema"]),
        Stage("b", epochs=1, choose=[trick("experts"), "influence_balanced", "flip_tta"]),
        Stage("c", epochs=1, choose=["nearest_mean"]),
    )
    run = pipeline(plan)
    run.run()
    assert run.network().head.heads[0].weight.shape == (10, 48)
    assert 0 <= run.points[-1].metrics["class_means"] <= 1


def test_of_more_experts_the_first_ones_stay(make_plan, pipeline):
    more, fewer = (Stage(f"of_{n}", epochs=1, choose=[trick("experts", count=n)]) for n in (4, 2))
    run = pipeline(make_plan(more, fewer))
    run.advance()
    before = run.executor.state.carry_over.model
    at_start = run.executor.start().run.network.state_dict()
    assert {name for name in before if name not in at_start} == {
        name for name in before if name.split(".")[0] == "head" and name.split(".")[2] in "23"
    }
    assert all(tensor.equal(before[name]) for name, tensor in at_start.items())
    run.run()
    assert run.network()(run.data.normalise(run.data.val_images)).experts.shape == (2, 60, 10)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"count": 0}, r"\[1, 64\]"),
        ({"width": 0}, r"\(0, 1\]"),
        ({"kind": "x"}, "'cosine', 'linear'"),
        ({"branch_from": 2}, "name"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("experts", **numbers)


def test_other_parts_cannot_be_narrower(facts):
    network = fresh("resnet8")
    network.backbone["layer3"] = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 1))
    with pytest.raises(ValueError, match=r"width=0.75 makes parts of a ResNet narrower, and this network has others"):
        make("experts").build(facts(*[5] * 10))(network)
