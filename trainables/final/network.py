"""The trained network by itself, from the files that final training left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from trainables.data import LongTailed
from trainables.data.catalogue import Name
from trainables.final.errors import TrainError
from trainables.final.recipe import parse_recipe, read_recipe
from trainables.models import MODELS, Network, build, is_own
from trainables.plan import Plan
from trainables.training.context import TrainingContext
from trainables.training.network_setup import trained_network

RECIPE = "recipe.yaml"
"""File name of the recipe as it was trained, in the folder of the weights."""


def weights_file(seed: int) -> str:
    """File name of the weights of a seed."""
    return f"model-seed{seed}.safetensors"


def weights_metadata(recipe: str, model: str, data: LongTailed) -> dict[str, str]:
    """Metadata of a file of weights, which `trained` reads."""
    shape = [int(size) for size in data.train_images.shape[1:]]
    content = {"recipe": recipe, "model": model, "shape": shape, "counts": data.counts.tolist()}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}


MOST_IMAGES = 10**9
"""Training images that a file of weights may name; a hundred times those of ImageNet-21k."""


def trained(
    folder: str | Path, seed: int, *, model: str | None = None, tricks: Sequence[str] = (), trust: bool = False
) -> Network:
    """The network with its weights, on the CPU and in evaluation mode; it takes normalised floats.

    It is built as the recipe built it: a cosine head or a learnable scale is another classifier than the network's own.

    Args:
        folder: What final training left.
        seed: Seed of the training.
        model: Where a network of the user's own lies, instead of what the recipe says.
        tricks: Folders of further tricks, instead of those that the recipe names.
        trust: Whether code that the recipe names is run as it is now.

    Raises:
        TrainError: No such file, one that final training did not leave, or code that has not been named or trusted.
        PlanError, ModelError: The recipe's tricks or network are no longer where they were.
    """
    place = Path(folder)
    file = place / weights_file(seed)
    if not file.is_file():
        there = sorted(path.name for path in place.glob(weights_file("*")))  # type: ignore[arg-type]
        raise TrainError(f"{file}: no such file; {place} has {', '.join(there) or 'no weights'}")
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
        shape, counts = _read_shape(json.loads(said["shape"]), json.loads(said["counts"]))
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise TrainError(f"{file}: not a file that python -m trainables.train left ({error})") from error
    if model is None:
        model = _untrained(str(parse_recipe(place / RECIPE).get("model")))
    recipe = read_recipe(place / RECIPE, tricks, model, trust)

    def fresh(generator: torch.Generator) -> Network:
        return build(recipe["model"], classes=len(counts), channels=shape[0], generator=generator)

    plan = Plan.from_dict(recipe["plan"])
    context = TrainingContext(_blank(shape, counts), fresh, seed, torch.device("cpu"))
    try:
        network = trained_network(context, plan, len(plan.stages) - 1, load_file(file))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise TrainError(
            f"{file}: not the weights of the network that {place / RECIPE} describes ({why[:200]})"
        ) from error
    return network.eval()


def _untrained(model: str) -> str | None:
    """The network without pretrained values, which were trained over; `None` of the user's own, which says itself."""
    name = Name.parse(model)
    if name.kind not in MODELS and is_own(model):
        return None
    options = {option: value for option, value in name.options.items() if option != "pretrained"}
    if name.kind not in MODELS:
        options["pretrained"] = "no"
    shown = "&".join(f"{option}={value}" for option, value in options.items())
    return f"{name.kind}?{shown}" if shown else name.kind


def _read_shape(shape: Any, counts: Any) -> tuple[list[int], torch.Tensor]:
    """(c, H, W), or (D,) of features, and (C,) as the file has them.

    Raises:
        ValueError: They are none.
    """
    if not _are_counts(shape) or len(shape) not in (1, 3):
        raise ValueError(f"shape must be one whole number or three, got {str(shape)[:60]}")
    if not _are_counts(counts) or sum(counts) > MOST_IMAGES:
        raise ValueError(f"counts must be the training images of each class, got {str(counts)[:60]}")
    return shape, torch.tensor(counts)


def _are_counts(values: Any) -> bool:
    whole = isinstance(values, list) and all(type(value) is int and 0 <= value <= MOST_IMAGES for value in values)
    return whole and bool(values)


def _blank(shape: list[int], counts: torch.Tensor) -> LongTailed:
    """Data of these numbers without pixels: a head may be built by the counts, its values are the weights'."""
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    none: dict[str, Any] = {}
    dtype = torch.float32 if len(shape) == 1 else torch.uint8
    for split in ("val", "test"):
        none |= {f"{split}_images": torch.zeros(0, *shape, dtype=dtype), f"{split}_labels": labels[:0]}
    return LongTailed(
        name="blank", classes=len(counts), class_names=tuple(map(str, range(len(counts)))), imbalance=1.0,
        split_seed=0, train_images=torch.zeros(1, *shape, dtype=dtype).expand(len(labels), *shape),
        train_labels=labels, mean=torch.zeros(shape[0]), std=torch.ones(shape[0]), pad=0, flip=False,
        fingerprint="blank", **none,
    )  # fmt: skip
