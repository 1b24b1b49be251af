import pytest
import torch

from trainables.batch import Batch
from trainables.registry import make


def white(number, height=8, width=8, channels=1, views=1):
    images = torch.full((number, channels, height, width), 255, dtype=torch.uint8)
    batch = Batch.plain(images, torch.arange(number), torch.zeros(number, dtype=torch.int64))
    return batch.with_images(images.expand(views, *images.shape))


def test_the_square_has_its_side_and_is_cut_at_the_border(facts, generator):
    cut = make("cutout", size=0.5).build(facts(400))(white(400), generator(0))
    hidden = cut.images[0, :, 0] == 0
    rows, columns = hidden.any(dim=2).sum(dim=1), hidden.any(dim=1).sum(dim=1)
    assert (hidden.sum(dim=(1, 2)) == rows * columns).all()
    # a centre at pixel 0, 1, …, 7 leaves 2, 3, 4, 4, 4, 4, 4, 3 of 4 rows
    assert rows.bincount(minlength=5).tolist()[:2] == [0, 0]
    assert rows.double().mean().item() == pytest.approx(28 / 8, abs=0.15)
    assert (rows == 2).double().mean().item() == pytest.approx(1 / 8, abs=0.06)


def test_an_oblong_image_loses_a_square_anywhere_in_it(facts, generator):
    cut = make("cutout", size=0.5).build(facts(200))(white(200, height=4, width=12), generator(0))
    hidden = cut.images[0, :, 0] == 0
    assert hidden.any(dim=2).sum(dim=1).unique().tolist() == [1, 2]
    assert hidden.any(dim=1).sum(dim=1).unique().tolist() == [1, 2]
    assert hidden.any(dim=0).all()


def test_images_and_views_have_their_own_squares(facts, generator):
    cut = make("cutout").build(facts(16))(white(16, views=2), generator(0)).images
    assert len(cut.flatten(2).flatten(0, 1).unique(dim=0)) > 16


def test_it_is_filled_with_the_mean_that_is_taken_off(facts, generator):
    known = facts(4, pixel_mean=torch.tensor([0.5, 0.2, 0.1]))
    cut = make("cutout").build(known)(white(4, channels=3), generator(0)).images[0]
    for channel, grey in enumerate((128, 51, 26)):  # 127.5, 51, 25.5 to the nearest even
        assert cut[:, channel].unique().tolist() == [grey, 255]


def test_size_zero_changes_nothing(facts, generator):
    batch = white(4)
    assert make("cutout", size=0.0).build(facts(4))(batch, generator(0)).images.equal(batch.images)


def test_size_out_of_range():
    with pytest.raises(ValueError, match=r"'cutout'.*size must be a number in \[0, 1\], got 16"):
        make("cutout", size=16)
