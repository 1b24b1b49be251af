import pytest
import torch

from trainables.batch import Batch
from trainables.registry import make
from trainables.tricks._shared.warping import Boxes, random_moves, warp


def matrix(*rows):
    return torch.tensor([rows], dtype=torch.float64)


def test_moves_by_hand():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    mirrored = warp(image, matrix((-1.0, 0.0, 3.0), (0.0, 1.0, 0.0)))
    assert mirrored.equal(image.flip(-1))
    shifted = warp(image, matrix((1.0, 0.0, -1.0), (0.0, 1.0, 1.0)))
    assert shifted[0, 0].tolist() == [[0, 4, 5, 6], [0, 8, 9, 10], [0, 0, 0, 0]]
    square = torch.arange(9.0).view(1, 1, 3, 3)
    turned = warp(square, matrix((0.0, 1.0, 0.0), (-1.0, 0.0, 2.0)))
    assert turned[0, 0].tolist() == [[6, 3, 0], [7, 4, 1], [8, 5, 2]]


def test_a_turn_and_a_zoom_keep_the_centre_of_the_box(generator):
    whole = torch.full((400,), 0)
    boxes = Boxes(whole + 2, whole + 5, whole + 1, whole + 4)
    none = (whole, whole, whole, whole)
    moves = random_moves(400, 8, 8, boxes, none, "one_of_four", generator(0))
    flips = moves[:, 0, 0] == -1
    centre = torch.tensor([3.5, 2.5, 1.0], dtype=torch.float64)
    assert torch.allclose(moves[~flips] @ centre, centre[:2].expand(int((~flips).sum()), 2))
    # each of the four a quarter; a shift by nothing is the identity, as are turns and zooms by nothing
    assert flips.double().mean().item() == pytest.approx(0.25, abs=0.07)
    factors = moves[:, 0, 0].square() + moves[:, 1, 0].square()
    zoomed = (factors - 1).abs() > 1e-9
    assert zoomed.double().mean().item() == pytest.approx(0.25 * 39 / 40, abs=0.07)
    assert 1 / factors[zoomed].sqrt().max() == pytest.approx(0.8, abs=0.02)
    assert 1 / factors[zoomed].sqrt().min() == pytest.approx(1.19, abs=0.02)
    turned = moves[:, 1, 0].abs() > 1e-9
    assert not (turned & zoomed).any()
    degrees = torch.rad2deg(torch.asin(moves[turned, 1, 0]))
    assert -45.001 <= degrees.min() < -40 < 40 < degrees.max() <= 44.001


def test_the_public_code_turns_and_zooms_together(generator):
    whole = torch.full((300,), 0)
    boxes = Boxes(whole, whole + 7, whole, whole + 7)
    moves = random_moves(300, 8, 8, boxes, (whole, whole, whole, whole), "public_code", generator(0))
    turned = moves[:, 1, 0].abs() > 1e-9
    zoomed = (moves[:, :, 0].square().sum(dim=1) - 1).abs() > 1e-9
    assert (turned & zoomed).double().mean().item() == pytest.approx(1 / 3, abs=0.09)


def test_rare_classes_are_transformed_more_often(facts, generator):
    known = facts(9, 1)
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator(0))
    transform = make("image_transform").build(known)
    batch = Batch.plain(images, torch.arange(10), known.labels)
    changed = torch.zeros(10)
    for seed in range(300):
        changed += (transform(batch, generator(seed)).images[0] != images).flatten(1).any(dim=1)
    assert changed[:9].mean().item() / 300 == pytest.approx(0.1, abs=0.02)
    assert changed[9].item() / 300 == pytest.approx(0.9, abs=0.06)


def test_shifts_are_shares_of_each_side_and_turns_about_the_middle(facts, generator, monkeypatch):
    asked = []

    def spy(number, height, width, boxes, shifts, *others):
        asked.append((boxes, shifts))
        return random_moves(number, height, width, boxes, shifts, *others)

    monkeypatch.setattr("trainables.tricks.image_transform.random_moves", spy)
    images = torch.zeros(20, 1, 8, 12, dtype=torch.uint8)
    batch = Batch.plain(images, torch.arange(20), torch.arange(20) % 2)
    make("image_transform", shift=0.5).build(facts(10, 10))(batch, generator(0))
    ((boxes, shifts),) = asked
    found = (boxes.left, boxes.right, boxes.top, boxes.bottom, *shifts)
    assert [set(field.tolist()) for field in found] == [{0}, {11}, {0}, {7}, {-6}, {6}, {-4}, {4}]


def test_equal_counts_transform_every_second_image(facts, generator):
    known = facts(500, 500)
    images = torch.randint(256, (1000, 1, 4, 4), dtype=torch.uint8, generator=generator(0))
    after = make("image_transform", shift=0.5).build(known)(
        Batch.plain(images, torch.arange(1000), known.labels), generator(1)
    )
    assert (after.images[0] != images).flatten(1).any(dim=1).double().mean().item() == pytest.approx(0.48, abs=0.05)


def test_a_limit_that_every_class_reaches_changes_nothing(facts, generator):
    known = facts(9, 5)
    images = torch.randint(256, (14, 1, 8, 8), dtype=torch.uint8, generator=generator(0))
    batch = Batch.plain(images, torch.arange(14), known.labels)
    assert make("image_transform", limit=5).build(known)(batch, generator(0)).images[0].equal(images)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"shift must be a number in \[0, 1\], got 2"):
        make("image_transform", shift=2)
    with pytest.raises(ValueError, match="moves must be one of"):
        make("image_transform", moves="all")
    with pytest.raises(ValueError, match=r"limit must be a whole number in \[1, inf\), got 1.5"):
        make("image_transform", limit=1.5)
