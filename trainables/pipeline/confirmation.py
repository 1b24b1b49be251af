"""What a trial records of its trained network besides its metrics: predictions, calibration, and the test split."""

from __future__ import annotations

from typing import Any

import torch

from trainables.evaluation import calibration
from trainables.evaluation.calibration import Calibration
from trainables.evaluation.summary import summary
from trainables.pipeline.pipeline import Pipeline


def decisions(pipeline: Pipeline) -> dict[str, Any]:
    """Which classes the last evaluation on val has predicted, and its largest confusions."""
    labels, classes = pipeline.data.val_labels.cpu(), pipeline.data.classes
    predicted = torch.tensor(pipeline.executor.state.last["predicted"])
    counts = torch.bincount(predicted, minlength=classes).tolist()
    mistakes = calibration.confusions(predicted, labels, classes)
    return {"predicted": counts, "confusions": [list(mistake) for mistake in mistakes]}


def calibrated(pipeline: Pipeline) -> tuple[dict[str, float], dict[str, Any], Calibration]:
    """What `calibration.on_val` returns, its metrics with the prefix "final/"; only when finished."""
    data = pipeline.data
    found, accepted, fitted = calibration.on_val(pipeline.val_logits(), data.val_labels, data.counts)
    return {f"final/{name}": value for name, value in found.items()}, accepted, fitted


def confirm(pipeline: Pipeline, fitted: Calibration) -> dict[str, float]:
    """Metrics on test, read once: of the network as it is, and before and after calibration."""
    last, logits = pipeline.measured_on_test()
    data = pipeline.data
    found = summary(last, data.counts, data.test_labels, "test", pipeline.deployment)[0]
    prior = torch.full((data.classes,), 1 / data.classes, dtype=torch.float64)
    probabilities = fitted.probabilities(logits, data.counts, prior)
    scores = calibration.before_and_after(logits.softmax(dim=1), probabilities, data.test_labels, prior)
    return found | {f"test/{name}": value for name, value in scores.items()}
