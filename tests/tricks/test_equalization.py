import math

import pytest
import torch
from torch.nn import functional

from trainables.objective import Objective
from trainables.registry import make


def test_hand_worked_numbers(facts):
    # N = 100; the classes with 4 and 1 images are below 5 %
    known = facts(95, 4, 1)
    z = torch.log(torch.tensor([[2.0, 3.0, 5.0]] * 3, dtype=torch.float64))
    loss = Objective([make("equalization", gamma=1.0, tail_share=0.05)], known)(z, torch.tensor([0, 1, 2]))
    # rare classes are out of the sum unless they are the label
    assert loss.tolist() == pytest.approx([-math.log(2 / 2), -math.log(3 / 5), -math.log(5 / 7)])


def test_the_default_limit_is_half_the_mean_share(facts):
    # C = 2: below 1/4
    z = torch.zeros(1, 2, dtype=torch.float64)
    assert Objective([make("equalization", gamma=1.0)], facts(80, 20))(z, torch.tensor([0])).item() == 0.0
    assert Objective([make("equalization", gamma=1.0)], facts(75, 25))(z, torch.tensor([0])).item() > 0.69


def test_classes_are_spared_with_probability_gamma(facts, generator):
    z = torch.zeros(20_000, 2)
    loss = Objective([make("equalization", gamma=0.9, tail_share=0.05)], facts(99, 1))
    losses = loss(z, torch.zeros(20_000, dtype=torch.int64), generator=generator(0))
    assert (losses == 0).float().mean().item() == pytest.approx(0.9, abs=0.01)
    assert losses.unique().tolist() == pytest.approx([0.0, math.log(2)])


@pytest.mark.parametrize("numbers", [{"gamma": 0.0}, {"gamma": 1.0, "tail_share": 0.0}])
def test_neutral_settings_are_the_cross_entropy(facts, numbers):
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 1, 0])
    loss = Objective([make("equalization", **numbers)], facts(95, 4, 1))(z, y)
    assert torch.allclose(loss, functional.cross_entropy(z, y, reduction="none"))


def test_equal_counts_change_nothing(facts, generator):
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 1, 0])
    loss = Objective([make("equalization")], facts(9, 9, 9))(z, y, generator=generator(0))
    assert torch.allclose(loss, functional.cross_entropy(z, y, reduction="none"))


def test_large_logits_do_not_overflow(facts):
    z = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = Objective([make("equalization", gamma=1.0, tail_share=0.05)], facts(99, 1))(z, torch.tensor([1]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(z.grad).all()


def test_drawing_needs_a_generator(facts):
    with pytest.raises(ValueError, match=r"'equalization': gamma=0.9 draws .* call the objective with generator="):
        Objective([make("equalization")], facts(99, 1))(torch.zeros(1, 2), torch.tensor([0]))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"gamma must be a number in \[0, 1\], got 1.5"):
        make("equalization", gamma=1.5)
    with pytest.raises(ValueError, match=r"tail_share must be a number in \[0, 1\], got -1"):
        make("equalization", tail_share=-1)
