"""Weights from a file: `resnet50?pretrained=FILE`."""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainables.models.errors import ModelError
from trainables.models.network import Network

_OF_TORCHVISION = {
    "conv1.": "backbone.stem.0.", "bn1.": "backbone.stem.1.", "fc.": "head.",
    **{f"layer{number}.": f"backbone.layer{number}." for number in range(1, 5)},
}  # fmt: skip
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "net")
"""Keys under which public training codes store the weights."""


def mark(file: Path) -> str:
    """SHA-256 of the file, for stage keys."""
    return _mark(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _mark(file: Path, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(network: Network, file: Path, name: str) -> None:
    """Loads weights in place; those of the head only if its classes and kind agree.

    Args:
        network: Whose weights are replaced.
        file: `.safetensors`, or what `torch.save` wrote of a state dict, torchvision's names or our own.
        name: Of the network, for messages.

    Raises:
        ModelError: No such file, it holds no weights, or those of another architecture.
    """
    found = {_renamed(key): value for key, value in read(file).items()}
    own = network.state_dict()
    # counters of batches have no influence here, and old files lack them
    needed = {key for key in own if key.startswith("backbone.") and not key.endswith("num_batches_tracked")}
    _check_fit(file, name, own, needed, {key: value for key, value in found.items() if not key.startswith("head.")})
    head = {key for key in own if key.startswith("head.")}
    same_head = all(key in found and found[key].shape == own[key].shape for key in head)
    taken = {key: found[key] for key in found if key in own and (same_head or not key.startswith("head."))}
    network.load_state_dict({**own, **taken})


_OURS = "backbone.body.made."
"""Prefix of the names of a backbone of timm in files of this project."""


def load_timm(made: nn.Module, head: nn.Module, file: Path, name: str, classifier: str | tuple[str, ...]) -> None:
    """Loads weights into a backbone of timm; those of the head only if its classes agree.

    Args:
        made: The backbone.
        head: Linear, with `weight` and `bias`.
        file: As in `load`, with timm's names, those of the EfficientNets of `efficientnet_pytorch`, or our own.
        name: Of the network, for messages.
        classifier: Name of timm's own classifier.

    Raises:
        ModelError: As in `load`.
    """
    found = dict(read(file))
    last = classifier if isinstance(classifier, str) else classifier[0]
    if any(key.startswith(_OURS) for key in found):
        found, last = {key.removeprefix(_OURS): value for key, value in found.items()}, "head"
    if "_conv_stem.weight" in found and hasattr(made, "blocks"):
        found = _of_efficientnet_pytorch(found, made)
    own = made.state_dict()
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    body = {key: value for key, value in found.items() if not key.startswith(f"{last}.")}
    _check_fit(file, name, own, needed, body)
    made.load_state_dict({**own, **body})
    fitting = {key: found.get(f"{last}.{key}") for key in ("weight", "bias")}
    mine = head.state_dict()
    if all(value is not None and value.shape == mine[key].shape for key, value in fitting.items()):
        head.load_state_dict(fitting)


def _check_fit(file: Path, name: str, own: Mapping[str, Tensor], needed: set[str], found: Mapping[str, Tensor]) -> None:
    """Refuses weights that are not those of the network.

    Args:
        file: Where they come from.
        name: Of the network.
        own: Its state.
        needed: What of it must be there.
        found: The weights, without the classifier's.

    Raises:
        ModelError: Which tensors are of another shape, missing or unknown.
    """
    missing = sorted(needed - set(found))
    foreign = sorted(set(found) - set(own))
    shapes = sorted(key for key in needed & set(found) if found[key].shape != own[key].shape)
    if missing or foreign or shapes:
        first = (
            f"{shapes[0]} is {tuple(found[shapes[0]].shape)} there, {tuple(own[shapes[0]].shape)} here" if shapes else
            f"it lacks {missing[0]}" if missing else f"it has {foreign[0]} as well"
        )  # fmt: skip
        raise ModelError(
            f"pretrained={file}: weights of another architecture than {name}: {len(shapes)} tensors of another shape, "
            f"{len(missing)} missing, {len(foreign)} unknown ({first})"
        )


def _of_efficientnet_pytorch(found: Mapping[str, Tensor], made: nn.Module) -> dict[str, Tensor]:
    """Weights under the names of the package efficientnet_pytorch, under timm's: its blocks are numbered through."""
    blocks = [f"blocks.{stage}.{number}" for stage, group in enumerate(made.blocks) for number in range(len(group))]  # type: ignore[arg-type]
    known = {
        f"{block}.{part}": None for block in blocks for part in ("conv_pw", "conv_dw", "conv_pwl")
        if f"{block}.{part}.weight" in made.state_dict()
    }  # fmt: skip

    def renamed(key: str) -> str:
        inside = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)\.(\w+)", key)
        if inside is None or int(inside[1]) >= len(blocks):
            outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
                       "_fc": "classifier"}  # fmt: skip
            name, _, rest = key.partition(".")
            return f"{outside.get(name, name)}.{rest}"
        block = blocks[int(inside[1])]
        # a block that does not expand has its norms numbered from 1 in both, and its last convolution called otherwise
        expands = f"{block}.conv_pwl" in known
        parts = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw",
                 "project_conv": "conv_pwl" if expands else "conv_pw", "bn0": "bn1",
                 "bn1": "bn2" if expands else "bn1", "bn2": "bn3" if expands else "bn2",
                 "se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}  # fmt: skip
        return f"{block}.{parts.get(inside[2], inside[2])}.{inside[3]}"

    return {renamed(key): value for key, value in found.items()}


def read(file: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of a file of weights by name, once per process.

    Raises:
        ModelError: The file does not exist or holds no weights.
    """
    return _read(file, file.stat().st_mtime_ns if file.is_file() else 0)


@functools.lru_cache(maxsize=2)
def _read(file: Path, changed: int) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise ModelError(f"pretrained={file}: no such file")
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with warnings.catch_warnings(action="ignore"):  # of pickles in general, before this one is refused
                content = torch.load(file, map_location="cpu", weights_only=True)
            for key in _WRAPPERS:
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
    except UnpicklingError as error:  # its text advises to run the code
        raise ModelError(
            f"pretrained={file}: no state dict that can be read without running code; write one with "
            "safetensors.torch.save_file(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # what is no such file at all may raise anything
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"pretrained={file}: no state dict that can be read without running code ({why})") from error
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"pretrained={file}: must hold a state dict, tensors by name")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _renamed(key: str) -> str:
    for theirs, ours in _OF_TORCHVISION.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key
