"""Mixup of images."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.mixing import MixFn, mixed_at


@trick(
    seam="mix",
    family="mixup",
    source="Zhang et al. 2018, arXiv:1710.09412",
    space={"alpha": uniform(0.2, 2.0, step=0.2)},
)
@dataclass(frozen=True)
class InputMixup:
    """Trains on mixtures of two images, with the two labels in the same shares.

        x' = λ x_i + (1 − λ) x_j,   L = λ L(y_i) + (1 − λ) L(y_j),   λ ~ Beta(α, α) once per batch

    j runs through a random permutation of the batch. α = 0 gives λ = 1 and changes nothing.

    Args:
        alpha: α of the Beta distribution, at least 0; 1 in Bag of Tricks, 0.2 on large sets in MiSLAS.

    Source:
        Zhang, Cissé, Dauphin, Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization", ICLR,
        arXiv:1710.09412.

    Differs:
        From the authors' code, none. Bag of Tricks trained its mixup rows for 400 epochs, twice as long as the
        others (author's word in its issue 1): length is the stage's affair.

    >>> import torch
    >>> from trainables.batch import Batch
    >>> batch = Batch.plain(torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([0, 1]))
    >>> mixed = InputMixup().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))(batch, torch.Generator())
    >>> mixed.y.shape, mixed.share.sum(dim=1), mixed.blend.layer
    (torch.Size([2, 2]), tensor([1., 1.]), 'input')
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and the blend at the input."""
        return mixed_at("input", self.alpha)
