"""Logit adjustment in the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.objective import Shift
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import log_prior


@trick(
    seam="logits",
    family="margin and adjustment",
    source="Menon et al. 2021, arXiv:2007.07314, eq. 10",
    space={"tau": uniform(0.5, 2.5, step=0.25)},
)
@dataclass(frozen=True)
class LogitAdjusted:
    """Adds the logarithm of the class frequencies to the logits in training; evaluation reads them plain.

        z'_c = z_c + τ ln π_c,   π_c = n_c / N

    τ = 0 changes nothing; nor do equal counts in the cross-entropy. τ = 1 is `balanced_softmax` there.

    Args:
        tau: τ, at least 0.
        floor: Added to π_c ** τ before the logarithm; 1e-12 in the public code, which shows where π_c ** τ is
            small.

    Source:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar 2021, "Long-Tail Learning via Logit Adjustment", ICLR,
        arXiv:2007.07314, eq. 10.

    Differs:
        None. The logit of a class without images becomes −inf, as in the formula, unless there is a floor.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([99, 1]), labels=torch.tensor([0, 1]))
    >>> LogitAdjusted().build(facts)(torch.zeros(1, 2), torch.tensor([0]))
    tensor([[-0.0101, -4.6052]])
    """

    tau: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        in_range(self, "tau", 0, below=True)
        in_range(self, "floor", 0, 1)

    def build(self, facts: Facts) -> Callable[[Tensor, Tensor], Tensor]:
        """(z (B, C), y (B,)) -> (B, C)."""
        return Shift(log_prior(facts, self.tau, self.floor))
