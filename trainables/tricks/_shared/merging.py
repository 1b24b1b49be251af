"""Weighted averages of network states: what the merges share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainables.batch import Facts
from trainables.metrics import ZERO_RECALL

State = Mapping[str, Tensor]
MergeFn = Callable[[Sequence[State]], dict[str, Tensor]]


def weighted_average(states: Sequence[State], coefficients: Sequence[float], trick: str) -> dict[str, Tensor]:
    """Σ_m a_m θ_m, in float64 and back in each tensor's own type.

    BatchNorm's running mean and variance are averaged like weights; whole numbers such as
    `num_batches_tracked`, which an average would turn into fractions, are taken from the first state.

    Args:
        states: States of one network.
        coefficients: a_m, one per state.
        trick: Who asks, for the errors.

    Raises:
        ValueError: There are no states, or they are not of one network.
    """
    if not states:
        raise ValueError(f"trick {trick!r}: there is no member to merge; a stage needs members >= 1")
    first = states[0]
    for number, state in enumerate(states[1:], start=1):
        differing = sorted(set(first) ^ set(state)) or [key for key in first if first[key].shape != state[key].shape]
        if differing:
            raise ValueError(
                f"trick {trick!r}: member {number} differs from member 0 in {', '.join(differing[:3])}; "
                "only states of the same network can be merged"
            )
    merged = {}
    for key, value in first.items():
        if value.is_floating_point():
            total = torch.zeros_like(value, dtype=torch.float64)
            for state, coefficient in zip(states, coefficients, strict=True):
                total += coefficient * state[key].to(total)
            merged[key] = total.to(value.dtype)
        else:
            merged[key] = value.clone()
    return merged


def mean_recall(recalls: Tensor, mean: str) -> float:
    """The harmonic or geometric mean of recalls (C,), those of 0 counted as 0.001, absent ones (NaN) left out.

    >>> round(mean_recall(torch.tensor([0.5, 1.0]), "harmonic"), 4)
    0.6667
    """
    present = recalls.double().flatten()
    present = present[~present.isnan()]
    present = torch.where(present == 0, ZERO_RECALL, present)
    if mean == "harmonic":
        return float(1 / (1 / present).mean())
    return float(present.log().mean().exp())


def scorer(facts: Facts, mean: str) -> Callable[[State], float]:
    """State -> its mean recall on balanced training images, from `facts.score`.

    `facts.score` may return the recalls (C,), of which the mean is taken, or one number, which is used as it is.
    """
    score = facts.score
    assert score is not None

    def of(state: State) -> float:
        scored = torch.as_tensor(score(state), dtype=torch.float64)
        return mean_recall(scored, mean) if scored.ndim else float(scored)

    return of


MEANS = ("harmonic", "geometric")
