"""Random over-sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.sampling import ClassShelves, DrawFn


@trick(
    seam="draw",
    family="re-sampling",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, random over-sampling",
)
@dataclass(frozen=True)
class OverSampling:
    """Repeats randomly drawn images of the rarer classes until every class has n_max.

    An epoch has C · n_max images: every image once, and for each class n_max − n_c more of its images, drawn
    anew each epoch with replacement. With equal counts it is an ordinary epoch.

    Source:
        Zhang, Wei, Zhou, Wu 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI 35(4), re-sampling; Buda et al. 2018, arXiv:1710.05381.

    Differs:
        The paper has no public code for it and does not say whether the repeated images are drawn once or each
        epoch. The epoch is several plain ones long: compare at equal steps.

    >>> facts = Facts(counts=torch.tensor([4, 1]), labels=torch.tensor([0, 0, 1, 0, 0]))
    >>> OverSampling().build(facts)(0.0, torch.Generator().manual_seed(0)).bincount()
    tensor([1, 1, 4, 1, 1])
    """

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (C · n_max,)."""
        shelves = ClassShelves.of(facts)
        missing = torch.where(shelves.present, shelves.size.max() - shelves.size, 0)
        repeated = torch.repeat_interleave(torch.arange(facts.classes), missing)

        def draw(progress: float, generator: torch.Generator) -> Tensor:
            epoch = torch.cat((shelves.order, shelves.one_each(repeated, generator)))
            return epoch[torch.randperm(len(epoch), generator=generator)]

        return draw
