"""What images a pretrained network expects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFormat:
    """The images that a network was trained on.

    Args:
        size: Side in pixels.
        mean: (3,) of the pixels, in [0, 1].
        std: (3,), in the same unit.
        interpolation: "bilinear" or "bicubic", by which images are brought to the size.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def of_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of images with so many channels: grey ones have the mean over red, green and blue.

        >>> InputFormat(8, (0.2, 0.4, 0.6), (0.5, 0.5, 0.5), "bilinear").of_channels(1)
        ((0.4,), (0.5,))
        """
        if channels == len(self.mean):
            return self.mean, self.std
        return (round(sum(self.mean) / len(self.mean), 7),), (round(sum(self.std) / len(self.std), 7),)


IMAGENET = InputFormat(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
"""Format of torchvision's weights."""
