"""Self-supervised aggregation of diverse experts (SADE): the training loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import log_prior
from trainables.tricks._shared.expert_losses import entropy, experts_of

FLOOR = 1e-9
"""Added to a prior before its logarithm."""


def inverse_prior(prior: Tensor) -> Tensor:
    """The priors (C,) in reverse rank order: the most frequent class gets the rarest one's, and so on.

    Classes with equal priors rank by their number.

    >>> inverse_prior(torch.tensor([0.5, 0.2, 0.3]))
    tensor([0.2000, 0.5000, 0.3000])
    """
    ascending, order = prior.sort(stable=True)
    return torch.zeros_like(prior).index_copy(0, order, ascending.flip(0))


@trick(
    seam="loss",
    family="experts",
    source="Zhang et al. 2022, arXiv:2107.09249, eq. 2 to 4 (SADE)",
    space={"tau": uniform(0.5, 3.0, step=0.5)},
    needs=("3 experts",),
)
@dataclass(frozen=True)
class Sade:
    """Trains three experts for three class distributions: the training set's, the uniform and the inverse one.

        L = CE(z_1) + CE(z_2 + ln π) + CE(z_3 + ln π − τ ln π̄)

    π are the class priors, π̄ the same in reverse rank order, each with 1e-9 added in the logarithm. τ = 0 makes the
    third expert the second. Equal counts train three plain experts.

    Args:
        tau: τ, at least 0: 2 on CIFAR and ImageNet-LT, 1 on Places-LT and iNaturalist.

    Raises:
        ValueError: When called without three experts.

    Source:
        Zhang, Hooi, Hong, Feng 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed
        Recognition", NeurIPS, arXiv:2107.09249, eq. 2 to 4, and the public code.

    Differs:
        Classes with equal counts rank by their number, where torch.sort leaves it open. The aggregation at test time
        reads test images and is not part of a search: the experts are averaged.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> z = torch.zeros(3, 1, 2)
    >>> Sade().build(facts)(Outputs(z[0], experts=z), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)
    tensor([2.0794])
    """

    tau: float = 2.0

    reads_experts = True

    def __post_init__(self) -> None:
        in_range(self, "tau", 0, below=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        log_p = log_prior(facts, floor=FLOOR)
        prior = facts.counts.double() / facts.counts.sum()
        log_inverse = torch.log(inverse_prior(prior) + FLOOR).to(facts.device)

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            first, second, third = experts_of(outputs, "sade", 3)
            shift, inverse = log_p.to(first.dtype), log_inverse.to(first.dtype)
            balanced, reverse = second + shift, third + shift - self.tau * inverse
            return entropy(first, q) + entropy(balanced, q) + entropy(reverse, q)

        return loss
