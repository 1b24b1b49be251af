import pytest
import torch

from trainables.registry import make


def test_hand_worked_numbers(known):
    network = make("cosine_head", scale=10.0).build(known)(known.model)
    features, weight = torch.zeros(1, 64), torch.zeros(3, 64)
    features[0, :2] = torch.tensor([3.0, 4.0])
    weight[0, 0], weight[1, 1], weight[2, 0] = 5.0, 0.5, -1.0
    network.head.weight.data.copy_(weight)
    assert network.head(features).tolist() == [pytest.approx([6.0, 8.0, -6.0])]
    assert network.head.kind == "cosine"
    assert network.head.bias is None


def test_the_lengths_of_features_and_rows_change_nothing(known):
    network = make("cosine_head").build(known)(known.model)
    features = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    before = network.head(features)
    network.head.weight.data.mul_(7)
    assert torch.allclose(network.head(3 * features), before, atol=1e-5)


def test_initial_values_come_from_the_facts(known):
    weights = []
    for _ in range(2):
        network = make("cosine_head").build(known)(known.model)
        weights.append(network.head.weight.detach().clone())
        network.head = torch.nn.Linear(64, 3)
    assert weights[0].equal(weights[1])


def test_a_cosine_head_keeps_its_weights_and_takes_the_scale(known):
    network = make("cosine_head", scale=30.0).build(known)(known.model)
    network.head.weight.data.mul_(2)
    weight = network.head.weight.detach().clone()
    network = make("cosine_head", scale=16.0).build(known)(network)
    assert network.head.weight.equal(weight)
    assert network.head.scale == 16.0


def test_scale_must_be_above_zero():
    with pytest.raises(ValueError, match=r"'cosine_head'.*scale must be a number in \(0, inf\), got 0"):
        make("cosine_head", scale=0)
