"""AutoAugment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import autoaugment

from trainables.batch import Batch, Facts
from trainables.registry import among, trick
from trainables.training.seeding import sent
from trainables.tricks._shared.augmenting import SIGNED, magnitudes, operate
from trainables.tricks._shared.views import check_view, on_view

LEVELS = 10


@trick(
    seam="augment",
    family="regularisation",
    source="Cubuk et al. 2019, arXiv:1805.09501, tables 7 to 9",
)
@dataclass(frozen=True)
class AutoAugment:
    """Puts each image through one of 25 learned pairs of operations, each done with its own probability.

    It has no neutral setting.

    Args:
        policy: "cifar10", "imagenet" or "svhn", the set on which the pairs were learned.
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        Cubuk, Zoph, Mané, Vasudevan, Le 2019, "AutoAugment: Learning Augmentation Strategies from Data", CVPR,
        arXiv:1805.09501, tables 7 (CIFAR-10), 8 (SVHN) and 9 (ImageNet); policies and scales: torchvision's
        `AutoAugment`.

    Differs:
        None from torchvision, but for where the random numbers come from.

    >>> batch = Batch.plain(torch.zeros((2, 1, 8, 8), dtype=torch.uint8), torch.arange(2), torch.tensor([0, 1]))
    >>> augment = AutoAugment().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> augment(batch, torch.Generator()).images.shape
    torch.Size([1, 2, 1, 8, 8])
    """

    policy: str = "cifar10"
    view: int | None = None

    def __post_init__(self) -> None:
        among(self, "policy", ("cifar10", "imagenet", "svhn"))
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        pairs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(self.policy)).policies

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            images = batch.images.flatten(0, 1).clone()  # (V·B, c, H, W)
            number = len(images)
            pair = torch.randint(len(pairs), (number,), generator=generator)
            for place in range(2):
                chance = torch.tensor([chosen[place][1] for chosen in pairs])[pair]
                done = torch.rand(number, generator=generator) < chance
                negative = torch.randint(2, (number,), generator=generator)
                group = (2 * pair + negative).masked_fill(~done, -1)
                for drawn in group.unique().tolist():
                    if drawn >= 0:
                        name, _, level = pairs[drawn // 2][place]
                        rows = sent((group == drawn).nonzero()[:, 0], images.device)
                        images[rows] = _operate(images[rows], name, level, 1 - 2 * (drawn % 2))
            return batch.with_images(images.view_as(batch.images))

        return on_view(augment, self.view)


def _operate(images: Tensor, name: str, level: int | None, sign: int) -> Tensor:
    height, width = images.shape[-2:]
    magnitude = 0.0 if level is None else float(magnitudes(name, LEVELS, height, width)[level])
    return operate(images, name, sign * magnitude if name in SIGNED else magnitude)
