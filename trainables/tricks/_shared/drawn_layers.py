"""Layers of a trick's own modules, with initial values from a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer as torch makes it: weight and bias uniform in ±1/√inputs."""
    made: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    _fill(made, inputs, generator)
    return made


def convolution(inputs: int, outputs: int, size: int, generator: torch.Generator, *, bias: bool = True) -> nn.Conv2d:
    """A convolution of stride 1 that keeps the size, as torch makes it: uniform in ±1/√fan-in."""
    made: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=size // 2, bias=bias)
    _fill(made, inputs * size * size, generator)
    return made


def projection(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, linear: the projection of contrastive methods."""
    first, last = linear(inputs, hidden, generator), linear(hidden, outputs, generator)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), last)


def unit(layers: nn.Module, features: Tensor) -> Tensor:
    """Projected features (B, D) of length 1."""
    return functional.normalize(layers(features), dim=1)


def _fill(layer: nn.Module, fan_in: int, generator: torch.Generator) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
