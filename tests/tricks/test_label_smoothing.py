import pytest
import torch
from torch.nn import functional

from trainables.objective import Objective
from trainables.registry import make


def test_hand_worked_numbers(facts):
    q = make("label_smoothing", epsilon=0.2).build(facts(5, 3, 1, 1))(torch.tensor([3, 0]))
    assert q.tolist() == [pytest.approx([0.05, 0.05, 0.05, 0.85]), pytest.approx([0.85, 0.05, 0.05, 0.05])]


def test_it_agrees_with_torch(facts):
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])
    losses = Objective([make("label_smoothing", epsilon=0.1)], facts(5, 3, 1))(z, y)
    assert torch.allclose(losses, functional.cross_entropy(z, y, reduction="none", label_smoothing=0.1))


def test_epsilon_zero_changes_nothing(facts):
    assert make("label_smoothing", epsilon=0.0).build(facts(5, 3))(torch.tensor([1])).tolist() == [[0.0, 1.0]]


def test_counts_play_no_role(facts):
    labels = torch.tensor([0, 1])
    assert make("label_smoothing").build(facts(9, 1))(labels).equal(make("label_smoothing").build(facts(5, 5))(labels))


def test_epsilon_out_of_range():
    with pytest.raises(ValueError, match=r"epsilon must be a number in \[0, 1\), got 1"):
        make("label_smoothing", epsilon=1)
