import math

import pytest
import torch

from trainables.registry import make

LABELS = torch.tensor([0, 1, 2])
COUNTS = (100, 40, 10)  # r = 1, 1/3, 0


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        ("concave", 0.1 + 0.3 * math.sin(math.pi / 6)),
        ("linear", 0.1 + 0.3 / 3),
        ("convex", 0.4 - 0.3 * math.cos(math.pi / 6)),
        ("exponential", 0.1 + 0.3 / 9),
    ],
)
def test_hand_worked_numbers(facts, shape, middle):
    q = make("label_aware_smoothing", head=0.4, tail=0.1, shape=shape).build(facts(*COUNTS))(LABELS)
    for row, epsilon in enumerate((0.4, middle, 0.1)):
        expected = [epsilon / 2] * 3
        expected[row] = 1 - epsilon
        assert q[row].tolist() == pytest.approx(expected)


def test_the_spread_of_the_public_code(facts):
    q = make("label_aware_smoothing", head=0.3, shape="linear", spread="all").build(facts(*COUNTS))(LABELS)
    assert q[0].tolist() == pytest.approx([0.8, 0.1, 0.1])


def test_head_and_tail_zero_change_nothing(facts):
    q = make("label_aware_smoothing", head=0.0, tail=0.0).build(facts(*COUNTS))(LABELS)
    assert q.equal(torch.eye(3, dtype=torch.float64))


def test_equal_counts_have_the_tails_smoothing(facts):
    q = make("label_aware_smoothing", head=0.4, tail=0.0).build(facts(7, 7, 7))(LABELS)
    assert q.equal(torch.eye(3, dtype=torch.float64))


def test_a_class_without_images_is_not_the_smallest(facts):
    q = make("label_aware_smoothing", head=0.4, tail=0.0).build(facts(100, 0, 10))(torch.tensor([2]))
    assert q.tolist() == [[0.0, 0.0, 1.0]]


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"head must be a number in \[0, 1\), got 1"):
        make("label_aware_smoothing", head=1)
    with pytest.raises(ValueError, match=r"tail must be a number in \[0, 1\), got -1"):
        make("label_aware_smoothing", tail=-1)
    with pytest.raises(ValueError, match="shape must be one of 'concave', 'linear', 'convex', 'exponential', got 'x'"):
        make("label_aware_smoothing", shape="x")
    with pytest.raises(ValueError, match=r"power must be a number in \(0, inf\), got 0"):
        make("label_aware_smoothing", power=0)
    with pytest.raises(ValueError, match="spread must be one of 'others', 'all', got 'none'"):
        make("label_aware_smoothing", spread="none")
