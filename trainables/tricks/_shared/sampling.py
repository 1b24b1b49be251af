"""Draws of training images through their classes: what the re-sampling tricks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts

DrawFn = Callable[[float, torch.Generator], Tensor]


@dataclass(frozen=True)
class ClassShelves:
    """Where each class's images are.

    Args:
        order: (N,) int64, image positions sorted by class.
        first: (C,) int64, where each class begins in `order`.
        size: (C,) int64, images of each class.
    """

    order: Tensor
    first: Tensor
    size: Tensor

    @staticmethod
    def of(facts: Facts) -> ClassShelves:
        """The shelves of the training images, on the CPU.

        Raises:
            ValueError: There are no images, or a label is no class.
        """
        labels = facts.labels.cpu()
        if not len(labels):
            raise ValueError("Facts(labels=…) is empty: there is no image to draw")
        if int(labels.min()) < 0 or int(labels.max()) >= facts.classes:
            raise ValueError(
                f"Facts(labels=…) must lie in 0 … {facts.classes - 1}, the classes that counts= has; "
                f"got {int(labels.min())} … {int(labels.max())}"
            )
        size = torch.bincount(labels, minlength=facts.classes)
        return ClassShelves(torch.argsort(labels, stable=True), size.cumsum(0) - size, size)

    @property
    def present(self) -> Tensor:
        """(C,) bool, the classes that have images."""
        return self.size > 0

    def one_each(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """A uniformly drawn image of each of the classes (M,) -> (M,)."""
        share = torch.rand(len(classes), dtype=torch.float64, generator=generator)
        return self.order[self.first[classes] + (share * self.size[classes]).long()]

    def some_each(self, number: int, generator: torch.Generator) -> Tensor:
        """min(size, number) images of every class without replacement, in order of class."""
        shuffled = torch.randperm(len(self.order), generator=generator)
        of_class = torch.repeat_interleave(torch.arange(len(self.size)), self.size)  # (N,) along `order`
        mixed = shuffled[torch.argsort(of_class[shuffled], stable=True)]  # places in `order`, shuffled within class
        rank = torch.arange(len(mixed)) - self.first[of_class]
        return self.order[mixed[rank < number]]


def class_probabilities(facts: Facts, power: float) -> Tensor:
    """p_c = n_c ** power / Σ_j n_j ** power over the classes that have images; (C,) float64 on the CPU.

    >>> facts = Facts(counts=torch.tensor([90, 10, 0]), labels=torch.tensor([0, 1]))
    >>> class_probabilities(facts, 0.5)
    tensor([0.7500, 0.2500, 0.0000], dtype=torch.float64)
    """
    counts = facts.counts.cpu().double()
    powers = torch.where(counts > 0, counts.clamp(min=1) ** power, 0.0)
    return powers / powers.sum()


def draw_by_class(facts: Facts, probabilities: Callable[[float], Tensor]) -> DrawFn:
    """N draws with replacement: first the class, then one of its images uniformly.

    Args:
        facts: Gives the labels, and N, the length of the epoch.
        probabilities: Progress in [0, 1] -> (C,) of the classes; those without images are left out.

    Returns:
        (progress, CPU generator) -> (N,) int64 on the CPU.
    """
    shelves = ClassShelves.of(facts)

    def draw(progress: float, generator: torch.Generator) -> Tensor:
        chances = torch.where(shelves.present, probabilities(progress), 0.0)
        classes = torch.multinomial(chances, len(shelves.order), replacement=True, generator=generator)
        return shelves.one_each(classes, generator)

    return draw
