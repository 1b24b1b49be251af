"""What a search maximises: accuracy, the harmonic mean of the recalls, or both.

The harmonic mean hangs on the worst classes. It is taken over smoothed recalls, (k + ½) / (n + 1), and refused where
a few images decide it: below 50 val images per class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

from analysis.recipes.pareto import ACCURACY, HARMONIC_MEAN, too_few
from search.settings import SettingsError

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"accuracy": (ACCURACY,), "harmonic_mean": (HARMONIC_MEAN,), "both": (ACCURACY, HARMONIC_MEAN)}
)
"""Objective to the final metrics that it consists of."""


def values(metrics: Mapping[str, float], objective: str) -> list[float] | None:
    """What Optuna is told: one value for each part of the objective; `None` where the trial has none.

    >>> values({"final/accuracy": 0.7, "final/smoothed_harmonic_mean": 0.5}, "both")
    [0.7, 0.5]
    """
    names = PARTS[objective]
    return [metrics[name] for name in names] if all(name in metrics for name in names) else None


def scalar(metrics: Mapping[str, float], objective: str) -> float:
    """What recipes are ranked by in the race: the mean of the objective's parts.

    >>> round(scalar({"final/accuracy": 0.7, "final/smoothed_harmonic_mean": 0.5}, "both"), 3)
    0.6
    """
    return fmean(metrics[name] for name in PARTS[objective])


def check_objective(objective: str, data: str, val_counts: Sequence[int]) -> None:
    """Refuses a target that a few images would decide.

    Raises:
        SettingsError: Fewer than 50 val images in some class, for anything but accuracy.
    """
    refused = None if objective == "accuracy" else too_few(f"--objective {objective}", data, val_counts)
    if refused is not None:
        raise SettingsError(refused)
