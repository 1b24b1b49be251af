"""Stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.averaging import AverageFn, moved_towards


@trick(
    seam="average",
    family="regularisation",
    source="Izmailov et al. 2018, arXiv:1803.05407, algorithm 1 with a cycle of one epoch",
    space={"start": one_of(0.5, 0.75, 0.9)},
)
@dataclass(frozen=True)
class Swa:
    """Evaluates and hands over the plain mean of the network at the ends of the last epochs.

        θ̄ = 1/K Σ_k θ_k   over the ends of the chain's epochs e with e ≥ max(1, start · epochs)

    Before that, the network itself is evaluated. BatchNorm's statistics are averaged like weights. Where the trick
    comes on in a later stage of the chain, the mean is over the epochs from there on.

    Args:
        start: Fraction of the chain after which averaging begins, in [0, 1]; 1 keeps the last epoch alone, which
            changes nothing.

    Source:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson 2018, "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI, arXiv:1803.05407, algorithm 1.

    Differs:
        From the paper: the stage's own learning-rate schedule is kept instead of a constant or cyclic one, and
        BatchNorm's statistics are averaged instead of computed anew by a pass over the training images.

    >>> import torch
    >>> update = Swa(start=0.5).build(Facts(torch.ones(2), torch.tensor([0, 1]), epochs=4))
    >>> averaged = {}
    >>> for epoch in (1, 2, 3, 4):
    ...     averaged = update(averaged, {"w": torch.tensor([float(epoch)])}, epoch, epoch)
    >>> averaged["w"]
    tensor([3.])
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        in_range(self, "start", 0, 1)

    def build(self, facts: Facts) -> AverageFn:
        """(averaged, state, step, epoch) -> averaged state."""
        first = max(1 + facts.averages_from, math.ceil(self.start * facts.epochs - 1e-9))

        def update(
            averaged: Mapping[str, Tensor], state: Mapping[str, Tensor], step: int, epoch: int | None
        ) -> dict[str, Tensor]:
            if epoch is None or epoch < first:
                return dict(averaged)
            return moved_towards(averaged, state, 1 / (epoch - first + 1))

        return update
