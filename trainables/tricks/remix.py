"""Remix: mixup that gives the label to the rarer class."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Blend, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.mixing import MixFn, beta_share, partners, with_partners


@trick(
    seam="mix",
    family="mixup",
    source="Chou et al. 2020, arXiv:2007.03943, section 3",
    space={"alpha": uniform(0.2, 2.0, step=0.2), "kappa": uniform(2, 5, step=1), "tau": uniform(0.1, 0.9, step=0.1)},
)
@dataclass(frozen=True)
class Remix:
    """Mixes two images as mixup does, but the label goes to the rarer class where the counts are far apart.

        x' = λ x_i + (1 − λ) x_j,   L = λ_y L(y_i) + (1 − λ_y) L(y_j),   λ ~ Beta(α, α) once per batch
        λ_y = 0 if n_i / n_j ≥ κ and λ < τ;   1 if n_i / n_j ≤ 1/κ and 1 − λ < τ;   else λ

    With equal counts, or τ = 0, it is `input_mixup`. α = 0 gives λ = 1; with τ = 0 that changes nothing.

    Args:
        alpha: α of the Beta distribution, at least 0.
        kappa: κ, the ratio of counts from which on the rarer class wins, at least 1.
        tau: τ in [0, 1], the share of the image below which the more frequent class loses its label.

    Source:
        Chou, Chang, Pan, Wei, Juan 2020, "Remix: Rebalanced Mixup", ECCV workshops, arXiv:2007.03943, section 3.

    Differs:
        From the paper, none: λ_y is each image's own. Bag of Tricks' public code multiplies the shares with an
        already averaged loss, which is mixup with the mean share; that is not copied.

    >>> facts = Facts(counts=torch.tensor([90, 10]), labels=torch.tensor([0, 1]))
    >>> batch = Batch.plain(torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([0, 1]))
    >>> mixed = Remix(tau=1.0).build(facts)(batch, torch.Generator().manual_seed(0))
    >>> mixed.y, mixed.share
    (tensor([[0, 1],
            [1, 0]]), tensor([[0., 1.],
            [1., 0.]]))
    """

    alpha: float = 1.0
    kappa: float = 3.0
    tau: float = 0.5

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        in_range(self, "kappa", 1, below=True)
        in_range(self, "tau", 0, 1)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) of the labels and the blend at the input."""
        counts = facts.counts.double().to(facts.device)

        def mix(batch: Batch, generator: torch.Generator) -> Batch:
            share = beta_share(self.alpha, generator)
            order = partners(batch, generator)
            y = batch.y[:, 0]
            own, other = counts[y], counts[y[order]]
            label_share = torch.full_like(own, share)
            if share < self.tau:
                label_share[own >= self.kappa * other] = 0
            if 1 - share < self.tau:
                label_share[own * self.kappa <= other] = 1
            blend = Blend("input", order, torch.full_like(batch.share[:, 0], share))
            return with_partners(batch, order, label_share, blend)

        return mix
