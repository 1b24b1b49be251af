from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.batch import Facts
from trainables.models import build
from trainables.registry import make
from trainables.tricks.adapt_former import AdaptMlp

PLACE = f"{Path(__file__).with_name('transformer.py')}:transformer"


@pytest.fixture
def transformer():
    return build(PLACE, classes=3, channels=1, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def images():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


FACTS = Facts(torch.tensor([3, 1, 1]), torch.tensor([0, 0, 0, 1, 2]))


def close(one, other):
    """To rounding: torch computes frozen attention by another kernel."""
    return torch.allclose(one, other, atol=1e-6)


def test_an_adapter_by_hand():
    """MLP(x) + s (ReLU(x D + b) U + c): 10·(1, −1) + ½ (ReLU(2·1 − 1 + 1) · (1, 3) + (0, 2))."""
    mlp = nn.Linear(2, 2, bias=False)
    mlp.weight.data = 10 * torch.eye(2)
    adapted = AdaptMlp(mlp, width=2, bottleneck=1, scale=0.5, learn_scale=False, generator=None)
    adapted.down.weight.data, adapted.down.bias.data = torch.tensor([[2.0, 1.0]]), torch.tensor([1.0])
    adapted.up.weight.data, adapted.up.bias.data = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 2.0])
    assert adapted(torch.tensor([1.0, -1.0])).tolist() == [10 + 0.5 * 2, -10 + 0.5 * (6 + 2)]
    # below zero the ReLU is shut
    assert adapted(torch.tensor([-1.0, 0.0])).tolist() == [-10.0, 1.0]


@pytest.mark.parametrize("numbers", [{}, {"bottleneck": 1}, {"scale": 0.0}, {"learn_scale": True}])
def test_at_first_the_network_is_the_pretrained_one(transformer, images, numbers):
    before = transformer(images).logits.clone()
    make("adapt_former", **numbers).build(FACTS)(transformer)
    assert close(transformer(images).logits, before)


def step(transformer, images, groups, steps=3):
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(transformer(images).logits, FACTS.labels).backward()
        optimizer.step()


def test_no_scale_learns_nothing_but_the_head(transformer, images):
    before = transformer(images).features.clone()
    step(transformer, images, make("adapt_former", scale=0.0).build(FACTS)(transformer))
    assert close(transformer(images).features, before)


@pytest.mark.parametrize("learn_scale", [False, True])
def test_the_adapters_and_the_head_learn_alone(transformer, images, learn_scale):
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    groups = make("adapt_former", bottleneck=4, scale=1.0, learn_scale=learn_scale).build(FACTS)(transformer)
    # three blocks: D, b, U, c, and s where it is learned
    assert len(groups[0]["params"]) == 3 * (4 + learn_scale) + 2
    step(transformer, images, groups)
    after = transformer.state_dict()
    for name, value in before.items():
        kept = name if name in after else name.replace(".mlp.", ".mlp.mlp.")
        assert after[kept].equal(value) != name.startswith("head."), name
    adapter = transformer.backbone["layer1"][0].mlp
    assert adapter.up.weight.abs().sum() > 0
    assert isinstance(adapter.scale, nn.Parameter) is learn_scale
    if learn_scale:
        assert adapter.scale.item() != 1.0


def test_a_later_stage_learns_on_or_adds_its_own(transformer, images):
    step(transformer, images, make("adapt_former", bottleneck=4).build(FACTS)(transformer))
    logits = transformer(images).logits.detach()
    adapter = transformer.backbone["layer2"][0].mlp
    same = make("adapt_former", bottleneck=4).build(FACTS)(transformer)
    assert transformer.backbone["layer2"][0].mlp is adapter
    other = make("adapt_former", bottleneck=2).build(FACTS)(transformer)
    assert transformer.backbone["layer2"][0].mlp.mlp is adapter
    assert close(transformer(images).logits, logits)
    assert not {id(p) for p in same[0]["params"][:-2]} & {id(p) for p in other[0]["params"][:-2]}
    # who rebuilds the network gets the same names and shapes
    twin = build(PLACE, classes=3, channels=1, generator=torch.Generator()).eval()
    for bottleneck in (4, 4, 2):
        twin = make("adapt_former", bottleneck=bottleneck).reshape(twin)
    twin.load_state_dict(transformer.state_dict())
    assert close(twin(images).logits, logits)


def test_a_vision_transformer_of_timm():
    timm = pytest.importorskip("timm", reason="timm is in the extra 'pretrained'")
    from trainables.models import Network

    body = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, depth=2)
    network = Network({"body": body}, nn.Linear(192, 3), features=192, classes=3).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = network(images).logits.clone()
    (group,) = make("adapt_former", bottleneck=8).build(FACTS)(network)
    assert sum(p.numel() for p in group["params"]) == 2 * (2 * 192 * 8 + 8 + 192) + 3 * 193
    assert network(images).logits.equal(before)


def test_options(known):
    with pytest.raises(ValueError, match=r"'adapt_former': bottleneck must be a whole number in \[1, inf\), got 0"):
        make("adapt_former", bottleneck=0)
    with pytest.raises(ValueError, match=r"'adapt_former': scale must be a number in \[0, inf\), got -1"):
        make("adapt_former", scale=-1)
    with pytest.raises(ValueError, match="no block of the backbone has an MLP; use a transformer, or 'lora'"):
        make("adapt_former").build(known)(known.model)
