import math

import pytest
import torch

from trainables.batch import Outputs
from trainables.objective import Objective
from trainables.registry import make


def test_hand_worked_numbers(facts):
    # counts 3, 1: inverse 1/3, 1, scaled to the sum 2: 0.5, 1.5; softmax 0.75, 0.25; |f|₁ = 5
    outputs = Outputs(torch.log(torch.tensor([[3.0, 1.0]] * 2, dtype=torch.float64)), torch.tensor([[2.0, -3.0]] * 2))
    losses = Objective([make("influence_balanced", alpha=10.0)], facts(3, 1))(outputs, torch.tensor([0, 1]))
    expected = [
        0.5 * -math.log(0.75) * 10 / (0.5 * 5 + 1e-3),
        1.5 * -math.log(0.25) * 10 / (1.5 * 5 + 1e-3),
    ]
    assert losses.tolist() == pytest.approx(expected)


def test_without_influence_a_thousandth_is_left_by_hand(facts):
    outputs = Outputs(torch.log(torch.tensor([[3.0, 1.0]], dtype=torch.float64)), torch.zeros(1, 2))
    losses = Objective([make("influence_balanced", alpha=10.0)], facts(3, 1))(outputs, torch.tensor([0]))
    assert losses.tolist() == pytest.approx([0.5 * -math.log(0.75) * 10 * 1000])


def test_equal_counts_weigh_classes_alike(facts):
    outputs = Outputs(torch.zeros(2, 2), torch.ones(2, 4))
    losses = Objective([make("influence_balanced")], facts(8, 8))(outputs, torch.tensor([0, 1]))
    assert losses[0] == losses[1]
    assert losses[0].item() == pytest.approx(1000 * math.log(2) / 4.001, rel=1e-5)


def test_alpha_sets_the_scale(facts):
    outputs = Outputs(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4))
    y = torch.tensor([0, 1, 1])
    one, ten = (Objective([make("influence_balanced", alpha=a)], facts(8, 2))(outputs, y) for a in (1.0, 10.0))
    assert torch.allclose(10 * one, ten)


def test_it_needs_features(facts):
    with pytest.raises(ValueError, match=r"'influence_balanced' needs the features: .*Outputs\(logits, features\)"):
        Objective([make("influence_balanced")], facts(8, 2))(torch.zeros(1, 2), torch.tensor([0]))


def test_alpha_must_be_above_zero():
    with pytest.raises(ValueError, match=r"alpha must be a number in \(0, inf\), got 0"):
        make("influence_balanced", alpha=0)
