"""Random rotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.views import check_view, on_view
from trainables.tricks._shared.warping import warp


@trick(
    seam="augment",
    family="regularisation",
    source="Wang et al. 2021, arXiv:2010.01809, public code (RIDE)",
    space={"degrees": uniform(5, 30, step=5)},
)
@dataclass(frozen=True)
class Rotation:
    """Turns each image about its centre by an angle drawn from [−degrees, degrees]; what comes from outside is black.

    degrees = 0 changes nothing.

    Args:
        degrees: In [0, 180]; 15 in the public codes of RIDE and SADE.
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        The public codes of RIDE (Wang et al. 2021, arXiv:2010.01809) and SADE (Zhang et al. 2022, arXiv:2107.09249) on
        CIFAR: torchvision's `RandomRotation`, nearest pixel, behind crop and flip.

    Differs:
        None from torchvision, but for where the random numbers come from.

    >>> images = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    >>> batch = Batch.plain(images, torch.arange(1), torch.tensor([0]))
    >>> Rotation(degrees=0).build(Facts(torch.tensor([1]), torch.tensor([0])))(batch, None).images.flatten().tolist()
    [0, 1, 2, 3]
    """

    degrees: float = 15.0
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "degrees", 0, 180)
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            if self.degrees == 0:
                return batch
            flat = batch.images.flatten(0, 1)  # (V·B, c, H, W)
            drawn = torch.rand(len(flat), dtype=torch.float64, generator=generator)
            angle = torch.deg2rad(self.degrees * (2 * drawn - 1))
            turned = warp(flat.float(), rotations(angle, *flat.shape[-2:]), "nearest")
            return batch.with_images(turned.to(flat.dtype).view_as(batch.images))

        return on_view(augment, self.view)


def rotations(angle: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Matrices (B, 2, 3) of turns by angles (B,) in radians, counter-clockwise about the centre, for `warp`."""
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack((cos, -sin, x - cos * x + sin * y), dim=1),
        torch.stack((sin, cos, y - sin * x - cos * y), dim=1),
    )
    return torch.stack(rows, dim=1)
