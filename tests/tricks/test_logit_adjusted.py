import math

import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make

Z = torch.log(torch.tensor([[1.0, 2.0, 3.0]] * 3, dtype=torch.float64))
Y = torch.tensor([0, 1, 2])


def test_hand_worked_numbers(facts):
    # tau = 2: exp z · n² = 36, 18, 3 of 57
    losses = Objective([make("logit_adjusted", tau=2.0)], facts(6, 3, 1))(Z, Y)
    assert losses.tolist() == pytest.approx([-math.log(36 / 57), -math.log(18 / 57), -math.log(3 / 57)])


def test_tau_one_is_balanced_softmax(facts):
    one, other = (Objective([make(name)], facts(6, 3, 1))(Z, Y) for name in ("logit_adjusted", "balanced_softmax"))
    assert torch.allclose(one, other)


def test_tau_zero_changes_nothing_even_with_an_empty_class(facts):
    assert make("logit_adjusted", tau=0.0).build(facts(6, 0, 1))(Z, Y).equal(Z)


def test_equal_counts_change_nothing(facts):
    plain = Objective([], facts(2, 2, 2))(Z, Y)
    assert torch.allclose(Objective([make("logit_adjusted")], facts(2, 2, 2))(Z, Y), plain)


def test_the_floor_of_the_public_code(facts):
    shift = make("logit_adjusted", tau=2.0, floor=1e-12).build(facts(10**7, 1, 0))(Z[:1], Y[:1]) - Z[:1]
    prior = 1 / (10**7 + 1)
    assert shift[0, 1].item() == pytest.approx(math.log(prior**2 + 1e-12))
    assert shift[0, 2].item() == pytest.approx(math.log(1e-12))


def test_a_class_without_images(facts):
    assert make("logit_adjusted").build(facts(6, 0, 1))(Z, Y)[0, 1].item() == -math.inf


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"tau must be a number in \[0, inf\), got -1"):
        make("logit_adjusted", tau=-1)
    with pytest.raises(ValueError, match=r"floor must be a number in \[0, 1\], got 2"):
        make("logit_adjusted", floor=2)
