"""Merging greedily."""

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
    source="Yu et al. 2024 (BTM), arXiv:2401.16811, greedy soup; Wortsman et al. 2022, arXiv:2203.05482, recipe 1",
)
@dataclass(frozen=True)
class GreedySoup:
    """Averages those members that, one after the other, do not make the average worse.

        θ <- k/(k + 1) θ + 1/(k + 1) θ_m   if its score is at least that of θ, with k members in θ so far

    The score is the mean recall over the classes on balanced training images. One member changes nothing.

    Args:
        mean: "harmonic" or "geometric" mean of the recalls, those of 0 counted as 0.001.
        order: "listed": members in their order; "by_score": the best one first.

    Raises:
        MissingFact: Facts without a score.

    Source:
        Yu, Du, Wu 2024, "Reviving Undersampling for Long-Tailed Learning" (BTM: balanced training and merging),
        arXiv:2401.16811, strategy "greedy soup"; Wortsman et al. 2022, "Model soups", ICML,
        arXiv:2203.05482, recipe 1.

    Differs:
        BTM goes through the members as listed (the default here); the original soup sorts them first
        (`order="by_score"`). BTM's public code has the kept members written in by hand. BatchNorm's counters are
        the first kept member's.

    >>> import torch
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), score=lambda state: 1 - float(state["w"]) ** 2)
    >>> GreedySoup().build(facts)([{"w": torch.tensor(w)} for w in (1.0, -1.0, 3.0)])
    {'w': tensor(0.)}
    """

    mean: str = "harmonic"
    order: str = "listed"

    def __post_init__(self) -> None:
        among(self, "mean", MEANS)
        among(self, "order", ("listed", "by_score"))

    def build(self, facts: Facts) -> MergeFn:
        """List of member states -> state."""
        facts.require("greedy_soup", "score")
        score = scorer(facts, self.mean)

        def merge(states: Sequence[State]) -> dict[str, Tensor]:
            members = list(states)
            if self.order == "by_score":
                members = sorted(members, key=score, reverse=True)
            kept = members[:1]
            soup = weighted_average(kept, [1.0] * len(kept), "greedy_soup")
            best = score(soup)
            for member in members[1:]:
                tried = [*kept, member]
                mixed = weighted_average(tried, [1 / len(tried)] * len(tried), "greedy_soup")
                reached = score(mixed)
                if reached >= best:
                    kept, soup, best = tried, mixed, reached
            return soup

        return merge
