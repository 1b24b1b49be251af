"""Sampling by a power of the class counts."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sampling import DrawFn, class_probabilities, draw_by_class


@trick(
    seam="draw",
    family="re-sampling",
    source="Kang et al. 2020, arXiv:1910.09217, eq. 1",
    space={"q": uniform(-1.0, 1.0, step=0.25)},
)
@dataclass(frozen=True)
class PowerLaw:
    """Draws a class in proportion to a power of its count, then one of its images uniformly.

        p_c = n_c ** q / Σ_j n_j ** q

    q = 1 is instance-balanced sampling with replacement, and so is every q with equal counts.

    Args:
        q: Exponent in [−1, 1]: 1 instance-balanced, 0.5 square-root, 0 class-balanced, −1 reversed (as in the
            second branch of BBN).

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, eq. 1 (q in [0, 1]); q = −1: Zhou et al. 2020, BBN, CVPR, arXiv:1912.02413.

    Differs:
        None; an epoch is N draws.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0] * 90 + [1] * 10))
    >>> int((PowerLaw(q=-1.0).build(facts)(0.0, torch.Generator().manual_seed(0)) >= 90).sum())
    94
    """

    q: float = 0.25

    def __post_init__(self) -> None:
        in_range(self, "q", -1, 1)

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        probabilities = class_probabilities(facts, self.q)
        return draw_by_class(facts, lambda progress: probabilities)
