"""Imbalanced sharpness-aware minimisation (ImbSAM)."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import integer, one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sharpness import StepFn, ascended_step


@trick(
    seam="step",
    family="sharpness",
    source="Zhou et al. 2023, arXiv:2308.07815, ImbSAM",
    space={"rho": one_of(0.05, 0.1, 0.2), "eta": integer(5, 100)},
)
@dataclass(frozen=True)
class ImbSam:
    """Seeks flat minima for the rare classes alone.

        g = ∇ (1/B) Σ_{n_y ≥ η} L (w) + ∇ (1/B) Σ_{n_y < η} L (w + ε),   ε = ρ ∇_tail / (‖∇_tail‖ + 1e-12)

    ε comes from the tail's gradient. η above all counts is `sam`; η = 0, or ρ = 0, is a plain step. A step costs two
    passes forward and three backward.

    Args:
        rho: ρ, at least 0.
        eta: η, whole, at least 0: classes with fewer images are the tail.

    Source:
        Zhou, Qu, Xu, Shen 2023, "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced
        Recognition", ICCV, arXiv:2308.07815; numbers from the public code.

    Differs:
        The public code passes the tail images alone through the loss at w + ε, which is the same where images do not
        share statistics in it; its script also doubles the tail's loss, which the paper does not and which is not done
        here. It adds 1e-16 to the norm.

    >>> import torch
    >>> facts = Facts(torch.tensor([30, 20, 19]), torch.tensor([0, 1, 2]))
    >>> step = ImbSam(eta=20).build(facts)
    """

    rho: float = 0.05
    eta: int = 20

    def __post_init__(self) -> None:
        in_range(self, "rho", 0, below=True)
        in_range(self, "eta", 0, whole=True)

    def build(self, facts: Facts) -> StepFn:
        """(gradient, optimiser) -> None."""
        tail = (facts.counts < self.eta).double().to(facts.device)
        return ascended_step(self.rho, lambda y: tail[y])
