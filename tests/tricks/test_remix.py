import pytest
import torch

from trainables.batch import Batch
from trainables.registry import make


def mixtures(facts, numbers, seeds=40):
    """(own class, partner's class, image share, label share) of many mixtures of a frequent and a rare class."""
    known = facts(60, 20)
    batch = Batch.plain(torch.zeros(8, 1, 2, 2), torch.arange(8), torch.tensor([0, 1] * 4))
    for seed in range(seeds):
        mixed = make("remix", **numbers).build(known)(batch, torch.Generator().manual_seed(seed))
        assert torch.allclose(mixed.share.sum(dim=1), torch.ones(8))
        yield from zip(mixed.y[:, 0].tolist(), mixed.y[:, 1].tolist(), mixed.blend.share.tolist(),
                       mixed.share[:, 0].tolist(), strict=True)  # fmt: skip


def test_hand_worked_cases(facts):
    # κ = 3 is just reached: 60 / 20
    cases = set()
    for own, other, share, label in mixtures(facts, {"kappa": 3.0, "tau": 0.4}):
        if own < other and share < 0.4:
            expected = 0.0
        elif own > other and 1 - share < 0.4:
            expected = 1.0
        else:
            expected = share
        assert label == pytest.approx(expected)
        cases.add((own, other, expected in (0.0, 1.0)))
    assert len(cases) == 6  # each of the two kinds of pairs with and without, equal pairs without


@pytest.mark.parametrize("numbers", [{"tau": 0.0}, {"kappa": 3.01, "tau": 1.0}])
def test_tau_zero_and_near_counts_are_mixup(facts, numbers):
    for _, _, share, label in mixtures(facts, numbers, seeds=10):
        assert label == share


def test_equal_counts_are_mixup(facts, batch, generator, known):
    equal = facts(5, 5, 5)
    mixed, twin = (make(name).build(equal)(batch, generator(0)) for name in ("remix", "input_mixup"))
    assert mixed.share.equal(twin.share)
    assert mixed.blend.order.equal(twin.blend.order)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, inf\), got -1"):
        make("remix", alpha=-1)
    with pytest.raises(ValueError, match=r"kappa must be a number in \[1, inf\), got 0.5"):
        make("remix", kappa=0.5)
    with pytest.raises(ValueError, match=r"tau must be a number in \[0, 1\], got 2"):
        make("remix", tau=2)
