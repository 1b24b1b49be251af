import pytest
import torch
from torchvision.transforms import InterpolationMode, autoaugment, v2

from trainables.batch import Batch
from trainables.registry import make


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_the_results_are_those_that_torchvision_can_give(facts, generator, policy):
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator(0))
    theirs = v2.AutoAugment(autoaugment.AutoAugmentPolicy(policy))

    def ways(before, name, level):
        """Without the operation, and with it in both signs."""
        levels, signed = theirs._AUGMENTATION_SPACE[name]
        size = 0.0 if level is None else float(levels(10, 8, 8)[level])
        signs = (1, -1) if signed else (1,)
        fill = {torch.Tensor: None}
        nearest = InterpolationMode.NEAREST
        return [before, *(theirs._apply_image_or_video_transform(before, name, s * size, nearest, fill) for s in signs)]

    possible = {
        bytes(second.flatten().tolist())
        for (one, _, level), (two, _, level_two) in theirs._policies
        for first in ways(image, one, level)
        for second in ways(first, two, level_two)
    }
    batch = Batch.plain(image.expand(300, 3, 8, 8), torch.arange(300), torch.zeros(300, dtype=torch.int64))
    after = make("auto_augment", policy=policy).build(facts(300))(batch, generator(1)).images[0]
    made = {bytes(one.flatten().tolist()) for one in after}
    assert made <= possible
    assert len(made) > 30


def test_the_results_are_as_frequent_as_torchvisions(facts, generator):
    """Each operation is done with its own probability: the same results in the same shares."""
    number = 2000
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator(0))
    theirs = v2.AutoAugment(autoaugment.AutoAugmentPolicy("cifar10"))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        expected = torch.stack([theirs(image) for _ in range(number)])
    batch = Batch.plain(image.expand(number, 3, 8, 8), torch.arange(number), torch.zeros(number, dtype=torch.int64))
    after = make("auto_augment").build(facts(number))(batch, generator(1)).images[0]
    _, result = torch.cat((after, expected)).flatten(1).unique(dim=0, return_inverse=True)
    counts = torch.stack([half.bincount(minlength=int(result.max()) + 1) for half in result.split(number)]).double()
    both = counts.sum(dim=0)
    frequent = both >= 20
    # two samples of equal size: Σ (a − b)² / (a + b) is chi-squared
    distance = float(((counts[0] - counts[1]).square() / both)[frequent].sum())
    degrees = int(frequent.sum())
    assert degrees > 30
    assert distance < degrees + 5 * (2 * degrees) ** 0.5


def test_the_global_stream_is_left_alone(known, batch, generator):
    before = torch.get_rng_state()
    make("auto_augment").build(known)(batch, generator(0))
    assert torch.get_rng_state().equal(before)


def test_policy_is_one_of_three():
    with pytest.raises(ValueError, match="policy must be one of 'cifar10', 'imagenet', 'svhn', got 'digits'"):
        make("auto_augment", policy="digits")
