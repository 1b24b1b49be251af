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
from analysis.stats.intervals import wilson_interval
from analysis.text import csv_cell, printable
from trainables.deployment import Deployment
from trainables.final import serving
from trainables.final.model_card import card
from trainables.final.network import RECIPE, weights_file, weights_metadata
from trainables.final.recipe import to_yaml, with_relative_places
from trainables.final.reliability.measurement import Calibrated, calibrate, mean_of, measure
from trainables.final.reliability.sections import MEASURED, TABLE
from trainables.final.setup import TrainingSetup
from trainables.metrics import group_of
from trainables.models import identity
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan

CARD = "README.md"


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
    calibrates: bool = False,
    risk: float | None = None,
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
        calibrates: Whether each seed is calibrated on its val before it is tested.
        risk: Share of wrong answers among those accepted, where the model is to abstain.

    Returns:
        The measurements on test of every seed, and why there is no program; "" where there is one.
    """
    measured: list[dict[str, Any]] = []
    served: Calibrated | None = None
    for one in finished:
        calibrated = calibrate(one.pipeline, deployment, risk) if calibrates else None
        served = served or calibrated  # the first seed's
        file = weights_file(one.seed)
        weights = {name: tensor.cpu().contiguous() for name, tensor in one.pipeline.network().state_dict().items()}
        write(
            out / file,
            pack_weights(weights, weights_metadata(recipe["recipe"], identity(recipe["model"]), one.pipeline.data)),
        )
        results = measure(one.pipeline, deployment, calibrated)
        measured.append({"seed": one.seed, "file": file, "seconds": one.seconds, **results})
    write(out / RECIPE, to_yaml(with_relative_places({**recipe, "plan": plan.to_dict()}, out)))
    write(out / MEASURED, to_json(measured, indent=2) + "\n")
    data = finished[0].pipeline.data
    write(out / TABLE, table(data, measured))
    metadata = {"recipe": recipe["recipe"], "data": recipe["data"]["name"], "seed": finished[0].seed}
    missing = "" if program else "it was not asked for"
    try:
        if program:
            limits = None if served is None else served.limits
            serving.save(serving.serving_module(finished[0].pipeline, served), out, data, metadata, limits)
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
    """A CSV with a row for each class: images in training and test, group, recalls and precision as fractions.

    The recalls are those of every seed, and their mean with its 95 % interval by the number of test images (Wilson's,
    which stays inside [0, 1]). The precision is the mean over seeds at the class frequencies of test, with the interval
    by the number of images that were assigned to the class. For a model that abstains, the table also has the threshold
    of each class in the first seed, and how many of its accepted answers are wrong.
    """
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    content = io.StringIO()
    writer = csv.writer(content)
    seeds = [f"recall_seed{run['seed']}" for run in measured]
    columns = ["label", "class", "train_images", "group", "test_images", *seeds, "recall_mean"]
    columns += ["recall_low", "recall_high", "predicted_images"]
    columns += ["precision_at_test_frequencies", "precision_low", "precision_high"]
    abstention = measured[0].get("abstention")
    answers = ["threshold", "accepted_images", "wrong_images", "wrong", "wrong_low", "wrong_high"]
    writer.writerow([*columns, *(answers if abstention else [])])
    for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True)):
        recalls = [run["recalls"][label] for run in measured]
        mean = mean_of(recalls)
        given = sum(run["predicted"][label] for run in measured) / len(measured)
        precision = mean_of([run["precisions"][label] for run in measured])
        row = [label, csv_cell(printable(name, keep="")), count, group_of(count), tested[label]]
        row += _cells(*recalls, mean, *wilson_interval(mean * tested[label], tested[label]))
        row += [f"{given:g}", *_cells(precision, *wilson_interval(precision * given, given))]
        if abstention:
            threshold = abstention["thresholds"][label]
            accepted, wrong = abstention["accepted_images"][label], abstention["wrong_images"][label]
            row += ["never" if threshold is None else f"{threshold:.6f}", accepted, wrong]
            row += _cells(wrong / accepted if accepted else math.nan, *wilson_interval(wrong, accepted))
        writer.writerow(row)
    return content.getvalue()


def _cells(*values: float) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.6f}" for value in values]
