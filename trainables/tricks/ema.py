"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.averaging import AverageFn, moved_towards


@trick(
    seam="average",
    family="regularisation",
    source="Tarvainen & Valpola 2017, arXiv:1703.01780, section 2, after Polyak & Juditsky 1992",
    space={"decay": one_of(0.9, 0.99, 0.999)},
)
@dataclass(frozen=True)
class Ema:
    """Evaluates and hands over a moving average of the network instead of the network itself.

        θ̄ ← d_t θ̄ + (1 − d_t) θ after every step t = 1, 2, …,   d_t = min(decay, (1 + t) / (10 + t))

    BatchNorm's statistics are averaged like weights, its counters copied. Training itself does not change. Steps
    are those of the chain, so splitting a stage changes nothing.

    Args:
        decay: In [0, 1); 0 changes nothing.
        warm_up: Let the decay grow from 2/11, so that a short training is not dominated by its first steps;
            without it d_t = decay.

    Source:
        Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Tarvainen & Valpola 2017,
        "Mean teachers are better role models", arXiv:1703.01780, section 2.

    Differs:
        From Tarvainen & Valpola: the warm-up is that of TensorFlow's ExponentialMovingAverage with `num_updates`
        (they use two fixed decays); the average is not used as a teacher.

    >>> import torch
    >>> update = Ema(decay=0.9, warm_up=False).build(Facts(torch.ones(2), torch.tensor([0, 1])))
    >>> update({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, 5, None)["w"]
    tensor([1.1000])
    """

    decay: float = 0.99
    warm_up: bool = True

    def __post_init__(self) -> None:
        in_range(self, "decay", 0, 1, below=True)
        among(self, "warm_up", (False, True))

    def build(self, facts: Facts) -> AverageFn:
        """(averaged, state, step, epoch) -> averaged state."""

        def update(
            averaged: Mapping[str, Tensor], state: Mapping[str, Tensor], step: int, epoch: int | None
        ) -> dict[str, Tensor]:
            if epoch is not None:
                return dict(averaged)
            decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
            return moved_towards(averaged, state, 1 - decay)

        return update
