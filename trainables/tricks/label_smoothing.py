"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.smoothing import TargetFn, smoothed


@trick(
    seam="target",
    family="smoothing",
    source="Szegedy et al. 2016, arXiv:1512.00567, section 7",
    space={"epsilon": uniform(0.05, 0.3, step=0.05)},
)
@dataclass(frozen=True)
class LabelSmoothing:
    """Gives a small part of the target to all classes alike.

        q_y = 1 − ε + ε / C,   q_c = ε / C for the others

    ε = 0 changes nothing; counts play no role.

    Args:
        epsilon: ε in [0, 1).

    Source:
        Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2016, "Rethinking the Inception Architecture for Computer Vision",
        CVPR, arXiv:1512.00567, section 7 (Bag of Tricks' CELS).

    Differs:
        None.

    >>> import torch
    >>> LabelSmoothing(epsilon=0.1).build(Facts(torch.ones(4), torch.tensor([0, 1])))(torch.tensor([2]))
    tensor([[0.0250, 0.0250, 0.9250, 0.0250]], dtype=torch.float64)
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        in_range(self, "epsilon", 0, 1, below=True)

    def build(self, facts: Facts) -> TargetFn:
        """Labels (B,) -> q (B, C) float64."""
        return smoothed(self.epsilon, facts.classes)
