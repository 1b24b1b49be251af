"""Conflict tables by further metrics than the one that decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.conflicts.table import pairwise
from analysis.conflicts.verdicts import MARGIN

FEW_VAL_IMAGES = 50
"""Below this many val images of a class, means that the lowest recalls decide are noise."""

SMOOTHED = "final/smoothed_harmonic_mean"


class Tables(dict[str, pd.DataFrame]):
    """Tables of pairs by metric.

    Args:
        primary: The metric whose table decides; the error rates hold for it, the others are a second look.
    """

    def __init__(self, primary: str) -> None:
        super().__init__()
        self.primary = primary
        self.skipped: dict[str, str] = {}
        """Metric -> why it has no table."""
        self.notes: dict[str, str] = {}
        """Metric -> what a reader of its table must know."""


def tables(
    trials: pd.DataFrame,
    margin: float = MARGIN,
    primary_metric: str = "final/accuracy",
    *,
    others: Sequence[str] = ("final/few", SMOOTHED),
    **options: Any,
) -> Tables:
    """Judges the pairs by the primary metric, by few-shot accuracy and by the smoothed harmonic mean.

    Where trials have `recalls` and `val_counts` but no smoothed harmonic mean, it is taken from them, with recalls
    (k + ½)/(n + 1).

    Args:
        trials: Table of trials, see `pairwise`.
        margin: Loss that would not matter, by every metric.
        primary_metric: The one by which pairs are called conflicts; must be there.
        others: Further metrics; one that is missing is skipped, with the reason.
        **options: Of `pairwise`.

    Raises:
        ValueError: The pairs cannot be judged by the primary metric.
    """
    found = Tables(primary_metric)
    found[primary_metric] = pairwise(trials, primary_metric, margin, **options)
    for metric in others:
        if metric == primary_metric:
            continue
        rows = trials
        if metric == SMOOTHED and metric not in trials.columns:
            rows = _with_smoothed_mean(trials)
        if not (metric in rows.columns and rows[metric].notna().any()):
            group = " (no class has fewer than 20 training images)" if metric == "final/few" else ""
            found.skipped[metric] = f"no trial has {metric}{group}"
            continue
        try:
            found[metric] = pairwise(rows, metric, margin, **options)
        except ValueError as error:
            found.skipped[metric] = str(error)
            continue
        if "harmonic" in metric and "val_counts" in rows.columns:
            fewest = min((min(counts) for counts in rows["val_counts"] if len(counts)), default=FEW_VAL_IMAGES)
            if fewest < FEW_VAL_IMAGES:
                found.notes[metric] = f"a class has only {fewest} val images, so that few images decide this mean"
    return found


def _with_smoothed_mean(trials: pd.DataFrame) -> pd.DataFrame:
    """The harmonic mean of (k + ½)/(n + 1) over classes, from recalls k/n; unchanged where these are unknown."""
    if not {"recalls", "val_counts"} <= set(trials.columns):
        return trials
    means = []
    for recalls, counts in zip(trials["recalls"], trials["val_counts"], strict=True):
        r, n = np.asarray(recalls, dtype=float), np.asarray(counts, dtype=float)
        known = np.isfinite(r) & (n > 0) if len(r) and len(r) == len(n) else np.zeros(0, dtype=bool)
        smoothed = (np.round(r[known] * n[known]) + 0.5) / (n[known] + 1) if known.any() else np.zeros(0)
        means.append(len(smoothed) / float((1 / smoothed).sum()) if len(smoothed) else math.nan)
    return trials.assign(**{SMOOTHED: means})
