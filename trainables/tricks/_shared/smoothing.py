"""Soft targets: what the label smoothings share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TargetFn = Callable[[Tensor], Tensor]


def soft(labels: Tensor, true: Tensor, others: Tensor, classes: int) -> Tensor:
    """Targets with one value on the true class and another one on every other class.

    No table of C × C values is kept: with 8,142 classes it would take half a gigabyte.

    Args:
        labels: (B,) int64.
        true: (B,) or scalar float64, the true class's part.
        others: (B,) or scalar float64, the part of each of the others.
        classes: C.

    Returns:
        (B, C) float64 on the device of the labels.
    """
    q = others.to(labels.device).expand(len(labels))[:, None].repeat(1, classes)
    return q.scatter_(1, labels[:, None], true.to(labels.device).expand(len(labels))[:, None])


def smoothed(epsilon: float, classes: int) -> TargetFn:
    """Label smoothing, q = (1 − ε) · one-hot + ε / C.

    >>> smoothed(0.1, 4)(torch.tensor([2]))
    tensor([[0.0250, 0.0250, 0.9250, 0.0250]], dtype=torch.float64)
    """
    others = torch.tensor(epsilon / classes, dtype=torch.float64)
    true = torch.tensor(1 - epsilon + epsilon / classes, dtype=torch.float64)
    return lambda labels: soft(labels, true, others, classes)
