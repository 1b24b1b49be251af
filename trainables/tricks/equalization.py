"""Softmax equalisation loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import log_uniform, uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.training.seeding import sent
from trainables.tricks._shared.adjustment import without_ruled_out


@trick(
    seam="loss",
    family="re-weighting",
    source="Tan et al. 2020, arXiv:2003.05176, softmax equalization loss",
    space={"gamma": uniform(0.5, 0.99), "tail_share": log_uniform(4e-4, 0.05)},
)
@dataclass(frozen=True)
class Equalization:
    """Spares rare classes most of the gradients that push them down.

        L = −ln( exp z_y / Σ_k w_k exp z_k ),   w_k = 1 − β_k T(n_k) (1 − [k = y])

    T(n_k) = 1 for rare classes, n_k / N < tail_share; β_k ~ Bernoulli(γ), drawn for each image and class.
    For a soft target q it is ln Σ_k w_k exp z_k − Σ_k q_k z_k. γ = 0 is the cross-entropy, and so is a tail_share
    that no class is below.

    Args:
        gamma: γ in [0, 1].
        tail_share: λ, the share of the training images below which a class is rare, in [0, 1]; the paper's
            0.005 for CIFAR-100, and by the same rule of half the mean share, 0.5 / C, where `None`.

    Raises:
        ValueError: When called without a generator, unless γ is 0 or 1.

    Source:
        Tan, Wang, Li, Li, Ouyang, Yin, Yan 2020, "Equalization Loss for Long-Tailed Object Recognition", CVPR,
        arXiv:2003.05176, the softmax equalization loss.

    Differs:
        None in value. Bag of Tricks' public code exponentiates without taking off the largest logit first, and
        overflows; the survey's sets masked logits to −1e7. λ is 0.005 (CIFAR-100-LT, imbalance 100), 0.006
        (imbalance 50), 0.05 (CIFAR-10-LT) in Bag of Tricks' public code, 4.3e-4 in the survey's for ImageNet-LT.

    >>> facts = Facts(counts=torch.tensor([99, 1]), labels=torch.tensor([0, 1]))
    >>> loss = Equalization(gamma=1.0, tail_share=0.05).build(facts)
    >>> loss(Outputs(torch.zeros(2, 2)), torch.eye(2), torch.tensor([0, 1]), None)  # ln 1, ln 2
    tensor([0.0000, 0.6931])
    """

    gamma: float = 0.9
    tail_share: float | None = None

    def __post_init__(self) -> None:
        in_range(self, "gamma", 0, 1)
        if self.tail_share is not None:
            in_range(self, "tail_share", 0, 1)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        limit = 0.5 / facts.classes if self.tail_share is None else self.tail_share
        shares = facts.counts.double() / facts.counts.sum()
        rare = (shares < limit).to(facts.device)

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            z = outputs.logits
            spared = rare & self._drawn(z, generator)
            spared = spared.scatter(1, y[:, None], False)  # never the image's own class
            normaliser = torch.logsumexp(z.masked_fill(spared, -torch.inf), dim=1)
            # a target may give a part to a class that the logits seam rules out
            q = q.masked_fill(z.isneginf(), 0)
            return q.sum(dim=1) * normaliser - (q * without_ruled_out(z)).sum(dim=1)

        return loss

    def _drawn(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.gamma in (0, 1):
            return torch.full_like(z, bool(self.gamma), dtype=torch.bool)
        if generator is None:
            raise ValueError(
                f"trick 'equalization': gamma={self.gamma} draws which classes are spared; "
                "call the objective with generator=, or set gamma to 0 or 1"
            )
        return sent(torch.rand(z.shape, generator=generator) < self.gamma, z.device)
