"""The parts of the model card that say how far the model can be relied on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from analysis.stats.intervals import wilson_interval
from analysis.text import markdown_cell

MEASURED, TABLE = "metrics.json", "per_class.csv"
"""Names of the file with every number, and of the table of classes."""

SHOWN_CONFUSIONS = 10
"""Confusions on the card."""


def rates(run: Mapping[str, Any], label: int, images: int) -> str:
    """Recall and precision of a class, two cells."""
    return " | ".join(
        _with_interval(share, number)
        for share, number in ((run["recalls"][label], images), (run["precisions"][label], run["predicted"][label]))
    )


def _with_interval(share: float, images: float) -> str:
    low, high = wilson_interval(share * images, images)
    return "–" if math.isnan(share) else f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def largest_confusions(data: Any, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mistakes that the first seed makes most often on test."""
    run = measured[0]
    tested = torch.bincount(data.test_labels.cpu(), minlength=data.classes).tolist()
    rows = [
        f"| {markdown_cell(data.class_names[true])} | {markdown_cell(data.class_names[said])} | {images} | "
        f"{_with_interval(images / tested[true], tested[true])} |"
        for true, said, images in run["confusions"][:SHOWN_CONFUSIONS]
    ]
    table = [
        "| true class | predicted class | test images | share of the true class (%) |", "|---|---|---|---|", *rows,
    ]  # fmt: skip
    return [
        "## Largest confusions", "",
        *([f"Of seed {run['seed']}, on test; {MEASURED} has more.", "", *table] if rows else ["No mistake on test."]),
        "",
    ]  # fmt: skip


def calibration(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the probabilities can be trusted, and when to abstain."""
    run = measured[0]
    coverage = [
        f"| {100 * row['coverage']:.0f} | {row['confidence']:.3f} | {_with_interval(row['risk'], row['images'])} |"
        for row in run["risk_coverage"]
    ]
    return [
        "## Calibration", "",
        *_calibrated(measured), "",
        f"Share of wrong answers if the model only answers where it is most confident (seed {run['seed']}, on test, at "
        f"{_frequencies(run)}):", "",
        "| answered (%) | lowest probability | wrong (%) |", "|---|---|---|", *coverage, "",
        *_abstention(run),
    ]  # fmt: skip


def _calibrated(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    if "calibration" not in measured[0]:
        return [
            "The probabilities are the softmax of the network and were not calibrated, as no val was held out "
            "(`--calibrate` holds it out); their calibration error on test stands above."
        ]
    lines = [
        "p(y | x) ∝ π(y) · exp(z_y / T) / π_train(y)^a, with z the logits, T and a fitted on val, and π "
        f"{_frequencies(measured[0])}; {measured[0]['calibration']['val']['images']} val images. The predicted class "
        "is the most probable one under that prior and may differ from that of the bare network. For other class "
        "frequencies π', multiply by π'(y) / π(y) and divide by the sum. On val, each half is measured with the "
        "calibration fitted on the other half.",
        "",
        "| seed | T | a | calibration error, val (%) | on test (%) | loss, val | on test | accuracy on test (%) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in measured:
        told = run["calibration"]
        val, test = told["val"], told["test"]

        def both(of: Any, name: str, factor: float = 1.0, digits: int = 1) -> str:
            return f"{factor * of['before'][name]:.{digits}f} → {factor * of['after'][name]:.{digits}f}"

        lines.append(
            f"| {run['seed']} | {told['temperature']:.3f} | {told['exponent']:.3f} | "
            f"{both(val, 'calibration_error', 100)} | {both(test, 'calibration_error', 100)} | "
            f"{both(val, 'loss', digits=3)} | {both(test, 'loss', digits=3)} | {both(test, 'accuracy', 100)} |"
        )
    return lines


def _frequencies(run: Mapping[str, Any]) -> str:
    return "equal class frequencies" if max(run["prior"]) - min(run["prior"]) < 1e-9 else "the prior that was given"


def _abstention(run: Mapping[str, Any]) -> list[str]:
    found = run.get("abstention")
    if found is None:
        return []
    never = sum(threshold is None for threshold in found["thresholds"])
    some = (
        f" {never} of {len(found['thresholds'])} classes are never accepted: val has too few answers of them for that."
        if never
        else ""
    )
    return [
        "An answer is `accepted` if it reaches the threshold of its class, chosen on val so that, with 95 % confidence,"
        f" at most {100 * found['risk']:g} % of the accepted answers of that class are wrong.{some} On test "
        f"{100 * found['coverage']:.1f} % are accepted, and {_with_interval(found['wrong'], found['images'])} % of "
        f"these are wrong. {TABLE} has every class.",
        "",
    ]
