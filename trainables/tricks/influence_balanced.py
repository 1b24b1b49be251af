"""Influence-balanced loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import log_uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import without_ruled_out


@trick(
    seam="loss",
    family="re-weighting",
    source="Park et al. 2021, arXiv:2110.02444, influence-balanced loss",
    space={"alpha": log_uniform(100, 10000, step="halves")},
)
@dataclass(frozen=True)
class InfluenceBalanced:
    """Divides the cross-entropy by the influence of the image on the decision boundary.

        L = α w_y · CE / (‖p − q‖₁ · ‖f‖₁ + 1e-3),   w_c = C (1 / n_c) / Σ_j (1 / n_j)

    p = softmax(z), q the target (one-hot in the paper), f the features. Meant for a second stage (deferred): the
    paper starts with the plain cross-entropy. It is never neutral; α sets its scale.

    Args:
        alpha: α, above 0.

    Raises:
        ValueError: When called without the network's features.

    Source:
        Park, Lim, Jeon, Choi 2021, "Influence-Balanced Loss for Imbalanced Visual Classification", ICCV,
        arXiv:2110.02444, influence-balanced loss, numbers from its public code.

    Differs:
        None from the public code: the influence is part of the gradient, 1e-3 keeps it from zero, and the class
        weights sum to C (those that have images).

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> outputs = Outputs(torch.zeros(1, 2), features=torch.tensor([[2.0, -1.0]]))
    >>> loss = InfluenceBalanced(alpha=3.001).build(facts)
    >>> loss(outputs, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)  # α ln 2 / (1 · 3 + 0.001)
    tensor([0.6931])
    """

    alpha: float = 1000.0

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        counts = facts.counts.double()
        present = counts > 0
        inverse = torch.where(present, 1 / counts.clamp(min=1), 0.0)
        weights = (inverse * (present.sum() / inverse.sum())).to(facts.device)

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            features = outputs.joint_features
            if features is None:
                raise ValueError(
                    "trick 'influence_balanced' needs the features: call the objective with Outputs(logits, features)"
                )
            log_p = functional.log_softmax(outputs.logits, dim=1)
            entropy = -(q * without_ruled_out(log_p)).sum(dim=1)
            size = features.abs().sum(dim=1).to(log_p.dtype)
            influence = (log_p.exp() - q).abs().sum(dim=1) * size
            return weights[y].to(log_p.dtype) * entropy * self.alpha / (influence + 1e-3)

        return loss
