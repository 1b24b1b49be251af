"""Square-root sampling."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.sampling import DrawFn, class_probabilities, draw_by_class


@trick(
    seam="draw",
    family="re-sampling",
    source="Kang et al. 2020, arXiv:1910.09217, eq. 1 with q = 1/2",
)
@dataclass(frozen=True)
class SquareRoot:
    """Draws a class in proportion to the square root of its count, then one of its images uniformly.

        p_c = √n_c / Σ_j √n_j

    With equal counts it is instance-balanced sampling with replacement.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, eq. 1 with q = 1/2 (after Mahajan et al. 2018).

    Differs:
        None; an epoch is N draws.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0] * 90 + [1] * 10))
    >>> drawn = SquareRoot().build(facts)(0.0, torch.Generator().manual_seed(0))
    >>> drawn.shape, int((drawn >= 90).sum())
    (torch.Size([100]), 20)
    """

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        rooted = class_probabilities(facts, 0.5)
        return draw_by_class(facts, lambda progress: rooted)
