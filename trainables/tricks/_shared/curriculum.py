"""The operations of CUDA: PIL's by name, for whole groups of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as images_by

from trainables.tricks._shared.augmenting import operate

STRENGTHS = 30
"""Level s does s operations, each at s of so many parts of its range."""

RANGES: dict[str, tuple[float, float]] = {
    "Flip": (0, 1), "Mirror": (0, 1), "EdgeEnhance": (0, 1), "Detail": (0, 1), "Smooth": (0, 1), "AutoContrast": (0, 1),
    "Equalize": (0, 1), "Invert": (0, 1), "GaussianBlur": (0, 2), "ResizeCrop": (1, 1.5), "Rotate": (0, 30),
    "Posterize": (0, 4), "Solarize": (0, 256), "SolarizeAdd": (0, 110), "Color": (0.1, 1.9), "Contrast": (0.1, 1.9),
    "Brightness": (0.1, 1.9), "Sharpness": (0.1, 1.9), "ShearX": (0, 0.3), "ShearY": (0, 0.3),
    "TranslateX": (0, 100), "TranslateY": (0, 100),
}  # fmt: skip
"""Operations and their ranges, from the weakest level to the strongest."""

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
KERNELS: dict[str, tuple[tuple[int, ...], int]] = {
    "EdgeEnhance": ((-1, -1, -1, -1, 10, -1, -1, -1, -1), 2),
    "Detail": ((0, -1, 0, -1, 10, -1, 0, -1, 0), 6),
    "Smooth": ((1, 1, 1, 1, 5, 1, 1, 1, 1), 13),
}
"""PIL's filters of 3 × 3 pixels, and what they are divided by."""


def value_of(name: str, level: int) -> float:
    """The value of an operation at a level.

    >>> value_of("Rotate", 10), value_of("Color", 10)
    (10.0, 0.7)
    """
    low, high = RANGES[name]
    return round(level / STRENGTHS * (high - low) + low, 10)


def changed(images: Tensor, name: str, value: float) -> Tensor:
    """One operation on images (B, c, H, W) uint8, all with the same signed value."""
    if name in ("Flip", "Mirror"):
        return images.flip(-2 if name == "Flip" else -1)
    if name in KERNELS:
        return _filtered(images, *KERNELS[name])
    if name == "GaussianBlur":
        size = 2 * min(math.ceil(3 * value), (min(images.shape[-2:]) - 1) // 2) + 1
        return _tensor(images_by.gaussian_blur(images, [size, size], [value, value])) if size > 1 else images
    if name == "ResizeCrop":
        side = [int(length * value) for length in images.shape[-2:]]
        return _tensor(images_by.center_crop(images_by.resize(images, side, antialias=True), list(images.shape[-2:])))
    if name == "SolarizeAdd":
        brighter = (images.int() + int(value)).clamp(max=255).to(torch.uint8)
        return operate(brighter, "Solarize", 128)
    if name == "Posterize":
        return operate(images, name, max(1, int(value)))
    return operate(images, name, value - 1 if name in ("Color", "Contrast", "Brightness", "Sharpness") else value)


def at_levels(images: Tensor, levels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (B, c, H, W) uint8 after as many operations as its level (B,) says, drawn with replacement."""
    images, names = images.clone(), list(RANGES)
    for done in range(int(levels.max()) if len(levels) else 0):
        drawn = torch.randint(2 * len(names), (len(images),), generator=generator)
        group = ((levels * len(names) + drawn // 2) * 2 + drawn % 2).masked_fill(levels <= done, -1)
        for each in group.unique().tolist():
            if each >= 0:
                name, level = names[each // 2 % len(names)], each // 2 // len(names)
                value = value_of(name, level) * (-1 if each % 2 and name in SIGNED else 1)
                rows = (group == each).nonzero()[:, 0].to(images.device)
                images[rows] = changed(images[rows], name, value)
    return images


def _filtered(images: Tensor, kernel: tuple[int, ...], divisor: int) -> Tensor:
    """A filter of 3 × 3 pixels; the border stays as it is."""
    channels = images.shape[1]
    weight = torch.tensor(kernel, dtype=torch.float64, device=images.device).view(1, 1, 3, 3).expand(channels, 1, 3, 3)
    inner = functional.conv2d(images.double(), weight, groups=channels) / divisor
    found = images.clone()
    found[..., 1:-1, 1:-1] = (inner + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return found


def _tensor(value: object) -> Tensor:
    """torchvision's functions carry no types here."""
    assert isinstance(value, Tensor)
    return value
