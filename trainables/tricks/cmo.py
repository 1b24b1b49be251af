"""Context-rich minority over-sampling (CMO)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.mixing import area_of, beta_share, partner_of, rectangle, with_other


@trick(
    seam="mix",
    family="mixup",
    source="Park et al. 2022, arXiv:2112.00412, algorithm 1",
    space={"alpha": uniform(0.2, 2.0, step=0.2), "probability": uniform(0.25, 1.0, step=0.25)},
    needs=("images", "partner"),
)
@dataclass(frozen=True)
class Cmo:
    """Pastes a rectangle of an image of a rare class into an image of the ordinary draw: its rich context stays.

        x' = M ⊙ x_i + (1 − M) ⊙ x_j,   L = λ L(y_i) + (1 − λ) L(y_j),   j of the draw of `weighted_partner`

    The rectangle is that of `cutmix`, one for the whole batch, and λ the share of the area that is left. Batches are
    mixed with a given probability, and none is in the first and last epochs. probability = 0 changes nothing.

    Args:
        alpha: α of the Beta distribution of λ, at least 0; the paper has 1.
        probability: Share of the batches that are mixed, in [0, 1].
        margin: Share of the chain's epochs at both ends in which nothing is mixed, in [0, 0.5); 3 of 200 in the public
            code, which leaves out epochs 0 to 3 and the last three.

    Raises:
        ValueError: A batch without partners, or one that is mixed already.

    Source:
        Park, Hong, Heo, Yun, Choi 2022, "The Majority Can Help the Minority: Context-rich Minority Oversampling for
        Long-tailed Classification", CVPR, arXiv:2112.00412, algorithm 1.

    Differs:
        From the public code, none at 200 epochs; its margin is 3 epochs at any length. The paper mentions neither the
        margin nor the probability in its algorithm.

    >>> from dataclasses import replace
    >>> images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    >>> batch = Batch.plain(images, torch.arange(2), torch.tensor([0, 1]))
    >>> batch = replace(batch, partner=Batch.plain(images + 2, torch.arange(2), torch.tensor([1, 1])))
    >>> mix = Cmo(probability=1.0).build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> mixed = mix(batch, torch.Generator().manual_seed(5))
    >>> mixed.images[0, :, 0].mean(dim=(1, 2)), mixed.share[0]
    (tensor([0.5000, 1.5000]), tensor([0.7500, 0.2500]))
    """

    alpha: float = 1.0
    probability: float = 0.5
    margin: float = 0.015

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        in_range(self, "probability", 0, 1)
        in_range(self, "margin", 0, 0.5, below=True)

    def build(self, facts: Facts) -> CmoMix:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and mixed images."""
        return CmoMix(self, facts.epochs)


class CmoMix:
    """The mix, which is off in the first and last epochs."""

    def __init__(self, made: Cmo, epochs: int) -> None:
        self._made, self._epochs, self._on = made, epochs, True

    def begin_epoch(self, progress: float, generator: torch.Generator) -> None:
        """Switches the mix on or off for an epoch."""
        epoch, margin = round(progress * (self._epochs - 1)), round(self._made.margin * self._epochs)
        self._on = margin == 0 or margin < epoch < self._epochs - margin

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """See `Cmo.build`."""
        other = partner_of(batch, "cmo")
        height, width = batch.images.shape[-2:]
        drawn = float(torch.rand((), dtype=torch.float64, generator=generator))
        rows, columns = rectangle(height, width, beta_share(self._made.alpha, generator), generator)
        if not (self._on and drawn < self._made.probability):
            return with_other(batch, batch.images, other, 1.0)
        images = batch.images.clone()
        images[..., rows, columns] = other.images[..., rows, columns]
        return with_other(batch, images, other, 1 - area_of(rows, columns) / (height * width))
