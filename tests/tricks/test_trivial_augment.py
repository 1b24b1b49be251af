import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from trainables.batch import Batch
from trainables.registry import make
from trainables.tricks._shared.augmenting import OPERATIONS, SIGNED
from trainables.tricks.trivial_augment import LEVELS, wide

IMAGE = torch.randint(256, (3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
THEIRS = v2.TrivialAugmentWide()
SPACE = THEIRS._AUGMENTATION_SPACE


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_their_scales_are_torchvisions(name):
    levels = SPACE[name][0](LEVELS, 12, 16)
    ours = [wide(name, level) for level in range(LEVELS)]
    scale = 255.0 if name == "Solarize" else 1.0
    assert ours == pytest.approx([0.0] * LEVELS if levels is None else (scale * levels).tolist(), abs=1e-4)
    assert (name in SIGNED) == SPACE[name][1]
    assert set(OPERATIONS) == set(SPACE)


def test_each_image_is_one_of_torchvisions_with_their_chances(facts, generator):
    """Every operation, level and sign by torchvision's own kernel, and how often 6,000 draws give a result."""
    chances: dict[bytes, float] = {}
    for name, (levels, signed) in SPACE.items():
        bins = levels(LEVELS, 12, 16)
        sizes = [0.0] if bins is None else bins.tolist()
        for size in sizes:
            for sign in (1, -1) if signed else (1,):
                fill = {torch.Tensor: None}
                image = THEIRS._apply_image_or_video_transform(
                    IMAGE, name, sign * size, InterpolationMode.NEAREST, fill
                )
                key = image.numpy().tobytes()
                share = 1 / len(SPACE) / len(sizes) / (2 if signed else 1)
                chances[key] = chances.get(key, 0.0) + share
    number = 6000
    batch = Batch.plain(IMAGE.expand(number, -1, -1, -1), torch.arange(number), torch.zeros(number, dtype=torch.int64))
    made = make("trivial_augment").build(facts(number))(batch, generator(0)).images[0]
    seen: dict[bytes, int] = {}
    for image in made:
        key = image.numpy().tobytes()
        seen[key] = seen.get(key, 0) + 1
    assert set(seen) <= set(chances)
    unchanged = IMAGE.numpy().tobytes()
    for key, share in chances.items():
        spread = math.sqrt(number * share * (1 - share))
        assert abs(seen.get(key, 0) - number * share) < 5 * spread + 3, share
    assert seen[unchanged] > number / len(SPACE)


def test_the_global_stream_is_left_alone(known, batch, generator):
    before = torch.get_rng_state()
    make("trivial_augment").build(known)(batch, generator(0))
    assert torch.get_rng_state().equal(before)
