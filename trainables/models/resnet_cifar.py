"""The ResNets of the CIFAR benchmarks: 3×3 stem, three stages of 16, 32 and 64 channels, option A shortcuts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.heads import LinearHead
from trainables.models.network import Network

WIDTH = 16
"""Channels of the stem and of the first stage; each later stage doubles the number."""


def resnet_cifar(depth: int, *, classes: int, channels: int, generator: torch.Generator, width: int = WIDTH) -> Network:
    """A ResNet for small images of any size, with depth = 6 n + 2 for n blocks per stage.

    Convolutions are Kaiming-normal, standard deviation √(2 / fan-in). Every initial value comes from the
    generator, in the order of the parts; the global stream is neither read nor moved.

    Args:
        depth: 8, 14, 20, …
        classes: C, at least 2.
        channels: c of the images (B, c, H, W).
        generator: On the CPU.
        width: Channels of the stem and of the first stage, at least 1.

    Returns:
        A network with D = 4 width whose blends act behind "layer1", "layer2" and "layer3".

    Raises:
        ValueError: A depth that is not 6 n + 2.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2; initial values: He et al. 2015,
        arXiv:1502.01852, eq. 10.
    Differs: none. The "ResNet-32" of GLMC (Du et al. 2023, arXiv:2305.08661) has width 64, 16 times the parameters.

    >>> network = resnet_cifar(32, classes=10, channels=3, generator=torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in network.parameters())
    464154
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"resnet_cifar(depth={depth}): the depth must be 6 n + 2, e.g. 8, 20, 32, 44 or 56")
    stem = nn.Sequential(_convolution(channels, width, 1, generator), nn.BatchNorm2d(width), nn.ReLU())
    parts: dict[str, nn.Module] = {"stem": stem}
    inputs = width
    for number in (1, 2, 3):
        outputs = width * 2 ** (number - 1)
        stage = []
        for block in range(blocks):
            stride = 2 if number > 1 and block == 0 else 1
            stage.append(BasicBlock(inputs, outputs, stride, generator))
            inputs = outputs
        parts[f"layer{number}"] = nn.Sequential(*stage)
    head = LinearHead(inputs, classes, generator)
    layers = [name for name in parts if name != "stem"]
    return Network(parts, head, features=inputs, classes=classes, layers=layers)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm around a shortcut that has no parameters (option A).

    Where the block halves the image, the shortcut takes every second row and column and pads the new
    channels with zeros, half of them before and half behind.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        stride: 1 or 2.
        generator: Of the initial weights.
    """

    def __init__(self, inputs: int, width: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stride = stride
        self.before, self.behind = (width - inputs) // 2, (width - inputs + 1) // 2
        self.conv1 = _convolution(inputs, width, stride, generator)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 1, generator)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, width, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.before or self.behind:
            x = functional.pad(x, (0, 0, 0, 0, self.before, self.behind))
        return x


def _convolution(inputs: int, width: int, stride: int, generator: torch.Generator) -> nn.Conv2d:
    # On the CPU, nn.Conv2d would fill its weight from the global stream; made on "meta" it draws nothing.
    made = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False, device="meta").to_empty(device="cpu")
    nn.init.kaiming_normal_(made.weight, mode="fan_in", nonlinearity="relu", generator=generator)
    return made
