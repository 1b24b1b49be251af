"""What the tricks that average weights share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

AverageFn = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], int, int | None], dict[str, Tensor]]
"""(averaged, state, step, epoch) -> averaged: after every step with epoch `None`, after every epoch of the chain with
its number. Steps and epochs count from 1, over the chain. An empty `averaged` means that there is none yet."""


def moved_towards(averaged: Mapping[str, Tensor], state: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """averaged + share · (state − averaged), for everything that has a fraction; counters are copied.

    >>> moved_towards({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, 0.25)["w"]
    tensor([1.2500])
    """
    if not averaged:
        return {name: tensor.detach().clone() for name, tensor in state.items()}
    moved = {name: tensor.detach().clone() for name, tensor in state.items() if not tensor.is_floating_point()}
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    lerped = torch._foreach_lerp([averaged[name] for name in names], [state[name].detach() for name in names], share)
    moved.update(zip(names, lerped, strict=True))
    # in the network's own order, as a checkpoint of it would be
    return {name: moved[name] for name in state}
