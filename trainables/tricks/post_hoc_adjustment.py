"""Logit adjustment after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import log_prior


@trick(
    seam="readout",
    family="margin and adjustment",
    source="Menon et al. 2021, arXiv:2007.07314, eq. 9",
    space={"tau": uniform(0.0, 2.5, step=0.25)},
)
@dataclass(frozen=True)
class PostHocAdjustment:
    """Evaluates with the logarithm of the class frequencies taken off the logits; nothing is trained.

        z'_c = z_c − τ ln π_c,   π_c = n_c / N

    τ = 0 changes nothing; equal counts do not change which class wins.

    Args:
        tau: τ, at least 0.
        floor: Added to π_c ** τ before the logarithm; 1e-12 in the public code.

    Source:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar 2021, "Long-Tail Learning via Logit Adjustment", ICLR,
        arXiv:2007.07314, eq. 9.

    Differs:
        None, but that a class without images, for which the formula has +inf, is never predicted (−inf), unless
        τ = 0.

    >>> facts = Facts(counts=torch.tensor([99, 1]), labels=torch.tensor([0, 1]))
    >>> PostHocAdjustment().build(facts)(Outputs(torch.zeros(1, 2)))
    tensor([[0.0101, 4.6052]])
    """

    tau: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        in_range(self, "tau", 0, below=True)
        in_range(self, "floor", 0, 1)

    def build(self, facts: Facts) -> Callable[[Outputs], Tensor]:
        """Outputs -> z (B, C)."""
        shift = -log_prior(facts, self.tau, self.floor)
        if self.tau:
            shift = shift.masked_fill((facts.counts == 0).to(shift.device), -torch.inf)
        return lambda outputs: outputs.logits + shift.to(outputs.logits.dtype)
