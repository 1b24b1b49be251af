"""Routing diverse experts (RIDE): the training loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts, Outputs
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.adjustment import without_ruled_out
from trainables.tricks._shared.effective import inverse_effective_number
from trainables.tricks._shared.expert_losses import entropy, experts_of, scattered


@trick(
    seam="loss",
    family="experts",
    source="Wang et al. 2021, arXiv:2010.01809, eq. 2 and 3 (RIDE)",
    space={"factor": one_of(-0.45, -0.2), "rho": one_of(0.015, 0.02, 0.05)},
    needs=("experts",),
)
@dataclass(frozen=True)
class Ride:
    """Trains experts with the LDAM loss, each rewarded for its distance from their mean.

        L = Σ_e [ CE(z_e − s m_y) + factor · T̄² KL(p̄ ‖ p_e) ],   m_c = max_margin · (n_min / n_c) ** ¼
        p_e = softmax(z_e / T_c),   p̄ = softmax(mean z / T_c) without gradient

    s m_y is taken off the true class's logit, which a cosine classifier has multiplied by s. Without `reweight`
    T = 1. With it, in the deferred stage, the cross-entropy is a mean weighted by the effective number of images, and

        T_c ∝ ρ C π_c + 1 − ρ,   the largest 1, T̄ their mean

    With factor = 0 every expert learns from the mean logits, as in the public code. One expert is LDAM.

    Args:
        factor: −0.45 on CIFAR-100-LT, −0.2 elsewhere; negative rewards.
        max_margin: Of the rarest class, in units of the cosine; 0 is the cross-entropy.
        scale: s, above 0.
        reweight: Of the deferred stage: weights and temperatures by class.
        rho: ρ, in [0, 1]: 0.05 on CIFAR-100-LT, 0.02 on ImageNet-LT, 0.015 on iNaturalist.
        beta: β of the effective number, in (0, 1).
        temperature: Multiplies T_c, above 0.

    Raises:
        ValueError: When called without experts.

    Source:
        Wang, Lian, Miao, Liu, Yu 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR,
        arXiv:2010.01809, eq. 2 and 3; the public code's form, with its constants.

    Differs:
        From the paper: p̄ is the softmax of the mean logits and carries no gradient, as in the public code. The weighted
        mean is that of a batch, so in `reduction="mean"` or "expected" the batch's loss is the public code's; with
        mixed labels it is one for each part of the mixture.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> z = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> loss = Ride(factor=-0.2, max_margin=0.0).build(facts)
    >>> loss(Outputs(z.mean(dim=0), experts=z), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)
    tensor([1.5785])
    """

    factor: float = -0.45
    max_margin: float = 0.5
    scale: float = 30.0
    reweight: bool = False
    rho: float = 0.05
    beta: float = 0.9999
    temperature: float = 1.0

    reads_experts = True

    def __post_init__(self) -> None:
        in_range(self, "factor", above=True, below=True)
        in_range(self, "max_margin", 0, below=True)
        in_range(self, "scale", 0, above=True, below=True)
        among(self, "reweight", (False, True))
        in_range(self, "rho", 0, 1)
        in_range(self, "beta", 0, 1, above=True, below=True)
        in_range(self, "temperature", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        counts = facts.counts.double()
        present = counts > 0
        margins = self.scale * self.max_margin * (counts[present].min() / counts.clamp(min=1)) ** 0.25
        margins = margins.to(facts.device)
        weights, temperatures = None, torch.full_like(counts, self.temperature).to(facts.device)
        if self.reweight:
            inverse = inverse_effective_number(counts, self.beta)
            weights = (inverse * (present.sum() / inverse.sum())).to(facts.device)
            scaled = self.rho * facts.classes * counts / counts.sum() + 1 - self.rho
            temperatures = (self.temperature * scaled / scaled.max()).to(facts.device)
        squared = float(temperatures.mean()) ** 2

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            experts = experts_of(outputs, "ride")
            mean = experts.mean(dim=0)
            taken = scattered(margins[y], mean, y)
            learning = experts if self.factor else mean.expand_as(experts)
            entropies = torch.stack([entropy(z - taken, q) for z in learning]).sum(dim=0)
            if weights is not None:
                own = weights[y].to(entropies.dtype)
                entropies = own * entropies / own.mean()
            if not self.factor:
                return entropies
            t = temperatures.to(mean.dtype)
            with torch.no_grad():
                target = functional.softmax(mean / t, dim=1)
            apart = [
                functional.kl_div(
                    without_ruled_out(functional.log_softmax(z / t, dim=1)), target, reduction="none"
                ).sum(dim=1)
                for z in experts
            ]
            return entropies + self.factor * squared * torch.stack(apart).sum(dim=0)

        return loss
