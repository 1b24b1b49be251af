"""Networks by name: `build("resnet8", classes=10, channels=1, generator=…)`.

A name is a key of `MODELS`, with weights from a file `resnet50?pretrained=FILE` and, of He et al.'s for CIFAR, a width
`resnet32?width=64`; a backbone of timm, `timm:NAME` (see
`trainables.models.timm_networks`); or the user's own `module:function` or `FILE.py:function` (see
`trainables.models.own`). A new network is one module that returns a `Network`, and one line
in `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torchvision.models.resnet import BasicBlock, Bottleneck

from analysis.text import did_you_mean
from trainables.code_identity import relocated
from trainables.data.catalogue import Name
from trainables.models import own, pretrained, timm_networks
from trainables.models.errors import ModelError
from trainables.models.inputs import IMAGENET, InputFormat
from trainables.models.linear import linear
from trainables.models.network import Network
from trainables.models.resnet import resnet
from trainables.models.resnet_cifar import resnet_cifar

__all__ = [
    "MODELS", "Builder", "InputFormat", "ModelError", "Network", "build", "check", "check_on", "comes_trained",
    "identity", "input_format", "is_own", "settled", "untrained",
]  # fmt: skip


MAX_WIDTH = 1024
"""The widest network of `resnet32?width=…`."""


class Builder(Protocol):
    """Makes a network whose initial values come from the generator alone."""

    def __call__(self, *, classes: int, channels: int, generator: torch.Generator) -> Network:
        """C classes, images of c channels, a CPU generator."""
        ...


OF_CIFAR = tuple(f"resnet{depth}" for depth in (8, 20, 32, 44, 56))
"""Networks whose width is an option."""

MODELS: Mapping[str, Builder] = MappingProxyType(
    {name: partial(resnet_cifar, int(name.removeprefix("resnet"))) for name in OF_CIFAR}
    | {
        "resnet34_cifar": partial(resnet, BasicBlock, (3, 4, 6, 3), small_stem=True),
        "resnet10": partial(resnet, BasicBlock, (1, 1, 1, 1)),
        "resnet50": partial(resnet, Bottleneck, (3, 4, 6, 3)),
        "resnet152": partial(resnet, Bottleneck, (3, 8, 36, 3)),
        "resnext50": partial(resnet, Bottleneck, (3, 4, 6, 3), groups=32, width=4),
        "linear": linear,
    }
)
"""resnet8 to resnet56: He et al.'s for CIFAR, 64 features, or 4 times their width. resnet34_cifar: 512 features, 3×3
stem. The others: ImageNet's stem, made for images of 224 pixels; at 32 pixels their last maps are 1×1. linear: a
classifier alone, for data that are features."""


def build(name: str, *, classes: int, channels: int, generator: torch.Generator) -> Network:
    """A network by name, on the CPU, freshly initialised or with the weights of a file.

    Args:
        name: A key of `MODELS`, one with `?pretrained=FILE`, one of timm's, or the user's own.
        classes: C, at least 2.
        channels: c of the images (B, c, H, W), or D of features (B, D).
        generator: On the CPU; all initial values come from it, none from the global stream.

    Raises:
        ModelError: The name or an option of it is unknown (the message offers the nearest one), or the file or function
            does not give such a network.

    >>> network = build("resnet20", classes=100, channels=3, generator=torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in network.parameters())
    275572
    >>> build("resnet32?width=64", classes=100, channels=3, generator=torch.Generator().manual_seed(0)).features
    256
    """
    check(name)
    parsed = Name.parse(name)
    if parsed.kind.startswith(timm_networks.PREFIX):
        return timm_networks.network(parsed, classes=classes, channels=channels, generator=generator)
    if parsed.kind not in MODELS:
        return own.network(parsed.kind, parsed.options, classes=classes, channels=channels, generator=generator)
    width = {"width": parsed.whole("width", 0)} if "width" in parsed.options else {}
    network = MODELS[parsed.kind](classes=classes, channels=channels, generator=generator, **width)
    if "pretrained" in parsed.options:
        pretrained.load(network, Path(parsed.options["pretrained"]).expanduser(), parsed.kind)
    return network


def untrained(name: str, *, classes: int = 2, channels: int = 3) -> Network:
    """The network of a name with random initial values instead of weights from a file or a hub, to look at.

    Args:
        name: As in `build`.
        classes: C.
        channels: c.

    Raises:
        ModelError: As in `build`.

    >>> untrained("resnet8?pretrained=weights.pth").features
    64
    """
    parsed = Name.parse(name)
    if not is_own(name):
        options = {key: value for key, value in parsed.options.items() if key != "pretrained"}
        options |= {"pretrained": timm_networks.SCRATCH} if parsed.kind.startswith(timm_networks.PREFIX) else {}
        query = "&".join(f"{key}={value}" for key, value in options.items())
        name = f"{parsed.kind}?{query}" if query else parsed.kind
    return build(name, classes=classes, channels=channels, generator=torch.Generator())


def check(name: str) -> None:
    """Refuses an invalid name of a network without building the network.

    Raises:
        ModelError: As in `build`; for a file only if it does not exist.
    """
    parsed = Name.parse(name)
    if parsed.kind in MODELS:
        allowed = ("pretrained", "width") if parsed.kind in OF_CIFAR else ("pretrained",)
        for option, value in parsed.options.items():
            if option not in allowed:
                shown = " and ".join({"pretrained": "pretrained=FILE", "width": "width=NUMBER"}[one] for one in allowed)
                raise ModelError(f"{name}: unknown option {option!r}: allowed is {shown}")
            if option == "width" and not (value.isascii() and value.isdigit() and 1 <= int(value) <= MAX_WIDTH):
                raise ModelError(f"{name}: width must be a whole number from 1 to {MAX_WIDTH}, got {value!r}")
        file = parsed.options.get("pretrained")
        if file is not None and not Path(file).expanduser().is_file():
            raise ModelError(f"{name}: pretrained={file}: no such file")
    elif parsed.kind.startswith(timm_networks.PREFIX):
        timm_networks.check(parsed)
    elif ":" in parsed.kind:
        own.function_of(parsed.kind)
    else:
        hint = did_you_mean(parsed.kind, MODELS)
        known = f"known are {', '.join(MODELS)}; timm:NAME; your own: module:function"
        raise ModelError(f"unknown model {name!r}: {hint}{hint and ' '}{known}")


def check_on(name: str, *, classes: int, shape: tuple[int, ...]) -> None:
    """Refuses a network that cannot be made for some data, before anything is trained.

    Networks of `MODELS` with their own initial values take images of any size; the others are built and run once.
    Features are for `linear` alone, images for all others.

    Args:
        name: As in `build`.
        classes: C.
        shape: (c, H, W) of the images, or (D,) of features.

    Raises:
        ModelError: As in `build`, or it cannot be run on such images.
    """
    if len(shape) == 1 and name != "linear":
        raise ModelError(
            f"{name}: takes images, and the data are features of {shape[0]} numbers; train --model linear on them"
        )
    if len(shape) > 1 and name == "linear":
        raise ModelError(
            "linear: takes features, and the data are images; compute them with python -m trainables.embed"
        )
    if name in MODELS:
        return
    network = build(name, classes=classes, channels=shape[0], generator=torch.Generator()).eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, *shape)).logits
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ModelError(f"{name}: cannot be run on images of {'×'.join(map(str, shape))}: {why}") from error
    if logits.shape != (2, classes):
        raise ModelError(f"{name}: logits of 2 images must be (2, {classes}), got {tuple(logits.shape)}")


def is_own(name: str) -> bool:
    """Whether a name refers to the user's code.

    >>> is_own("nets.py:wide"), is_own("resnet8"), is_own("timm:resnet18")
    (True, False, False)
    """
    kind = Name.parse(name).kind
    return kind not in MODELS and not kind.startswith(timm_networks.PREFIX)


def comes_trained(name: str) -> bool:
    """Whether a network is pretrained, from a file or from timm's hub.

    >>> comes_trained("resnet50?pretrained=r50.pth"), comes_trained("timm:resnet18?pretrained=no")
    (True, False)
    """
    parsed = Name.parse(name)
    weights = parsed.options.get("pretrained", "yes" if parsed.kind.startswith(timm_networks.PREFIX) else "no")
    return weights.lower() not in ("", "no", "none", "false", "0")


def input_format(name: str) -> InputFormat | None:
    """Format of the images that a pretrained network expects; `None` for any other network.

    >>> input_format("resnet50?pretrained=r50.pth").size, input_format("resnet50")
    (224, None)
    """
    parsed = Name.parse(name)
    if parsed.kind.startswith(timm_networks.PREFIX):
        return timm_networks.input_format(parsed)
    return IMAGENET if parsed.kind in OF_TORCHVISION and "pretrained" in parsed.options else None


OF_TORCHVISION = ("resnet50", "resnet152", "resnext50")
"""Networks for which torchvision has weights."""


def settled(name: str) -> str:
    """Makes the paths in a network's name absolute, so that a process in another folder finds them.

    >>> settled("resnet8")
    'resnet8'
    >>> settled("resnet50?pretrained=/weights/r50.pth")
    'resnet50?pretrained=/weights/r50.pth'
    """
    return relocated(name, lambda text: str(Path(text).expanduser().resolve()))


def identity(name: str) -> str:
    """Identity of a network for stage keys: the content of a file of weights, the source of own code, and no path.

    >>> identity("resnet8")
    'resnet8'
    """
    parsed = Name.parse(name)
    if parsed.kind.startswith(timm_networks.PREFIX):
        return timm_networks.identity(parsed)
    if "pretrained" in parsed.options and parsed.kind in MODELS:
        others = "".join(f"&{option}={value}" for option, value in parsed.options.items() if option != "pretrained")
        return f"{parsed.kind}?pretrained={pretrained.mark(Path(parsed.options['pretrained']).expanduser())}{others}"
    if parsed.kind not in MODELS:
        options = "&".join(f"{option}={value}" for option, value in sorted(parsed.options.items()))
        return f"{parsed.kind.rpartition(':')[2]}#{own.source(parsed.kind)}?{options}"
    return name
