"""What losses over several experts share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trainables.batch import Outputs
from trainables.tricks._shared.adjustment import without_ruled_out


def experts_of(outputs: Outputs, trick: str, count: int | None = None) -> Tensor:
    """The logits of the experts (E, B, C).

    Raises:
        ValueError: The outputs have none, or another number of them.
    """
    found = 0 if outputs.experts is None else len(outputs.experts)
    if outputs.experts is None or (count is not None and found != count):
        wanted = "experts" if count is None else f"{count} experts"
        raise ValueError(f"trick {trick!r} needs the logits of {wanted} (E, B, C), got {found or 'none'}")
    return outputs.experts


def entropy(z: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy (B,) of logits (B, C) with targets (B, C)."""
    return -(q * without_ruled_out(functional.log_softmax(z, dim=1))).sum(dim=1)


def scattered(values: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """(B, C) zeros with each image's value at its label."""
    return torch.zeros_like(z).scatter(1, y[:, None], values.to(z.dtype)[:, None])
