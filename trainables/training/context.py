"""The context that a stage is trained in, and the carry-over from one stage to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainables.data import LongTailed
from trainables.models import Network
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.numerics import Numerics

State = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingContext:
    """Everything that a stage depends on besides the plan and its earlier stages.

    Args:
        data: Images and labels, on `device`.
        network: Makes the untrained network from a generator.
        seed: Seed of the trial.
        device: Where the stage is trained.
        numerics: Precision, memory format and other numerical settings.
        sharding: How each batch is divided.
    """

    data: LongTailed
    network: Callable[[torch.Generator], Network]
    seed: int
    device: torch.device
    numerics: Numerics = field(default_factory=Numerics)
    sharding: BatchSharding = field(default_factory=BatchSharding)


@dataclass(frozen=True)
class CarryOver:
    """State that one stage hands over to the next.

    Args:
        model: State of the network, including buffers.
        optimiser: State of the optimiser by parameter position; empty if the next stage must start a new chain.
        chain_epoch: Epochs of the chain that have been trained.
        chain_step: Optimiser steps of the chain that have been taken.
        averaged: The averaged network if a trick keeps one; it is evaluated, and a new chain starts from it.
    """

    model: State
    optimiser: State = field(default_factory=dict)
    chain_epoch: int = 0
    chain_step: int = 0
    averaged: State = field(default_factory=dict)

    @property
    def result(self) -> State:
        """The weights that are evaluated after the stage."""
        return self.averaged or self.model

    def save(self) -> tuple[State, dict[str, int]]:
        """Tensors and JSON-serialisable values, from which `load` restores an equal object."""
        states = {"model": self.model, "optimiser": self.optimiser, "averaged": self.averaged}
        tensors = {name: tensor for part, state in states.items() for name, tensor in prefixed(part, state).items()}
        return tensors, {"chain_epoch": self.chain_epoch, "chain_step": self.chain_step}

    @staticmethod
    def load(tensors: Mapping[str, Tensor], position: Mapping[str, int]) -> CarryOver:
        """The inverse of `save`."""
        model, optimiser, averaged = (below(part, tensors) for part in ("model", "optimiser", "averaged"))
        return CarryOver(model, optimiser, position["chain_epoch"], position["chain_step"], averaged)


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    """A state whose names lie below a prefix, so that several states fit into one file."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    """The state below a prefix: the inverse of `prefixed`."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def copy_state(state: Mapping[str, Tensor]) -> State:
    """A copy of a state in contiguous memory format, independent of the training format."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
