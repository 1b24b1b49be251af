import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from trainables.batch import Batch
from trainables.registry import make
from trainables.tricks._shared.augmenting import OPERATIONS, SIGNED, magnitudes, operate

IMAGES = torch.randint(256, (3, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
THEIRS = v2.RandAugment()
SPACE = THEIRS._AUGMENTATION_SPACE
NEAREST = InterpolationMode.NEAREST


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_their_scales_are_torchvisions(name):
    levels = SPACE[name][0](31, 12, 16)
    ours = magnitudes(name, 31, 12, 16)
    if levels is not None:
        assert torch.allclose(ours, levels * (255.0 if name == "Solarize" else 1.0), atol=1e-4)
    assert (name in SIGNED) == SPACE[name][1]
    for sign in (1, -1) if name in SIGNED else (1,):
        level = 0.0 if levels is None else sign * float(levels[9])
        expected = [
            THEIRS._apply_image_or_video_transform(image, name, level, NEAREST, {torch.Tensor: None})
            for image in IMAGES
        ]
        assert operate(IMAGES, name, sign * float(ours[9])).equal(torch.stack(expected))


def test_the_operations_are_torchvisions():
    assert set(OPERATIONS) == set(SPACE)


def ways(image, strength):
    """What one layer of torchvision's can make of an image, in both signs where an operation has two."""
    results = []
    for name, (levels, signed) in SPACE.items():
        bins = levels(31, *image.shape[-2:])
        size = 0.0 if bins is None else float(bins[strength])
        for sign in (1, -1) if signed else (1,):
            fill = {torch.Tensor: None}
            results.append(THEIRS._apply_image_or_video_transform(image, name, sign * size, NEAREST, fill))
    return results


def some(layers, strength, image, number, facts, generator):
    """The different images that many draws make of one."""
    batch = Batch.plain(image.expand(number, -1, -1, -1), torch.arange(number), torch.zeros(number, dtype=torch.int64))
    augment = make("rand_augment", layers=layers, strength=strength).build(facts(number))
    return {bytes(one.flatten().tolist()) for one in augment(batch, generator(0)).images[0]}


@pytest.mark.parametrize("strength", [4, 9])
def test_one_layer_gives_all_that_torchvision_can_give_and_two_give_pairs(facts, generator, strength):
    image = IMAGES[0]
    once = ways(image, strength)
    single = {bytes(one.flatten().tolist()) for one in once}
    assert some(1, strength, image, 600, facts, generator) == single
    pairs = {bytes(two.flatten().tolist()) for one in once for two in ways(one, strength)}
    made = some(2, strength, image, 300, facts, generator)
    assert made <= pairs
    assert len(made) > 2 * len(single)


def test_an_operation_has_a_chance_of_one_in_fourteen(facts, generator):
    # at the largest strength only one operation leaves a bright image wholly black or inverted
    images = torch.full((2800, 1, 4, 4), 255, dtype=torch.uint8)
    batch = Batch.plain(images, torch.arange(2800), torch.zeros(2800, dtype=torch.int64))
    after = make("rand_augment", strength=30, layers=1).build(facts(2800))(batch, generator(0)).images[0]
    solarised = (after == 0).flatten(1).all(dim=1).double().mean().item()
    assert solarised == pytest.approx(1 / 14, abs=0.02)


def test_no_layers_change_nothing(known, batch, generator):
    assert make("rand_augment", layers=0).build(known)(batch, generator(0)).images.equal(batch.images)


def test_images_are_changed_one_by_one(facts, generator):
    images = IMAGES[:1].expand(30, -1, -1, -1)
    batch = Batch.plain(images, torch.arange(30), torch.zeros(30, dtype=torch.int64))
    after = make("rand_augment").build(facts(30))(batch, generator(0)).images[0]
    assert len(after.flatten(1).unique(dim=0)) > 15
    assert batch.images[0].equal(images)


def test_the_global_stream_is_left_alone(known, batch, generator):
    before = torch.get_rng_state()
    make("rand_augment").build(known)(batch, generator(0))
    assert torch.get_rng_state().equal(before)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"strength must be a whole number in \[0, 30\], got 31"):
        make("rand_augment", strength=31)
    with pytest.raises(ValueError, match=r"layers must be a whole number in \[0, inf\), got 1.5"):
        make("rand_augment", layers=1.5)
