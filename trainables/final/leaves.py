"""What final training leaves: weights, program, tables, model card."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from analysis.files import to_json, write
from analysis.text import csv_cell, markdown_cell, printable
from trainables.data.catalogue import Name
from trainables.data.images.decoding import Preprocessing
from trainables.evaluation.deployment import Deployment
from trainables.final import own_code, served
from trainables.final.network import RECIPE, described, weights_file
from trainables.final.recipe import to_yaml, with_relative_places
from trainables.metrics import FEW_BELOW, MANY_ABOVE
from trainables.models import identity, is_own
from trainables.pipeline.pipeline import Pipeline
from trainables.plan.model import Plan

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
    measured: list[dict[str, Any]] = []
    for one in finished:
        metrics, recalls, _ = one.pipeline.test(deployment)
        file = weights_file(one.seed)
        weights = {name: tensor.cpu().contiguous() for name, tensor in one.pipeline.network().state_dict().items()}
        write(out / file, packed(weights, described(recipe["recipe"], identity(recipe["model"]), one.pipeline.data)))
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
            served.save(served.served(finished[0].pipeline), out, data, metadata)
    except served.NotExported as error:  # hours of training are not lost by it
        missing = str(error)
    write(out / CARD, card(recipe, plan, measured, data, how, missing))
    return measured, missing


def packed(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Weights as a safetensors file, equal ones byte by byte: the library writes its header in an order by chance.

    >>> one, other = ({name: torch.ones(2) for name in order} for order in ("ab", "ba"))
    >>> packed(one, {"a": "1", "b": "2", "c": "3"}) == packed(other, {"c": "3", "b": "2", "a": "1"})
    True
    """
    from safetensors.torch import save

    content: bytes = save(dict(weights), metadata=dict(metadata))
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors behind it are aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def group_of(count: int) -> str:
    """Many, medium or few, by the images of a class in training.

    >>> group_of(101), group_of(100), group_of(20), group_of(19)
    ('many', 'medium', 'medium', 'few')
    """
    return "many" if count > MANY_ABOVE else "few" if count < FEW_BELOW else "medium"


def table(data: Any, measured: Sequence[Mapping[str, Any]]) -> str:
    """A row for each class, as CSV: images in training and test, group, and recalls as fractions.

    Of the recall: that of every seed, their mean, and its 95 % interval by the number of test images (Wilson's, which
    stays inside [0, 1]).
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
        share: In [0, 1].
        images: That it is a share of.
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


def not_tested(data: Any) -> list[str]:
    """Names of the classes without a test image, over which no accuracy on test is."""
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    return [name for name, count in zip(data.class_names, tested, strict=True) if not count]


def part_of_classes(data: Any, name: Any = markdown_cell) -> str:
    """Over which classes an accuracy on test is, in words; "" where over all of them."""
    absent = not_tested(data)
    if not absent:
        return ""
    shown = ", ".join(map(name, absent[:10])) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    return f"over {data.classes - len(absent)} of {data.classes} classes; there is no test image of {shown}"


def card(
    recipe: Mapping[str, Any],
    plan: Plan,
    measured: Sequence[Mapping[str, Any]],
    data: Any,
    how: How,
    missing: str = "",
) -> str:
    """The model card; `missing` says why there is no program."""
    parts = (_head(recipe, data), _use(recipe, data, measured, missing), _preprocessing(data, missing),
             _data(recipe, data), _training(recipe, plan, data, measured, how), _test(data, measured),
             _searched(recipe, plan), _limits(recipe, plan, data, how))  # fmt: skip
    return "\n".join(line for part in parts for line in part)


def _head(recipe: Mapping[str, Any], data: Any) -> list[str]:
    search, title = recipe["provenance"]["search"], recipe["title"]
    return [
        f"# {markdown_cell(named(recipe['model']))} on {markdown_cell(data.name)}, imbalance {data.imbalance:.4g}",
        "",
        f"Recipe {markdown_cell(recipe['recipe'])} of the search {markdown_cell(search)}: {markdown_cell(title)}.",
        "",
    ]


def named(model: str) -> str:
    """The network without places."""
    parsed = Name.parse(model)
    if file := parsed.options.get("pretrained"):
        return f"{parsed.kind} ({'from scratch' if file == 'no' else f'pretrained: {Path(file).name}'})"
    where, colon, function = parsed.kind.rpartition(":")
    return f"{Path(where).name}:{function}" if colon else parsed.kind


def _data(recipe: Mapping[str, Any], data: Any) -> list[str]:
    counts = data.counts.tolist()
    groups = {kind: sum(group_of(count) == kind for count in counts) for kind in ("many", "medium", "few")}
    shown = ", ".join(f"{count} {kind}" for kind, count in groups.items())
    size = "×".join(map(str, data.train_images.shape[-2:])) + " pixels"
    if data.kind == "features":
        size = f"{data.train_images.shape[1]} features"
    shift = f"random shift by up to {data.pad} pixels" if data.pad else "no shift"
    if data.crop == "resized":
        shift = "crops of random size and shape"
    told = [f"Since the search: {recipe['data']['since_search']}"] if recipe["data"].get("since_search") else []
    root = recipe["provenance"].get("data_root")
    told += [note.replace(f"{root}/", "") if root else note for note in data.notes]  # no place on this machine
    left_out = recipe["data"].get("left_out", 0)
    cut = f" {left_out} further images are left out by the imbalance that was asked for." if left_out else ""
    return [
        "## Data",
        "",
        f"{markdown_cell(data.name)}: {sum(counts)} training images of {size} in {data.classes} classes, "
        f"{max(counts)} in the largest and {min(counts)} in the smallest (classes by size: {shown}; many is above "
        f"{MANY_ABOVE} images, few "
        f"below {FEW_BELOW}). All of them were trained on: no val was held out.{cut} "
        f"Test: {len(data.test_labels)} images. Fingerprint {data.fingerprint}.",
        "",
        *_augmentation(data, shift),
        *(f"- {markdown_cell(note)}" for note in told),
        *([""] if told else []),
    ]


def _augmentation(data: Any, shift: str) -> list[str]:
    """How training changes images by itself."""
    if data.kind == "images":
        return [f"Augmentation of the data set itself: {shift}, {'' if data.flip else 'not '}mirrored at random.", ""]
    if data.train_views is None:
        return []
    return [f"Training drew one of {len(data.train_views)} views of each image in every epoch.", ""]


def stages_of(plan: Plan) -> str:
    """The plan for people, a line for each stage, whatever the stages' names hold."""
    return "\n".join(printable(str(Plan((stage,))), keep="") for stage in plan.stages)


def _training(
    recipe: Mapping[str, Any], plan: Plan, data: Any, measured: Sequence[Mapping[str, Any]], how: How
) -> list[str]:
    searched = sum(stage["epochs"] for stage in recipe["plan"]["stages"])
    length = f"{plan.epochs} epochs"
    if plan.epochs != searched:
        length += f"; what the search found was measured at {100 * searched / plan.epochs:.0f} %"
    seconds = [run["seconds"] for run in measured]
    shown = stages_of(plan)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [
        "## Training",
        "",
        fence,
        shown,
        fence,
        "",
        f"Length: {length}. {len(measured)} seed{'s' if len(measured) > 1 else ''}, "
        f"{sum(seconds) / len(seconds):.0f} s each, {how}; torch {version('torch')}. Every number is in {RECIPE}.",
        "",
    ]


def _test(data: Any, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [key for key in measured[0]["metrics"] if key.removeprefix("test/") in _MEANINGS]
    rows = [
        f"| {_MEANINGS[key.removeprefix('test/')]} | "
        + " | ".join(_percent(run["metrics"][key]) for run in measured) + " |"
        for key in keys
    ]  # fmt: skip
    seeds = " | ".join(f"seed {run['seed']} (%)" for run in measured)
    costs = [
        f"{run['metrics']['test/expected_cost']:.4g}" for run in measured if "test/expected_cost" in run["metrics"]
    ]
    recalls = [
        f"| {markdown_cell(name)} | {count} | " + " | ".join(_percent(run["recalls"][label]) for run in measured) + " |"
        for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True))
    ]
    table = ["| class | training images | " + " | ".join(f"recall, seed {run['seed']} (%)" for run in measured) + " |",
             "|---|---|" + "---|" * len(measured), *recalls]  # fmt: skip
    part = f" ({part_of_classes(data)})" if not_tested(data) else ""
    return [
        "## Test",
        "",
        f"Accuracy (mean recall) on test{part}: {spread(measured)}. Nothing was chosen by it.",
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


def spread(measured: Sequence[Mapping[str, Any]]) -> str:
    """Mean accuracy on test with its 95 % interval, inside [0, 100].

    Every seed is measured on the same test images, so that their number is part of the uncertainty beside the spread
    over seeds.
    """
    accuracies = [100 * run["metrics"]["test/accuracy"] for run in measured]
    mean = sum(accuracies) / len(accuracies)
    half = 196 * measured[0]["metrics"]["test/accuracy_error"]
    how = "from the number of test images; another seed may differ by more"
    if len(accuracies) > 1:
        from scipy import stats

        sd = math.sqrt(sum((value - mean) ** 2 for value in accuracies) / (len(accuracies) - 1))
        half = math.hypot(half, float(stats.t.ppf(0.975, len(accuracies) - 1)) * sd / math.sqrt(len(accuracies)))
        how = f"from the number of test images and {len(accuracies)} seeds, whose standard deviation is {sd:.1f}"
    return f"{mean:.1f} % (95 %: {max(0.0, mean - half):.1f} to {min(100.0, mean + half):.1f}, {how})"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _searched(recipe: Mapping[str, Any], plan: Plan) -> list[str]:
    found = recipe["measured"]
    lines = []
    if found.get("mean") is not None:
        low, high = found.get("low"), found.get("high")
        known = low is not None and high is not None
        interval = f" (95 %: {100 * max(0.0, low):.1f} to {100 * min(1.0, high):.1f})" if known else ""
        lines.append(f"Accuracy on val: {100 * found['mean']:.1f} %{interval}, over {len(found['values'])} seeds.")
    gain = found.get("gain_over_baseline") or {}
    if gain.get("mean") is not None:
        known = gain.get("low") is not None and gain.get("high") is not None
        interval = f" (95 %: {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})" if known else ""
        lines.append(
            f"Gain over the baseline: {100 * gain['mean']:+.1f} points{interval}, {gain.get('seeds', 0)} paired seeds."
        )
    warnings = [
        f"- {markdown_cell(verdict['pair'])}: {markdown_cell(verdict['verdict'])}. {markdown_cell(verdict['reason'])}"
        for verdict in recipe["conflicts"]
    ]
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
    shape = ", ".join(map(str, data.train_images.shape[1:]))
    kind, dtype = ("features", "float32") if data.kind == "features" else ("images", "uint8")
    request = (
        f"'{{\"dataframe_records\": [{{\"features\": ['$(printf '0,%.0s' {{2..{data.train_images.shape[1]}}})'0]}}]}}'"
        if data.kind == "features"
        else '\'{"dataframe_records": [{"image": "\'"$(base64 < photo.jpg | tr -d \'\\n\')"\'"}]}\''
    )
    return [
        f"`{served.SERVED}` is what MLflow serves: {served.input_of(data)}. The answer to an image has its "
        "`class`, the `probability` and `label` of that class, and the `probabilities` of every class by name. It "
        f"holds all preprocessing and needs nothing of this project. It is seed {seed}.",
        "",
        f"    mlflow models predict -m {served.SERVED} -t json --env-manager local \\",
        f"        -i {served.SERVED}/serving_input_example.json",
        f"    mlflow models serve -m {served.SERVED} --env-manager local --port 5001",
        "    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\",
        f"        -d {request}",
        "",
        f"`{served.PROGRAM}` is the network alone, without MLflow: {dtype} {kind} (N, {shape}) to "
        f"probabilities (N, {data.classes}), a column per class in the order of {TABLE}. Readout and normalisation are "
        "inside; what comes before (see below) is not.",
        "",
        "```python",
        "import torch",
        "",
        f'program = torch.export.load("{served.PROGRAM}").module()',
        f"probabilities = program(torch.zeros(2, {shape}, dtype=torch.{dtype}))",
        "```",
        "",
    ]


def _use(recipe: Mapping[str, Any], data: Any, measured: Sequence[Mapping[str, Any]], missing: str) -> list[str]:
    seed = measured[0]["seed"]
    program = _program(data, seed) if not missing else [f"There is no exported program: {markdown_cell(missing)}.", ""]
    own = is_own(recipe["model"]) or own_code.tricks_of(recipe["plan"])
    trust = f", trust=True)  # runs the code that {RECIPE} names" if own else ")"
    return [
        "## Use",
        "",
        *program,
        "The bare network, before any readout, in this project:",
        "",
        "```python",
        "from trainables.final.network import trained",
        "",
        f'network = trained(".", seed={seed}{trust}',
        "```",
        "",
    ]


def _preprocessing(data: Any, missing: str) -> list[str]:
    """What happens to an image before the network, step by step."""
    if data.kind == "features":
        return [
            "## Preprocessing",
            "",
            f"The features come from {markdown_cell(data.backbone or 'a network that their file does not name')}. "
            f"Minus the mean of each that was measured on the training features, divided by {float(data.std[0]):.6g}; "
            "both are inside the program.",
            "",
        ]
    rules = served.preprocessing_of(data)
    _, height, width = map(int, data.train_images.shape[1:])
    where = "In this order, as with the training images"
    if not missing:
        where += f"; the first four are in `{served.SERVED}` alone, the last is in `{served.PROGRAM}` as well"
    return [
        "## Preprocessing",
        "",
        f"{where}:",
        "",
        *(f"{number}. {step}" for number, step in enumerate(_steps(rules, height, width), start=1)),
        f"5. Pixels divided by 255, minus mean {_numbers(data.mean)}, divided by standard deviation "
        f"{_numbers(data.std)} (by channel).",
        "",
    ]


def _steps(rules: Preprocessing, height: int, width: int) -> list[str]:
    """From an encoded image to pixels."""
    turned = "The EXIF orientation is applied" if rules.orientation == "exif" else "The EXIF orientation is ignored"
    colours = "Grey is repeated in three channels (RGB)" if rules.channels == 3 else "Colour becomes grey by ITU-R 601"
    sized = (
        f"The shorter side is resized to {rules.size} pixels ({rules.interpolation}, smoothed where it shrinks; "
        f"Pillow), and the centre of {rules.size}×{rules.size} is cut out"
        if rules.size
        else f"Nothing is resized: an image must have {width}×{height} pixels"
    )
    return [
        "The file is decoded by its content; of several frames the first is taken, of 16 bits the upper 8. CMYK is "
        "converted without a colour profile, and profiles are not applied.",
        f"Transparent pixels are laid on {markdown_cell(rules.background)}. {colours}.",
        f"{turned}.",
        f"{sized}.",
    ]


def _numbers(values: torch.Tensor) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values.tolist()) + ")"
