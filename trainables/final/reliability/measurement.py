"""Measures a trained seed on test, once; before that, calibrates it on val where val was held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.deployment import Deployment
from trainables.evaluation import calibration
from trainables.evaluation.calibration import Calibration
from trainables.evaluation.summary import summary
from trainables.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Calibrated:
    """A calibration and what it was fitted on.

    Args:
        calibration: Temperature and exponent.
        shift: (C,) what is added to the scaled logits.
        val: "images"; and "before" and "after", the scores on val under the prior, "after" by halves that were not
            fitted on.
        limits: (C,) lowest probability at which an answer is accepted, `None` for a class whose answers never are;
            `None` for a model that does not abstain.
        risk: The largest accepted share of wrong answers; `None` for a model that does not abstain.
    """

    calibration: Calibration
    shift: Tensor
    val: dict[str, Any]
    limits: list[float | None] | None = None
    risk: float | None = None


def mean_of(values: Sequence[float]) -> float:
    """Mean of the values that are known; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def prior_of(deployment: Deployment, counts: Tensor) -> Tensor:
    """(C,) float64 probability of each class in deployment; the uniform one where none was given."""
    return torch.tensor(deployment.weights(counts.tolist(), [True] * len(counts)), dtype=torch.float64)


def calibrate(pipeline: Pipeline, deployment: Deployment, risk: float | None = None) -> Calibrated:
    """Fits on val.

    Args:
        pipeline: Finished, on data with val images.
        deployment: Its prior is the one that the probabilities are for.
        risk: Share of wrong answers among those accepted, for thresholds.
    """
    data = pipeline.data
    labels, counts = data.val_labels, data.counts
    z, prior = pipeline.val_logits(), prior_of(deployment, counts)
    weights = calibration.importance(labels, prior)
    unseen = calibration.cross_fitted(z, labels, counts, prior)
    fitted = calibration.fit(z, labels, counts)
    val = {
        "images": len(labels),
        "before": calibration.scores(z.softmax(dim=1), labels, weights),
        "after": calibration.scores(unseen, labels, weights),
    }
    limits = None if risk is None else calibration.thresholds(unseen, labels, weights, risk)
    return Calibrated(fitted, fitted.shift(counts.cpu(), prior), val, limits, risk)


def measure(pipeline: Pipeline, deployment: Deployment, calibrated: Calibrated | None = None) -> dict[str, Any]:
    """Measures a trained seed on test, with the calibration that is served.

    Returns:
        "metrics" and "recalls" (C,); "predicted" (C,), the number of test images assigned to each class, and
        "precisions" (C,), the share of them that belong to it, both at the class frequencies of test; "confusions", the
        largest ones as (true, predicted, images); "prior" (C,), that of deployment; "risk_coverage" under that prior,
        see `calibration.selective_risk`; and with a calibration "calibration": its numbers, and the scores on test
        before and after it.
    """
    data = pipeline.data
    last, z = pipeline.measured_on_test()
    labels, counts, prior = data.test_labels, data.counts, prior_of(deployment, data.counts)
    weights = calibration.importance(labels, prior)
    plain = z.softmax(dim=1)
    probabilities, found = plain, {}
    if calibrated is not None:
        probabilities = calibrated.calibration.probabilities(z, counts, prior)
        scores = calibration.scores(probabilities, labels, weights)
        before = calibration.scores(plain, labels, weights)
        predicted = probabilities.argmax(dim=1)
        last = last | {
            "predicted": predicted.tolist(),
            "recalls": metrics.recalls(predicted, labels, data.classes).tolist(),
            "loss": scores["loss"],
            "calibration_error": scores["calibration_error"],
        }
        found = {"calibration": _told(calibrated, {"before": before, "after": scores})}
        if calibrated.limits is not None:
            found["abstention"] = _abstention(probabilities, labels, weights, calibrated.limits, calibrated.risk)
    measured, recalls, _ = summary(last, counts, labels, "test", deployment)
    predicted = torch.tensor(last["predicted"], device=labels.device)
    given = torch.bincount(predicted, minlength=data.classes)
    right = torch.bincount(predicted[predicted == labels], minlength=data.classes)
    return {
        "metrics": measured,
        "recalls": recalls,
        "precisions": (right.double() / given.double()).tolist(),
        "predicted": given.tolist(),
        "confusions": calibration.confusions(predicted, labels, data.classes),
        "prior": prior.tolist(),
        "risk_coverage": calibration.selective_risk(probabilities, labels, weights),
        **found,
    }


def _told(calibrated: Calibrated, test: Mapping[str, Any]) -> dict[str, Any]:
    fitted = calibrated.calibration
    return {"temperature": fitted.temperature, "exponent": fitted.exponent, "val": calibrated.val, "test": test}


def _abstention(
    probabilities: Tensor, labels: Tensor, weights: Tensor, limits: Sequence[float | None], risk: float | None
) -> dict[str, Any]:
    """How often the answers to test images are accepted, and wrong then: in all, and by predicted class."""
    kept = calibration.accepted(probabilities, limits)
    predicted = probabilities.argmax(dim=1)
    classes, wrong = probabilities.shape[1], kept & (predicted != labels)
    w = weights[kept]
    total = float(w.sum())
    return {
        "risk": risk,
        "thresholds": list(limits),
        "coverage": total / float(weights.sum()),
        "wrong": float(weights[wrong].sum()) / total if total else math.nan,
        "images": total**2 / float(w.square().sum()) if total else 0.0,
        "accepted_images": torch.bincount(predicted[kept], minlength=classes).tolist(),
        "wrong_images": torch.bincount(predicted[wrong], minlength=classes).tolist(),
    }
