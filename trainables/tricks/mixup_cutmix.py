"""Mixup in one view and CutMix in the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.mixing import MixFn, beta_share, partner_of, rectangle, with_other


@trick(
    seam="mix",
    family="mixup",
    source="Du et al. 2023, arXiv:2305.08661, MixUp and CutMix of the two views",
    space={"alpha": uniform(0.2, 2.0, step=0.2)},
    needs=("images", "partner"),
)
@dataclass(frozen=True)
class MixupCutmix:
    """Mixes the first view of an image with a partner by mixup and the second by CutMix, in the same shares.

        x'_1 = λ x_i1 + (1 − λ) x_j1,   x'_2 = M ⊙ x_i2 + (1 − M) ⊙ x_j2,   L = λ L(y_i) + (1 − λ) L(y_j)

    One λ ~ Beta(α, α) and one rectangle per batch; partners come from `weighted_partner`, each in the same view. The
    rectangle has sides √(1 − λ) · (H, W), rounded up and cut at the border; the labels keep λ. α = 0 changes nothing.

    Args:
        alpha: α of the Beta distribution, at least 0; 1 in the public code.

    Raises:
        ValueError: A batch without partners, or one that is mixed already.

    Source:
        Du, Yang, Jia, Nan, Chen, Yang 2023, "Global and Local Mixture Consistency Cumulative Learning for
        Long-tailed Visual Recognitions", CVPR, arXiv:2305.08661.

    Differs:
        From the public code, none; its option `--beta` is read and not used.

    >>> from dataclasses import replace
    >>> images = torch.zeros(2, 1, 1, 4, 4)
    >>> batch = replace(Batch.plain(images[0], torch.arange(1), torch.tensor([0])), images=images)
    >>> batch = replace(batch, partner=batch.with_images(images + 1))
    >>> mixed = MixupCutmix().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))(batch, torch.Generator())
    >>> mixed.images[0].mean() + mixed.share[0, 0], mixed.images[1].unique()
    (tensor(1.), tensor([0., 1.]))
    """

    alpha: float = 1.0
    needs_views = 2

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and mixed images."""

        def mix(batch: Batch, generator: torch.Generator) -> Batch:
            other = partner_of(batch, "mixup_cutmix")
            share = beta_share(self.alpha, generator)
            height, width = batch.images.shape[-2:]
            rows, columns = rectangle(height, width, share, generator, up=True)
            images = batch.images.clone()
            images[0] = share * images[0] + (1 - share) * other.images[0]
            images[1:2, ..., rows, columns] = other.images[1:2, ..., rows, columns]
            return with_other(batch, images, other, share)

        return mix
