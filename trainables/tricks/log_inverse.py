"""Logarithmic re-weighting (the survey's weighted softmax)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.registry import trick


@trick(
    seam="weight",
    family="re-weighting",
    source="Zhang et al. 2023, Deep Long-Tailed Learning: A Survey, arXiv:2110.04596, weighted softmax",
)
@dataclass(frozen=True)
class LogInverse:
    """Weighs each image by how many times rarer its class is than the largest one, on a logarithmic scale.

        w(y) = 1 − ln(n_y / n_max),   at least 1

    With equal counts it changes nothing.

    Source:
        Zhang, Kang, Hooi, Yan, Feng 2023, "Deep Long-Tailed Learning: A Survey", TPAMI, arXiv:2110.04596, and its
        public code's weighted softmax.

    Differs:
        The public code divides by the batch's sum of weights: that is the stage's `reduction="weighted_mean"`.

    >>> facts = Facts(counts=torch.tensor([100, 10]), labels=torch.tensor([0, 1]))
    >>> LogInverse().build(facts)(torch.tensor([0, 1]))
    tensor([1.0000, 3.3026], dtype=torch.float64)
    """

    def build(self, facts: Facts) -> Callable[[Tensor], Tensor]:
        """Labels (B,) -> weights (B,); classes without images get weight 0."""
        counts = facts.counts.double()
        weights = torch.where(counts > 0, 1 - torch.log(counts.clamp(min=1) / counts.max()), 0.0).to(facts.device)
        return lambda labels: weights[labels]
