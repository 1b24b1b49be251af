import pytest
import torch

from trainables.batch import Batch
from trainables.registry import make


def test_shares_are_the_areas(facts, generator):
    # image i is filled with i, so the mean tells the areas
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 10)
    batch = Batch.plain(images, torch.arange(6), torch.arange(6) % 2)
    pasted = 0
    for seed in range(30):
        mixed = make("cutmix").build(facts(3, 3))(batch, generator(seed))
        share = mixed.share[0, 0]
        # the one partner that fits every image
        own, mean = torch.arange(6.0), mixed.images[0].mean(dim=(1, 2, 3))
        if share < 1:
            partner = ((mean - share * own) / (1 - share)).round()
            assert torch.allclose(mean, share * own + (1 - share) * partner, atol=1e-4)
            assert partner.sort().values.tolist() == list(range(6))
            assert mixed.y[:, 1].tolist() == (partner.long() % 2).tolist()
            pasted += 1
        assert mixed.y[:, 0].tolist() == [0, 1] * 3
        assert mixed.blend is None
    assert pasted > 20


def test_what_is_pasted_is_one_rectangle(facts, generator):
    images = torch.zeros(2, 1, 16, 16)
    images[1] = 1
    batch = Batch.plain(images, torch.arange(2), torch.tensor([0, 1]))
    for seed in range(20):
        mixed = make("cutmix").build(facts(1, 1))(batch, generator(seed)).images[0, 0, 0]
        rows, columns = mixed.any(dim=1).sum(), mixed.any(dim=0).sum()
        assert mixed.sum() == rows * columns


def test_the_rectangle_by_hand(facts, generator):
    """λ is ½ to four digits: sides int(√½ · 16) = 11 and int(√½ · 24) = 16, so 5 and 8 pixels on each side of it."""
    images = torch.zeros(2, 1, 16, 24)
    images[1] = 1
    batch = Batch.plain(images, torch.arange(2), torch.tensor([0, 1]))
    mix = make("cutmix", alpha=1e8).build(facts(1, 1))
    heights, widths = [], []
    for seed in range(600):
        mixed = mix(batch, generator(seed)).images[0, 0, 0]
        if mixed.any():  # the partner is the other image
            heights.append(int(mixed.any(dim=1).sum()))
            widths.append(int(mixed.any(dim=0).sum()))
    # the border cuts it where the centre is nearer: centres 0, 1, …, 15 leave 5, 6, …, 10, …, 10, 9, …, 6 rows
    assert set(heights) == set(range(5, 11))
    assert set(widths) == set(range(8, 17))
    assert sum(heights) / len(heights) == pytest.approx((2 * (6 + 7 + 8 + 9) + 5 + 7 * 10) / 16, abs=0.3)


def test_alpha_zero_changes_nothing(facts, generator):
    images = torch.randn(4, 1, 8, 8, generator=generator(0))
    batch = Batch.plain(images, torch.arange(4), torch.tensor([0, 1, 1, 0]))
    mixed = make("cutmix", alpha=0.0).build(facts(2, 2))(batch, generator(1))
    assert mixed.images.equal(batch.images)
    assert mixed.share.tolist() == [[1.0, 0.0]] * 4


def test_alpha_below_zero():
    with pytest.raises(ValueError, match=r"'cutmix'.*alpha must be a number in \[0, inf\), got -1"):
        make("cutmix", alpha=-1)
