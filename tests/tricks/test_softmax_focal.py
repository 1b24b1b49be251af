import math

import pytest
import torch
from torch.nn import functional

from trainables.objective import Objective
from trainables.registry import make

Z = torch.tensor([[math.log(6), math.log(3), 0.0]], dtype=torch.float64)  # softmax 0.6, 0.3, 0.1


def test_hand_worked_numbers(facts):
    for label, p in enumerate((0.6, 0.3, 0.1)):
        for gamma in (1.0, 2.0):
            loss = Objective([make("softmax_focal", gamma=gamma)], facts(3, 2, 1))(Z, torch.tensor([label]))
            assert loss.item() == pytest.approx(-((1 - p) ** gamma) * math.log(p))


def test_gamma_zero_is_the_cross_entropy(facts):
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 1, 0])
    loss = Objective([make("softmax_focal", gamma=0.0)], facts(3, 2, 1))(z, y)
    assert torch.allclose(loss, functional.cross_entropy(z, y, reduction="none"))


def test_the_constant_factor_has_the_same_value_and_another_gradient(facts):
    gradients = []
    for constant in (False, True):
        z = Z.clone().requires_grad_()
        loss = Objective([make("softmax_focal", constant_factor=constant)], facts(3, 2, 1))(z, torch.tensor([0]))
        assert loss.item() == pytest.approx(-0.4 * math.log(0.6))
        loss.backward()
        gradients.append(z.grad)
    # (1 − p) (p − 1) with the factor held
    assert gradients[1][0, 0].item() == pytest.approx(-0.16)
    assert gradients[0][0, 0].item() == pytest.approx(-0.16 + 0.6 * 0.4 * math.log(0.6))


def test_a_soft_target_is_used(facts):
    loss = Objective([make("softmax_focal"), make("label_smoothing", epsilon=0.3)], facts(3, 2, 1))
    expected = -sum(q * (1 - p) * math.log(p) for q, p in ((0.8, 0.6), (0.1, 0.3), (0.1, 0.1)))
    assert loss(Z, torch.tensor([0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_gradients_stay_finite_where_the_softmax_saturates(facts, gamma):
    z = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    Objective([make("softmax_focal", gamma=gamma)], facts(2, 1))(z, torch.tensor([0, 0])).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_gamma_below_zero():
    with pytest.raises(ValueError, match=r"'softmax_focal'.*gamma must be a number in \[0, inf\), got -0.5"):
        make("softmax_focal", gamma=-0.5)
