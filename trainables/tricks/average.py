"""Merging by the plain average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.merging import MergeFn, State, weighted_average


@trick(
    seam="merge",
    family="balanced training and merging",
    source="Yu et al. 2024 (BTM), arXiv:2401.16811, average; Wortsman et al. 2022, arXiv:2203.05482",
)
@dataclass(frozen=True)
class Average:
    """Averages the members' weights.

        θ = (1 / N_D) Σ_m θ_m

    BatchNorm's running statistics are averaged too; counters are the first member's. One member changes nothing.

    Source:
        Yu, Du, Wu 2024, "Reviving Undersampling for Long-Tailed Learning" (BTM: balanced training and merging),
        arXiv:2401.16811, strategy "average"; the uniform soup of Wortsman et al. 2022,
        "Model soups", ICML, arXiv:2203.05482.

    Differs:
        The public code averages BatchNorm's `num_batches_tracked` as well, which becomes a fraction.

    >>> import torch
    >>> merge = Average().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> merge([{"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 3.0])}])
    {'w': tensor([0.5000, 2.0000])}
    """

    def build(self, facts: Facts) -> MergeFn:
        """List of member states -> state."""

        def merge(states: Sequence[State]) -> dict[str, Tensor]:
            return weighted_average(states, [1 / len(states)] * len(states) if states else [], "average")

        return merge
