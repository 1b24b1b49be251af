import pytest
import torch

from trainables.registry import make

LABELS = torch.tensor([0, 1, 2])


def test_hand_worked_numbers(facts):
    # beta = 1/2: 1 − β^n is 3/4, 1/2, 7/8, so the weights are 2/3, 1, 4/7
    weights = make("effective_number", beta=0.5).build(facts(2, 1, 3))(LABELS)
    assert weights.tolist() == pytest.approx([2 / 3, 1.0, 4 / 7])


def test_normalised_weights_sum_to_the_number_of_classes(facts):
    # 2/3 + 1 + 4/7 = 47/21
    weights = make("effective_number", beta=0.5, normalise=True).build(facts(2, 1, 3))(LABELS)
    assert weights.tolist() == pytest.approx([3 * 14 / 47, 3 * 21 / 47, 3 * 12 / 47])
    assert float(weights.sum()) == pytest.approx(3.0)


def test_beta_close_to_one_is_the_inverse_count(facts):
    weights = make("effective_number", beta=1 - 1e-12).build(facts(100, 10, 1))(LABELS)
    assert weights.tolist() == pytest.approx([0.01, 0.1, 1.0], rel=1e-9)


def test_beta_zero_changes_nothing(facts):
    assert make("effective_number", beta=0.0).build(facts(100, 10, 1))(LABELS).tolist() == [1.0, 1.0, 1.0]


def test_equal_counts_change_nothing_when_normalised(facts):
    weights = make("effective_number", normalise=True).build(facts(9, 9, 9))(LABELS)
    assert weights.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_a_class_without_images_has_no_weight(facts):
    weights = make("effective_number", beta=0.5, normalise=True).build(facts(2, 0, 1))(LABELS)
    assert weights.tolist() == pytest.approx([0.8, 0.0, 1.2])


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_out_of_range(beta):
    with pytest.raises(ValueError, match=r"'effective_number'.*beta must be a number in \[0, 1\), got"):
        make("effective_number", beta=beta)


def test_normalise_is_true_or_false():
    with pytest.raises(ValueError, match="normalise must be one of False, True, got 'sum'"):
        make("effective_number", normalise="sum")
