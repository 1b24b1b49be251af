"""Progressively balanced sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.sampling import DrawFn, class_probabilities, draw_by_class


@trick(
    seam="draw",
    family="re-sampling",
    source="Kang et al. 2020, arXiv:1910.09217, eq. 2",
)
@dataclass(frozen=True)
class Progressive:
    """Goes from instance-balanced to class-balanced sampling while the stage (or its chain) proceeds.

        p_c(t) = (1 − t) · n_c / N + t / C,   t the progress in [0, 1]

    With equal counts it is instance-balanced sampling with replacement at every t.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, eq. 2.

    Differs:
        t is the progress that the stage hands in. Kang's public code has t = 0 in the first and 1 in the last
        epoch; Bag of Tricks' counts epochs from 1, t = 1/T … 1, over the whole run. N is the sum of the counts.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0] * 90 + [1] * 10))
    >>> draw = Progressive().build(facts)
    >>> [int((draw(t, torch.Generator().manual_seed(0)) >= 90).sum()) for t in (0.0, 0.5, 1.0)]
    [7, 26, 47]
    """

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        instance, balanced = class_probabilities(facts, 1.0), class_probabilities(facts, 0.0)

        def probabilities(progress: float) -> Tensor:
            if not 0 <= progress <= 1:
                raise ValueError(f"trick 'progressive': progress must be in [0, 1], got {progress!r}")
            return (1 - progress) * instance + progress * balanced

        return draw_by_class(facts, probabilities)
