import math

import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make

# counts 3, 1, and logits ln 1 so that the balanced softmax is 3/4, 1/4
FLAT = torch.zeros(3, 2, dtype=torch.float64)


def test_hand_worked_numbers(facts):
    z = torch.log(torch.tensor([[1.0, 1.0], [1.0, 3.0], [1.0, 3.0]], dtype=torch.float64))
    # probabilities of the labels: 3/4; 3/(3 + 3) = 1/2 as class 0; 1/2 as class 1
    losses = Objective([make("gml")], facts(3, 1))(z, torch.tensor([0, 0, 1]))
    expected = (-math.log((3 / 4 + 1 / 2) / 2) - math.log(1 / 2)) / 2
    assert losses.tolist() == pytest.approx([expected] * 3)


def test_order_of_the_mean(facts):
    losses = Objective([make("gml", p=2.0)], facts(3, 1))(FLAT, torch.tensor([0, 0, 1]))
    expected = math.sqrt((math.log(3 / 4) ** 2 + math.log(1 / 4) ** 2) / 2)
    assert losses.tolist() == pytest.approx([expected] * 3)


def test_classes_that_the_batch_lacks_play_no_role(facts):
    losses = Objective([make("gml")], facts(3, 1))(FLAT, torch.tensor([0, 0, 0]))
    assert losses.tolist() == pytest.approx([-math.log(3 / 4)] * 3)


def test_equal_counts_and_one_image_per_class_are_the_mean_cross_entropy(facts):
    z = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1])
    plain = Objective([], facts(2, 2))(z, y).mean()
    assert torch.allclose(Objective([make("gml")], facts(2, 2))(z, y), plain.expand(2))


def test_probabilities_are_kept_from_zero(facts):
    z = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss = Objective([make("gml")], facts(1, 1))(z, torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(-math.log(1e-5), rel=1e-5)
    assert torch.isfinite(z.grad).all()


def test_a_mixture_uses_the_two_label_form(facts):
    z = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = Objective([make("gml")], facts(3, 1))
    y = torch.tensor([[0, 1], [1, 0]])
    share = torch.tensor([[0.7, 0.3], [0.7, 0.3]], dtype=torch.float64)
    parts = 0.7 * objective(z, y[:, 0]) + 0.3 * objective(z, y[:, 1])
    assert torch.allclose(objective(z, y, share), parts)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_a_perfect_batch_has_finite_gradients(facts, p):
    z = torch.tensor([[900.0, 0.0], [0.0, 900.0]], requires_grad=True)
    Objective([make("gml", p=p)], facts(1, 1))(z, torch.tensor([0, 1])).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_p_below_one():
    with pytest.raises(ValueError, match=r"p must be a number in \[1, inf\), got 0.5"):
        make("gml", p=0.5)
