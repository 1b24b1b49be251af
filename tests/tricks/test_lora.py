import copy

import pytest
import torch
from torch import nn

from trainables.batch import Facts
from trainables.models import Network, build
from trainables.models.heads import LinearHead
from trainables.models.layers import fold
from trainables.registry import make
from trainables.tricks.lora import LowRank


def test_a_product_by_hand():
    """W + (α / r) U D with α / r = ½: [[1, 2], [3, 4]] + ½ [[1], [2]] [[1, 3]]."""
    product = LowRank(torch.zeros(2, 2), rank=1, scale=0.5, generator=None)
    product.down.data, product.up.data = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0], [2.0]])
    found = product(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert found.tolist() == [[1.5, 3.5], [4.0, 7.0]]
    # a kernel of 1 × 2 with one input channel has the same two inputs
    assert product(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 1, 1, 2)).flatten().tolist() == [1.5, 3.5, 4.0, 7.0]


def test_a_layer_by_hand(facts):
    """h = W x + (α / r) U (D x) for x = (1, 2): 5 + 2 · 3 · (1 + 4)."""
    network = Network({"body": nn.Linear(2, 1, bias=False)}, LinearHead(1, 2), features=1, classes=2)
    nn.init.constant_(network.backbone["body"].weight, 5 / 3)
    make("lora", rank=1, alpha=2.0).build(facts(1, 1))(network)
    product = network.backbone["body"].parametrizations.weight[0]
    product.down.data, product.up.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    assert network.backbone["body"](torch.tensor([[1.0, 2.0]])).item() == pytest.approx(35.0)


@pytest.mark.parametrize("numbers", [{}, {"rank": 1}, {"alpha": 0.0}])
def test_at_first_and_without_scale_the_network_is_the_pretrained_one(known, numbers):
    images = known.normalise(known.images)
    before = known.model(images).logits.clone()
    make("lora", **numbers).build(known)(known.model)
    assert known.model(images).logits.equal(before)


def test_no_scale_learns_nothing_but_the_head(known):
    features = known.model(known.normalise(known.images)).features.clone()
    groups = make("lora", alpha=0.0).build(known)(known.model)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    head = known.model.head.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        known.model(known.normalise(known.images)).logits.square().sum().backward()
        optimizer.step()
    assert known.model(known.normalise(known.images)).features.equal(features)
    assert not known.model.head.weight.equal(head)


def learned(known, **numbers):
    """A few steps of a model with factors."""
    groups = make("lora", **numbers).build(known)(known.model)
    optimizer = torch.optim.SGD(groups, lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(known.model(known.normalise(known.images)).logits, known.labels).backward()
        optimizer.step()
    return known.model


def test_the_factors_and_the_head_learn_alone(known):
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    model = learned(known)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("head.") or name.endswith((".down", ".up")) for name in learning)
    assert len(learning) == 2 * 7 + 2  # seven convolutions
    after = model.state_dict()
    for name, value in before.items():
        if name.startswith("backbone."):
            # the frozen weight now stands below the product
            module, _, kind = name.rpartition(".")
            kept = f"{module}.parametrizations.{kind}.original"
            assert after[kept if kept in after else name].equal(value)
    assert all(after[name].abs().sum() > 0 for name in learning)


def test_folded_it_is_a_plain_network_that_gives_the_same(known):
    model = learned(known)
    images = known.normalise(known.images)
    logits = model(images).logits.detach()
    plain = copy.deepcopy(model)
    fold(plain)
    assert torch.allclose(plain(images).logits, logits, atol=1e-6)
    again = build("resnet8", classes=3, channels=1, generator=torch.Generator()).eval()
    again.load_state_dict(plain.state_dict())
    assert torch.allclose(again(images).logits, logits, atol=1e-6)
    assert not torch.allclose(known.start["backbone.layer1.0.conv1.weight"], again.backbone["layer1"][0].conv1.weight)


def test_a_second_stage_begins_where_the_first_ended(known):
    """Its own factors, of another rank, on weights that have taken the first ones' product in."""
    model = learned(known)
    images = known.normalise(known.images)
    logits = model(images).logits.detach()
    groups = make("lora", rank=2).build(known)(model)
    assert torch.allclose(model(images).logits, logits, atol=1e-6)
    assert {len(p) for p in groups[0]["params"] if p.shape[-1] != 2} <= {2, 3}
    # who rebuilds the network gets the same names and shapes
    twin = build("resnet8", classes=3, channels=1, generator=torch.Generator()).eval()
    for rank in (8, 2):
        twin = make("lora", rank=rank).reshape(twin)
    twin.load_state_dict(model.state_dict())
    assert torch.allclose(twin(images).logits, logits, atol=1e-6)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x[:, None]
        return self.mlp(self.attn(y, y, y)[0][:, 0])


@pytest.mark.parametrize(("where", "layers"), [("attention", 2), ("all", 3)])
def test_attention(where, layers):
    """The joint projection of queries, keys and values has one product, the output projection another."""
    network = Network({"block": Attention()}, LinearHead(4, 2), features=4, classes=2)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = network.backbone["block"](x)
    (group,) = make("lora", rank=1, where=where).build(Facts(torch.ones(2), torch.arange(2)))(network)
    assert len(group["params"]) == 2 * layers + 2
    assert torch.allclose(network.backbone["block"](x), before, atol=1e-6)
    for parameter in group["params"]:
        nn.init.constant_(parameter, 0.3)
    changed = network.backbone["block"](x)
    assert not torch.allclose(changed, before, atol=1e-3)
    network.backbone["block"](x).sum().backward()
    assert all(parameter.grad is not None for parameter in group["params"][:-2])
    fold(network)
    assert torch.allclose(network.backbone["block"](x), changed, atol=1e-6)


def test_options(known):
    with pytest.raises(ValueError, match=r"'lora': rank must be a whole number in \[1, inf\), got 0"):
        make("lora", rank=0)
    with pytest.raises(ValueError, match=r"'lora': alpha must be a number in \[0, inf\), got -1"):
        make("lora", alpha=-1)
    with pytest.raises(ValueError, match="'lora': where must be one of 'all', 'attention', got 'mlp'"):
        make("lora", where="mlp")
    with pytest.raises(ValueError, match="the backbone has no layer for where='attention'; use where='all'"):
        make("lora", where="attention").build(known)(known.model)
