"""Random erasing: a rectangle of the image is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.erasing import erased, mean_colour
from trainables.tricks._shared.views import check_view, on_view

SCALE, RATIO, TRIES = (0.02, 0.33), (0.3, 3.3), 10
"""Range of the rectangle's share of the image's area, and of its height over its width; draws until one fits."""


@trick(
    seam="augment",
    family="regularisation",
    source="Zhong et al. 2020, arXiv:1708.04896, algorithm 1",
    space={"probability": uniform(0.25, 1.0, step=0.25)},
)
@dataclass(frozen=True)
class RandomErasing:
    """Hides a rectangle of random area, shape and place behind the mean colour, in some of the images.

        area = U(0.02, 0.33) · H · W,   height / width = exp U(ln 0.3, ln 3.3)

    The rectangle lies within the image; the first of ten draws that fits is taken, and where none does the image
    stays whole. probability = 0 changes nothing.

    Args:
        probability: Share of the images that lose a rectangle, in [0, 1].
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        Zhong, Zheng, Kang, Li, Yang 2020, "Random Erasing Data Augmentation", AAAI, arXiv:1708.04896,
        algorithm 1; the numbers: torchvision's `RandomErasing`.

    Differs:
        From torchvision, only where the random numbers come from, and that these images are not normalised yet:
        its value 0 is the mean that will be subtracted (`Facts.pixel_mean`, in whole grey levels). The paper draws
        the shape uniformly and not its logarithm, takes areas up to 0.4, and fills with random values.

    >>> batch = Batch.plain(torch.full((1, 1, 4, 4), 9, dtype=torch.uint8), torch.arange(1), torch.tensor([0]))
    >>> erase = RandomErasing(probability=1.0).build(Facts(torch.tensor([1]), torch.tensor([0])))
    >>> erase(batch, torch.Generator().manual_seed(1)).images[0, 0, 0].tolist()
    [[9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 0]]
    """

    probability: float = 0.5
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "probability", 0, 1)
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        colour = mean_colour(facts)

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            views, number, _, height, width = batch.images.shape
            drawn = torch.rand(views, number, 2 * TRIES + 3, dtype=torch.float64, generator=generator)
            area = (SCALE[0] + (SCALE[1] - SCALE[0]) * drawn[..., :TRIES]) * height * width
            low, high = (math.log(end) for end in RATIO)
            ratio = torch.exp(low + (high - low) * drawn[..., TRIES : 2 * TRIES])
            tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()  # (V, B, tries)
            fits = (tall < height) & (wide < width)
            first = fits.int().argmax(dim=-1, keepdim=True)
            chosen = fits.any(dim=-1) & (drawn[..., -1] < self.probability)
            tall, wide = (side.gather(-1, first)[..., 0].long() for side in (tall, wide))
            top, left = (drawn[..., -3] * (height - tall + 1)).long(), (drawn[..., -2] * (width - wide + 1)).long()
            return batch.with_images(erased(batch.images, top, left, tall * chosen, wide * chosen, colour))

        return on_view(augment, self.view)
