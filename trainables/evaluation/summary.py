"""From what an evaluation measured to the metrics of the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.deployment import Deployment

UNWEIGHTED = Deployment()
"""No prior and no costs: nothing is measured besides."""

ROUTING = ("experts_used", "flops_share")
"""What a head with routers spares: experts that an image takes in the mean, and the share of all computation."""

DIAGNOSTICS = ("logits_magnitude", "regularized_std")
"""Diagnostics of label over-smoothing, per class: their means are metrics, the record has every class."""


def per_class(last: Mapping[str, Any]) -> dict[str, list[float]]:
    """The diagnostics of label over-smoothing by class."""
    return {name: list(last[name]) for name in DIAGNOSTICS}


def summary(
    last: Mapping[str, Any], counts: Tensor, labels: Tensor, prefix: str, deployment: Deployment = UNWEIGHTED
) -> tuple[dict[str, float], list[float], list[int]]:
    """Metrics under a prefix, recalls per class and correctness per image from what an `Evaluator` returned.

    On images that are not balanced, "image_accuracy" is the share of them that is right, beside the mean recall.
    """
    recalls = torch.tensor(last["recalls"], dtype=torch.float64)
    totals = torch.bincount(labels.cpu(), minlength=len(recalls)).double()
    right = (recalls.nan_to_num() * totals).round()
    smoothed = metrics.smoothed_recalls(right, totals)
    found = metrics.summarise(recalls, counts.cpu(), totals)
    found["smoothed_harmonic_mean"] = metrics.summarise(smoothed, counts.cpu(), totals)["harmonic_mean"]
    true = labels.tolist()
    correct = [int(said == label) for said, label in zip(last["predicted"], true, strict=True)]
    if float(totals.min()) != float(totals.max()):
        found["image_accuracy"] = sum(correct) / len(correct)
    if deployment:
        found |= deployment.measure(last["recalls"], last["predicted"], true, counts.tolist())
    found["calibration_error"] = last["calibration_error"]
    found["loss"] = last["loss"]
    found |= {name: last[name] for name in ROUTING if name in last}
    for name in DIAGNOSTICS:
        found[name] = float(torch.tensor(last[name], dtype=torch.float64).nanmean())
    found["accuracy_error"] = metrics.mean_recall_error(right, totals)
    return {f"{prefix}/{name}": value for name, value in found.items()}, list(last["recalls"]), correct
