"""The model card: what the model is, how to use it, what it was trained on, and how good it is."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from analysis.records.intervals import interval
from analysis.text import markdown_cell, printable
from trainables.data.catalogue import Name
from trainables.data.images.decoding import Preprocessing
from trainables.final import own_code, serving
from trainables.final.network import RECIPE
from trainables.final.reliability.sections import TABLE, calibration, largest_confusions, rates
from trainables.final.setup import TrainingSetup
from trainables.metrics import FEW_BELOW, MANY_ABOVE, group_of
from trainables.models import is_own
from trainables.plan import Plan

SHOWN_CLASSES = 100
"""Classes up to which the card shows every recall; the table has them all."""


def card(
    recipe: Mapping[str, Any],
    plan: Plan,
    measured: Sequence[Mapping[str, Any]],
    data: Any,
    setup: TrainingSetup,
    missing: str = "",
) -> str:
    """The model card; `missing` says why there is no program."""
    parts = (_header(recipe, data, measured), _head(recipe, data), _use(recipe, data, measured, missing),
             _preprocessing(data, missing), _data(recipe, data), _training(recipe, plan, data, measured, setup),
             _test(data, measured), largest_confusions(data, measured), calibration(measured),
             _search_results(recipe, plan), _limits(recipe, plan, data, setup))  # fmt: skip
    return "\n".join(line for part in parts for line in part)


def _header(recipe: Mapping[str, Any], data: Any, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """YAML that model hubs read: library, task, data and the results on test, the mean over seeds.

    Its licence is for whoever publishes the model to add, as `license:`.
    """
    task = "image-feature-classification" if data.kind == "features" else "image-classification"
    names = [key for key in measured[0]["metrics"] if key.removeprefix("test/") in _MEANINGS]
    means = {name: statistics.fmean(run["metrics"][name] for run in measured) for name in names}
    results = [
        {"type": name.removeprefix("test/"), "name": _MEANINGS[name.removeprefix("test/")], "value": round(mean, 6)}
        for name, mean in means.items()
        if math.isfinite(mean)
    ]
    content = {
        "library_name": "longtail-tune",
        "pipeline_tag": task,
        "tags": ["long-tail", "longtail-tune"],
        "datasets": [printable(data.name, keep="")],
        "metrics": [result["type"] for result in results],
        "model-index": [
            {
                "name": printable(named(recipe["model"]), keep=""),
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {
                            "type": "longtail-tune", "name": printable(data.name, keep=""), "split": "test",
                            "revision": data.fingerprint,
                        },
                        "metrics": results,
                    }
                ],
            }
        ],
    }  # fmt: skip
    written: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return ["---", *written.splitlines(), "---", ""]


def _head(recipe: Mapping[str, Any], data: Any) -> list[str]:
    search, title = recipe["provenance"]["search"], recipe["title"]
    return [
        f"# {markdown_cell(named(recipe['model']))} on {markdown_cell(data.name)}, imbalance {data.imbalance:.4g}",
        "",
        f"Recipe {markdown_cell(recipe['recipe'])} of the search {markdown_cell(search)}: {markdown_cell(title)}.",
        "",
    ]


def _use(recipe: Mapping[str, Any], data: Any, measured: Sequence[Mapping[str, Any]], missing: str) -> list[str]:
    seed = measured[0]["seed"]
    program = (
        _program(data, measured[0]) if not missing else [f"There is no exported program: {markdown_cell(missing)}.", ""]
    )
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


def _program(data: Any, run: Mapping[str, Any]) -> list[str]:
    seed = run["seed"]
    more = (
        "; answers with `accepted` false are less certain than the model's risk limit allows and should go to a person"
        if "abstention" in run
        else ""
    )
    shape = ", ".join(map(str, data.train_images.shape[1:]))
    kind, dtype = ("features", "float32") if data.kind == "features" else ("images", "uint8")
    request = (
        f"'{{\"dataframe_records\": [{{\"features\": ['$(printf '0,%.0s' {{2..{data.train_images.shape[1]}}})'0]}}]}}'"
        if data.kind == "features"
        else '\'{"dataframe_records": [{"image": "\'"$(base64 < photo.jpg | tr -d \'\\n\')"\'"}]}\''
    )
    return [
        f"`{serving.MLFLOW_MODEL}` is what MLflow serves: {serving.input_of(data)}. The answer to an image has its "
        f"`class`, the `probability` and `label` of that class, and the `probabilities` of every class by name{more}. "
        f"It holds all preprocessing and needs nothing of this project. It is seed {seed}.",
        "",
        f"    mlflow models predict -m {serving.MLFLOW_MODEL} -t json --env-manager local \\",
        f"        -i {serving.MLFLOW_MODEL}/serving_input_example.json",
        f"    mlflow models serve -m {serving.MLFLOW_MODEL} --env-manager local --port 5001",
        "    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\",
        f"        -d {request}",
        "",
        f"`{serving.PROGRAM}` is the network alone, without MLflow: {dtype} {kind} (N, {shape}) to "
        f"probabilities (N, {data.classes}), a column per class in the order of {TABLE}. Readout, normalisation and "
        f"{'calibration' if 'calibration' in run else 'softmax'} are inside; what comes before (see below) is not.",
        "",
        "```python",
        "import torch",
        "",
        f'program = torch.export.load("{serving.PROGRAM}").module()',
        f"probabilities = program(torch.zeros(2, {shape}, dtype=torch.{dtype}))",
        "```",
        "",
    ]


def _preprocessing(data: Any, missing: str) -> list[str]:
    """The steps from an image to the input of the network."""
    if data.kind == "features":
        return [
            "## Preprocessing",
            "",
            f"The features come from {markdown_cell(data.backbone or 'a network that their file does not name')}. "
            f"Minus the mean of each that was measured on the training features, divided by {float(data.std[0]):.6g}; "
            "both are inside the program.",
            "",
        ]
    rules = serving.preprocessing_of(data)
    _, height, width = map(int, data.train_images.shape[1:])
    where = "In this order, as with the training images"
    if not missing:
        where += f"; the first four are in `{serving.MLFLOW_MODEL}` alone, the last is in `{serving.PROGRAM}` as well"
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
    """Steps from an encoded image to pixels."""
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
    val = len(data.val_labels)
    held = (
        f"{val} further images were held out as val, for the calibration."
        if val
        else "All of them were trained on: no val was held out."
    )
    cut = f" {left_out} further images are left out by the imbalance that was asked for." if left_out else ""
    return [
        "## Data",
        "",
        f"{markdown_cell(data.name)}: {sum(counts)} training images of {size} in {data.classes} classes, "
        f"{max(counts)} in the largest and {min(counts)} in the smallest (classes by size: {shown}; many is above "
        f"{MANY_ABOVE} images, few "
        f"below {FEW_BELOW}). {held}{cut} "
        f"Test: {len(data.test_labels)} images. Fingerprint {data.fingerprint}.",
        "",
        *_augmentation(data, shift),
        *(f"- {markdown_cell(note)}" for note in told),
        *([""] if told else []),
    ]


def _augmentation(data: Any, shift: str) -> list[str]:
    """Describes the standard augmentation of training."""
    if data.kind == "images":
        return [f"Augmentation of the data set itself: {shift}, {'' if data.flip else 'not '}mirrored at random.", ""]
    if data.train_views is None:
        return []
    return [f"Training drew one of {len(data.train_views)} views of each image in every epoch.", ""]


def _training(
    recipe: Mapping[str, Any], plan: Plan, data: Any, measured: Sequence[Mapping[str, Any]], setup: TrainingSetup
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
        f"{sum(seconds) / len(seconds):.0f} s each, {setup}; torch {version('torch')}. Every number is in {RECIPE}.",
        "",
    ]


def _test(data: Any, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [key for key in measured[0]["metrics"] if key.removeprefix("test/") in _MEANINGS]
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    served = " Everything here is of the calibrated probabilities." if "calibration" in measured[0] else ""
    rows = [
        f"| {_MEANINGS[key.removeprefix('test/')]} | "
        + " | ".join(_percent(run["metrics"][key]) for run in measured) + " |"
        for key in keys
    ]  # fmt: skip
    seeds = " | ".join(f"seed {run['seed']} (%)" for run in measured)
    costs = [
        f"{run['metrics']['test/expected_cost']:.4g}" for run in measured if "test/expected_cost" in run["metrics"]
    ]
    heads = [f"{what}, seed {run['seed']} (%)" for run in measured for what in ("recall", "precision")]
    rows_of_classes = [
        f"| {markdown_cell(name)} | {count} | "
        + " | ".join(rates(run, label, tested[label]) for run in measured)
        + " |"
        for label, (name, count) in enumerate(zip(data.class_names, data.counts.tolist(), strict=True))
    ]
    table = ["Recall is the share of a class's test images that are given this class; precision is the share of the "
             "images given a class that are of it, at the class frequencies of test. 95 % intervals by the number of "
             "these images.", "",
             f"| class | training images | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads),
             *rows_of_classes]  # fmt: skip
    part = f" ({part_of_classes(data)})" if not_tested(data) else ""
    return [
        "## Test",
        "",
        f"Accuracy (mean recall) on test{part}: {spread(measured)}. Nothing was chosen by it.{served}",
        "",
        f"| measure | {seeds} |",
        "|---|" + "---|" * len(measured),
        *rows,
        "",
        *([f"Expected cost of an image, by the matrix given: {', '.join(costs)}.", ""] if costs else []),
        *(table if data.classes <= SHOWN_CLASSES else [f"Recall and precision of every class are in {TABLE}."]),
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
    "flops_share": "computation, of that of all experts",
}


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _search_results(recipe: Mapping[str, Any], plan: Plan) -> list[str]:
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
    keys = ("calibration_error_uncalibrated", "calibrated_error", "temperature")
    if {*keys} <= set(fitted := found.get("calibration") or {}):
        before, after, temperature = (fitted[key] for key in keys)
        lines.append(
            f"Calibration error on val at equal class frequencies: {100 * before:.1f} %, and {100 * after:.1f} % after "
            f"calibration (T = {temperature:.2f})."
        )
    if mistakes := found.get("confusions"):
        lines.append(f"Largest confusions on val: {', '.join(map(_confusion, mistakes[:3]))}.")
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


def _confusion(found: Mapping[str, Any]) -> str:
    """A confusion of an exported recipe; its share is unknown where the record of a seed does not tell it."""
    share = found["share"].get("mean")
    often = f"at least {found['images']} images" if share is None else f"{_percent(share)} %"
    return f"{markdown_cell(found['true'])} → {markdown_cell(found['predicted'])} ({often})"


def _limits(recipe: Mapping[str, Any], plan: Plan, data: Any, setup: TrainingSetup) -> list[str]:
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
    if setup.precision == "bf16":
        lines.append("Trained and tested in bfloat16; the exported program computes in float32.")
    if setup.accumulate * setup.workers > 1:
        lines.append("BatchNorm saw parts of a batch, not whole ones.")
    return ["## Limits", "", *(f"- {line}" for line in lines), ""]


def stages_of(plan: Plan) -> str:
    """The plan in words, one line per stage."""
    return "\n".join(printable(str(Plan((stage,))), keep="") for stage in plan.stages)


def named(model: str) -> str:
    """The network's name without paths."""
    parsed = Name.parse(model)
    if file := parsed.options.get("pretrained"):
        return f"{parsed.kind} ({'from scratch' if file == 'no' else f'pretrained: {Path(file).name}'})"
    where, colon, function = parsed.kind.rpartition(":")
    return f"{Path(where).name}:{function}" if colon else parsed.kind


def not_tested(data: Any) -> list[str]:
    """Names of the classes without a test image, over which no accuracy on test is."""
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    return [name for name, count in zip(data.class_names, tested, strict=True) if not count]


def part_of_classes(data: Any, name: Any = markdown_cell) -> str:
    """Says over which classes an accuracy on test is averaged; "" if over all of them."""
    absent = not_tested(data)
    if not absent:
        return ""
    shown = ", ".join(map(name, absent[:10])) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    return f"over {data.classes - len(absent)} of {data.classes} classes; there is no test image of {shown}"


def spread(measured: Sequence[Mapping[str, Any]]) -> str:
    """Mean accuracy on test with its 95 % interval, inside [0, 100].

    Every seed is measured on the same test images, so that their number is part of the uncertainty beside the spread
    over seeds.
    """
    accuracies = [100 * run["metrics"]["test/accuracy"] for run in measured]
    mean, low, high = interval(accuracies)
    half = 196 * measured[0]["metrics"]["test/accuracy_error"]
    how = "from the number of test images; another seed may differ by more"
    if len(accuracies) > 1:
        half = math.hypot(half, (high - low) / 2)
        sd = statistics.stdev(accuracies)
        how = f"from the number of test images and {len(accuracies)} seeds, whose standard deviation is {sd:.1f}"
    return f"{mean:.1f} % (95 %: {max(0.0, mean - half):.1f} to {min(100.0, mean + half):.1f}, {how})"
