"""Flips, shifts, turns and zooms of parts of images: what `cam_foreground` and `image_transform` share.

A move is a matrix (2, 3) that takes a pixel of the new image to the pixel of the old one that it shows:
(column, row, 1) -> (column, row), in pixels, the first pixel's centre at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainables.batch import Facts

MOVES = ("one_of_four", "public_code")


def generated_share(facts: Facts, limit: int | None) -> Tensor:
    """The share of generated images among those of a class, (C,) float64 on the CPU.

    The paper generates a_c = n_max + n_min − n_c images, so the share is a_c / (n_max + n_min). With a limit
    it is a_c = 0 where n_c ≥ limit, else min(a_c, limit), and the share a_c / (n_c + a_c). Classes without
    images have share 0 and do not count as n_min.
    """
    counts = facts.counts.cpu().double()
    present = counts > 0
    generated = counts.max() + counts[present].min() - counts
    if limit is not None:
        generated = torch.where(counts >= limit, 0.0, generated.clamp(max=limit))
    return torch.where(present, generated / (counts + generated).clamp(min=1), 0.0)


@dataclass(frozen=True)
class Boxes:
    """Bounding boxes in pixels, both ends included; each field (B,) int64 on the CPU."""

    left: Tensor
    right: Tensor
    top: Tensor
    bottom: Tensor

    @staticmethod
    def around(masks: Tensor) -> Boxes:
        """The boxes of masks (B, H, W); an empty mask gets the whole image."""
        empty = ~masks.any(dim=2).any(dim=1)
        columns, rows = (masks.any(dim=1) | empty[:, None]).cpu(), (masks.any(dim=2) | empty[:, None]).cpu()

        def ends(used: Tensor) -> tuple[Tensor, Tensor]:
            length = used.shape[1]
            return used.int().argmax(dim=1), length - 1 - used.flip(1).int().argmax(dim=1)

        return Boxes(*ends(columns), *ends(rows))


def random_moves(
    number: int,
    height: int,
    width: int,
    boxes: Boxes,
    shifts: tuple[Tensor, ...],
    moves: str,
    generator: torch.Generator,
) -> Tensor:
    """One random move per image.

    "one_of_four": a flip, a shift, a turn or a zoom, each with probability 1/4. "public_code": a turn together
    with a zoom, a shift, or a flip, each with 1/3. Angles are whole degrees in [−45, 45), zooms 0.80, 0.81 … 1.19,
    shifts whole pixels; turns and zooms are about the centre of the box, flips mirror the image left to right.

    Args:
        number: B.
        height: H.
        width: W.
        boxes: Of what is moved.
        shifts: (least, largest) shift to the right and (least, largest) downwards, four of (B,), included.
        moves: One of `MOVES`.
        generator: On the CPU.

    Returns:
        (B, 2, 3) float64 on the CPU.
    """
    kind = torch.randint(4 if moves == "one_of_four" else 3, (number,), generator=generator)
    if moves == "one_of_four":
        flip, shift, turn, zoom = (kind == k for k in range(4))
    else:
        turn, shift, flip = (kind == k for k in range(3))
        zoom = turn
    degrees = torch.randint(-45, 45, (number,), generator=generator).double()
    factor = 0.8 + 0.01 * torch.randint(0, 40, (number,), generator=generator).double()

    def between(least: Tensor, largest: Tensor) -> Tensor:
        share = torch.rand(number, dtype=torch.float64, generator=generator)
        return least + (share * (largest - least + 1)).floor()

    right, down = between(*shifts[:2]), between(*shifts[2:])
    angle = torch.where(turn, degrees * math.pi / 180, 0.0)
    shrink = torch.where(zoom, 1 / factor, 1.0)
    cos, sin = shrink * torch.cos(angle), shrink * torch.sin(angle)
    x, y = (boxes.left + boxes.right) / 2, (boxes.top + boxes.bottom) / 2  # fixed points
    mirror = torch.where(flip, -1.0, 1.0)
    rows = (
        torch.stack((mirror * cos, -sin, x - cos * x + sin * y), dim=1),
        torch.stack((sin, cos, y - sin * x - cos * y), dim=1),
    )
    matrix = torch.stack(rows, dim=1)
    matrix[:, 0, 2] += torch.where(flip, width - 1.0, 0.0) - torch.where(shift, right, 0.0)
    matrix[:, 1, 2] -= torch.where(shift, down, 0.0)
    return matrix


def warp(images: Tensor, matrices: Tensor, mode: str = "bilinear") -> Tensor:
    """Moves images; what comes from outside the image is 0.

    Args:
        images: (B, c, H, W) floats.
        matrices: (B, 2, 3), as `random_moves` gives.
        mode: "bilinear" or "nearest".

    Returns:
        (B, c, H, W).
    """
    height, width = images.shape[2:]
    column, row = (torch.arange(n, dtype=torch.float64) for n in (width, height))
    pixels = torch.stack((column.expand(height, width), row[:, None].expand(height, width), torch.ones(height, width)))
    # one pixel behind the other in the last axis: (B, 2, 3) @ (3, H·W)
    source = (matrices @ pixels.double().flatten(1)).view(-1, 2, height, width)
    # a shift by whole pixels must not blur: rid the positions of the last bits of the arithmetic
    source = (source * 2**20).round() / 2**20
    scale = torch.tensor([2 / width, 2 / height], dtype=torch.float64).view(1, 2, 1, 1)
    grid = ((source + 0.5) * scale - 1).permute(0, 2, 3, 1).to(images)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)
