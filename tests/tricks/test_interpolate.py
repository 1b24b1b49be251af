import pytest
import torch

from trainables.batch import MissingFact
from trainables.registry import make

START = {"w": torch.tensor(10.0), "num_batches_tracked": torch.tensor(1)}
MEMBERS = [
    {"w": torch.tensor(1.0), "num_batches_tracked": torch.tensor(5)},
    {"w": torch.tensor(3.0), "num_batches_tracked": torch.tensor(6)},
]


def test_hand_worked_numbers(facts):
    merged = make("interpolate", share=0.75).build(facts(1, 1, start=START))(MEMBERS)
    assert merged["w"].item() == pytest.approx(0.25 * 10 + 0.75 * 2)
    assert merged["num_batches_tracked"].item() == 5


def test_share_one_is_the_average_and_zero_the_start(facts):
    known = facts(1, 1, start=START)
    assert make("interpolate", share=1.0).build(known)(MEMBERS)["w"].item() == 2.0
    assert make("interpolate", share=0.0).build(known)(MEMBERS)["w"].item() == 10.0


def test_no_members(facts):
    with pytest.raises(ValueError, match="'interpolate': there is no member to merge"):
        make("interpolate").build(facts(1, 1, start=START))([])


def test_what_it_needs(facts):
    with pytest.raises(MissingFact, match="'interpolate' needs start"):
        make("interpolate").build(facts(1, 1))


def test_share_out_of_range():
    with pytest.raises(ValueError, match=r"share must be a number in \[0, 1\], got 2"):
        make("interpolate", share=2)
