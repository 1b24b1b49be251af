"""Writes the artifacts of final training: weights, program, MLflow model, recipe, tables and model card."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from analysis.files import to_json, write
from analysis.text import csv_cell, printable
from trainables.deployment import Deployment
from trainables.final import serving
from trainables.final.model_card import TABLE, card
from trainables.final.network import RECIPE, weights_file, weights_metadata
from trainables.final.recipe import to_yaml, with_relative_places
from trainables.final.setup import TrainingSetup
from trainables.metrics import group_of
from trainables.models import identity
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan

CARD, MEASURED = "README.md", "metrics.json"


@dataclass(frozen=True)
class TrainedSeed:
    """One seed, trained.

    Args:
        seed: Seed of the training.
        pipeline: The finished pipeline.
        seconds: Seconds of training, summed over all resumptions.
    """

    seed: int
    pipeline: Pipeline
    seconds: float


def write_artifacts(
    recipe: Mapping[str, Any],
    plan: Plan,
    finished: Sequence[TrainedSeed],
    setup: TrainingSetup,
    out: Path,
    deployment: Deployment,
    program: bool = True,
) -> tuple[list[dict[str, Any]], str]:
    """Tests every seed and writes the artifacts. Program and MLflow model are the first seed's: test chooses none.

    Args:
        recipe: The recipe.
        plan: Its plan as it was trained.
        finished: The trained seeds.
        setup: How they were trained.
        out: Folder to write to.
        deployment: Prior and costs by which test is weighted besides.
        program: Whether program and MLflow model are written.

    Returns:
        The measurements on test of every seed, and why there is no program; "" where there is one.
    """
    measured: list[dict[str, Any]] = []
    for one in finished:
        metrics, recalls, _ = one.pipeline.test(deployment)
        file = weights_file(one.seed)
        weights = {name: tensor.cpu().contiguous() for name, tensor in one.pipeline.network().state_dict().items()}
        write(
            out / file,
            pack_weights(weights, weights_metadata(recipe["recipe"], identity(recipe["model"]), one.pipeline.data)),
        )
        measured.append(
            {"seed": one.seed, "file": file, "seconds": one.seconds, "metrics": metrics, "recalls": recalls}
        )
    write(out / RECIPE, to_yaml(with_relative_places({**recipe, "plan": plan.to_dict()}, out)))
    write(out / MEASURED, to_json(measured, indent=2) + "\n")
    data = finished[0].pipeline.data
    write(out / TABLE, table(data, measured))
    metadata = {"recipe": recipe["recipe"], "data": recipe["data"]["name"], "seed": finished[0].seed}
    missing = "" if program else "it was not asked for"
    try:
        if program:
            serving.save(serving.serving_module(finished[0].pipeline), out, data, metadata)
    except serving.NotExported as error:  # hours of training are not lost by it
        missing = str(error)
    write(out / CARD, card(recipe, plan, measured, data, setup, missing))
    return measured, missing


def pack_weights(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Weights as a safetensors file, equal ones byte by byte: the library writes its header in an order by chance.

    >>> one, other = ({name: torch.ones(2) for name in order} for order in ("ab", "ba"))
    >>> pack_weights(one, {"a": "1", "b": "2", "c": "3"}) == pack_weights(other, {"c": "3", "b": "2", "a": "1"})
    True
    """
    content: bytes = save_tensors(dict(weights), metadata=dict(metadata))
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors behind it are aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def table(data: Any, measured: Sequence[Mapping[str, Any]]) -> str:
    """A CSV with a row for each class: images in training and test, group, and recalls as fractions.

    The recalls are those of every seed, and their mean with its 95 % interval by the number of test images (Wilson's,
    which stays inside [0, 1]).
    """
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    content = io.StringIO()
    writer = csv.writer(content)
    seeds = [f"recall_seed{run['seed']}" for run in measured]
    columns = ["label", "class", "train_images", "group", "test_images", *seeds, "recall_mean"]
    writer.writerow([*columns, "recall_low", "recall_high"])
    for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True)):
        recalls = [run["recalls"][label] for run in measured]
        known = [recall for recall in recalls if not math.isnan(recall)]
        mean = sum(known) / len(known) if known else math.nan
        shown = (*recalls, mean, *wilson(mean, tested[label]))
        numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in shown]
        writer.writerow([label, csv_cell(printable(name, keep="")), count, group_of(count), tested[label], *numbers])
    return content.getvalue()


def wilson(share: float, images: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of some images, inside [0, 1]; NaN without images.

    Args:
        share: The share, in [0, 1].
        images: Number of images.
        z: Quantile of the normal distribution.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> [round(end, 3) for end in wilson(1.0, 7)]
    [0.646, 1.0]
    """
    if not images or math.isnan(share):
        return math.nan, math.nan
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)
