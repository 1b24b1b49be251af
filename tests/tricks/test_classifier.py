import pytest
import torch

from trainables.registry import make
from trainables.training.seeding import generator as seeded


def test_only_the_head_learns(known):
    groups = make("classifier").build(known)(known.model)
    learning = {id(p) for group in groups for p in group["params"]}
    assert learning == {id(p) for p in known.model.head.parameters()}
    assert {name for name, p in known.model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_reset_draws_the_head_anew(known):
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    make("classifier").build(known)(known.model)
    twin = type(known.model.head)(features=64, classes=3, generator=seeded(0, "head"))
    for name, value in known.model.state_dict().items():
        assert value.equal(before[name]) == (name not in ("head.weight",))
    assert known.model.head.weight.equal(twin.weight)


def test_a_warm_start_changes_nothing(known):
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    make("classifier", reset=False).build(known)(known.model)
    assert all(value.equal(before[name]) for name, value in known.model.state_dict().items())


@pytest.mark.parametrize(("batchnorm", "fixed"), [("fixed", True), ("moving", False)])
def test_batchnorm(known, batchnorm, fixed):
    make("classifier", batchnorm=batchnorm).build(known)(known.model)
    assert known.model.fix_batchnorm is fixed


def test_a_step_moves_the_head_alone(known):
    groups = make("classifier").build(known)(known.model)
    before = {name: p.detach().clone() for name, p in known.model.named_parameters()}
    optimiser = torch.optim.SGD(groups, lr=0.1)
    known.model(known.normalise(known.images)).logits.square().sum().backward()
    optimiser.step()
    for name, parameter in known.model.named_parameters():
        assert parameter.equal(before[name]) != name.startswith("head.")


def test_options():
    with pytest.raises(ValueError, match="reset must be one of False, True, got 'no'"):
        make("classifier", reset="no")
    with pytest.raises(ValueError, match="'classifier': batchnorm must be one of 'fixed', 'moving', got 'frozen'"):
        make("classifier", batchnorm="frozen")
