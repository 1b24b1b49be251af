import pytest
import torch

from trainables.registry import make

LABELS = torch.tensor([0, 1, 2])


def test_hand_worked_numbers(facts):
    # ln 10 = 2.302585…
    weights = make("log_inverse").build(facts(1000, 100, 10))(LABELS)
    assert weights.tolist() == pytest.approx([1.0, 3.302585092994046, 5.605170185988092])


def test_equal_counts_change_nothing(facts):
    assert make("log_inverse").build(facts(4, 4, 4))(LABELS).tolist() == [1.0, 1.0, 1.0]


def test_a_class_without_images_has_no_weight(facts):
    assert make("log_inverse").build(facts(4, 0, 4))(LABELS).tolist() == [1.0, 0.0, 1.0]


def test_it_has_no_numbers():
    with pytest.raises(ValueError, match=r"'log_inverse' has no number 'power'.*it has none"):
        make("log_inverse", power=1)
