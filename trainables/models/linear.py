"""The network for data that are features: a classifier without a backbone."""

from __future__ import annotations

import torch

from trainables.models.heads import LinearHead
from trainables.models.network import Network


def linear(*, classes: int, channels: int, generator: torch.Generator) -> Network:
    """A linear classifier of features; input, pooled features and what the head reads are the same.

    Args:
        classes: C, at least 2.
        channels: D of the features (B, D).
        generator: On the CPU.

    Returns:
        A network whose blends act at "input", "pool" and "logits".

    >>> network = linear(classes=10, channels=256, generator=torch.Generator().manual_seed(0))
    >>> outputs = network(torch.zeros(4, 256))
    >>> outputs.logits.shape, outputs.features.shape, outputs.maps
    (torch.Size([4, 10]), torch.Size([4, 256]), None)
    """
    return Network({}, LinearHead(channels, classes, generator), features=channels, classes=classes)
