"""Cost-sensitive re-weighting by inverse class frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick


@trick(
    seam="weight",
    family="re-weighting",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, eq. 2",
    space={"power": uniform(0.25, 1.0, step=0.25)},
)
@dataclass(frozen=True)
class CostSensitive:
    """Weighs each image by the inverse frequency of its class.

        w(y) = (n_min / n_y) ** power

    Args:
        power: Exponent in [0, 2]; 1 is the paper's CS_CE, 0.5 the square-root variant, 1.2 goes with `disalign` on
            ImageNet-LT, 0 changes nothing.

    Source:
        Zhang, Wei, Zhou, Wu 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI 35(4), eq. 2.

    Differs:
        From the paper, none (the weight multiplies each image's loss). The public code divides by the batch's
        sum of weights: that is the stage's `reduction="weighted_mean"`, not the trick's affair.

    >>> facts = Facts(counts=torch.tensor([100, 25]), labels=torch.tensor([0, 1]))
    >>> CostSensitive(power=0.5).build(facts)(torch.tensor([0, 1]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "power", 0, 2)

    def build(self, facts: Facts) -> Callable[[Tensor], Tensor]:
        """Labels (B,) -> weights (B,); classes without images get weight 0 and do not count as n_min."""
        counts = facts.counts.double()
        present = counts > 0
        smallest = counts[present].min()
        weights = torch.where(present, (smallest / counts.clamp(min=1)) ** self.power, 0.0).to(facts.device)
        return lambda labels: weights[labels]
