import math

import pytest
import torch
from torch.nn import functional

from trainables.objective import Objective
from trainables.registry import make


def test_hand_worked_numbers(facts):
    # exp z = 1, 2, 3 and counts 6, 3, 1: 6, 6, 3 of 15
    z = torch.log(torch.tensor([[1.0, 2.0, 3.0]] * 3, dtype=torch.float64))
    losses = Objective([make("balanced_softmax")], facts(6, 3, 1))(z, torch.tensor([0, 1, 2]))
    assert losses.tolist() == pytest.approx([-math.log(6 / 15), -math.log(6 / 15), -math.log(3 / 15)])


def test_equal_counts_change_nothing(facts):
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])
    losses = Objective([make("balanced_softmax")], facts(9, 9, 9))(z, y)
    assert torch.allclose(losses, functional.cross_entropy(z, y, reduction="none"))


def test_a_class_without_images_is_out_of_the_softmax(facts):
    z = torch.zeros(1, 3, requires_grad=True)
    loss = Objective([make("balanced_softmax")], facts(3, 0, 1))(z, torch.tensor([2]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(4))
    assert z.grad.tolist() == [[0.75, 0.0, -0.75]]


def test_it_has_no_numbers():
    with pytest.raises(ValueError, match="'balanced_softmax' has no number 'tau'"):
        make("balanced_softmax", tau=1)
