"""The data set's own augmentation: random shifts and mirror images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
    count, (height, width) = len(flat), flat.shape[-2:]
    down, right = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    which = torch.arange(count)
    padded = functional.pad(flat, (pad, pad, pad, pad))
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        # A window of the mirrored image at the mirrored offset is the mirrored window.
        right = torch.where(mirrored, 2 * pad - right, right)
        which = which + mirrored * count
        padded = torch.cat([padded, padded.flip(-1)])
    which, down, right = torch.stack([which, down, right]).to(flat.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (·, c, 2 pad + 1, 2 pad + 1, H, W), a view
    return windows[which, :, down, right].view(images.shape)
