"""Cutout: a square of the image is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.erasing import erased, mean_colour
from trainables.tricks._shared.views import check_view, on_view


@trick(
    seam="augment",
    family="regularisation",
    source="DeVries & Taylor 2017, arXiv:1708.04552, section 3",
    space={"size": uniform(0.25, 0.75, step=0.125)},
)
@dataclass(frozen=True)
class Cutout:
    """Hides a square around a random pixel of each image behind the mean colour.

    The centre is uniform over the pixels, so the square may reach over the border and be cut there.
    size = 0 changes nothing.

    Args:
        size: Side of the square as a share of the image's height, in [0, 1]; on 32 × 32 images the paper has
            0.5 (16 pixels, CIFAR-10) and 0.25 (8 pixels, CIFAR-100).
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        DeVries, Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
        arXiv:1708.04552, section 3.

    Differs:
        The paper puts zeros into normalised images; these are not normalised yet, so the square is filled with
        the mean that will be subtracted (`Facts.pixel_mean`, rounded to whole grey levels), and with black where
        that is not known.

    >>> batch = Batch.plain(torch.full((1, 1, 4, 4), 9, dtype=torch.uint8), torch.arange(1), torch.tensor([0]))
    >>> cut = Cutout(size=0.5).build(Facts(torch.tensor([1]), torch.tensor([0])))
    >>> cut(batch, torch.Generator().manual_seed(1)).images[0, 0, 0].tolist()
    [[9, 9, 0, 0], [9, 9, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9]]
    """

    size: float = 0.5
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "size", 0, 1)
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        colour = mean_colour(facts)

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            views, number, _, height, width = batch.images.shape
            side = round(self.size * height)
            if side == 0:
                return batch
            top, left = (
                torch.randint(length, (views, number, 1), generator=generator)[..., 0] - side // 2
                for length in (height, width)
            )
            return batch.with_images(erased(batch.images, top, left, side, side, colour))

        return on_view(augment, self.view)
