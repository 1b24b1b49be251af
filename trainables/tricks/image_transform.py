"""Transformations of whole images, with the shares of CAM-based sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.warping import MOVES, Boxes, generated_share, random_moves, warp


@trick(
    seam="image",
    family="two-stage",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, ImageTrans",
    space={"shift": uniform(0.0, 0.5, step=0.125)},
)
@dataclass(frozen=True)
class ImageTransform:
    """Flips, shifts, turns or zooms a whole image; rare classes more often.

        an image of class c is transformed with probability (n_max + n_min − n_c) / (n_max + n_min)

    It is `cam_foreground` without the CAM: the paper's check that the foreground matters. What comes from outside
    the image is black. It has no neutral setting.

    Args:
        shift: Largest shift, as a share of the image's side, in [0, 1].
        moves: "one_of_four": one of flip, shift, turn, zoom with equal chances. "public_code": turn and zoom
            together, or a shift, or a flip.
        limit: As in `cam_foreground`.

    Source:
        Zhang, Wei, Zhou, Wu 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI 35(4), Table 7 (ImageTrans-BS, together with `class_balanced`).

    Differs:
        The paper has no public code for it and gives no range of the shifts; turns and zooms are those of the
        public code of CAM-based sampling.

    >>> facts = Facts(counts=torch.tensor([9, 1]), labels=torch.tensor([0, 1]))
    >>> batch = Batch.plain(torch.full((1, 1, 4, 4), 9, dtype=torch.uint8), torch.tensor([1]), torch.tensor([1]))
    >>> ImageTransform().build(facts)(batch, torch.Generator().manual_seed(0)).images.shape
    torch.Size([1, 1, 1, 4, 4])
    """

    shift: float = 0.25
    moves: str = "one_of_four"
    limit: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "shift", 0, 1)
        among(self, "moves", MOVES)
        if self.limit is not None:
            in_range(self, "limit", 1, whole=True)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        share = generated_share(facts, self.limit)

        def transform(batch: Batch, generator: torch.Generator) -> Batch:
            views, number, channels, height, width = batch.images.shape
            flat = batch.images.flatten(0, 1)  # (V·B, c, H, W)
            chances = share[batch.y[:, 0].cpu()].repeat(views)
            drawn = torch.rand(views * number, dtype=torch.float64, generator=generator)
            chosen = (drawn < chances).nonzero()[:, 0]
            zero = torch.zeros_like(chosen)
            boxes = Boxes(zero, zero + width - 1, zero, zero + height - 1)
            right, down = zero + round(self.shift * width), zero + round(self.shift * height)
            matrices = random_moves(
                len(chosen), height, width, boxes, (-right, right, -down, down), self.moves, generator
            )
            there = chosen.to(flat.device)
            moved = warp(flat[there].float(), matrices).round().clamp(0, 255).to(flat.dtype)
            images = flat.index_copy(0, there, moved)
            return batch.with_images(images.view(views, number, channels, height, width))

        return transform
