"""Sampling by the effective number of images."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.effective import inverse_effective_number
from trainables.tricks._shared.sampling import DrawFn, draw_by_class


@trick(
    seam="draw",
    family="re-sampling",
    source="Cao et al. 2019, arXiv:1906.07413, public code (Resample); Cui et al. 2019, arXiv:1901.05555",
    space={"beta": one_of(0.9, 0.99, 0.999, 0.9999)},
)
@dataclass(frozen=True)
class ResampleEffective:
    """Draws every image with a chance inverse to its class's effective number of images.

        p_c ∝ n_c (1 − β) / (1 − β ** n_c)

    β = 0 is instance-balanced sampling with replacement, and so is every β with equal counts; towards β = 1 it
    becomes class-balanced.

    Args:
        beta: β in [0, 1).

    Source:
        The public code of Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS, arXiv:1906.07413 (`train_rule="Resample"`), with the effective number of Cui et al. 2019,
        arXiv:1901.05555.

    Differs:
        None; an epoch is N draws.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0] * 90 + [1] * 10))
    >>> int((ResampleEffective(beta=0.9).build(facts)(0.0, torch.Generator().manual_seed(0)) >= 90).sum())
    11
    """

    beta: float = 0.9999

    def __post_init__(self) -> None:
        in_range(self, "beta", 0, 1, below=True)

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        counts = facts.counts.cpu()
        shares = counts * inverse_effective_number(counts, self.beta)
        probabilities = shares / shares.sum()
        return draw_by_class(facts, lambda progress: probabilities)
