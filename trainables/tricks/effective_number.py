"""Re-weighting by the effective number of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.effective import inverse_effective_number


@trick(
    seam="weight",
    family="re-weighting",
    source="Cui et al. 2019, arXiv:1901.05555, section 4",
    space={"beta": one_of(0.9, 0.99, 0.999, 0.9999)},
)
@dataclass(frozen=True)
class EffectiveNumber:
    """Weighs each image by the inverse of its class's effective number of images.

        w(y) = (1 − β) / (1 − β ** n_y)

    With `normalise` the weights of the classes are scaled to the sum C. β = 0 changes nothing; with `normalise`,
    neither do equal counts.

    Args:
        beta: β in [0, 1); towards 1 the weight becomes 1 / n_y (times 1 − β …, without `normalise`).
        normalise: Scale the weights so that they sum to the number of classes that have images.

    Source:
        Cui, Jia, Lin, Song, Belongie 2019, "Class-Balanced Loss Based on Effective Number of Samples", CVPR,
        arXiv:1901.05555, section 4; Bag of Tricks (Zhang et al. 2021), eq. 5 (CB_CE) and, with `focal`, eq. 6.

    Differs:
        The default is the formula as both papers write it. The text of Cui et al. (section 4) and the public
        codes of both scale the weights to the sum C: `normalise=True`. Both differ by one factor for all images,
        which the stage's reductions "expected" and "weighted_mean" remove; under "mean" it acts like a change of
        the learning rate, tenfold and more.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([2, 1]), labels=torch.tensor([0, 1]))
    >>> EffectiveNumber(beta=0.5).build(facts)(torch.tensor([0, 1]))
    tensor([0.6667, 1.0000], dtype=torch.float64)
    >>> EffectiveNumber(beta=0.5, normalise=True).build(facts)(torch.tensor([0, 1]))
    tensor([0.8000, 1.2000], dtype=torch.float64)
    """

    beta: float = 0.999
    normalise: bool = False

    def __post_init__(self) -> None:
        in_range(self, "beta", 0, 1, below=True)
        among(self, "normalise", (False, True))

    def build(self, facts: Facts) -> Callable[[Tensor], Tensor]:
        """Labels (B,) -> weights (B,); classes without images get weight 0."""
        weights = inverse_effective_number(facts.counts, self.beta)
        if self.normalise:
            weights = weights * ((weights > 0).sum() / weights.sum())
        weights = weights.to(facts.device)
        return lambda labels: weights[labels]
