"""Accuracy against the worst classes: the recipes that no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import reader
from analysis.records.schema import FRESH, RecordError

ACCURACY = "final/accuracy"
HARMONIC_MEAN = "final/smoothed_harmonic_mean"
"""Of recalls (k + ½) / (n + 1): a class that is never right must not decide alone."""

LEAST_VAL_IMAGES = 50
"""Per class, below which the harmonic mean is no target: on 10 images per class it reads 2.7 ± 2.5 % where the truth
is 32 %."""

PICKS = ("accuracy", "harmonic_mean", "knee")
"""What a recipe may be picked from the front by."""


def too_few(what: str, data: str, val_counts: Sequence[int]) -> str | None:
    """Why the harmonic mean cannot be a target on this val; `None` where it can.

    >>> print(too_few("--pick knee", "digits-lt", [24] * 10))
    --pick knee needs at least 50 val images per class, because a few images decide a harmonic mean; digits-lt has 24: \
use accuracy, or data with a larger val
    >>> too_few("--pick knee", "cifar10-lt", [500] * 10) is None
    True
    """
    least = min(val_counts, default=0)
    if least >= LEAST_VAL_IMAGES:
        return None
    return (
        f"{what} needs at least {LEAST_VAL_IMAGES} val images per class, because a few images decide a harmonic mean; "
        f"{data} has {least}: use accuracy, or data with a larger val"
    )


def front(trials: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Recipes by accuracy and harmonic mean (smoothed recalls), with those on the Pareto front marked.

    A recipe is on the front if none that it is compared with is at least as good in both means and better in one. Where
    some recipes ran on fresh seeds (race, confirmation), only these are compared: the means of the others were looked
    at when they were chosen. Means are estimates, so a recipe whose intervals reach beyond the front may belong to it.

    Args:
        trials: Table of trials, as `analysis.records.reader` gives it; those that finished count.
        level: Confidence level of the intervals.

    Returns:
        One row per recipe, by falling accuracy: recipe, title, arm, seeds, accuracy, accuracy_low, accuracy_high,
        harmonic_mean, harmonic_mean_low, harmonic_mean_high (fractions; bounds are NaN for a single seed), on_front,
        knee (one recipe of the front at most). Empty where nothing has finished.

    Raises:
        RecordError: The trials were recorded without the smoothed harmonic mean.
    """
    columns = [
        "recipe", "title", "arm", "seeds", "accuracy", "accuracy_low", "accuracy_high", "harmonic_mean",
        "harmonic_mean_low", "harmonic_mean_high", "on_front", "knee",
    ]  # fmt: skip
    first = reader.ranking(trials, ACCURACY, level)
    if first.empty:
        return pd.DataFrame(columns=columns)
    if HARMONIC_MEAN not in trials:
        raise RecordError(f"no trial has {HARMONIC_MEAN!r}: the search was recorded by an older version")
    second = reader.ranking(trials, HARMONIC_MEAN, level)
    bounds = {"mean": "", "low": "_low", "high": "_high"}
    named = [
        table.rename(columns={old: name + new for old, new in bounds.items()})
        for table, name in ((first, "accuracy"), (second, "harmonic_mean"))
    ]
    table = named[0].merge(named[1][["recipe", *(f"harmonic_mean{new}" for new in bounds.values())]], on="recipe")
    table = table.sort_values(["accuracy", "harmonic_mean", "recipe"], ascending=[False, False, True])
    table = table.reset_index(drop=True)
    fresh = table["arm"].isin(FRESH).to_numpy()
    compared = np.flatnonzero(fresh if fresh.any() else np.ones(len(table), dtype=bool))
    points = table[["accuracy", "harmonic_mean"]].to_numpy(dtype=float)
    best = compared[non_dominated(points[compared])]
    table["on_front"] = np.isin(np.arange(len(table)), best)
    table["knee"] = np.arange(len(table)) == best[knee(points[best])]
    return table[columns]


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other point beats: is at least as large in every coordinate and larger in one.

    Args:
        points: (n, d); larger is better.

    Returns:
        (n,); equal points are all kept.

    >>> non_dominated(np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.4], [0.1, 0.9]])).tolist()
    [True, True, False, True]
    """
    beats = (points[:, None] >= points[None]).all(axis=2) & (points[:, None] > points[None]).any(axis=2)
    return np.asarray(~beats.any(axis=0))


def knee(points: NDArray[np.float64]) -> int:
    """The point of a front that is farthest above the line between its two ends, both coordinates scaled to [0, 1].

    Args:
        points: (n, 2), n at least 1, none dominated.

    Returns:
        Its position. A front without a bulge (one or two points, or none above the line) has its knee at the point
        with the largest sum of the scaled coordinates, the first of equals.

    Source: Das 1999, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection",
        doi:10.1007/BF01195985.

    >>> knee(np.array([[0.9, 0.1], [0.8, 0.7], [0.1, 0.9]]))
    1
    """
    low, width = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(width > 0, width, 1.0)
    # the ends are (1, 0) and (0, 1) then: the distance from their line grows with the sum
    return int(scaled.sum(axis=1).argmax())
