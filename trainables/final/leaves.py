"""What final training leaves: weights, program, tables, model card."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainables.deployment import Deployment
from trainables.final import served
from trainables.final.network import RECIPE, described, weights_file
from trainables.metrics import FEW_BELOW, MANY_ABOVE
from trainables.models import identity
from trainables.pipeline import Pipeline
from trainables.plan import Plan

CARD, TABLE, MEASURED = "README.md", "per_class.csv", "metrics.json"

SHOWN_CLASSES = 100
"""Classes up to which the card shows every recall; the table has them all."""


@dataclass(frozen=True)
class Finished:
    """One seed, trained.

    Args:
        seed: Of the training.
        pipeline: Finished.
        seconds: Of training, over all the times it was taken up again.
    """

    seed: int
    pipeline: Pipeline
    seconds: float


@dataclass(frozen=True)
class How:
    """How it was trained, apart from the plan.

    Args:
        device: Name of the device.
        precision: "fp32" or "bf16".
        accumulate: Parts of a batch whose gradients were added up.
        workers: Processes that shared each batch.
    """

    device: str
    precision: str = "fp32"
    accumulate: int = 1
    workers: int = 1

    def __str__(self) -> str:
        parts = [f"on {self.device}", "bfloat16 by autocast" if self.precision == "bf16" else "float32"]
        if self.accumulate > 1:
            parts.append(f"each batch in {self.accumulate} parts")
        if self.workers > 1:
            parts.append(f"{self.workers} workers")
        return ", ".join(parts)


def keep(
    recipe: Mapping[str, Any],
    plan: Plan,
    finished: Sequence[Finished],
    how: How,
    out: Path,
    deployment: Deployment,
    program: bool = True,
) -> tuple[list[dict[str, Any]], str]:
    """Writes everything; what was measured on test, by seed, and why there is no program ("" where there is one).

    Test is also measured as a deployment weighs it.

    The program and the MLflow model are those of the first seed: no seed is chosen by its test.
    """
    import yaml
    from safetensors.torch import save

    measured: list[dict[str, Any]] = []
    for one in finished:
        metrics, recalls, _ = one.pipeline.test(deployment)
        file = weights_file(one.seed)
        weights = {name: tensor.cpu().contiguous() for name, tensor in one.pipeline.network().state_dict().items()}
        kept = described(recipe["recipe"], identity(recipe["model"]), one.pipeline.data)
        (out / file).write_bytes(save(weights, metadata=kept))
        measured.append(
            {"seed": one.seed, "file": file, "seconds": one.seconds, "metrics": metrics, "recalls": recalls}
        )
    content = {**recipe, "plan": plan.to_dict()}
    (out / RECIPE).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (out / MEASURED).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    data = finished[0].pipeline.data
    write_table(out / TABLE, data, measured)
    metadata = {"recipe": recipe["recipe"], "data": recipe["data"]["name"], "seed": finished[0].seed}
    missing = "" if program else "it was not asked for"
    try:
        if program:
            served.save(served.served(finished[0].pipeline), out, data.test_images[:2], data.class_names, metadata)
    except served.NotExported as error:  # hours of training are not lost by it
        missing = str(error)
    (out / CARD).write_text(card(recipe, plan, measured, data, how, missing), encoding="utf-8")
    return measured, missing


def group_of(count: int) -> str:
    """Many, medium or few, by the images of a class in training.

    >>> group_of(101), group_of(100), group_of(20), group_of(19)
    ('many', 'medium', 'medium', 'few')
    """
    return "many" if count > MANY_ABOVE else "few" if count < FEW_BELOW else "medium"


def write_table(file: Path, data: Any, measured: Sequence[Mapping[str, Any]]) -> None:
    """One row per class: images in training and test, group, recall of every seed and their mean, as fractions."""
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        seeds = [f"recall_seed{run['seed']}" for run in measured]
        writer.writerow(["label", "class", "train_images", "group", "test_images", *seeds, "recall_mean"])
        for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True)):
            recalls = [run["recalls"][label] for run in measured]
            known = [recall for recall in recalls if not math.isnan(recall)]
            mean = sum(known) / len(known) if known else math.nan
            numbers = ["" if math.isnan(value) else f"{value:.6f}" for value in (*recalls, mean)]
            writer.writerow([label, name, count, group_of(count), tested[label], *numbers])


def card(
    recipe: Mapping[str, Any],
    plan: Plan,
    measured: Sequence[Mapping[str, Any]],
    data: Any,
    how: How,
    missing: str = "",
) -> str:
    """The model card; `missing` says why there is no program."""
    parts = (_head(recipe), _use(data, measured, missing), _data(data), _training(recipe, plan, data, measured, how),
             _test(data, measured), _searched(recipe, plan), _limits(recipe, plan, data, how))  # fmt: skip
    return "\n".join(line for part in parts for line in part)


def _head(recipe: Mapping[str, Any]) -> list[str]:
    return [
        f"# {_named(recipe)} on {recipe['data']['name']}, imbalance {recipe['data']['imbalance']:g}",
        "",
        f"Recipe {recipe['recipe']} of the search {recipe['provenance']['search']}: {recipe['title']}.",
        "",
    ]


def _named(recipe: Mapping[str, Any]) -> str:
    """The network without places."""
    name, sign, file = str(recipe["model"]).partition("?pretrained=")
    if sign:
        return f"{name} (pretrained: {Path(file).name})"
    where, colon, function = name.rpartition(":")
    return f"{Path(where).name}:{function}" if colon else name


def _data(data: Any) -> list[str]:
    counts = data.counts.tolist()
    groups = {kind: sum(group_of(count) == kind for count in counts) for kind in ("many", "medium", "few")}
    shown = ", ".join(f"{count} {kind}" for kind, count in groups.items())
    size = "×".join(map(str, data.train_images.shape[-2:]))
    shift = f"random shift by up to {data.pad} pixels" if data.pad else "no shift"
    if data.crop == "resized":
        shift = "crops of random size and shape"
    return [
        "## Data",
        "",
        f"{data.name}: {sum(counts)} training images of {size} pixels in {data.classes} classes, {max(counts)} in the "
        f"largest and {min(counts)} in the smallest (classes by size: {shown}; many is above {MANY_ABOVE} images, few "
        f"below {FEW_BELOW}). All of them were trained on: no val was held out. "
        f"Test: {len(data.test_labels)} images. Fingerprint {data.fingerprint}.",
        "",
        f"Augmentation of the data set itself: {shift}, {'' if data.flip else 'not '}mirrored at random.",
        "",
        *(f"- {note}" for note in data.notes),
        *([""] if data.notes else []),
    ]


def _training(
    recipe: Mapping[str, Any], plan: Plan, data: Any, measured: Sequence[Mapping[str, Any]], how: How
) -> list[str]:
    searched = sum(stage["epochs"] for stage in recipe["plan"]["stages"])
    length = f"{plan.epochs} epochs"
    if plan.epochs != searched:
        length += f"; what the search found was measured at {100 * searched / plan.epochs:.0f} %"
    seconds = [run["seconds"] for run in measured]
    return [
        "## Training",
        "",
        "```",
        str(plan),
        "```",
        "",
        f"Length: {length}. {len(measured)} seed{'s' if len(measured) > 1 else ''}, "
        f"{sum(seconds) / len(seconds):.0f} s each, {how}; torch {version('torch')}. Every number is in {RECIPE}.",
        "",
    ]


def _test(data: Any, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [key for key in measured[0]["metrics"] if key.removeprefix("test/") in _MEANINGS]
    rows = [
        f"| {_MEANINGS[key.removeprefix('test/')]} | "
        + " | ".join(f"{100 * run['metrics'][key]:.1f}" for run in measured) + " |"
        for key in keys
    ]  # fmt: skip
    seeds = " | ".join(f"seed {run['seed']} (%)" for run in measured)
    costs = [
        f"{run['metrics']['test/expected_cost']:.4g}" for run in measured if "test/expected_cost" in run["metrics"]
    ]
    recalls = [
        f"| {name} | {count} | " + " | ".join(_percent(run["recalls"][label]) for run in measured) + " |"
        for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True))
    ]
    table = ["| class | training images | " + " | ".join(f"recall, seed {run['seed']} (%)" for run in measured) + " |",
             "|---|---|" + "---|" * len(measured), *recalls]  # fmt: skip
    return [
        "## Test",
        "",
        f"Accuracy (mean recall) on test: {_spread(measured)}. Nothing was chosen by it.",
        "",
        f"| measure | {seeds} |",
        "|---|" + "---|" * len(measured),
        *rows,
        "",
        *([f"Expected cost of an image, by the matrix given: {', '.join(costs)}.", ""] if costs else []),
        *(table if data.classes <= SHOWN_CLASSES else [f"The recall of every class is in {TABLE}."]),
        "",
    ]


_MEANINGS = {
    "accuracy": "accuracy (mean recall)",
    "prior_accuracy": "accuracy under the deployment's prior",
    "many": "mean recall, many",
    "medium": "mean recall, medium",
    "few": "mean recall, few",
    "harmonic_mean": "harmonic mean of recalls",
    "lowest_recall": "lowest recall",
    "calibration_error": "calibration error",
}


def _spread(measured: Sequence[Mapping[str, Any]]) -> str:
    """Mean with its interval: over seeds where there are several, by the test's images else."""
    accuracies = [100 * run["metrics"]["test/accuracy"] for run in measured]
    mean = sum(accuracies) / len(accuracies)
    if len(accuracies) == 1:
        half = 196 * measured[0]["metrics"]["test/accuracy_error"]
        return f"{mean:.1f} % ± {half:.1f} (95 %, from the number of test images; another seed may differ by more)"
    from scipy import stats

    sd = math.sqrt(sum((value - mean) ** 2 for value in accuracies) / (len(accuracies) - 1))
    half = float(stats.t.ppf(0.975, len(accuracies) - 1)) * sd / math.sqrt(len(accuracies))
    return f"{mean:.1f} % ± {half:.1f} (95 % over {len(accuracies)} seeds, standard deviation {sd:.1f})"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _searched(recipe: Mapping[str, Any], plan: Plan) -> list[str]:
    found = recipe["measured"]
    lines = []
    if found.get("mean") is not None:
        interval = "" if found.get("low") is None else f" (95 %: {100 * found['low']:.1f} to {100 * found['high']:.1f})"
        lines.append(f"Accuracy on val: {100 * found['mean']:.1f} %{interval}, over {len(found['values'])} seeds.")
    gain = found.get("gain_over_baseline") or {}
    if gain.get("mean") is not None:
        interval = "" if gain.get("low") is None else f" (95 %: {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        lines.append(
            f"Gain over the baseline: {100 * gain['mean']:+.1f} points{interval}, {gain['seeds']} paired seeds."
        )
    warnings = [f"- {verdict['pair']}: {verdict['verdict']}. {verdict['reason']}" for verdict in recipe["conflicts"]]
    return [
        "## What the search found",
        "",
        *(lines or ["The recipe does not say."]),
        "",
        "Verdicts that concern this recipe:",
        "",
        *(warnings or ["None of its pairs was screened, or the table had too little to say."]),
        "",
    ]


def _limits(recipe: Mapping[str, Any], plan: Plan, data: Any, how: How) -> list[str]:
    starved = sum(count < FEW_BELOW for count in data.counts.tolist())
    lines = [
        f"It knows {data.classes} classes, and gives one of them for any image whatever.",
        "Accuracy is the mean over classes; on data with other class frequencies it is another number.",
    ]
    if starved:
        lines.append(
            f"{starved} classes had fewer than {FEW_BELOW} training images; see their recalls before relying on them."
        )
    searched = sum(stage["epochs"] for stage in recipe["plan"]["stages"])
    if plan.epochs != searched:
        lines.append(
            f"The recipe was chosen, and its verdicts were measured, at {searched} of these {plan.epochs} epochs."
        )
    if how.precision == "bf16":
        lines.append("Trained and tested in bfloat16; the exported program computes in float32.")
    if how.accumulate * how.workers > 1:
        lines.append("BatchNorm saw parts of a batch, not whole ones.")
    return ["## Limits", "", *(f"- {line}" for line in lines), ""]


def _program(data: Any, seed: int) -> list[str]:
    channels, height, width = data.train_images.shape[1:]
    return [
        f"`{served.PROGRAM}` takes uint8 images (N, {channels}, {height}, {width}) and gives probabilities "
        f"(N, {data.classes}), a column per class in the order of {TABLE}; preprocessing and readout are inside, this "
        f"project's code is not needed. It is seed {seed}.",
        "",
        "```python",
        "import torch",
        "",
        f'program = torch.export.load("{served.PROGRAM}").module()',
        f"probabilities = program(torch.zeros(2, {channels}, {height}, {width}, dtype=torch.uint8))",
        "```",
        "",
        f"    mlflow models predict -m {served.SERVED} -t json --env-manager local -i input.json",
        "",
        f'with `{{"instances": […]}}`, images as nested lists; `mlflow models serve -m {served.SERVED} --env-manager '
        "local` for a server.",
        "",
    ]


def _use(data: Any, measured: Sequence[Mapping[str, Any]], missing: str) -> list[str]:
    seed = measured[0]["seed"]
    program = _program(data, seed) if not missing else [f"There is no exported program: {missing}.", ""]
    return [
        "## Use",
        "",
        *program,
        "The bare network, before any readout, in this project:",
        "",
        "```python",
        "from trainables.final.network import trained",
        "",
        f'network = trained(".", seed={seed})',
        "```",
        "",
        f"Images: uint8, divided by 255, minus mean {data.mean.tolist()}, divided by {data.std.tolist()}.",
        "",
    ]
