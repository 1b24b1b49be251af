import math

import pytest
import torch

from trainables.batch import Outputs
from trainables.registry import make

OUTPUTS = Outputs(torch.tensor([[2.0, 1.0, 0.5]], dtype=torch.float64))


def test_hand_worked_numbers(facts):
    z = make("post_hoc_adjustment", tau=2.0).build(facts(6, 3, 1))(OUTPUTS)
    expected = [2 - 2 * math.log(0.6), 1 - 2 * math.log(0.3), 0.5 - 2 * math.log(0.1)]
    assert z.tolist() == [pytest.approx(expected)]
    assert z.argmax().item() == 2


def test_tau_zero_changes_nothing(facts):
    assert make("post_hoc_adjustment", tau=0.0).build(facts(6, 0, 1))(OUTPUTS).equal(OUTPUTS.logits)


def test_equal_counts_change_no_difference(facts):
    z = make("post_hoc_adjustment").build(facts(5, 5, 5))(OUTPUTS)
    assert (z - OUTPUTS.logits).tolist() == [pytest.approx([math.log(3)] * 3)]


def test_a_class_without_images_is_never_predicted(facts):
    assert make("post_hoc_adjustment").build(facts(6, 0, 1))(OUTPUTS)[0, 1].item() == -math.inf


def test_the_floor_of_the_public_code(facts):
    z = make("post_hoc_adjustment", tau=2.0, floor=1e-12).build(facts(10**7, 1))(Outputs(torch.zeros(1, 2).double()))
    assert z[0, 1].item() == pytest.approx(-math.log((1 / (10**7 + 1)) ** 2 + 1e-12))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"tau must be a number in \[0, inf\), got -1"):
        make("post_hoc_adjustment", tau=-1)
    with pytest.raises(ValueError, match=r"floor must be a number in \[0, 1\], got -1"):
        make("post_hoc_adjustment", floor=-1)
