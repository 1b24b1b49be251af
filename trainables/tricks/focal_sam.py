"""Focal sharpness-aware minimisation (Focal-SAM)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sharpness import StepFn, ascended_step


@trick(
    seam="step",
    family="sharpness",
    source="Li et al. 2025, arXiv:2505.01660, Focal-SAM",
    space={
        "rho": one_of(0.05, 0.1, 0.2, 0.3, 0.5),
        "gamma": one_of(0.0, 1.0, 2.0, 3.2),
        "sharpness": one_of(0.5, 0.8, 1.0),
    },
)
@dataclass(frozen=True)
class FocalSam:
    """Seeks flat minima above all for the rare classes: their losses are perturbed most.

        g = ∇ (1/B) Σ (1 − a_y) L (w) + ∇ (1/B) Σ a_y L (w + ε),   a_c = λ (1 − π_c) ** γ
        ε = ρ ∇_a / (‖∇_a‖ + 1e-12),   ∇_a = ∇ (1/B) Σ a_y L (w)

    π_c = n_c / N. γ = 0 with λ = 1 is `sam`; ρ = 0 is a plain step. A step costs two passes forward and three backward.

    Args:
        rho: ρ, at least 0; 0.3 on CIFAR-100-LT, 0.2 on CIFAR-10-LT.
        gamma: γ, at least 0 (`flat_gamma` in the public code); 3.2 and 3.
        sharpness: λ in [0, 1]; 0.8 and 0.5.

    Source:
        Li, Xu, Yang, Wang, Zhang, Cao, Huang 2025, "Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
        Classification", ICML, arXiv:2505.01660; numbers from the public code.

    Differs:
        None from the public code. Of a mixed image each label's loss has its own factor; penalties have the mean.

    >>> import torch
    >>> facts = Facts(torch.tensor([3, 1]), torch.tensor([0, 0, 0, 1]))
    >>> FocalSam(gamma=2.0, sharpness=0.8).factors(facts)
    tensor([0.0500, 0.4500], dtype=torch.float64)
    """

    rho: float = 0.3
    gamma: float = 3.2
    sharpness: float = 0.8

    def __post_init__(self) -> None:
        in_range(self, "rho", 0, below=True)
        in_range(self, "gamma", 0, below=True)
        in_range(self, "sharpness", 0, 1)

    def factors(self, facts: Facts) -> Tensor:
        """a (C,) float64."""
        counts = facts.counts.double()
        return (self.sharpness * (1 - counts / counts.sum()) ** self.gamma).to(facts.device)

    def build(self, facts: Facts) -> StepFn:
        """(gradient, optimiser) -> None."""
        a = self.factors(facts)
        return ascended_step(self.rho, lambda y: a[y])
