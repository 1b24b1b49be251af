import math

import pytest
import torch
from torchvision.transforms import v2

from trainables.batch import Batch
from trainables.registry import make


def white(number, height=16, width=24, channels=1, views=1):
    images = torch.full((number, channels, height, width), 255, dtype=torch.uint8)
    batch = Batch.plain(images, torch.arange(number), torch.zeros(number, dtype=torch.int64))
    return batch.with_images(images.expand(views, *images.shape))


def rectangles(images):
    """(top, left, height, width) of what is black in each image (B, 1, H, W); none where nothing is."""
    found = []
    for image in images[:, 0]:
        rows, columns = (image == 0).any(dim=1).nonzero()[:, 0], (image == 0).any(dim=0).nonzero()[:, 0]
        if len(rows):
            box = (int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1))
            assert (image == 0).sum() == box[2] * box[3], "it is one whole rectangle"
            found.append(box)
    return torch.tensor(found, dtype=torch.float64)


def test_rectangles_are_distributed_as_torchvisions(facts, generator):
    number = 3000
    ours = rectangles(
        make("random_erasing", probability=1.0).build(facts(number))(white(number), generator(0)).images[0]
    )
    theirs = v2.RandomErasing(p=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [theirs.make_params([torch.zeros(1, 16, 24)]) for _ in range(number)]
    expected = torch.tensor([[p["i"], p["j"], p["h"], p["w"]] for p in params if p["v"] is not None]).double()
    assert len(ours) == len(expected) == number
    for moment in (lambda x: x, lambda x: x.square(), lambda x: (x[:, 2] * x[:, 3])[:, None]):
        one, other = moment(ours), moment(expected)
        spread = (one.var(dim=0) / number + other.var(dim=0) / number).sqrt()
        assert ((one.mean(dim=0) - other.mean(dim=0)).abs() < 4 * spread).all()


def test_sides_by_hand(facts, generator):
    """On 16 × 16 pixels the area is within [5.12, 84.48] and the shape within [0.3, 3.3], but for rounding."""
    boxes = rectangles(
        make("random_erasing", probability=1.0).build(facts(500))(white(500, width=16), generator(1)).images[0]
    )
    assert (boxes[:, 2] >= round(math.sqrt(5.12 * 0.3))).all()
    assert (boxes[:, 2:] < 16).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 16).all() and (boxes[:, 1] + boxes[:, 3] <= 16).all()
    assert boxes[:, 0].min() == 0 and (boxes[:, 0] + boxes[:, 2]).max() == 16


def test_a_share_of_the_images_loses_one(facts, generator):
    images = make("random_erasing", probability=0.25).build(facts(2000))(white(2000), generator(0)).images[0]
    assert len(rectangles(images)) / 2000 == pytest.approx(0.25, abs=0.04)


def test_views_have_their_own_and_it_is_filled_with_the_mean(facts, generator):
    known = facts(8, pixel_mean=torch.tensor([0.5, 0.2, 0.1]))
    images = make("random_erasing", probability=1.0).build(known)(white(8, channels=3, views=2), generator(0)).images
    assert not images[0].equal(images[1])
    for channel, grey in enumerate((128, 51, 26)):
        assert images[:, :, channel].unique().tolist() == [grey, 255]


def test_probability_zero_changes_nothing(facts, generator):
    batch = white(4)
    assert make("random_erasing", probability=0.0).build(facts(4))(batch, generator(0)).images.equal(batch.images)


def test_probability_out_of_range():
    with pytest.raises(ValueError, match=r"'random_erasing'.*probability must be a number in \[0, 1\], got 2"):
        make("random_erasing", probability=2)
