"""Balanced softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.objective import Shift
from trainables.registry import trick


@trick(
    seam="logits",
    family="margin and adjustment",
    source="Ren et al. 2020, arXiv:2007.10740, theorem 1",
)
@dataclass(frozen=True)
class BalancedSoftmax:
    """Adds the logarithm of the class counts to the logits in training; evaluation reads them plain.

        z'_c = z_c + ln n_c,   so that softmax(z')_c = n_c exp z_c / Σ_j n_j exp z_j

    With equal counts the cross-entropy does not change.

    Source:
        Ren, Yu, Sheng, Ma, Zhao, Yi, Li 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS,
        arXiv:2007.10740, theorem 1.

    Differs:
        None. The logit of a class without images becomes −inf, which leaves it out of the softmax as the formula
        does (n_c = 0); the survey's code adds 1e-9 to the counts instead.

    >>> facts = Facts(counts=torch.tensor([100, 1]), labels=torch.tensor([0, 1]))
    >>> BalancedSoftmax().build(facts)(torch.zeros(1, 2), torch.tensor([0]))
    tensor([[4.6052, 0.0000]])
    """

    def build(self, facts: Facts) -> Callable[[Tensor, Tensor], Tensor]:
        """(z (B, C), y (B,)) -> (B, C)."""
        return Shift(torch.log(facts.counts.double()).to(facts.device))
