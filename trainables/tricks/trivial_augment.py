"""TrivialAugment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.batch import Batch, Facts
from trainables.registry import trick
from trainables.training.seeding import sent
from trainables.tricks._shared.augmenting import ENHANCEMENTS, OPERATIONS, SIGNED, operate
from trainables.tricks._shared.views import check_view, on_view

LEVELS = 31
ENDS = {
    **dict.fromkeys(("ShearX", "ShearY", *ENHANCEMENTS), 0.99), "TranslateX": 32.0, "TranslateY": 32.0, "Rotate": 135.0,
}  # fmt: skip
"""The largest magnitudes of the operations whose smallest is 0."""


@trick(
    seam="augment",
    family="regularisation",
    source="Müller & Hutter 2021, arXiv:2103.10158, TA (Wide)",
)
@dataclass(frozen=True)
class TrivialAugment:
    """Puts each image through one randomly drawn operation of a randomly drawn strength.

    The operation is uniform among the 14 of `rand_augment`, the strength uniform among 31 levels, the sign of those
    that have one a fair coin. There is nothing to tune, and no neutral setting.

    Args:
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        Müller, Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV,
        arXiv:2103.10158, the wide space; operations and their scales: torchvision's `TrivialAugmentWide`.

    Differs:
        None from torchvision, but for where the random numbers come from.

    >>> batch = Batch.plain(torch.zeros((2, 1, 8, 8), dtype=torch.uint8), torch.arange(2), torch.tensor([0, 1]))
    >>> augment = TrivialAugment().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> augment(batch, torch.Generator()).images.shape
    torch.Size([1, 2, 1, 8, 8])
    """

    view: int | None = None

    def __post_init__(self) -> None:
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            images = batch.images.flatten(0, 1).clone()  # (V·B, c, H, W)
            operation = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
            # the operations without a scale do the same at all levels
            scaled = torch.tensor([wide(name, LEVELS - 1) != wide(name, 0) for name in OPERATIONS])
            level = torch.randint(LEVELS, (len(images),), generator=generator) * scaled[operation]
            signed = torch.tensor([name in SIGNED for name in OPERATIONS])
            negative = torch.randint(2, (len(images),), generator=generator) * signed[operation]
            group = (operation * LEVELS + level) * 2 + negative
            for drawn in group.unique().tolist():
                name = OPERATIONS[drawn // 2 // LEVELS]
                magnitude = wide(name, drawn // 2 % LEVELS)
                rows = sent((group == drawn).nonzero()[:, 0], images.device)
                images[rows] = operate(images[rows], name, -magnitude if drawn % 2 else magnitude)
            return batch.with_images(images.view_as(batch.images))

        return on_view(augment, self.view)


def wide(name: str, level: int) -> float:
    """The magnitude of an operation at one of its 31 levels, 0 where it has none.

    >>> wide("Rotate", 30), wide("TranslateX", 30), wide("Posterize", 30), wide("Equalize", 30)
    (135.0, 32.0, 2.0, 0.0)
    """
    if name == "Posterize":
        return float(round(8 - 6 * level / (LEVELS - 1)))
    if name == "Solarize":
        return 255.0 * float(torch.linspace(1.0, 0.0, LEVELS)[level])
    end = ENDS.get(name, 0.0)
    # float32 as torchvision's: a threshold or a shift that lies on a pixel's edge falls to the same side
    return float(torch.linspace(0.0, end, LEVELS)[level])
