"""Small layers that tricks bring, with initial values from a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer: weight uniform in ±1/√inputs as torch's, bias 0."""
    # made on "meta" it draws nothing from the global stream
    made = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.uniform_(made.weight, -(inputs**-0.5), inputs**-0.5, generator=generator)
    nn.init.zeros_(made.bias)
    return made


def projection(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, linear: the projection of contrastive methods."""
    first, last = linear(inputs, hidden, generator), linear(hidden, outputs, generator)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), last)


def unit(layers: nn.Module, features: Tensor) -> Tensor:
    """Projected features (B, D) of length 1."""
    return functional.normalize(layers(features), dim=1)
