"""The ResNets of ImageNet-LT, Places-LT and iNaturalist: torchvision's blocks, 64 to 512 channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from trainables.models.heads import LinearHead
from trainables.models.network import Network

STAGES = ("layer1", "layer2", "layer3", "layer4")


def resnet(
    block: type[BasicBlock] | type[Bottleneck],
    blocks: Sequence[int],
    *,
    classes: int,
    channels: int,
    generator: torch.Generator,
    groups: int = 1,
    width: int = 64,
    small_stem: bool = False,
) -> Network:
    """torchvision's ResNet in named parts, with a head that can be replaced.

    Convolutions are Kaiming-normal by fan-out, as torchvision's. Every initial value comes from the generator; the
    global stream is neither read nor moved.

    Args:
        block: torchvision's `BasicBlock` or `Bottleneck`.
        blocks: Blocks of each of the four stages.
        classes: C, at least 2.
        channels: c of the images (B, c, H, W).
        generator: On the CPU.
        groups: Of the middle convolution (ResNeXt: 32).
        width: Channels of a group at the first stage (ResNeXt-50: 4).
        small_stem: 3×3 convolution of stride 1 without pooling, for images of about 32 pixels, instead of 7×7 of
            stride 2 and pooling.

    Returns:
        A network with D = 512, or 2048 with bottlenecks, whose blends act behind "layer1" to "layer4".

    Source: He et al. 2016, arXiv:1512.03385, table 1; Xie et al. 2017, arXiv:1611.05431 (ResNeXt); ResNet-10: one
        block per stage, as Liu et al. 2019, arXiv:1904.05160; the small stem: Sun et al. 2025 (LOS), public code.
    Differs: LOS leaves convolutions at torch's default initial values. With channels other than 3 the stem has as
        many inputs.

    >>> network = resnet(
    ...     BasicBlock, (1, 1, 1, 1), classes=1000, channels=3, generator=torch.Generator().manual_seed(0)
    ... )
    >>> sum(p.numel() for p in network.parameters())
    5418792
    """
    with torch.device("meta"):  # nothing is drawn from the global stream, and nothing is filled twice
        made = ResNet(block, list(blocks), groups=groups, width_per_group=width)
        if small_stem:
            made.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        elif channels != 3:
            made.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    stem = [made.conv1, made.bn1, made.relu, *([] if small_stem else [made.maxpool])]
    parts: dict[str, nn.Module] = {"stem": nn.Sequential(*stem), **{name: getattr(made, name) for name in STAGES}}
    for part in parts.values():
        part.to_empty(device="cpu")
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    features = 512 * block.expansion
    return Network(parts, LinearHead(features, classes, generator), features=features, classes=classes, layers=STAGES)
