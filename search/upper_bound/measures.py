"""Upper bound and relative accuracy of a method, from accuracies on long-tailed and on balanced data.

    A_u = max(accuracy of plain cross-entropy on the balanced set, accuracy of the method on the balanced set)
    A_r = A_t / A_u,   A_t the accuracy of the method on the long-tailed set

The larger of two noisy means is on average larger than the larger of the two true values: A_u is biased upwards, A_r
downwards.

Source: Zhang, Kang, Hooi, Yan, Feng 2023, "Deep Long-Tailed Learning: A Survey", TPAMI, arXiv:2110.04596, section 4.
Differs: every accuracy is a mean over seed blocks and has an interval; accuracies are those of val.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records.reader import mean_interval
from analysis.stats.intervals import UNKNOWN, Estimate

LEVEL = 0.95
"""Of all intervals: each its own, not over all methods together."""

METRIC = "final/accuracy"

BIASED = "upper bound, the larger of two means (biased upwards)"
"""Head of a column of upper bounds."""

Interval = tuple[float, float, float]
"""Value, lower and upper limit; NaN where unknown."""


@dataclass(frozen=True)
class Measured:
    """The two measures of a method; fractions.

    Args:
        title: The method.
        accuracy: A_t.
        balanced: The accuracy of the method on the balanced set.
        upper: A_u.
        relative: A_r.
        by_itself: Whether the method's own accuracy is the upper bound, and not that of plain cross-entropy; `None`
            where either is unknown, and with them the bound.
        paired: Whether both trainings share their seed blocks, so that the error of A_r is paired.
        chosen: Whether the method was chosen by `accuracy`, which is then biased upwards.
    """

    title: str
    accuracy: Interval
    balanced: Interval
    upper: Interval
    relative: Interval
    by_itself: bool | None
    paired: bool
    chosen: bool = False


def measured(
    title: str, long_tailed: pd.DataFrame, balanced: pd.DataFrame, plain_balanced: pd.DataFrame, chosen: bool = False
) -> Measured:
    """The two measures of a method, from trials with "seed" and `METRIC`, one for each seed block.

    Args:
        title: The method.
        long_tailed: Its trials on the long-tailed set.
        balanced: Its trials on the balanced set.
        plain_balanced: The trials of plain cross-entropy on the balanced set.
        chosen: Whether the method was chosen by its accuracy on the long-tailed set.
    """
    unknown = (math.nan,) * 3
    accuracy, own, plain = (mean_interval(each, METRIC, LEVEL) for each in (long_tailed, balanced, plain_balanced))
    if math.isnan(own[0]) or math.isnan(plain[0]):
        return Measured(title, accuracy, own, unknown, unknown, None, False, chosen)
    by_itself = own[0] > plain[0]
    found, paired = ratio(_by_seed(long_tailed), _by_seed(balanced if by_itself else plain_balanced))
    low, high = found.interval(LEVEL)
    relative = (found.value, low if math.isnan(low) else max(0.0, low), high)
    return Measured(title, accuracy, own, own if by_itself else plain, relative, by_itself, paired, chosen)


def ratio(above: Mapping[int, float], below: Mapping[int, float]) -> tuple[Estimate, bool]:
    """Ratio of two means over seed blocks by the delta method, and whether it is paired.

    Over common blocks the error is that of the mean of (a_b − r b_b) / mean b; without two common blocks the errors of
    the two means are taken as independent.

    >>> found, paired = ratio({0: 0.4, 1: 0.6}, {0: 0.8, 1: 1.2})
    >>> found.value, found.error, paired
    (0.5, 0.0, True)
    """
    common = [block for block in above if block in below]
    if len(common) > 1:
        a, b = (np.array([values[block] for block in common]) for values in (above, below))
        value = float(a.mean() / b.mean())
        return Estimate(value, _error((a - value * b) / b.mean()), len(common) - 1, blocks=len(common)), True
    if not above or not below:
        return UNKNOWN, False
    first, second = (np.array(list(values.values())) for values in (above, below))
    value = float(first.mean() / second.mean())
    error = math.hypot(_error(first), value * _error(second)) / float(second.mean())
    blocks = min(len(first), len(second))
    return Estimate(value, error, blocks - 1, blocks=blocks), False


def _by_seed(trials: pd.DataFrame) -> dict[int, float]:
    return dict(zip(trials["seed"].tolist(), trials[METRIC].tolist(), strict=True))


def _error(sample: NDArray[np.float64]) -> float:
    return float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else math.nan


def percent(found: Interval) -> str:
    """An interval in percent; "–" where nothing is known.

    >>> percent((0.5, 0.4, 0.61)), percent((0.5, math.nan, math.nan)), percent((math.nan,) * 3)
    ('50.0 (40.0 to 61.0)', '50.0 (no interval)', '–')
    """
    value, low, high = (100 * number for number in found)
    if math.isnan(low):
        return "–" if math.isnan(value) else f"{value:.1f} (no interval)"
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def note(one: Measured) -> str:
    """What the upper bound of a method is, and what is missing, in words."""
    if one.by_itself is None:
        whose = "of the recipe" if math.isnan(one.balanced[0]) else "of the baseline"
        return f"bound unknown: no training {whose} on balanced data has finished"
    bound = "its own" if one.by_itself else "the baseline's"
    return f"bound: {bound}" + ("" if one.paired else "; other seed blocks, not paired")
