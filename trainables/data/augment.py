"""The data set's own augmentation: random shifts or resized crops, and mirror images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as by

from trainables.training.seeding import sent


@dataclass(frozen=True)
class Shifts:
    """Random shifts of the images of a batch, or of a whole epoch.

    Args:
        down: (B,) int64 in [0, 2 pad], the first row of the window in the padded image.
        right: (B,) int64 in [0, 2 pad], the first column, counted in the mirrored image if it is mirrored.
        mirrored: (B,) bool.
    """

    down: Tensor
    right: Tensor
    mirrored: Tensor

    @staticmethod
    def draw(count: int, pad: int, flip: bool, generator: torch.Generator) -> Shifts:
        """Draws offsets uniformly from the (2 pad + 1)² possible ones, and mirrors with probability ½.

        Args:
            count: B.
            pad: Largest shift in pixels, at least 0.
            flip: Whether to mirror.
            generator: On the CPU, so that the draws are the same on every device.
        """
        down, right = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
        if not flip:
            return Shifts(down, right, torch.zeros(count, dtype=torch.bool))
        mirrored = torch.rand(count, generator=generator) < 0.5
        # a window of the mirrored image at the mirrored offset is the mirrored window
        return Shifts(down, torch.where(mirrored, 2 * pad - right, right), mirrored)

    @staticmethod
    def joined(several: Sequence[Shifts]) -> Shifts:
        """Concatenates the draws of several batches."""
        return Shifts(*(torch.cat([getattr(one, name) for one in several]) for name in ("down", "right", "mirrored")))

    def split(self, sizes: Sequence[int]) -> list[Shifts]:
        """The inverse of `joined`."""
        parts = zip(self.down.split(sizes), self.right.split(sizes), self.mirrored.split(sizes), strict=True)  # type: ignore[arg-type]
        return [Shifts(*part) for part in parts]

    def to(self, device: torch.device) -> Shifts:
        """Moves the draws to a device in one copy."""
        together = sent(torch.stack([self.down, self.right, self.mirrored.to(self.down.dtype)]), device)
        return Shifts(together[0], together[1], together[2].bool())

    def of(self, table: Tensor, pad: int, index: Tensor | None = None) -> Tensor:
        """The windows.

        Args:
            table: Made by `flip_table` with the same `pad`.
            pad: As drawn.
            index: (B,) rows of the images the table was made of; all of them in order where absent.

        Returns:
            (B, c, H, W), the table's dtype and device.
        """
        height, width = (side - 2 * pad for side in table.shape[-2:])
        which = torch.arange(len(self.down), device=table.device) if index is None else index
        which = which + self.mirrored * (len(table) // 2)
        windows = table.unfold(2, height, 1).unfold(3, width, 1)  # (·, c, 2 pad + 1, 2 pad + 1, H, W), a view
        return windows[which, :, self.down, self.right]


def flip_table(images: Tensor, pad: int, flip: bool) -> Tensor:
    """Images with `pad` zeros on every side; where they may be mirrored, followed by the mirrored ones.

    Args:
        images: (N, c, H, W) uint8, on any device.
        pad: At least 0.
        flip: Whether to append the mirrored images.

    Returns:
        (N or 2 N, c, H + 2 pad, W + 2 pad).
    """
    padded = functional.pad(images, (pad, pad, pad, pad))
    return torch.cat([padded, padded.flip(-1)]) if flip else padded


@dataclass(frozen=True)
class ResizedCrops:
    """Random numbers for crops of random size and shape, one row per image.

    Args:
        numbers: (B, 23) float32 in [0, 1): area and shape of ten tries, place, mirror.
        flip: Whether to mirror.
    """

    numbers: Tensor
    flip: bool

    @staticmethod
    def draw(count: int, flip: bool, generator: torch.Generator) -> ResizedCrops:
        """Draws the numbers of `count` images with a generator on the CPU."""
        return ResizedCrops(torch.rand(count, 2 * TRIES + 3, generator=generator), flip)

    def box(self, row: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns (top, left, height, width) of the crop of one image.

        The first of ten tries that fits; its area is uniform in [0.08, 1] of the image, the logarithm of its width
        over its height in ± ln(4/3). Where none fits, the largest centred crop of an allowed shape.

        Source: Szegedy et al. 2015, arXiv:1409.4842, section 6, as torchvision's `RandomResizedCrop`.
        Differs: the numbers are drawn before the image is known, and all ten tries are.
        """
        numbers = self.numbers[row].tolist()
        for area, shape in zip(numbers[:TRIES], numbers[TRIES : 2 * TRIES], strict=True):
            pixels = (AREA[0] + (AREA[1] - AREA[0]) * area) * height * width
            ratio = math.exp((2 * shape - 1) * math.log(SHAPE))
            wide, high = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < wide <= width and 0 < high <= height:
                place = numbers[2 * TRIES : 2 * TRIES + 2]
                return int(place[0] * (height - high + 1)), int(place[1] * (width - wide + 1)), high, wide
        high, wide = min(height, round(width * SHAPE)), min(width, round(height * SHAPE))
        return (height - high) // 2, (width - wide) // 2, high, wide

    def of(self, image: Tensor, row: int, side: tuple[int, int]) -> Tensor:
        """The crop of one image (c, h, w) uint8, resized to (c, *side), smoothed where it shrinks."""
        out: Tensor = by.resized_crop(image, *self.box(row, *image.shape[-2:]), list(side), antialias=True)
        return out.flip(-1) if self.flip and float(self.numbers[row, -1]) < 0.5 else out

    def of_all(self, images: Tensor) -> Tensor:
        """The crops of a batch (B, c, H, W), resized to the images' own size."""
        side = (int(images.shape[-2]), int(images.shape[-1]))
        return torch.stack([self.of(image, row, side) for row, image in enumerate(images)])


TRIES, AREA, SHAPE = 10, (0.08, 1.0), 4 / 3


def own(images: Tensor, pad: int, flip: bool, crop: str, generator: torch.Generator) -> Tensor:
    """The data set's own augmentation of one batch: `shift_and_flip`, or crops where `crop` is "resized".

    Args:
        images: (V, B, c, H, W) uint8.
        pad: Of the shift.
        flip: Whether to mirror.
        crop: "shift" or "resized".
        generator: On the CPU.
    """
    if crop == "shift":
        return shift_and_flip(images, pad, flip, generator)
    flat = images.flatten(0, 1)
    return ResizedCrops.draw(len(flat), flip, generator).of_all(flat).view(images.shape)


def shift_and_flip(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts each image of each view by its own whole number of pixels, then mirrors every second one.

    The image is padded with `pad` zeros on every side and cropped back to its size at a uniform offset, so
    the shift is uniform in [−pad, pad]² and what comes in is black; then, with probability ½, it is mirrored
    left to right.

    Args:
        images: (V, B, c, H, W) uint8, on any device.
        pad: Largest shift in pixels, at least 0.
        flip: Whether to mirror.
        generator: On the CPU, so that the draws are the same on every device.

    Returns:
        The same shape, dtype and device. With pad=0 and flip=False the very input, and nothing is drawn.

    Raises:
        ValueError: A negative pad, or images of another rank.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2 (4 pixels, flip, on CIFAR).
    Differs: none.

    >>> image = torch.arange(1, 5, dtype=torch.uint8).view(1, 1, 1, 2, 2)
    >>> shift_and_flip(image, 1, False, torch.Generator().manual_seed(0)).flatten(0, 3)
    tensor([[0, 3],
            [0, 0]], dtype=torch.uint8)
    """
    if images.ndim != 5:
        raise ValueError(f"shift_and_flip: images must be (V, B, c, H, W), got shape {tuple(images.shape)}")
    if pad < 0:
        raise ValueError(f"shift_and_flip: pad must be at least 0, got {pad}")
    if pad == 0 and not flip:
        return images
    flat = images.flatten(0, 1)  # (V·B, c, H, W)
    shifts = Shifts.draw(len(flat), pad, flip, generator).to(flat.device)
    return shifts.of(flip_table(flat, pad, flip), pad).view(images.shape)
