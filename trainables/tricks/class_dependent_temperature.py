"""Class-dependent temperatures (CDT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick


@trick(
    seam="logits",
    family="margin and adjustment",
    source="Ye et al. 2020, arXiv:2001.01385, CDT",
    space={"gamma": uniform(0.0, 0.4, step=0.05)},
)
@dataclass(frozen=True)
class ClassDependentTemperature:
    """Divides the logits of rare classes by a temperature in training; evaluation reads them plain.

        z'_c = z_c / a_c,   a_c = (n_max / n_c) ** γ

    γ = 0 changes nothing; nor do equal counts.

    Args:
        gamma: γ in [0, 1]; searched in [0, 0.4] on CIFAR-10, [0, 0.2] on CIFAR-100, [0, 0.1] on iNaturalist.

    Source:
        Ye, Chen, Zhan, Chao 2020, "Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning",
        arXiv:2001.01385, CDT.

    Differs:
        None. The logit of a class without images becomes 0, the limit of the formula.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([16, 1]), labels=torch.tensor([0, 1]))
    >>> ClassDependentTemperature(gamma=0.25).build(facts)(torch.ones(1, 2), torch.tensor([0]))
    tensor([[1.0000, 0.5000]])
    """

    gamma: float = 0.2

    def __post_init__(self) -> None:
        in_range(self, "gamma", 0, 1)

    def build(self, facts: Facts) -> Callable[[Tensor, Tensor], Tensor]:
        """(z (B, C), y (B,)) -> (B, C)."""
        counts = facts.counts.double()
        factors = ((counts / counts.max()) ** self.gamma).to(facts.device)
        return lambda z, y: z * factors.to(z.dtype)
