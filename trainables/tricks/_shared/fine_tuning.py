"""What light fine-tuning shares: a frozen backbone in which a few parameters learn, and the head with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def head_and(model: Any, chosen: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Freezes the backbone but for the chosen parameters; its BatchNorm keeps the pretrained statistics.

    Args:
        model: A `Network`.
        chosen: Parameters of its backbone.

    Returns:
        One parameter group: the chosen ones in the model's order, then the head's.
    """
    learning = {id(parameter) for parameter in chosen}
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    model.fix_batchnorm = True
    return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]


def drawn(like: Tensor, fan_in: int, generator: torch.Generator | None) -> Tensor:
    """Uniform in ±1/√fan_in, which is Kaiming's with a = √5; zeros where a state is loaded over it anyway.

    Args:
        like: Its shape, device and type are taken.
        fan_in: Inputs of each output.
        generator: On the CPU; values are drawn there in float32, so that they are the same everywhere.
    """
    if generator is None:
        return torch.zeros_like(like)
    values = torch.empty(like.shape).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return values.to(like)
