"""Random under-sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.registry import among, trick
from trainables.tricks._shared.sampling import ClassShelves, DrawFn


@trick(
    seam="draw",
    family="re-sampling",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, random under-sampling",
)
@dataclass(frozen=True)
class UnderSampling:
    """Leaves out randomly drawn images of the larger classes until every class has n_min.

    An epoch has C · n_min images, without replacement. With equal counts it is an ordinary epoch.

    Args:
        subset: "fresh": each epoch draws its own images, so that over the epochs all are seen; "fixed": one
            subset for the whole stage.

    Source:
        Zhang, Wei, Zhou, Wu 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI 35(4), re-sampling; Buda et al. 2018, arXiv:1710.05381.

    Differs:
        The paper has no public code for it and does not say whether the subset is drawn once or each epoch; its
        65.9 % on CIFAR-10-LT (imbalance 100, n_min = 50) are out of reach for 500 fixed images, hence "fresh".
        n_min is the smallest count of the classes that have images. The epoch is shorter than a plain one:
        compare at equal steps.

    >>> facts = Facts(counts=torch.tensor([4, 1]), labels=torch.tensor([0, 0, 1, 0, 0]))
    >>> facts.labels[UnderSampling().build(facts)(0.0, torch.Generator().manual_seed(0))].bincount()
    tensor([1, 1])
    """

    subset: str = "fresh"

    def __post_init__(self) -> None:
        among(self, "subset", ("fresh", "fixed"))

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (C · n_min,)."""
        shelves = ClassShelves.of(facts)
        smallest = int(shelves.size[shelves.present].min())
        fixed = shelves.some_each(smallest, facts.generator("under_sampling")) if self.subset == "fixed" else None

        def draw(progress: float, generator: torch.Generator) -> Tensor:
            epoch = shelves.some_each(smallest, generator) if fixed is None else fixed
            return epoch[torch.randperm(len(epoch), generator=generator)]

        return draw
