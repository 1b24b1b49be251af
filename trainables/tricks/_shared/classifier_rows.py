"""The rows of a classifier, one per class, whatever head holds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ScaledHead(nn.Module):
    """A head whose logits are scaled class by class with learned factors, s_c = 1 at first.

    Args:
        inner: The head within, with `weight` (C, D), `bias` and `kind`.
        scale_bias: Scale the whole logit; otherwise the bias is added after scaling.
    """

    def __init__(self, inner: Any, scale_bias: bool) -> None:
        super().__init__()
        self.inner = inner
        self.scale_bias = scale_bias
        self.scale = nn.Parameter(torch.ones_like(inner.weight[:, 0]))

    @property
    def kind(self) -> str:
        """What the head within is."""
        return str(self.inner.kind)

    @property
    def weight(self) -> Tensor:
        """(C, D), the scaled weight."""
        weight: Tensor = self.scale[:, None] * self.inner.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """(C,), scaled if it is."""
        bias: Tensor | None = self.inner.bias
        return bias if bias is None or not self.scale_bias else self.scale * bias

    def reset(self, generator: torch.Generator) -> None:
        """Draws the inner head's initial values anew; all factors are 1 again."""
        self.inner.reset(generator)
        nn.init.ones_(self.scale)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        z: Tensor = self.inner(features)
        if self.scale_bias or self.inner.bias is None:
            return self.scale * z
        bias: Tensor = self.inner.bias
        return self.scale * (z - bias) + bias


class AlignedHead(nn.Module):
    """A head whose logits are corrected, image by image, by a learned share.

        z' = σ(v·x + t) (s ∘ z + b) + (1 − σ(v·x + t)) z,   s = 1, b = 0, v = 0.1, t = 0 at first

    Args:
        inner: The head within, with `weight` (C, D), `bias` and `kind`.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        row, column = inner.weight[:, 0], inner.weight[0]
        self.scale, self.shift = nn.Parameter(torch.ones_like(row)), nn.Parameter(torch.zeros_like(row))  # s, b
        self.trust = nn.Parameter(torch.full_like(column, 0.1))  # v
        self.offset = nn.Parameter(torch.zeros_like(column[0]))  # t

    @property
    def kind(self) -> str:
        """What the head within is."""
        return str(self.inner.kind)

    @property
    def weight(self) -> Tensor:
        """(C, D), the rows before the correction."""
        weight: Tensor = self.inner.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """(C,), before the correction."""
        bias: Tensor | None = self.inner.bias
        return bias

    def reset(self, generator: torch.Generator) -> None:
        """Draws the inner head's initial values anew; the correction is none again."""
        self.inner.reset(generator)
        for parameter, value in ((self.scale, 1.0), (self.shift, 0.0), (self.trust, 0.1), (self.offset, 0.0)):
            nn.init.constant_(parameter, value)

    def corrected(self, z: Tensor, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D) -> (B, C)."""
        share = torch.sigmoid(features @ self.trust + self.offset)[:, None]
        return share * (self.scale * z + self.shift) + (1 - share) * z

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        return self.corrected(self.inner(features), features)


def innermost(head: Any) -> Any:
    """The head within the learned scales and corrections."""
    while isinstance(head, (ScaledHead, AlignedHead)):
        head = head.inner
    return head


def weight_of(head: Any, trick: str) -> Tensor:
    """The weight (C, D) of a head with one row per class.

    Raises:
        ValueError: The head has no such weight.
    """
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"trick {trick!r}: the head must have one weight row per class, .weight (C, D), "
            f"got {type(head).__name__}; use a linear or cosine head"
        )
    return weight


def learned_weight(head: Any, trick: str) -> Tensor:
    """The same as the parameter itself, to be changed in place."""
    return weight_of(innermost(head), trick)


def cosine_scale(model: Any) -> float:
    """The factor that a cosine head has put on its cosines; 1 where there is no model, or no such head."""
    return float(getattr(innermost(getattr(model, "head", None)), "scale", 1.0))


def weight_in(state: Any) -> Tensor | None:
    """The same out of a network's state, if it is there."""
    keys = (f"head.{'inner.' * depth}weight" for depth in range(3))
    return next((state[key] for key in keys if key in state), None)


def only_head_learns(model: Any, batchnorm: str) -> None:
    """Freezes the backbone; its BatchNorm statistics stay with "fixed" and follow the batches with "moving"."""
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    model.fix_batchnorm = batchnorm == "fixed"


def reset_head(head: Any, generator: torch.Generator) -> None:
    """Draws the head's initial values anew, on the CPU and in float32 whatever it is in, so that they are the same."""
    like = next(head.parameters())
    device, dtype = like.device, like.dtype
    head.to(device="cpu", dtype=torch.float32)
    head.reset(generator)
    head.to(device=device, dtype=dtype)


BATCHNORM = ("fixed", "moving")
