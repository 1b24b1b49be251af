"""Conflict tables by further metrics than the one that decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.conflicts.table import pairwise
from analysis.conflicts.verdicts import MARGIN
from analysis.recipes.pareto import HARMONIC_MEAN, LEAST_VAL_IMAGES

FURTHER = ("final/few", HARMONIC_MEAN)
"""Metrics by which pairs are judged besides the one that decides."""


class OtherMetrics(NamedTuple):
    """Conflict tables by further metrics; error rates hold for the metric that decides, these are a second look.

    Args:
        tables: Metric -> conflict table.
        skipped: Metric -> why it has none.
        notes: Metric -> what a reader of its table must know.
    """

    tables: Mapping[str, pd.DataFrame] = {}
    skipped: Mapping[str, str] = {}
    notes: Mapping[str, str] = {}


def other_metric_tables(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    *,
    primary: Iterable[Sequence[str] | str] = (),
) -> OtherMetrics:
    """Judges the pairs by few-shot accuracy and by the smoothed harmonic mean.

    Where trials have `recalls` and `val_counts` but no smoothed harmonic mean, it is computed from them, with recalls
    (k + ½)/(n + 1).

    Args:
        trials: Table of trials, see `pairwise`.
        metric: Metric that decides; it is not judged again.
        margin: Loss that would not matter, by every metric.
        primary: Declared pairs.
    """
    tables, skipped, notes = {}, {}, {}
    for name in FURTHER:
        if name == metric:
            continue
        rows = _with_smoothed_mean(trials) if name == HARMONIC_MEAN and name not in trials else trials
        if not (name in rows and rows[name].notna().any()):
            group = " (no class has fewer than 20 training images)" if name == "final/few" else ""
            skipped[name] = f"no trial has {name}{group}"
            continue
        try:
            tables[name] = pairwise(rows, name, margin, primary=primary)
        except ValueError as error:
            skipped[name] = str(error)
            continue
        fewest = min((min(counts) for counts in rows.get("val_counts", ()) if len(counts)), default=LEAST_VAL_IMAGES)
        if name == HARMONIC_MEAN and fewest < LEAST_VAL_IMAGES:
            notes[name] = f"A class has only {fewest} val images, so that few images decide this mean."
    return OtherMetrics(tables, skipped, notes)


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
    return trials.assign(**{HARMONIC_MEAN: means})
