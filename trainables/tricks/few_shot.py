"""A small balanced subset of the training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sampling import ClassShelves, DrawFn


@trick(
    seam="draw",
    family="balanced training and merging",
    source="Yu et al. 2024 (BTM), arXiv:2401.16811, N_C images per class",
    space={"n_c": one_of(5, 10, 20)},
)
@dataclass(frozen=True)
class FewShot:
    """Trains on min(n_c, N_C) images of every class, picked once per stage and member without replacement.

    The epoch is that subset, each image once, in an order that each call draws anew.

    Args:
        n_c: N_C, images per class, at least 1. From n_max on, every image is taken: an ordinary epoch.

    Source:
        Yu, Du, Wu 2024, "Reviving Undersampling for Long-Tailed Learning" (BTM: balanced training and merging),
        arXiv:2401.16811: N_D sets of N_C images per class; a stage of N_D `members`, each with
        its own subset, and a merge make the rest of it.

    Differs:
        The paper speaks of N_C images of every class; its lists, and this, take all images of a class that has
        fewer.

    >>> facts = Facts(counts=torch.tensor([4, 1]), labels=torch.tensor([0, 0, 1, 0, 0]))
    >>> draw = FewShot(n_c=2).build(facts)
    >>> epoch = draw(0.0, torch.Generator().manual_seed(0))
    >>> facts.labels[epoch].bincount()
    tensor([2, 1])
    """

    n_c: int = 10

    def __post_init__(self) -> None:
        in_range(self, "n_c", 1, whole=True)

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (M,), M = Σ_c min(n_c, N_C)."""
        subset = ClassShelves.of(facts).some_each(self.n_c, facts.generator("few_shot"))

        def draw(progress: float, generator: torch.Generator) -> Tensor:
            return subset[torch.randperm(len(subset), generator=generator)]

        return draw
