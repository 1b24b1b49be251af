"""Networks by name: `build("resnet8", classes=10, channels=1, generator=…)`.

A new network is one module that returns a `Network`, and one line in `MODELS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

import torch

from trainables.models.network import Network
from trainables.models.resnet_cifar import resnet_cifar

__all__ = ["MODELS", "Builder", "Network", "build"]


class Builder(Protocol):
    """Makes a network whose initial values come from the generator alone."""

    def __call__(self, *, classes: int, channels: int, generator: torch.Generator) -> Network:
        """C classes, images of c channels, a CPU generator."""
        ...


MODELS: Mapping[str, Builder] = MappingProxyType(
    {f"resnet{depth}": partial(resnet_cifar, depth) for depth in (8, 20, 32, 44, 56)}
)


def build(name: str, *, classes: int, channels: int, generator: torch.Generator) -> Network:
    """A network by name, on the CPU, freshly initialised.

    Args:
        name: A key of `MODELS`.
        classes: C, at least 2.
        channels: c of the images (B, c, H, W).
        generator: On the CPU; all initial values come from it, none from the global stream.

    Raises:
        ValueError: The name is unknown; the nearest known one is offered.

    >>> network = build("resnet20", classes=100, channels=3, generator=torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in network.parameters())
    275572
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {name!r}: {hint}known are {', '.join(MODELS)}")
    return MODELS[name](classes=classes, channels=channels, generator=generator)
