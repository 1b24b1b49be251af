import math

import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make

# counts 3, 1: π = 3/4, 1/4; three images, the third class-0 as well
Z = torch.tensor([[1.0, 0.5], [-0.5, 2.0], [0.0, 1.0]], dtype=torch.float64)
Y = torch.tensor([0, 1, 0])


def log_mean_exp(values):
    return math.log(sum(math.exp(v) for v in values) / len(values))


def entropies():
    rows = []
    for (a, b), y in zip(Z.tolist(), Y.tolist(), strict=True):
        parts = (0.75 * math.exp(a), 0.25 * math.exp(b))
        rows.append(-math.log(parts[y] / sum(parts)))
    return rows


def test_hand_worked_numbers(facts):
    second = [
        log_mean_exp([1.0, -0.5, 0.0]) + math.log(0.5 / 0.75),
        log_mean_exp([0.5, 2.0, 1.0]) + math.log(0.5 / 0.25),
    ]
    first = [0.5, 2.0]
    lader = -sum(pi * (f - s - 0.3 * s**2) for pi, f, s in zip((0.75, 0.25), first, second, strict=True))
    losses = Objective([make("lade", alpha=0.2, square=0.3)], facts(3, 1))(Z, Y)
    assert losses.tolist() == pytest.approx([entropy + 0.2 * lader for entropy in entropies()])


def test_importance_by_image(facts):
    ratio = [math.log(0.5 / 0.75), math.log(0.5 / 0.25), math.log(0.5 / 0.75)]
    second = [log_mean_exp([z + r for z, r in zip(Z[:, c].tolist(), ratio, strict=True)]) for c in range(2)]
    lader = -sum(pi * (f - s - 0.1 * s**2) for pi, f, s in zip((0.75, 0.25), (0.5, 2.0), second, strict=True))
    losses = Objective([make("lade", alpha=1.0, importance="image")], facts(3, 1))(Z, Y)
    assert losses.tolist() == pytest.approx([entropy + lader for entropy in entropies()])


def test_a_class_that_the_batch_lacks_has_no_first_term(facts):
    z = torch.zeros(1, 2, dtype=torch.float64)
    second = [math.log(0.5 / 0.75), math.log(0.5 / 0.25)]
    lader = sum(pi * (s + 0.1 * s**2) for pi, s in zip((0.75, 0.25), second, strict=True))
    losses = Objective([make("lade", alpha=1.0)], facts(3, 1))(z, torch.tensor([0]))
    assert losses.item() == pytest.approx(-math.log(0.75) + lader)


def test_alpha_zero_is_balanced_softmax(facts):
    one, other = (Objective([made], facts(3, 1))(Z, Y) for made in (make("lade", alpha=0.0), make("balanced_softmax")))
    assert torch.allclose(one, other)


def test_equal_counts_do_not_adjust(facts):
    plain = Objective([], facts(2, 2))(Z, Y)
    assert torch.allclose(Objective([make("lade", alpha=0.0)], facts(2, 2))(Z, Y), plain)


def test_a_class_without_images_changes_nothing(facts):
    wide = torch.cat((Z, torch.tensor([[5.0], [7.0], [9.0]], dtype=torch.float64)), dim=1).requires_grad_()
    losses = Objective([make("lade")], facts(3, 1, 0))(wide, Y)
    assert torch.allclose(losses, Objective([make("lade")], facts(3, 1))(Z, Y))
    losses.sum().backward()
    assert torch.isfinite(wide.grad).all()


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, inf\), got -1"):
        make("lade", alpha=-1)
    with pytest.raises(ValueError, match=r"square must be a number in \[0, inf\), got -1"):
        make("lade", square=-1)
    with pytest.raises(ValueError, match="importance must be one of 'class', 'image', got 'batch'"):
        make("lade", importance="batch")
