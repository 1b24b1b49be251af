import pytest
import torch
from torch import nn

from trainables.models.layers import fold, layers_of
from trainables.registry import make


@pytest.mark.parametrize(
    ("count", "begins"),
    [(1, ("layer3",)), (2, ("layer2", "layer3")), (4, ("stem", "layer1", "layer2", "layer3")), (9, ("stem", "layer"))],
)
def test_the_last_blocks_and_the_head_learn(known, count, begins):
    (group,) = make("last_block", count=count).build(known)(known.model)
    learning = {name for name, parameter in known.model.named_parameters() if parameter.requires_grad}
    expected = {
        name
        for name, _ in known.model.named_parameters()
        if name.startswith("head.") or name.removeprefix("backbone.").startswith(begins)
    }
    assert learning == expected
    assert len(group["params"]) == len(expected)
    assert known.model.fix_batchnorm is True


def test_a_step_moves_them_alone(known):
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    groups = make("last_block").build(known)(known.model)
    known.model.train()
    known.model(known.normalise(known.images)).logits.square().sum().backward()
    torch.optim.SGD(groups, lr=0.1).step()
    for name, value in known.model.state_dict().items():
        moves = name.startswith(("backbone.layer3", "head.")) and "running" not in name and "tracked" not in name
        assert value.equal(before[name]) != moves, name


def test_options():
    with pytest.raises(ValueError, match=r"'last_block': count must be a whole number in \[1, inf\), got 0"):
        make("last_block", count=0)


# --- what a layer is --------------------------------------------------------------------------------------


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.downsample = nn.Linear(2, 2)
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


class Body(nn.Module):
    """A vision transformer's outline."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 2))
        self.embed = nn.Linear(3, 2)
        self.blocks = nn.Sequential(nn.TransformerEncoderLayer(2, 1, 4), nn.TransformerEncoderLayer(2, 1, 4))
        self.norm = nn.LayerNorm(2)


def names(body):
    owner = {id(parameter): name for name, parameter in body.named_parameters()}
    return [sorted({owner[id(parameter)].rpartition(".")[0] for parameter in layer}) for layer in layers_of(body)]


def test_layers_by_hand():
    found = names(nn.ModuleDict({"body": Body()}))
    assert [len(layers_of(Body())), len(found)] == [3, 3]
    assert found[0] == ["body", "body.embed"]
    assert all(name.startswith("body.blocks.0") for name in found[1])
    assert found[2][-1] == "body.norm" and all(name.startswith("body.blocks.1") for name in found[2][:-1])
    stages = names(nn.ModuleDict({"stages": nn.Sequential(Stage(), Stage())}))
    assert stages == [
        [f"stages.{stage}.{layer}"] for stage in (0, 1) for layer in ("downsample", "blocks.0", "blocks.1")
    ]


def test_a_low_rank_product_belongs_to_its_layer(known):
    plain = names(known.model.backbone)
    make("lora").build(known)(known.model)
    adapted = layers_of(known.model.backbone)
    assert len(adapted) == len(plain)
    assert sum(map(len, adapted)) == len(list(known.model.backbone.parameters()))
    fold(known.model)
    assert names(known.model.backbone) == plain


def test_a_backbone_without_parameters():
    assert layers_of(nn.ModuleDict({"body": nn.Identity()})) == []
