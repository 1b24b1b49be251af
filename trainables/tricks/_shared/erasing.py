"""Rectangles of images that are hidden: what `cutout` and `random_erasing` share."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.training.seeding import sent


def mean_colour(facts: Facts) -> Tensor:
    """(c,) the mean that will be subtracted, in whole grey levels; (1,) black where it is not known."""
    mean = torch.zeros(1) if facts.pixel_mean is None else facts.pixel_mean.cpu()
    return (mean * 255).round()


def erased(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int, fill: Tensor
) -> Tensor:
    """Images (V, B, c, H, W) with one rectangle each filled; what lies outside the image is cut off.

    Args:
        images: uint8.
        top: (V, B) the first row, on the CPU.
        left: (V, B) the first column.
        height: (V, B) rows, or one number for all; 0 hides nothing.
        width: (V, B) columns, likewise.
        fill: (c,) or (1,) grey levels.
    """

    def hidden(length: int, first: Tensor, size: Tensor | int) -> Tensor:
        pixel = torch.arange(length)
        end = first + size
        return (pixel >= first[..., None]) & (pixel < end[..., None])  # (V, B, length)

    rows, columns = hidden(images.shape[-2], top, height), hidden(images.shape[-1], left, width)
    rectangle = rows[:, :, None, :, None] & columns[:, :, None, None, :]
    return torch.where(sent(rectangle, images.device), fill.to(images).view(1, 1, -1, 1, 1), images)
