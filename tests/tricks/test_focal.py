import math

import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_hand_worked_numbers(facts):
    # z = (ln 3, 0, −ln 3): p = 3/4, 1/2, 1/4; y = 0: p^t = 3/4, 1/2, 3/4
    z = torch.tensor([[math.log(3), 0.0, -math.log(3)]], dtype=torch.float64)
    expected = -(2 * 0.25**2 * math.log(0.75) + 0.5**2 * math.log(0.5))
    loss = Objective([make("focal", gamma=2.0)], facts(3, 2, 1))(z, torch.tensor([0]))
    assert loss.tolist() == pytest.approx([expected])
    # y = 2: p^t = 1/4, 1/2, 1/4
    expected = -(2 * 0.75**2 * math.log(0.25) + 0.5**2 * math.log(0.5))
    loss = Objective([make("focal", gamma=2.0)], facts(3, 2, 1))(z, torch.tensor([2]))
    assert loss.tolist() == pytest.approx([expected])


def test_gamma_zero_is_the_sum_of_binary_cross_entropies(facts):
    z = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    expected = -math.log(sigmoid(0.3)) - math.log(1 - sigmoid(-1.2))
    assert Objective([make("focal", gamma=0.0)], facts(2, 1))(z, torch.tensor([0])).item() == pytest.approx(expected)


def test_counts_play_no_role(facts):
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])
    skewed, equal = (Objective([make("focal")], facts(*counts))(z, y) for counts in ((99, 9, 1), (5, 5, 5)))
    assert torch.equal(skewed, equal)


def test_a_soft_target_is_used(facts):
    z = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    loss = Objective([make("focal", gamma=0.0), make("label_smoothing", epsilon=0.5)], facts(2, 1))
    q = (0.75, 0.25)
    expected = -sum(
        share * math.log(sigmoid(x)) + (1 - share) * math.log(1 - sigmoid(x))
        for share, x in zip(q, (1, -1), strict=True)
    )
    assert loss(z, torch.tensor([0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_stay_finite_where_sigmoids_saturate(facts, gamma):
    z = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    Objective([make("focal", gamma=gamma)], facts(2, 1))(z, torch.tensor([0, 0])).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_gamma_below_zero():
    with pytest.raises(ValueError, match=r"'focal'.*gamma must be a number in \[0, inf\), got -1"):
        make("focal", gamma=-1)
