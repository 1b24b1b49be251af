"""The layers of a network, whichever it is: in forward order, and with their weights folded into one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a backbone by layer, from the input on.

    A layer is a residual or transformer block, or what stands beside the blocks (a stem, a last convolution).
    A normalisation belongs to the layer before it; class token and position embedding belong to the first layer.

    Args:
        backbone: Of a `Network`.

    Returns:
        L lists, which together hold every parameter once.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=10, channels=1, generator=torch.Generator().manual_seed(0))
    >>> [sum(p.numel() for p in layer) for layer in layers_of(network.backbone)]
    [176, 4672, 13952, 55552]
    """
    layers: list[list[nn.Parameter]] = []
    first: list[nn.Parameter] = []
    for module, whole in _walk(backbone):
        own = list(module.parameters(recurse=whole))
        if not whole:
            first.extend(own)
        elif own and (not layers or any(parameter.ndim > 1 for parameter in own)):
            layers.append(own)
        elif own:
            layers[-1].extend(own)
    if not first:
        return layers
    return [[*first, *layers[0]], *layers[1:]] if layers else [first]


def fold(network: nn.Module) -> None:
    """Makes what is added to a weight in every pass (a low-rank product) part of the weight, in place."""
    for module in list(network.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _walk(module: nn.Module, listed: bool = False) -> Iterator[tuple[nn.Module, bool]]:
    """The modules in order, each with whether it is a layer: of the others only their direct parameters are meant.

    What a list holds is a layer, unless it is a stage with `blocks` of its own; what stands alone is taken apart as
    long as it holds a list.
    """
    children = list(module.children())
    container = isinstance(module, CONTAINERS)
    if not container and (not hasattr(module, "blocks") if listed else not _holds_list(module)):
        yield module, True
        return
    yield module, False
    for child in children:
        yield from _walk(child, listed=isinstance(module, (nn.Sequential, nn.ModuleList)))


def _holds_list(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module):  # its list is one of functions of its weight
        return False
    return isinstance(module, CONTAINERS) or any(_holds_list(child) for child in module.children())
