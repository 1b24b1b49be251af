"""Label-aware smoothing (LAS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import one_of, uniform
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.smoothing import TargetFn, soft


@trick(
    seam="target",
    family="smoothing",
    source="Zhong et al. 2021 (MiSLAS), arXiv:2104.00466, label-aware smoothing",
    space={
        "head": uniform(0.1, 0.5, step=0.1),
        "tail": uniform(0.0, 0.1, step=0.05),
        "shape": one_of("concave", "linear", "convex"),
    },
)
@dataclass(frozen=True)
class LabelAwareSmoothing:
    """Smooths the labels of a class the more, the more images it has.

        q_y = 1 − ε_y,   q_c = ε_y / (C − 1) for the others,   r = (n_y − n_min) / (n_max − n_min)
        concave:      ε_y = tail + (head − tail) sin(π r / 2)
        linear:       ε_y = tail + (head − tail) r
        convex:       ε_y = head + (head − tail) sin(3π/2 + π r / 2)
        exponential:  ε_y = tail + (head − tail) r ** power

    head = tail = 0 changes nothing. With equal counts r is 0: every class has ε = tail.

    Args:
        head: ε of the largest class, in [0, 1).
        tail: ε of the smallest class, in [0, 1).
        shape: "concave", "linear", "convex" or "exponential".
        power: Of the exponential shape, above 0.
        spread: "others": ε over the C − 1 other classes; "all": over all C, the true one included.

    Source:
        Zhong, Cui, Liu, Jia 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS), CVPR,
        arXiv:2104.00466, label-aware smoothing.

    Differs:
        From the paper, none. The public code spreads ε over all classes, so that the true one has
        1 − ε + ε / C (`spread="all"`; author's word in its issue 4). Its (head, tail) are 0.3, 0 on CIFAR-10 (imbalance
        100; 0.2 at 50, 0.1 at 10), 0.4, 0.1 on CIFAR-100 (0.3, 0 at 50; 0.2, 0 at 10), 0.3, 0 on ImageNet-LT and
        iNaturalist, 0.4, 0.1 on Places-LT. n_min is the smallest count of the classes that have images.

    >>> facts = Facts(counts=torch.tensor([100, 55, 10]), labels=torch.tensor([0, 1, 2]))
    >>> LabelAwareSmoothing(head=0.4, tail=0.0, shape="linear").build(facts)(torch.tensor([0, 1, 2]))
    tensor([[0.6000, 0.2000, 0.2000],
            [0.1000, 0.8000, 0.1000],
            [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """

    head: float = 0.3
    tail: float = 0.0
    shape: str = "concave"
    power: float = 2.0
    spread: str = "others"

    def __post_init__(self) -> None:
        in_range(self, "head", 0, 1, below=True)
        in_range(self, "tail", 0, 1, below=True)
        among(self, "shape", ("concave", "linear", "convex", "exponential"))
        in_range(self, "power", 0, above=True, below=True)
        among(self, "spread", ("others", "all"))

    def build(self, facts: Facts) -> TargetFn:
        """Labels (B,) -> q (B, C) float64."""
        classes = facts.classes
        counts = facts.counts.double()
        smallest, largest = counts[counts > 0].min(), counts.max()
        ratio = ((counts - smallest) / (largest - smallest).clamp(min=1)).clamp(min=0)
        epsilon = self._epsilon(ratio)
        others = epsilon / (classes if self.spread == "all" else classes - 1)
        true = 1 - (classes - 1) * others
        others, true = others.to(facts.device), true.to(facts.device)
        return lambda labels: soft(labels, true[labels], others[labels], classes)

    def _epsilon(self, ratio: Tensor) -> Tensor:
        rise = self.head - self.tail
        if self.shape == "concave":
            return self.tail + rise * torch.sin(math.pi / 2 * ratio)
        if self.shape == "convex":
            return self.head + rise * torch.sin(math.pi * 1.5 + math.pi / 2 * ratio)
        return self.tail + rise * (ratio if self.shape == "linear" else ratio**self.power)
