import numpy as np
import pytest
import torch

from spaces.domain import Stage
from trainables.registry import make

COUNTS = (60, 30, 10)


@pytest.mark.parametrize("power", [0.0, 0.2, 1.0, 2.0])
def test_chances_of_the_classes_by_hand(facts, generator, power):
    """The weight of an image is 1 / n ** power, so that of its class n ** (1 − power)."""
    weights = np.array(COUNTS, dtype=float) ** (1 - power)
    draw = make("weighted_partner", power=power).build(facts(*COUNTS))
    known = facts(*COUNTS)
    drawn = torch.cat([known.labels[draw(0.5, generator(seed))] for seed in range(60)])
    assert (drawn.bincount() / len(drawn)).tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=0.02)


def test_an_epoch_is_as_long_as_the_training_set_and_replaces(facts, generator):
    drawn = make("weighted_partner").build(facts(*COUNTS))(0.0, generator(0))
    assert drawn.shape == (100,) and len(drawn.unique()) < 100
    assert drawn.min() >= 0 and drawn.max() < 100


def test_alone_it_changes_nothing(make_plan, pipeline):
    ends = []
    for choose in ([], ["weighted_partner"]):
        run = pipeline(make_plan(Stage("a", epochs=1, choose=choose)))
        run.run()
        ends.append(run.network().state_dict())
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_power_out_of_range():
    with pytest.raises(ValueError, match=r"'weighted_partner'.*power must be a number in \[0, 10\], got -1"):
        make("weighted_partner", power=-1)
