"""torchvision's image operations by name, for whole groups of images: what the learned augmentations share.

torchvision's own transforms draw from the global stream; these take what was drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as images_by

NEAREST = InterpolationMode.NEAREST
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
"""Those of RandAugment and TrivialAugment."""
ENHANCEMENTS: dict[str, Any] = {
    "Brightness": images_by.adjust_brightness,
    "Color": images_by.adjust_saturation,
    "Contrast": images_by.adjust_contrast,
    "Sharpness": images_by.adjust_sharpness,
}
PLAIN: dict[str, Any] = {
    "AutoContrast": images_by.autocontrast,
    "Equalize": images_by.equalize,
    "Invert": images_by.invert,
}
REACH = 150 / 331
"""The largest shift as a share of the side."""
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")


def operate(images: Tensor, name: str, magnitude: float) -> Tensor:
    """One operation on images (B, c, H, W) uint8, all with the same signed magnitude.

    Shears are in units of tan, shifts in pixels, turns in degrees; the four enhancements add the magnitude to the
    factor 1; Posterize keeps that many bits, Solarize inverts from that grey level on. The others take none.
    """
    if name in ("ShearX", "ShearY"):
        degrees = math.degrees(math.atan(magnitude))
        shear = [degrees, 0.0] if name == "ShearX" else [0.0, degrees]
        # about the top left corner, as in the authors' code
        return _tensor(images_by.affine(images, 0.0, [0, 0], 1.0, shear, NEAREST, center=[0.0, 0.0]))
    if name in ("TranslateX", "TranslateY"):
        shift = [int(magnitude), 0] if name == "TranslateX" else [0, int(magnitude)]
        return _tensor(images_by.affine(images, 0.0, shift, 1.0, [0.0, 0.0], NEAREST))
    if name == "Rotate":
        return _tensor(images_by.rotate(images, magnitude, NEAREST))
    if name in ENHANCEMENTS:
        return _tensor(ENHANCEMENTS[name](images, 1.0 + magnitude))
    if name == "Posterize":
        return _tensor(images_by.posterize(images, int(magnitude)))
    if name == "Solarize":
        return _tensor(images_by.solarize(images, magnitude))
    return images if name == "Identity" else _tensor(PLAIN[name](images))


def _tensor(value: Any) -> Tensor:
    """torchvision's functions carry no types here."""
    assert isinstance(value, Tensor)
    return value


def magnitudes(name: str, bins: int, height: int, width: int) -> Tensor:
    """The magnitudes of an operation at each of its levels, (bins,), torchvision's spaces.

    Args:
        name: The operation.
        bins: Number of levels.
        height: H, for vertical shifts.
        width: W, for horizontal ones.
    """
    if name in ("ShearX", "ShearY"):
        return torch.linspace(0.0, 0.3, bins)
    if name in ("TranslateX", "TranslateY"):
        return torch.linspace(0.0, REACH * (width if name == "TranslateX" else height), bins)
    if name == "Rotate":
        return torch.linspace(0.0, 30.0, bins)
    if name in ENHANCEMENTS:
        return torch.linspace(0.0, 0.9, bins)
    if name == "Posterize":
        return 8 - (torch.arange(bins) / ((bins - 1) / 4)).round()
    if name == "Solarize":
        return 255.0 * torch.linspace(1.0, 0.0, bins)
    return torch.zeros(bins)
