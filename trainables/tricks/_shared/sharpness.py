"""Gradients at perturbed weights: what the sharpness-aware step tricks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

StepFn = Callable[[Any, torch.optim.Optimizer], None]
SMALL = 1e-12
"""Added to the norm of the gradient, so that a gradient of 0 perturbs nothing."""


def ascended_step(rho: float, factors: Callable[[Tensor], Tensor] | None) -> StepFn:
    """The gradient of a part of the objective at w + ε, and of the rest at w.

        g = ∇ Σ (1 − a_y) L (w) + ∇ Σ a_y L (w + ε),   ε = ρ ∇ Σ a_y L / (‖∇ Σ a_y L‖ + 1e-12)

    with one norm over all parameters; the weights are w again afterwards.

    Args:
        rho: ρ; 0 leaves the plain gradient.
        factors: labels (B,) -> a (B,) in [0, 1]; all of the objective, a = 1, where absent.
    """

    def step(gradient: Any, optimiser: torch.optim.Optimizer) -> None:
        if rho == 0:
            gradient()
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
        rest: list[Tensor | None] = [None] * len(parameters)
        if factors is None:
            gradient()
        else:
            # both of one pass through the network
            parts = gradient.parts([lambda y: 1 - factors(y), factors])
            next(parts)
            rest = _taken(parameters)
            next(parts)
        ascent = _taken(parameters)
        norms = [g.norm() for g in ascent if g is not None]
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            scale = rho / (torch.stack(norms).norm() + SMALL)
            for p, g in zip(parameters, ascent, strict=True):
                if g is not None:
                    p.add_(g * scale)
        gradient(factors)
        with torch.no_grad():
            for p, before, plain in zip(parameters, kept, rest, strict=True):
                p.copy_(before)
                if plain is not None and p.grad is not None:
                    p.grad.add_(plain)

    return step


def _taken(parameters: list[torch.nn.Parameter]) -> list[Tensor | None]:
    """The gradients, which the parameters have no more."""
    found = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return found
