import pytest
import torch
from torchvision.transforms.v2 import functional as images_by

from trainables.batch import Batch
from trainables.registry import PlanError, make


@pytest.fixture
def coloured():
    images = torch.randint(256, (200, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch.plain(images, torch.arange(200), torch.zeros(200, dtype=torch.int64))


def seen(batch, facts, generator, **numbers):
    return make("sim_augment", **numbers).build(facts(200))(batch, generator()).images[0]


def test_everything_off_changes_nothing(coloured, facts, generator):
    off = seen(coloured, facts, generator, smallest=1.0, jitter=0.0, grey=0.0, blur=0.0)
    # a share of 1 with another aspect is cut at the border: images whose window is whole stay as they are
    whole = [one.equal(other) for one, other in zip(off, coloured.images[0], strict=True)]
    assert sum(whole) >= 1
    assert off.shape == coloured.images[0].shape


def test_each_part_has_its_chance(coloured, facts, generator):
    """Grey images have three equal channels, in a share of `grey`; certain and never at 1 and 0."""

    def share(probability):
        images = seen(coloured, facts, generator, grey=probability, blur=0.0)
        return (images[:, 0] == images[:, 1]).flatten(1).all(dim=1).double().mean().item()

    assert share(0.0) == 0 and share(1.0) == 1
    assert 0.1 < share(0.2) < 0.3


def test_a_crop_by_hand(facts, monkeypatch):
    """Area .2 + .8·.25 = .4, aspect 1: 10 of 16 rows and columns, from row 3 and column 5."""
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    made = make("sim_augment", jitter=0.0, grey=0.0, blur=0.0)
    drawn = [0.25, 0.5, 0.5, 0.8, 0.9, 0.9, 0.9, 0.0, 0, 0, 0, 0, 0]
    expected = images_by.resize(image[:, 3:13, 5:15], [16, 16], antialias=True)
    assert made._changed(image, drawn).equal(expected)


def test_colours_by_hand():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    made = make("sim_augment")
    found = made._coloured(image, [1.0, 0.5, 0.5, 0.5, 0.0])
    expected = images_by.adjust_brightness(image, 1.4)
    for change, amount in ((images_by.adjust_contrast, 1.0), (images_by.adjust_saturation, 1.0)):
        expected = change(expected, amount)
    assert found.equal(images_by.adjust_hue(expected, 0.0)) or (found.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("numbers", [{"smallest": 0}, {"jitter": 2}, {"blur": -0.1}, {"view": 99}])
def test_numbers_out_of_range(numbers):
    with pytest.raises(PlanError, match="sim_augment"):
        make("sim_augment", **numbers)
