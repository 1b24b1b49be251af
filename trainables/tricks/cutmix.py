"""CutMix."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.mixing import MixFn, area_of, beta_share, partners, rectangle, with_partners


@trick(
    seam="mix",
    family="mixup",
    source="Yun et al. 2019, arXiv:1905.04899, eq. 1 and 2",
    space={"alpha": uniform(0.2, 2.0, step=0.2)},
    needs=("images",),
)
@dataclass(frozen=True)
class Cutmix:
    """Pastes a rectangle of another image into each image; the labels share as the areas do.

        x' = M ⊙ x_i + (1 − M) ⊙ x_j,   L = λ L(y_i) + (1 − λ) L(y_j)

    The rectangle has sides √(1 − λ) · (H, W), λ ~ Beta(α, α), and its centre anywhere in the image; it is cut at
    the border, and λ is then the true share of the area. One rectangle and one permutation per batch.
    α = 0 gives λ = 1 and changes nothing.

    Args:
        alpha: α of the Beta distribution, at least 0; the paper has 1.

    Source:
        Yun, Han, Oh, Chun, Choe, Yoo 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
        Localizable Features", ICCV, arXiv:1905.04899, eq. 1 and 2.

    Differs:
        None from the authors' code, which sets λ to the area that is left after the border has cut the rectangle;
        the paper does not mention the border. The images are mixed here, so the batch carries no blend.

    >>> images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    >>> batch = Batch.plain(images, torch.arange(2), torch.tensor([0, 1]))
    >>> mix = Cutmix().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> mixed = mix(batch, torch.Generator().manual_seed(5))
    >>> mixed.images[0, :, 0].mean(dim=(1, 2)), mixed.share
    (tensor([0.2500, 0.7500]), tensor([[0.7500, 0.2500],
            [0.7500, 0.2500]]))
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and mixed images."""

        def mix(batch: Batch, generator: torch.Generator) -> Batch:
            height, width = batch.images.shape[-2:]
            share = beta_share(self.alpha, generator)
            order = partners(batch, generator)
            rows, columns = rectangle(height, width, share, generator)
            images = batch.images.clone()
            images[..., rows, columns] = batch.images[:, order][..., rows, columns]
            left = torch.full_like(batch.share[:, 0], 1 - area_of(rows, columns) / (height * width))
            return with_partners(batch.with_images(images), order, left, None)

        return mix
