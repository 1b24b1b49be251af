"""The optimiser of a stage, made from the stage's numbers.

The learning rate of a parameter is lr · schedule · lr_scale · layer_decay^(L − l): lr_scale is set by the train trick,
l = 0 … L − 1 counts the layers of the backbone from the input on, and the head has l = L.

Source: stochastic gradient descent as `torch.optim.SGD`; AdamW of Loshchilov & Hutter 2019, arXiv:1711.05101,
    algorithm 2, with β₁ = momentum, β₂ = 0.999, ε = 1e-8; layer-wise decay of Clark et al. 2020 (ELECTRA),
    arXiv:2003.10555, in the form of Bao et al. 2022 (BEiT), arXiv:2106.08254; clipping of Pascanu et al. 2013,
    arXiv:1211.5063, algorithm 1.
Differs: biases and normalisations decay as all parameters do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.layers import layers_of
from trainables.models.network import Network
from trainables.plan import StagePlan


def make_optimizer(stage: StagePlan, groups: Sequence[Mapping[str, Any]], network: Network) -> torch.optim.Optimizer:
    """The optimiser of a stage.

    Args:
        stage: Optimiser, rates and weight decay.
        groups: Groups of parameters that learn: "params", and "lr_scale" if their rate differs.
        network: Owner of the parameters.
    """
    decayed = groups if stage.layer_decay == 1 else _decayed(groups, stage.layer_decay, network)
    scaled = [_scaled(group, stage.lr) for group in decayed]
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(
            scaled, lr=stage.lr, betas=(stage.momentum, 0.999), weight_decay=stage.weight_decay, fused=True
        )
    return torch.optim.SGD(
        scaled, lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay, nesterov=stage.nesterov,
        fused=True,
    )  # fmt: skip


def start_momentum(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Gives parameters a momentum of zero, which is what the first step starts from.

    The fused step of SGD cannot take a parameter whose first gradient comes later than that of others.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of a step."""
    for group in optimizer.param_groups:
        own = rate * group["lr_scale"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)  # in place: a CUDA graph reads it from where it lies
        else:
            group["lr"] = own


def clip_gradient(optimizer: torch.optim.Optimizer, most: float | None) -> None:
    """Scales the gradient of all parameters together down to an L2 norm of at most `most`; `None` leaves it."""
    if most is not None:
        nn.utils.clip_grad_norm_(list(_parameters(optimizer)), most)


def save_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of the optimiser's state: momentum under the position of its parameter, everything else with its name."""
    found = {}
    for position, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                found[_key(position, name)] = value.detach().clone(memory_format=torch.contiguous_format)
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, buffers: Mapping[str, Tensor]) -> None:
    """The inverse of `save_optimizer`."""
    names = ("exp_avg", "exp_avg_sq", "step") if isinstance(optimizer, torch.optim.AdamW) else ("momentum_buffer",)
    for position, parameter in enumerate(_parameters(optimizer)):
        for name in names:
            known = buffers.get(_key(position, name))
            if known is None:
                continue
            # laid out like its parameter: the fused step walks through both side by side
            like = known if name == "step" else parameter
            buffer = torch.empty_like(like, device=parameter.device, requires_grad=False).copy_(known)
            optimizer.state[parameter][name] = buffer


def _key(position: int, name: str) -> str:
    return str(position) if name == "momentum_buffer" else f"{position}/{name}"


def _decayed(groups: Sequence[Mapping[str, Any]], decay: float, network: Network) -> Iterator[dict[str, Any]]:
    layers = layers_of(network.backbone)
    distance = {id(parameter): len(layers) - number for number, layer in enumerate(layers) for parameter in layer}
    for group in groups:
        by_distance: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_distance.setdefault(distance.get(id(parameter), 0), []).append(parameter)
        for far, parameters in by_distance.items():
            yield {**group, "params": parameters, "lr_scale": group.get("lr_scale", 1.0) * decay**far}


def _scaled(group: Mapping[str, Any], lr: float) -> dict[str, Any]:
    scale = group.get("lr_scale", 1.0)
    return {**group, "lr_scale": scale, "lr": lr * scale}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
