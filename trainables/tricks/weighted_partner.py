"""A second stream of images, by a power of the class counts."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sampling import DrawFn, class_probabilities, draw_by_class


@trick(
    seam="partner",
    family="mixup",
    source="Park et al. 2022, arXiv:2112.00412, minority distribution Q",
    space={"power": uniform(0.0, 2.0, step=0.25)},
    provides=("partner",),
)
@dataclass(frozen=True)
class WeightedPartner:
    """Draws a partner for each image of a batch, from a stream of its own that favours rare classes.

        P(image) ∝ 1 / n_y ** power,   so that P(class) ∝ n_c ** (1 − power)

    N draws an epoch with replacement; crop, flip and augment tricks change the partners as they do the images. Alone
    it changes nothing: a mix trick mixes with the partners. power = 0 draws all images evenly, 1 all classes.

    Args:
        power: At least 0; 1 in the public code of CMO, 0 (C100, IF 100) to 0.2 in that of GLMC.

    Source:
        Park, Hong, Heo, Yun, Choi 2022, "The Majority Can Help the Minority: Context-rich Minority Oversampling for
        Long-tailed Classification", CVPR, arXiv:2112.00412.

    Differs:
        None from CMO's public code. The paper's q(r, k) ∝ 1 / n_k ** r, r = 1, read as the chance of a class, would be
        power = 2; as the weight of an image, as in the code, it is class-balanced.

    >>> import torch
    >>> facts = Facts(counts=torch.tensor([3, 1]), labels=torch.tensor([0, 0, 0, 1]))
    >>> draw = WeightedPartner(power=8.0).build(facts)
    >>> draw(0.0, torch.Generator().manual_seed(0)).tolist()
    [3, 3, 3, 3]
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "power", 0, 10)

    def build(self, facts: Facts) -> DrawFn:
        """(progress, generator) -> image indices (N,)."""
        probabilities = class_probabilities(facts, 1 - self.power)
        return draw_by_class(facts, lambda progress: probabilities)
