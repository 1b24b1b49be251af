"""Class-balanced sampling."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.sampling import DrawFn, class_probabilities, draw_by_class


@trick(
    seam="draw",
    family="re-sampling",
    source="Kang et al. 2020, arXiv:1910.09217, eq. 1 with q = 0",
)
@dataclass(frozen=True)
class ClassBalanced:
    """Draws every class equally often, then one of its images uniformly, with replacement.

        p_c = 1 / C

    With equal counts it is instance-balanced sampling with replacement.

    Source:
        Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis 2020, "Decoupling Representation and Classifier for
        Long-Tailed Recognition", ICLR, arXiv:1910.09217, eq. 1 with q = 0.

    Differs:
        From the paper, none; an epoch is N draws, as in Bag of Tricks' public code. The sampler of the public
        codes of Kang and MiSLAS cycles through the classes, four images of one at a time, over C · n_max draws.
        C counts the classes that have images.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([98, 2]), labels=torch.tensor([0] * 98 + [1] * 2))
    >>> drawn = ClassBalanced().build(facts)(0.0, torch.Generator().manual_seed(0))
    >>> drawn.shape, int((drawn >= 98).sum())
    (torch.Size([100]), 47)
    """

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        equal = class_probabilities(facts, 0.0)
        return draw_by_class(facts, lambda progress: equal)
