"""Networks: published sizes, where blends act, views, experts, and initial values from one generator."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from trainables.batch import Blend
from trainables.models import MODELS, Network, build
from trainables.models.heads import CosineHead, LinearHead
from trainables.models.resnet_cifar import BasicBlock, resnet_cifar


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(name: str = "resnet8", classes: int = 10, channels: int = 1, seed: int = 0) -> Network:
    return build(name, classes=classes, channels=channels, generator=seeded(seed))


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("resnet32", 10, 464_154), ("resnet32", 100, 470_004), ("resnet20", 100, 275_572), ("resnet8", 100, 81_140)],
)
def test_exact_parameter_counts(name: str, classes: int, published: int) -> None:
    assert parameters_of(small(name, classes, channels=3)) == published


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)]
)
def test_sizes_of_the_paper(name: str, millions: float) -> None:
    """He et al. 2016, table 6."""
    assert parameters_of(small(name, 10, channels=3)) / 1e6 == pytest.approx(millions, abs=0.006)


def test_a_wide_network_has_four_times_its_width_as_features() -> None:
    """By hand, with w = 64: convolutions, two numbers of BatchNorm a channel, the head."""
    w, blocks = 64, 5
    convolutions = 9 * w * (3 + 2 * blocks * w)  # stem and first stage
    convolutions += 9 * 2 * w * (w + (2 * blocks - 1) * 2 * w)
    convolutions += 9 * 4 * w * (2 * w + (2 * blocks - 1) * 4 * w)
    norms = 2 * (w * (1 + 2 * blocks) + 2 * w * 2 * blocks + 4 * w * 2 * blocks)
    network = small("resnet32?width=64", 100, channels=3)
    assert parameters_of(network) == convolutions + norms + 100 * (4 * w + 1) == 7_409_316
    assert network(torch.zeros(2, 3, 32, 32)).features.shape == (2, 256)
    narrow, default = small("resnet8?width=16"), small("resnet8")
    assert all(torch.equal(narrow.state_dict()[key], value) for key, value in default.state_dict().items())


@pytest.mark.parametrize(("name", "convolutions"), [("resnet8", 7), ("resnet20", 19), ("resnet56", 55)])
def test_depth_counts_convolutions_and_the_head(name: str, convolutions: int) -> None:
    assert sum(isinstance(module, nn.Conv2d) for module in small(name).modules()) == convolutions


@pytest.mark.parametrize(("size", "channels", "map_size"), [(8, 1, 2), (32, 3, 8), (7, 1, 2), (28, 4, 7)])
def test_shapes_at_any_size(size: int, channels: int, map_size: int) -> None:
    outputs = small(channels=channels)(torch.randn(5, channels, size, size, generator=seeded()))
    assert outputs.logits.shape == (5, 10)
    assert outputs.features.shape == (5, 64)
    assert outputs.maps.shape == (5, 64, map_size, map_size)
    assert outputs.experts is None and outputs.views == ()
    torch.testing.assert_close(outputs.features, functional.adaptive_avg_pool2d(outputs.maps, 1).flatten(1))


def test_shortcut_slices_and_pads_by_hand() -> None:
    block = BasicBlock(2, 4, 2, seeded()).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    out = block(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 0].eq(0).all() and out[0, 3].eq(0).all()
    assert out[0, 1].tolist() == [[1, 3], [9, 11]]
    assert out[0, 2].tolist() == [[17, 19], [25, 27]]


def test_block_equals_torchvisions() -> None:
    class OptionA(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = functional.max_pool2d(x, kernel_size=1, stride=2)
            zeros = torch.zeros(len(x), 8, *x.shape[2:])
            return torch.cat([zeros, x, zeros], dim=1)

    ours, theirs = BasicBlock(16, 32, 2, seeded()), TorchvisionBlock(16, 32, stride=2, downsample=OptionA())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 16, 8, 8, generator=seeded(1))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", list(MODELS))
def test_initial_values_come_from_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small(name, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = small(name, seed=7).state_dict(), small(name, seed=8).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    stem = "backbone.stem.0.weight"
    assert name == "linear" or not torch.equal(first[stem], other[stem])


def test_initial_spread_of_convolutions_and_head() -> None:
    network = small("resnet20", classes=100, channels=3)
    for name, value in network.named_parameters():
        if value.ndim == 4:
            expected = math.sqrt(2 / (value.shape[1] * 9))
            assert value.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * value.numel())), name
    head = network.head
    assert head.weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.04)
    assert head.weight.abs().max() <= 1 / 8
    assert head.bias.eq(0).all()
    batch_norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(batch_norms) == 19
    for norm in batch_norms:
        assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
        assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all() and norm.momentum == 0.1


def test_parameters_are_split_without_rest() -> None:
    network = small()
    backbone, head = list(network.backbone_parameters()), list(network.head.parameters())
    assert [id(p) for p in backbone + head] == [id(p) for p in network.parameters()]
    assert [tuple(p.shape) for p in head] == [(10, 64), (10,)]


def test_deepcopy_and_state_round_trip() -> None:
    network, images = small().eval(), torch.randn(2, 1, 8, 8, generator=seeded())
    twin = small(seed=9).eval()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network(images).logits, twin(images).logits)
    assert torch.equal(network(images).logits, copy.deepcopy(network)(images).logits)


# --- blends -----------------------------------------------------------------------------------------------


def by_hand(network: Network, images: Tensor, layer: str, order: Tensor, share: Tensor) -> Tensor:
    def blended(x: Tensor) -> Tensor:
        return torch.stack([share[i] * x[i] + (1 - share[i]) * x[order[i]] for i in range(len(x))])

    x = blended(images) if layer == "input" else images
    for name in ("stem", "layer1", "layer2", "layer3"):
        x = network.backbone[name](x)
        x = blended(x) if layer == name else x
    x = x.mean(dim=(2, 3))
    x = blended(x) if layer == "pool" else x
    z = x @ network.head.weight.T + network.head.bias
    return blended(z) if layer == "logits" else z


@pytest.mark.parametrize("layer", ["input", "layer1", "layer2", "layer3", "pool", "logits"])
def test_blend_acts_at_the_named_layer(layer: str) -> None:
    network = small().double().train()
    images = torch.randn(4, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    order, share = torch.tensor([2, 0, 3, 1]), torch.tensor([0.9, 0.3, 1.0, 0.0])
    expected = by_hand(copy.deepcopy(network), images, layer, order, share.double())
    outputs = network(images, Blend(layer, order, share))
    torch.testing.assert_close(outputs.logits, expected)
    assert not torch.allclose(outputs.logits, network(images).logits)


@pytest.mark.parametrize("layer", ["input", "layer1", "layer2", "layer3", "pool", "logits"])
def test_whole_share_changes_nothing(layer: str) -> None:
    network, images = small().eval(), torch.randn(3, 1, 8, 8, generator=seeded())
    outputs = network(images, Blend(layer, torch.tensor([2, 0, 1]), torch.ones(3)))
    torch.testing.assert_close(outputs.logits, network(images).logits)


def test_unknown_layer_names_the_allowed_ones() -> None:
    blend = Blend("layer4", torch.tensor([0]), torch.ones(1))
    with pytest.raises(
        ValueError, match=r"blend at layer 'layer4': .* blends at input, layer1, layer2, layer3, pool, logits"
    ):
        small()(torch.zeros(1, 1, 8, 8), blend)


# --- views and experts ------------------------------------------------------------------------------------


def test_views_run_in_one_pass() -> None:
    network = small().train()
    images = torch.randn(3, 4, 1, 8, 8, generator=seeded())
    together = copy.deepcopy(network)(images.flatten(0, 1))
    outputs = network(images)
    assert len(outputs.views) == 2
    for view, got in enumerate((outputs, *outputs.views)):
        rows = slice(4 * view, 4 * view + 4)
        assert torch.equal(got.logits, together.logits[rows])
        assert torch.equal(got.features, together.features[rows])
        assert torch.equal(got.maps, together.maps[rows])
    assert int(network.backbone["stem"][1].num_batches_tracked) == 1


def test_one_view_equals_none() -> None:
    network, images = small().eval(), torch.randn(3, 1, 8, 8, generator=seeded())
    outputs = network(images[None])
    assert outputs.views == () and torch.equal(outputs.logits, network(images).logits)


@pytest.mark.parametrize("layer", ["input", "layer2", "logits"])
def test_blend_stays_within_each_view(layer: str) -> None:
    network = small().eval()
    images = torch.randn(2, 3, 1, 8, 8, generator=seeded())
    blend = Blend(layer, torch.tensor([1, 2, 0]), torch.tensor([0.2, 0.5, 0.8]))
    outputs = network(images, blend)
    torch.testing.assert_close(outputs.logits, network(images[0], blend).logits)
    torch.testing.assert_close(outputs.views[0].logits, network(images[1], blend).logits)


class TwoExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(LinearHead(64, 10, seeded(seed)) for seed in (1, 2))

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.heads])


def test_experts_are_averaged_and_kept() -> None:
    network = small().eval()
    network.head = TwoExperts()
    images = torch.randn(2, 3, 1, 8, 8, generator=seeded())
    outputs = network(images)
    assert outputs.experts.shape == outputs.views[0].experts.shape == (2, 3, 10)
    torch.testing.assert_close(outputs.logits, (outputs.experts[0] + outputs.experts[1]) / 2)
    torch.testing.assert_close(outputs.experts[1], network.head.heads[1](outputs.features))
    torch.testing.assert_close(outputs.views[0].experts, network(images[1]).experts)
    assert sum(p.numel() for p in network.head.parameters()) == 2 * 650


def test_blended_experts_have_the_blended_mean() -> None:
    network = small().eval()
    network.head = TwoExperts()
    images = torch.randn(3, 1, 8, 8, generator=seeded())
    plain = network(images)
    order, share = torch.tensor([1, 2, 0]), torch.tensor([0.25, 0.5, 1.0])
    outputs = network(images, Blend("logits", order, share))
    for expert, got in zip(plain.experts, outputs.experts, strict=True):
        torch.testing.assert_close(got, share[:, None] * expert + (1 - share)[:, None] * expert[order])
    torch.testing.assert_close(outputs.logits, outputs.experts.mean(0))


def test_images_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(B, c, H, W\) or \(V, B, c, H, W\), got shape \(8, 8\)"):
        small()(torch.zeros(8, 8))


# --- heads ------------------------------------------------------------------------------------------------


def test_linear_head_by_hand() -> None:
    head = LinearHead(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        head.bias.copy_(torch.tensor([0.5, -1.0]))
    assert head(torch.tensor([[3.0, 4.0]])).tolist() == [[11.5, -2.0]]
    assert head.kind == "linear"


def test_cosine_head_by_hand() -> None:
    head = CosineHead(2, 3, scale=10.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.1, 0.0], [0.0, 7.0], [-4.0, 3.0]]))
    expected = torch.tensor([[6.0, 8.0, 0.0]])  # cosines with (3, 4): 3/5, 4/5, (−12 + 12)/25
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), expected)
    torch.testing.assert_close(head(torch.tensor([[300.0, 400.0]])), expected)
    head.scale = 1
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), expected / 10)
    assert head.kind == "cosine" and head.bias is None
    assert list(dict(head.named_parameters())) == ["weight"]


def test_cosine_head_starts_at_length_one() -> None:
    head = CosineHead(64, 10, 30.0, seeded())
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(10))


@pytest.mark.parametrize("make", [lambda g: LinearHead(64, 10, g), lambda g: CosineHead(64, 10, 30.0, g)])
def test_reset_draws_from_its_generator(make) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, head = make(seeded(5)), make(None)
    assert torch.equal(head.weight, make(None).weight) and not torch.equal(head.weight, first.weight)
    head.reset(seeded(5))
    assert torch.equal(head.weight, first.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet-32': did you mean 'resnet32'\? known are resnet8, "):
        small("resnet-32")
    with pytest.raises(ValueError, match="unknown model 'vgg': known are resnet8, resnet20"):
        small("vgg")
    with pytest.raises(ValueError, match=r"depth=18.*6 n \+ 2"):
        resnet_cifar(18, classes=10, channels=3, generator=seeded())
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        CosineHead(2, 2, 0)
