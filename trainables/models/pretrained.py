"""Weights from a file: `resnet50?pretrained=FILE`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from trainables.models.errors import ModelError
from trainables.models.network import Network

_OF_TORCHVISION = {
    "conv1.": "backbone.stem.0.", "bn1.": "backbone.stem.1.", "fc.": "head.",
    **{f"layer{number}.": f"backbone.layer{number}." for number in range(1, 5)},
}  # fmt: skip
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "net")
"""Under which key public training codes keep the weights."""


def mark(file: Path) -> str:
    """SHA-256 of the file: what a stage's key has instead of its place."""
    return _mark(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _mark(file: Path, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(network: Network, file: Path, name: str) -> None:
    """Takes weights over in place; the head's only where it has as many classes and is of the same kind.

    Args:
        network: Whose weights are replaced.
        file: `.safetensors`, or what `torch.save` wrote of a state dict, torchvision's names or our own.
        name: Of the network, for messages.

    Raises:
        ModelError: No such file, it holds no weights, or those of another architecture.
    """
    found = _read(file, file.stat().st_mtime_ns if file.is_file() else 0)
    own = network.state_dict()
    # counters of batches have no influence here, and old files lack them
    needed = {key for key in own if key.startswith("backbone.") and not key.endswith("num_batches_tracked")}
    missing = sorted(needed - set(found))
    foreign = sorted(key for key in found if key not in own and not key.startswith("head."))
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
    head = {key for key in own if key.startswith("head.")}
    same_head = all(key in found and found[key].shape == own[key].shape for key in head)
    taken = {key: found[key] for key in found if key in own and (same_head or not key.startswith("head."))}
    network.load_state_dict({**own, **taken})


@functools.lru_cache(maxsize=2)
def _read(file: Path, changed: int) -> Mapping[str, Tensor]:
    """Tensors under our own names; a network is made anew at every stage's start, the file is read once."""
    if not file.is_file():
        raise ModelError(f"pretrained={file}: no such file")
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
            for key in _WRAPPERS:
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
    except Exception as error:  # what is no such file at all may raise anything
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"pretrained={file}: no state dict that can be read without running code ({why})") from error
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"pretrained={file}: must hold a state dict, tensors by name")
    return {_renamed(str(key).removeprefix("module.")): value for key, value in content.items()}


def _renamed(key: str) -> str:
    for theirs, ours in _OF_TORCHVISION.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key
