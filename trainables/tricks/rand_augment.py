"""RandAugment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaces.domain import integer
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import sent
from trainables.tricks._shared.augmenting import OPERATIONS, SIGNED, magnitudes, operate
from trainables.tricks._shared.views import check_view, on_view

LEVELS = 31


@trick(
    seam="augment",
    family="regularisation",
    source="Cubuk et al. 2020, arXiv:1909.13719, section 3",
    space={"strength": integer(3, 15), "layers": integer(1, 3)},
)
@dataclass(frozen=True)
class RandAugment:
    """Puts each image through a few randomly drawn operations of one common strength.

    Each layer draws, image by image, one of 14 operations: none, shears, shifts, turn, brightness, colour,
    contrast, sharpness, posterise, solarise, auto-contrast, equalise. layers = 0 changes nothing.

    Args:
        strength: M, whole, 0 to 30.
        layers: N, operations per image, at least 0.
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        Cubuk, Zoph, Shlens, Le 2020, "RandAugment: Practical Automated Data Augmentation with a Reduced Search
        Space", NeurIPS, arXiv:1909.13719, section 3; operations and their scales: torchvision's `RandAugment`.

    Differs:
        None from torchvision, but for where the random numbers come from.

    >>> batch = Batch.plain(torch.zeros((2, 1, 8, 8), dtype=torch.uint8), torch.arange(2), torch.tensor([0, 1]))
    >>> augment = RandAugment().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> augment(batch, torch.Generator()).images.shape
    torch.Size([1, 2, 1, 8, 8])
    """

    strength: int = 9
    layers: int = 2
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "strength", 0, LEVELS - 1, whole=True)
        in_range(self, "layers", 0, below=True, whole=True)
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            height, width = batch.images.shape[-2:]
            images = batch.images.flatten(0, 1).clone()  # (V·B, c, H, W)
            for _ in range(self.layers):
                # each operation twice, once for each sign, so that every group has one magnitude
                drawn = torch.randint(2 * len(OPERATIONS), (len(images),), generator=generator)
                for group in drawn.unique().tolist():
                    name, sign = OPERATIONS[group // 2], 1 - 2 * (group % 2)
                    magnitude = float(magnitudes(name, LEVELS, height, width)[self.strength])
                    rows = sent((drawn == group).nonzero()[:, 0], images.device)
                    images[rows] = operate(images[rows], name, sign * magnitude if name in SIGNED else magnitude)
            return batch.with_images(images.view_as(batch.images))

        return on_view(augment, self.view)
