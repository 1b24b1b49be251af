"""Copies of parts of a ResNet with weights of their own, as wide or narrower: what experts are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from trainables.models.resnet_cifar import BasicBlock


def branch(part: nn.Module, inputs: int | None, width: float, generator: torch.Generator) -> tuple[nn.Module, int]:
    """A new part like a ResNet's, with initial values of its own.

    Args:
        part: Blocks in a row, of this package's or torchvision's ResNets.
        inputs: Channels that come in; those of the part where absent.
        width: Share of its channels that it has.
        generator: Of the initial values, Kaiming-normal as in the network itself.

    Returns:
        The part, and the channels that come out.

    Raises:
        ValueError: Other blocks.
    """
    blocks = []
    for block in part if isinstance(part, nn.Sequential) else [part]:
        made, inputs = _block(block, inputs, width, generator)
        blocks.append(made)
    assert inputs is not None
    return nn.Sequential(*blocks), inputs


def is_known(part: nn.Module) -> bool:
    """Whether `branch` can make such a part."""
    blocks = list(part) if isinstance(part, nn.Sequential) else [part]
    return bool(blocks) and all(type(block) in _KNOWN for block in blocks)


_KNOWN = (BasicBlock, torchvision_resnet.BasicBlock, torchvision_resnet.Bottleneck)


def _block(block: Any, inputs: int | None, width: float, generator: torch.Generator) -> tuple[nn.Module, int]:
    if not is_known(block):
        raise ValueError(f"{type(block).__name__} is no block of a ResNet")
    inputs = int(block.conv1.in_channels) if inputs is None else inputs
    if isinstance(block, BasicBlock):
        planes = round(width * block.conv2.out_channels)
        return BasicBlock(inputs, planes, block.stride, generator), planes
    stride = int(block.stride)
    bottleneck = isinstance(block, torchvision_resnet.Bottleneck)
    last = block.conv3 if bottleneck else block.conv2
    planes = round(width * last.out_channels / block.expansion)
    outputs = planes * block.expansion
    more: dict[str, Any] = {}
    if bottleneck:
        full = last.out_channels / block.expansion
        more = {
            "groups": block.conv2.groups,
            "base_width": round(64 * block.conv2.out_channels / block.conv2.groups / full),
        }
    with torch.device("meta"):  # nothing is drawn from the global stream
        shortcut = None
        if block.downsample is not None or inputs != outputs or stride != 1:
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        made = type(block)(inputs, planes, stride, shortcut, **more)
    made = made.to_empty(device="cpu")
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return made, outputs
