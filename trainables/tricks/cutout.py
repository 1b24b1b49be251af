"""Cutout: a square of the image is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import sent
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
        mean = torch.zeros(1) if facts.pixel_mean is None else facts.pixel_mean.cpu()
        colour = (mean * 255).round()

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            images = batch.images
            views, number, _, height, width = images.shape
            side = round(self.size * height)
            if side == 0:
                return batch

            def hidden(length: int) -> Tensor:
                first = torch.randint(length, (views, number, 1), generator=generator) - side // 2
                pixel = torch.arange(length)
                return (pixel >= first) & (pixel < first + side)  # (V, B, length)

            square = hidden(height)[:, :, None, :, None] & hidden(width)[:, :, None, None, :]
            fill = colour.to(images).view(1, 1, -1, 1, 1)
            return batch.with_images(torch.where(sent(square, images.device), fill, images))

        return on_view(augment, self.view)
