"""Backbones of timm by name: `timm:NAME`, with weights from its hub or from a file.

- `timm:resnet50.a1_in1k`: weights from the hub, where there is network; they stay in the cache of huggingface_hub.
- `timm:resnet50.a1_in1k?pretrained=FILE`: weights from a file, see `trainables.models.pretrained`.
- `timm:resnet50?pretrained=no`: random initial values.
- `&size=128`: another side than that of the network's own images.

Images are brought to the network's own size, mean and standard deviation; grey ones are repeated in three channels.
Image files are resized when they are decoded (`trainables.data.with_size`), arrays inside the network.
"""

from __future__ import annotations

import difflib
import functools
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.data.catalogue import Name
from trainables.models import pretrained
from trainables.models.errors import ModelError
from trainables.models.heads import LinearHead
from trainables.models.inputs import InputFormat
from trainables.models.network import Network

PREFIX = "timm:"
OPTIONS = ("pretrained", "size")
SCRATCH = "no"
"""Value of `pretrained` for random initial values."""


def check(name: Name) -> None:
    """Refuses a name that timm does not have, or options that it cannot have.

    Raises:
        ModelError: With the nearest names; or timm is not installed.
    """
    timm, wanted = _timm(name), name.kind.removeprefix(PREFIX)
    known = timm.list_models()
    bare, _, tag = wanted.partition(".")
    if bare not in known:
        raise ModelError(f"{name.text}: timm {timm.__version__} has no {bare!r}: {_nearest(bare, known)}")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{bare}.*")]
    if tag and tag not in tags:
        raise ModelError(f"{name.text}: timm has no weights {tag!r} of {bare}: {_nearest(tag, tags)}")
    for option in name.options:
        if option not in OPTIONS:
            raise ModelError(f"{name.text}: unknown option {option!r}: allowed are pretrained=FILE and size=PIXELS")
    size = name.options.get("size", "1")
    if not size.isascii() or not size.isdigit() or not int(size):
        raise ModelError(f"{name.text}: size must be a number of pixels, got {size!r}")
    file = name.options.get("pretrained")
    if file not in (None, SCRATCH) and not Path(file).expanduser().is_file():
        raise ModelError(f"{name.text}: pretrained={file}: no such file")
    if file is None and not tags:
        raise ModelError(
            f"{name.text}: timm has no weights of {bare}; give a file with ?pretrained=FILE, or train it from random "
            f"initial values with ?pretrained={SCRATCH}"
        )


def input_format(name: Name) -> InputFormat:
    """The images that the network expects."""
    config = _timm(name).get_pretrained_cfg(name.kind.removeprefix(PREFIX))
    interpolation = config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bilinear"
    size = int(name.options.get("size", config.input_size[-1]))
    return InputFormat(size, tuple(config.mean), tuple(config.std), interpolation)


def identity(name: Name) -> str:
    """Identity of the initial values and layers, without paths."""
    timm, wanted = _timm(name), name.kind.removeprefix(PREFIX)
    file = name.options.get("pretrained")
    if file is None:
        config = timm.get_pretrained_cfg(wanted)
        weights = config.hf_hub_id or config.url
    else:
        weights = file if file == SCRATCH else pretrained.mark(Path(file).expanduser())
    return f"{name.kind}?pretrained={weights}&size={input_format(name).size}&timm={timm.__version__}"


def network(name: Name, *, classes: int, channels: int, generator: torch.Generator) -> Network:
    """A backbone of timm as a `Network`.

    It gives maps (B, D, h, w) where their mean is what the network's own classifier reads, and else the features
    (B, D) as the network pools them. Blends act at "input", "pool" and "logits".

    Args:
        name: The name, checked.
        classes: C, at least 2.
        channels: c of the images, 1 or 3.
        generator: On the CPU; the values that no weights replace come from it.

    Raises:
        ModelError: The weights cannot be fetched, or are those of another architecture.
    """
    timm, wanted, file = _timm(name), name.kind.removeprefix(PREFIX), name.options.get("pretrained")
    format_ = input_format(name)
    config = timm.get_pretrained_cfg(wanted)
    sized = _size_option(config, format_.size)
    if channels not in (1, 3):
        raise ModelError(f"{name.text}: takes images of 1 or 3 channels, the data have {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            if file is None:
                sized |= {"pretrained_cfg_overlay": {"file": _cached_or_reachable(name, config)}}
            made = timm.create_model(wanted, pretrained=file is None, num_classes=0, **sized)
        except ModelError:
            raise
        except Exception as error:  # timm, its hub and the network's own code may raise anything
            why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            raise ModelError(f"{name.text}: timm cannot make it ({why})") from error
    features = int(getattr(made, "head_hidden_size", None) or made.num_features)
    head = LinearHead(features, classes, generator)
    if file not in (None, SCRATCH):
        pretrained.load_timm(made, head, Path(file).expanduser(), name.kind, config.classifier)
    body = _Body(made, format_, maps=_mean_is_pooled(wanted, format_.size))
    return Network({"body": body}, head, features=features, classes=classes, layers=())


class _Body(nn.Module):
    """A backbone of timm on normalised images of any size with one channel or three."""

    def __init__(self, made: nn.Module, format_: InputFormat, maps: bool) -> None:
        super().__init__()
        self.made, self.format, self.maps = made, format_, maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, D, h, w), or (B, D) where the network pools in its own way."""
        made: Any = self.made
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        side = (self.format.size, self.format.size)
        if images.shape[-2:] != side:
            images = functional.interpolate(images, side, mode=self.format.interpolation, antialias=True)
        maps: Tensor = made.forward_features(images)
        return maps if self.maps else made.forward_head(maps, pre_logits=True)


@functools.lru_cache(maxsize=16)
def _mean_is_pooled(wanted: str, size: int) -> bool:
    """Whether the mean over the last maps is what the network's classifier reads."""
    timm = _timm(Name.parse(PREFIX + wanted))
    sized = _size_option(timm.get_pretrained_cfg(wanted), size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        made: Any = timm.create_model(wanted, pretrained=False, num_classes=0, **sized).eval()
        maps = made.forward_features(torch.rand(1, 3, size, size))
        if maps.ndim != 4:
            return False
        pooled, mean = made.forward_head(maps, pre_logits=True), maps.mean(dim=(2, 3))
    return pooled.shape == mean.shape and torch.allclose(pooled, mean, rtol=1e-4, atol=1e-5)


def _size_option(config: Any, size: int) -> dict[str, Any]:
    """Argument for a network made for one size of images, if the images have another."""
    return {"img_size": size} if config.fixed_input_size and size != config.input_size[-1] else {}


def _timm(name: Name) -> Any:
    try:
        import timm  # an extra of this project, and two seconds to import
    except ModuleNotFoundError as error:
        raise ModelError(f"{name.text}: timm is not installed; pip install 'longtail-tune[pretrained]'") from error
    return timm


def _cached_or_reachable(name: Name, config: Any) -> str | None:
    """The file of the hub's weights where it is here already, so that nothing is asked; `None` where it can be fetched.

    Raises:
        ModelError: It is not here, and the hub's name cannot be resolved: the hub's own client would try for a minute.
    """
    from huggingface_hub import constants, try_to_load_from_cache  # it comes with timm

    for file in ("model.safetensors", "pytorch_model.bin"):
        if config.hf_hub_id and isinstance(found := try_to_load_from_cache(config.hf_hub_id, file), str):
            return found
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError as error:
        raise ModelError(
            f"{name.text}: its weights are not in the cache of huggingface_hub, and {constants.ENDPOINT} cannot be "
            f"reached; give a file with ?pretrained=FILE, or ?pretrained={SCRATCH} for random initial values"
        ) from error
    return None


def _nearest(wanted: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known[:8]) or 'none'}"
