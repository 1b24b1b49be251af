import torch

from trainables.registry import make
from trainables.tricks._shared.fine_tuning import drawn


def test_biases_and_the_head_learn(known):
    (group,) = make("bias_only").build(known)(known.model)
    learning = {name for name, parameter in known.model.named_parameters() if parameter.requires_grad}
    # resnet8 has seven BatchNorms and no bias in its convolutions
    assert {name.rpartition(".")[2] for name in learning if name.startswith("backbone.")} == {"bias"}
    assert len(learning) == 7 + 2 == len(group["params"])
    assert {"head.weight", "head.bias"} <= learning
    assert known.model.fix_batchnorm is True


def test_a_step_moves_them_alone(known):
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    groups = make("bias_only").build(known)(known.model)
    known.model.train()
    known.model(known.normalise(known.images)).logits.square().sum().backward()
    torch.optim.SGD(groups, lr=0.1).step()
    for name, value in known.model.state_dict().items():
        assert value.equal(before[name]) != (name.endswith("bias") or name == "head.weight"), name


def test_initial_values_by_hand(generator):
    """Uniform in ±1/√fan_in whatever the type; zeros without a generator."""
    like = torch.empty(300, 16, dtype=torch.float64)
    found = drawn(like, 16, generator(0))
    assert found.dtype == torch.float64
    assert 0.245 < found.abs().max() <= 0.25
    assert abs(float(found.std()) - 0.25 / 3**0.5) < 0.005
    assert drawn(like.float(), 16, generator(0)).double().equal(found)
    assert not drawn(like, 16, None).any()
