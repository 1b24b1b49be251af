"""Merging back towards the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.merging import MergeFn, State, weighted_average


@trick(
    seam="merge",
    family="balanced training and merging",
    source="Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903",
    space={"share": uniform(0.1, 1.0, step=0.1)},
)
@dataclass(frozen=True)
class Interpolate:
    """Goes only part of the way from the stage's start to the average of the members.

        θ = (1 − λ) θ_start + λ (1 / N_D) Σ_m θ_m

    λ = 1 is `average`; λ = 0 keeps the start. Counters are the first member's.

    Args:
        share: λ in [0, 1].

    Raises:
        MissingFact: Facts without the start.

    Source:
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR, arXiv:2109.01903.

    Differs:
        WiSE-FT has one member.

    >>> import torch
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), start={"w": torch.tensor(0.0)})
    >>> Interpolate(share=0.25).build(facts)([{"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}])
    {'w': tensor(0.5000)}
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        in_range(self, "share", 0, 1)

    def build(self, facts: Facts) -> MergeFn:
        """List of member states -> state."""
        facts.require("interpolate", "start")
        start = facts.start
        assert start is not None

        def merge(states: Sequence[State]) -> dict[str, Tensor]:
            parts = [self.share / len(states) for _ in states]
            # the start comes last, so that counters are the first member's
            together = [*states, start] if states else []
            return weighted_average(together, [*parts, 1 - self.share] if states else [], "interpolate")

        return merge
