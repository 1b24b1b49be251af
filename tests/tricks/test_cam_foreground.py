import types

import pytest
import torch
from torch import nn

from trainables.batch import Batch, Facts, MissingFact, Outputs
from trainables.registry import make
from trainables.tricks._shared.warping import Boxes, generated_share, random_moves, warp
from trainables.tricks.cam_foreground import _activation_maps, foreground, moved_foreground


class Bright(nn.Module):
    """Its only map is the image, so the CAM of every class is the image."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.head = types.SimpleNamespace(weight=torch.tensor([[sign], [2.0 * sign]]))

    def forward(self, images):
        return Outputs(images.new_zeros(len(images), 2), features=images.mean(dim=(2, 3)), maps=images)


def square(row=2, column=3, side=2, size=8, background=10):
    image = torch.full((1, size, size), background, dtype=torch.uint8)
    image[:, row : row + side, column : column + side] = 200
    return image


def bright(images, labels, **more):
    counts = labels.bincount(minlength=2)
    return Facts(counts, labels, model=Bright(), images=images, normalise=lambda x: x.float(), **more)


def test_foreground_is_above_the_threshold_times_the_mean():
    cam = torch.tensor([[[0, 100], [200, 100]]], dtype=torch.uint8)
    assert foreground(cam, 2, 2, 1.0).tolist() == [[[False, False], [True, False]]]
    assert foreground(cam, 2, 2, 0.75).tolist() == [[[False, True], [True, True]]]


def test_a_constant_map_has_no_foreground():
    assert not foreground(torch.zeros(1, 2, 2, dtype=torch.uint8), 4, 4, 0.75).any()


def test_boxes_end_at_the_last_row_and_column():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 6, 5] = True  # with empty rows between
    boxes = Boxes.around(mask)
    assert (boxes.left[0], boxes.right[0], boxes.top[0], boxes.bottom[0]) == (3, 5, 2, 6)
    assert (boxes.left[1], boxes.right[1], boxes.top[1], boxes.bottom[1]) == (0, 7, 0, 7)


def test_a_shift_by_hand():
    """The square goes one to the right and two down; where it was, the moved background shows."""
    image = square()
    mask = image[0] == 200
    # the new pixel (column, row) shows the old (column − 1, row − 2)
    matrix = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, -2.0]]], dtype=torch.float64)
    moved = moved_foreground(image[None], mask[None], matrix)[0]
    assert moved.equal(square(row=4, column=4))


def test_a_flip_by_hand():
    image = square()
    matrix = torch.tensor([[[-1.0, 0.0, 7.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    moved = moved_foreground(image[None], (image[0] == 200)[None], matrix)[0]
    assert moved.equal(square(column=3))  # columns 3 and 4 of 8 are their own mirror image
    moved = moved_foreground(square(column=1)[None], (square(column=1)[0] == 200)[None], matrix)[0]
    assert moved.equal(square(column=5))


def test_the_background_stays():
    image = square()
    noise = torch.randint(0, 50, image.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = torch.where(image == 200, image, noise)
    mask = image[0] == 200
    matrix = torch.tensor([[[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    moved = moved_foreground(image[None], mask[None], matrix)[0, 0]
    touched = mask | mask.roll(3, dims=1)
    assert moved[~touched].equal(image[0][~touched])


def test_the_share_of_transformed_images(facts):
    # n_max + n_min = 110: (110 − n) / 110
    assert generated_share(facts(100, 60, 10), None).tolist() == pytest.approx([10 / 110, 50 / 110, 100 / 110])
    # the public code on large sets, at most 30 for classes below 30: 0, 0, 30 of 40
    assert generated_share(facts(100, 60, 10), 30).tolist() == pytest.approx([0.0, 0.0, 0.75])
    # equal counts: every second image
    assert generated_share(facts(7, 7, 0), None).tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_images_are_transformed_with_that_share(generator):
    labels = torch.tensor([0] * 9 + [1])
    images = torch.stack([square(row=1, column=1, side=3)] * 10)
    transform = make("cam_foreground", moves="one_of_four").build(bright(images, labels))
    changed = torch.zeros(10)
    for seed in range(300):
        after = transform(Batch.plain(images, torch.arange(10), labels), generator(seed)).images[0]
        assert after.dtype == torch.uint8
        changed += (after != images).flatten(1).any(dim=1)
    # 1/10 and 9/10, less the few moves that leave the image as it is
    assert 0.05 < changed[:9].mean().item() / 300 < 0.1
    assert 0.7 < changed[9].item() / 300 < 0.9


def test_a_shift_keeps_the_foreground_within_the_image(generator):
    mask = torch.zeros(300, 8, 8, dtype=torch.bool)
    mask[:, 0:2, 5:8] = True
    boxes = Boxes.around(mask)
    room = (-boxes.left, 7 - boxes.right, -boxes.top, 7 - boxes.bottom)
    moves = random_moves(300, 8, 8, boxes, room, "public_code", generator(0))
    moved = warp(mask[:, None].double(), moves)[:, 0]
    shifted = (moves[:, :, :2] == torch.eye(2, dtype=torch.float64)).flatten(1).all(dim=1)
    assert (moved[shifted].sum(dim=(1, 2)) == 6).all()
    places = {tuple(one.nonzero()[0].tolist()) for one in moved[shifted]}
    assert len(places) > 30  # of 7 × 6


def test_moves_are_about_the_box_of_the_foreground(generator, monkeypatch):
    """The square is in rows 2 to 4 and columns 4 to 6 of 9: up to 2 up, 4 down, 4 to the left, 2 to the right."""
    labels = torch.arange(20) % 2
    images = torch.stack([square(row=2, column=4, side=3, size=9)] * 20)
    asked = []

    def spy(number, height, width, boxes, shifts, *others):
        asked.append((boxes, shifts))
        return random_moves(number, height, width, boxes, shifts, *others)

    monkeypatch.setattr("trainables.tricks.cam_foreground.random_moves", spy)
    make("cam_foreground").build(bright(images, labels))(Batch.plain(images, torch.arange(20), labels), generator(0))
    ((boxes, shifts),) = asked
    found = (boxes.left, boxes.right, boxes.top, boxes.bottom, *shifts)
    assert [set(field.tolist()) for field in found] == [{4}, {6}, {2}, {4}, {-4}, {2}, {-2}, {4}]


def test_what_the_moved_image_cannot_show_stays(generator):
    """Three down: where the square was, the moved image comes from outside, so the square stays there."""
    image = square(row=0)
    matrix = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, -3.0]]], dtype=torch.float64)
    moved = moved_foreground(image[None], (image[0] == 200)[None], matrix)[0]
    assert moved.equal(torch.maximum(image, square(row=3)))


def test_no_pixel_above_the_threshold_changes_nothing(generator):
    labels = torch.tensor([0, 1])
    images = torch.stack([square(), square(row=4)])
    transform = make("cam_foreground", threshold=1000.0).build(bright(images, labels))
    for seed in range(5):
        assert transform(Batch.plain(images, torch.arange(2), labels), generator(seed)).images[0].equal(images)


def test_the_class_of_the_image_says_what_its_foreground_is(generator):
    """With negative weights the dark part is the foreground, so the square's surroundings move."""
    labels = torch.tensor([0, 1])
    images = torch.stack([square(), square()])
    facts = Facts(torch.tensor([1, 1]), labels, model=Bright(-1.0), images=images, normalise=lambda x: x.float())
    maps = _activation_maps(facts)
    assert maps[0, 3, 3] == 0
    assert maps[0, 0, 0] == 255


def test_it_works_on_a_real_network_and_leaves_its_input(known, batch, generator):
    before = batch.images.clone()
    after = make("cam_foreground").build(known)(batch.with_images(batch.images.expand(2, -1, -1, -1, -1)), generator(0))
    assert after.images.shape == (2, *before.shape[1:])
    assert batch.images.equal(before)


def test_what_it_needs(facts):
    with pytest.raises(MissingFact, match="'cam_foreground' needs model and images and normalise"):
        make("cam_foreground").build(facts(3, 1))
    images = torch.stack([square()])
    bad = Facts(torch.tensor([1]), torch.tensor([0]), model=nn.Module(), images=images, normalise=lambda x: x.float())
    bad.model.head = nn.Identity()
    with pytest.raises(ValueError, match=r"one weight row per class, .weight \(C, D\), got Identity"):
        make("cam_foreground").build(bad)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"threshold must be a number in \(0, inf\), got 0"):
        make("cam_foreground", threshold=0)
    with pytest.raises(ValueError, match="moves must be one of 'one_of_four', 'public_code', got 'all'"):
        make("cam_foreground", moves="all")
    with pytest.raises(ValueError, match=r"limit must be a whole number in \[1, inf\), got 0"):
        make("cam_foreground", limit=0)
