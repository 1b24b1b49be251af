import pytest
import torch

from trainables.objective import Objective
from trainables.registry import make

LABELS = torch.tensor([0, 1, 2])


def test_hand_worked_numbers(facts):
    weights = make("cost_sensitive").build(facts(100, 50, 25))(LABELS)
    assert weights.tolist() == [0.25, 0.5, 1.0]
    rooted = make("cost_sensitive", power=0.5).build(facts(100, 50, 25))(LABELS)
    assert rooted.tolist() == pytest.approx([0.5, 0.7071067811865476, 1.0])


def test_it_multiplies_the_cross_entropy(facts):
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    losses = Objective([make("cost_sensitive")], facts(30, 10))(z, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.6931471805599453 / 3, 0.6931471805599453])


def test_power_zero_changes_nothing(facts):
    assert make("cost_sensitive", power=0.0).build(facts(100, 50, 25))(LABELS).tolist() == [1.0, 1.0, 1.0]


def test_equal_counts_change_nothing(facts):
    assert make("cost_sensitive").build(facts(7, 7, 7))(LABELS).tolist() == [1.0, 1.0, 1.0]


def test_a_class_without_images_has_no_weight_and_is_not_the_smallest(facts):
    assert make("cost_sensitive").build(facts(4, 0, 2))(LABELS).tolist() == [0.5, 0.0, 1.0]


@pytest.mark.parametrize("power", [-0.1, 2.1, float("nan"), "1", True])
def test_power_out_of_range(power):
    with pytest.raises(ValueError, match=r"'cost_sensitive'.*power must be a number in \[0, 2\], got"):
        make("cost_sensitive", power=power)
