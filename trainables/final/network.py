"""The trained network by itself, from the files that final training left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from trainables.data import LongTailed
from trainables.final.recipe import TrainError, read_recipe
from trainables.models import Network, build
from trainables.plan import Plan
from trainables.stage import Start, assemble

RECIPE = "recipe.yaml"
"""The plan as it was trained, beside the weights."""


def weights_file(seed: int) -> str:
    """Name of a seed's weights."""
    return f"model-seed{seed}.safetensors"


def described(recipe: str, model: str, data: LongTailed) -> dict[str, str]:
    """What the weights' file says of itself, for `trained`."""
    shape = [int(size) for size in data.train_images.shape[1:]]
    content = {"recipe": recipe, "model": model, "shape": shape, "counts": data.counts.tolist()}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}


def trained(folder: str | Path, seed: int) -> Network:
    """The network with its weights, on the CPU and in evaluation mode; it takes normalised floats.

    It is built as the recipe built it: a cosine head or a learnable scale is another classifier than the network's own.

    Args:
        folder: What final training left.
        seed: Of the training.

    Raises:
        TrainError: No such file, or one that final training did not leave.
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
        shape, counts = json.loads(said["shape"]), torch.tensor(json.loads(said["counts"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainError(f"{file}: not a file that python -m trainables.train left ({error})") from error
    content = yaml.safe_load((place / RECIPE).read_text(encoding="utf-8"))
    name = str(content["model"]).partition("?pretrained=")[0]  # the values of that file are trained over
    recipe = read_recipe(place / RECIPE, model=name)

    def fresh(generator: torch.Generator) -> Network:
        return build(recipe["model"], classes=len(counts), channels=shape[0], generator=generator)

    plan = Plan.from_dict(recipe["plan"])
    start = Start(_blank(shape, counts), fresh, seed, torch.device("cpu"))
    network, _ = assemble(start, plan, len(plan.stages) - 1, lambda _: torch.Generator(), None)
    network.load_state_dict(load_file(file))
    return network.eval()


def _blank(shape: list[int], counts: torch.Tensor) -> LongTailed:
    """Data of these numbers without pixels: a head may be built by the counts, its values are the weights'."""
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    none: dict[str, Any] = {}
    for split in ("val", "test"):
        none |= {f"{split}_images": torch.zeros(0, *shape, dtype=torch.uint8), f"{split}_labels": labels[:0]}
    return LongTailed(
        name="blank", classes=len(counts), class_names=tuple(map(str, range(len(counts)))), imbalance=1.0,
        split_seed=0, train_images=torch.zeros(1, *shape, dtype=torch.uint8).expand(len(labels), *shape),
        train_labels=labels, mean=torch.zeros(shape[0]), std=torch.ones(shape[0]), pad=0, flip=False,
        fingerprint="blank", **none,
    )  # fmt: skip
