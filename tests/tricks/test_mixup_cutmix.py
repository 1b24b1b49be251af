from dataclasses import replace

import pytest
import torch

from spaces.domain import Stage
from trainables.batch import Batch
from trainables.registry import PlanError, make


def pair(height=16, width=24):
    """Views of images that are 0 and 2, of partners that are 1 and 3."""
    labels = torch.tensor([0, 1, 1])
    images = torch.zeros(2, 3, 1, height, width)
    images[1] = 2
    batch = replace(Batch.plain(images[0], torch.arange(3), labels), images=images)
    return replace(batch, partner=replace(batch, images=images + 1, y=batch.y + 2))


def test_one_share_for_both_views_by_hand(facts, generator):
    """λ is ½ to four digits: sides ⌈√½ · 16⌉ = 12 and ⌈√½ · 24⌉ = 17, so 6 and 8 pixels on each side of the centre."""
    mix = make("mixup_cutmix", alpha=1e8).build(facts(3, 3, 1, 1))
    heights, widths = set(), set()
    for seed in range(300):
        mixed = mix(pair(), generator(seed))
        assert torch.allclose(mixed.images[0], torch.tensor(0.5), atol=1e-3)
        pasted = mixed.images[1, 0, 0] == 3
        rows, columns = int(pasted.any(dim=1).sum()), int(pasted.any(dim=0).sum())
        assert pasted.sum() == rows * columns and mixed.images[1].unique().tolist() == [2, 3]
        assert torch.allclose(mixed.share, torch.tensor(0.5), atol=1e-3)  # whatever the border has cut
        assert mixed.y.tolist() == [[0, 2], [1, 3], [1, 3]]
        heights.add(rows)
        widths.add(columns)
    assert heights == set(range(6, 13)) and widths == set(range(8, 17))


def test_mixup_has_the_share_of_the_labels(facts, generator):
    mix = make("mixup_cutmix").build(facts(3, 3, 1, 1))
    for seed in range(20):
        mixed = mix(pair(), generator(seed))
        assert torch.allclose(mixed.images[0].mean(), 1 - mixed.share[0, 0], atol=1e-5)


def test_alpha_zero_changes_nothing(facts, generator):
    batch = pair()
    mixed = make("mixup_cutmix", alpha=0.0).build(facts(3, 3, 1, 1))(batch, generator(0))
    assert mixed.images.equal(batch.images) and mixed.share.tolist() == [[1, 0]] * 3


def test_bad_input(facts, generator, make_plan):
    with pytest.raises(ValueError, match="trick 'mixup_cutmix' mixes with partners that another trick draws; add"):
        make("mixup_cutmix").build(facts(3, 3))(replace(pair(), partner=None), generator(0))
    with pytest.raises(PlanError, match="mixup_cutmix needs view 1 of each image"):
        make_plan(Stage("a", epochs=1, choose=["weighted_partner", "mixup_cutmix"]))
    with pytest.raises(ValueError, match=r"'mixup_cutmix'.*alpha must be a number in \[0, inf\), got -1"):
        make("mixup_cutmix", alpha=-1)
