"""Merging by coefficients that follow each member's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.batch import Facts
from trainables.registry import among, trick
from trainables.tricks._shared.merging import MEANS, MergeFn, State, scorer, weighted_average


@trick(
    seam="merge",
    family="balanced training and merging",
    source="Yu et al. 2024 (BTM), arXiv:2401.16811, adaptive",
)
@dataclass(frozen=True)
class Adaptive:
    """Averages the members' weights, better members counting more.

        θ = Σ_m a_m θ_m,   a_m = score(θ_m) / Σ_j score(θ_j)

    The score is the mean recall over the classes on balanced training images. Members of equal scores are
    averaged plainly; one member changes nothing.

    Args:
        mean: "harmonic" or "geometric" mean of the recalls, those of 0 counted as 0.001.

    Raises:
        MissingFact: Facts without a score.

    Source:
        Yu, Du, Wu 2024, "Reviving Undersampling for Long-Tailed Learning" (BTM: balanced training and merging),
        arXiv:2401.16811, strategy "adaptive".

    Differs:
        None known; the public code has no line for it. BatchNorm's counters are the first member's.

    >>> import torch
    >>> scores = {0.0: torch.tensor([0.2, 0.2]), 1.0: torch.tensor([0.6, 0.6])}
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), score=lambda state: scores[float(state["w"])])
    >>> Adaptive().build(facts)([{"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)}])
    {'w': tensor(0.7500)}
    """

    mean: str = "harmonic"

    def __post_init__(self) -> None:
        among(self, "mean", MEANS)

    def build(self, facts: Facts) -> MergeFn:
        """List of member states -> state."""
        facts.require("adaptive", "score")
        score = scorer(facts, self.mean)

        def merge(states: Sequence[State]) -> dict[str, Tensor]:
            scores = [score(state) for state in states]
            total = sum(scores)
            # where every member scores 0 they are alike
            shares = [value / total if total > 0 else 1 / len(scores) for value in scores]
            return weighted_average(states, shares, "adaptive")

        return merge
