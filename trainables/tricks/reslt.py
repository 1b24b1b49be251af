"""Residual learning of the long tail (ResLT): the loss of its three branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.expert_losses import entropy, experts_of

FLOOR = 1e-7
"""Added to a probability before its logarithm in the branches' own losses."""


@trick(
    seam="loss",
    family="experts",
    source="Cui et al. 2022, arXiv:2101.10633, eq. 3 to 6 (ResLT)",
    space={"beta": one_of(0.72, 0.85, 0.99, 0.995)},
    needs=("3 experts",),
)
@dataclass(frozen=True)
class Reslt:
    """Gives the head branch all classes, the medium branch the medium and rare ones, the tail branch the rare ones.

        L = β · ICE + (1 − β) · CE(z_H + z_M + z_T)
        ICE = Σ over the branches and their own images of −ln softmax_y(z_b) / number of such pairs

    ICE is one number of the batch; every image's entry is its own part of it, times B, so that the mean is the paper's
    value. β = 0 is the cross-entropy of the sum. `reslt_head` makes the branches and evaluates their sum.

    Args:
        beta: β, in [0, 1]: 0.995, 0.99 and 0.72 on CIFAR-100-LT at imbalance 100, 50 and 10; 0.998, 0.998 and 0.96 on
            CIFAR-10-LT; 0.99 on ImageNet-LT, 0.85 on iNaturalist. The authors advise to tune it on CIFAR.
        many: Classes with more images are not in the medium branch.
        few: Classes with fewer images are in the tail branch.
        first_medium: Number of classes, by falling count, that are not in the medium branch, instead of the rule:
            35 of CIFAR-100, 2 of CIFAR-10.
        first_tail: The same of the tail branch: 70 of CIFAR-100, 4 of CIFAR-10.

    Raises:
        ValueError: When called without three experts.

    Source:
        Cui, Liu, Tian, Zhong, Jia 2022, "ResLT: Residual Learning for Long-Tailed Recognition", TPAMI,
        arXiv:2101.10633, eq. 3 to 6; the public code's borders and constants.

    Differs:
        From the public code: the borders follow from the counts, which gives its 35 and 70 on CIFAR-100-LT at
        imbalance 100; classes of equal count rank by their number. 1e-7 is added inside the logarithm of ICE, as there.

    >>> facts = Facts(counts=torch.tensor([200, 50, 10]), labels=torch.tensor([0] * 200 + [1] * 50 + [2] * 10))
    >>> z = torch.zeros(3, 2, 3)
    >>> Reslt(beta=0.5).build(facts)(Outputs(z[0], experts=z), torch.eye(3)[[0, 2]], torch.tensor([0, 2]), None)
    tensor([0.8240, 1.3733])
    """

    beta: float = 0.995
    many: int = 100
    few: int = 20
    first_medium: int | None = None
    first_tail: int | None = None

    reads_experts = True

    def __post_init__(self) -> None:
        in_range(self, "beta", 0, 1)
        in_range(self, "many", 0)
        in_range(self, "few", 0)
        for name in ("first_medium", "first_tail"):
            if getattr(self, name) is not None:
                in_range(self, name, 0, whole=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        counts = facts.counts
        rank = torch.zeros_like(counts)
        rank[counts.argsort(descending=True, stable=True)] = torch.arange(len(counts), device=counts.device)
        medium = counts <= self.many if self.first_medium is None else rank >= self.first_medium
        tail = counts < self.few if self.first_tail is None else rank >= self.first_tail
        members = torch.stack((torch.ones_like(medium), medium, tail)).to(facts.device)  # (3, C)

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            branches = experts_of(outputs, "reslt", 3)
            own = members[:, y].to(branches.dtype)  # (3, B)
            p = functional.softmax(branches, dim=2)
            independent = -(q * torch.log(p + FLOOR)).sum(dim=2)  # (3, B)
            pairs = own.sum()  # the head branch has every image
            entropies = (own * independent).sum(dim=0) * (own.shape[1] / pairs)
            return self.beta * entropies + (1 - self.beta) * entropy(branches.sum(dim=0), q)

        return loss
