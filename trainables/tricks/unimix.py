"""UniMix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaces.domain import one_of, uniform
from trainables.batch import Batch, Blend, Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import sent
from trainables.tricks._shared.mixing import MixFn, numpy_generator, with_partners


@trick(
    seam="mix",
    family="mixup",
    source="Xu et al. 2021, arXiv:2111.03874, UniMix factor and sampler",
    space={"alpha": uniform(0.2, 1.0, step=0.2), "tau": one_of(-1.0, -0.5, -0.1, 0.0)},
)
@dataclass(frozen=True)
class Unimix:
    """Mixes each image with one that is likelier to be rare, in a share that favours the rarer of the two.

        x' = λ x_i + (1 − λ) x_j,   L = λ L(y_i) + (1 − λ) L(y_j)
        P(j) ∝ n_{y_j} ** τ over the batch, with replacement
        λ = ξ + b, less 1 where that is above 1;   ξ = n_{y_j} / (n_{y_i} + n_{y_j}),   b ~ Beta(α, α)

    λ is each image's own. With equal counts, α = 1 and τ = 0 it is uniform, as in mixup. It has no neutral setting.

    The paper's second half, the Bayias loss CE(z + ln π − ln π'), is `balanced_softmax` where every class is as
    likely in evaluation, π' = 1/C.

    Args:
        alpha: α of the Beta distribution, above 0.
        tau: τ, the power of the counts by which partners are drawn; −0.1 on CIFAR-100-LT and −0.5 on CIFAR-10-LT in
            the public code, 0 draws them evenly.

    Source:
        Xu, Chai, Yuan 2021, "Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective",
        NeurIPS, arXiv:2111.03874; numbers from the public code.

    Differs:
        From the public code, none. Its README says that some settings are not those of the paper.

    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0, 1]))
    >>> batch = Batch.plain(torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([0, 1]))
    >>> mixed = Unimix(tau=-1.0).build(facts)(batch, torch.Generator().manual_seed(0))
    >>> mixed.y.tolist(), mixed.share.equal(torch.stack((mixed.blend.share, 1 - mixed.blend.share), dim=1))
    ([[0, 1], [1, 1]], True)
    """

    alpha: float = 0.8
    tau: float = -0.1

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, above=True, below=True)
        in_range(self, "tau", -10, 10)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and the blend at the input."""
        counts = facts.counts.double().clamp(min=1).cpu()

        def mix(batch: Batch, generator: torch.Generator) -> Batch:
            own = counts[batch.y[:, 0].cpu()]
            order = torch.multinomial(own**self.tau, len(own), replacement=True, generator=generator)
            drawn = numpy_generator(generator).beta(self.alpha, self.alpha, len(own))
            share = own[order] / (own + own[order]) + torch.from_numpy(drawn)
            share = torch.where(share > 1, share - 1, share).to(batch.share.dtype)
            order, share = sent(order, batch.y.device), sent(share, batch.y.device)
            return with_partners(batch, order, share, Blend("input", order, share))

        return mix
