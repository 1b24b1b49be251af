"""Upper bound and relative accuracy of a method, from accuracies on long-tailed and on balanced data.

    A_u = max(accuracy of plain cross-entropy on the balanced set, accuracy of the method on the balanced set)
    A_r = A_t / A_u,   A_t the accuracy of the method on the long-tailed set

Source: Zhang, Kang, Hooi, Yan, Feng 2023, "Deep Long-Tailed Learning: A Survey", TPAMI, arXiv:2110.04596, section 4.
Differs: every accuracy is a mean over seed blocks and has an interval; accuracies are those of val.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.stats.intervals import UNKNOWN, Estimate

Values = Mapping[int, float]
"""Seed block to accuracy."""


@dataclass(frozen=True)
class Measured:
    """The two measures of a method; fractions.

    Args:
        title: The method.
        accuracy: A_t.
        balanced: The accuracy of the method on the balanced set.
        upper: A_u.
        relative: A_r.
        by_itself: Whether the method's own accuracy is the upper bound, and not that of plain cross-entropy.
        paired: Whether both trainings share their seed blocks, so that the error of A_r is paired.
    """

    title: str
    accuracy: Estimate
    balanced: Estimate
    upper: Estimate
    relative: Estimate
    by_itself: bool
    paired: bool


def measured(title: str, long_tailed: Values, balanced: Values, plain_balanced: Values) -> Measured:
    """The two measures of a method.

    Args:
        title: The method.
        long_tailed: Its accuracies on the long-tailed set.
        balanced: Its accuracies on the balanced set.
        plain_balanced: Those of plain cross-entropy on the balanced set.
    """
    own, plain = mean(balanced), mean(plain_balanced)
    by_itself = not own.value < plain.value
    upper = balanced if by_itself else plain_balanced
    relative, paired = ratio(long_tailed, upper)
    return Measured(title, mean(long_tailed), own, mean(upper), relative, by_itself, paired)


def mean(values: Values) -> Estimate:
    """Mean over seed blocks with Student's error, unknown for one block."""
    sample = np.array(list(values.values()))
    if not len(sample):
        return UNKNOWN
    return Estimate(float(sample.mean()), _error(sample), len(sample) - 1, blocks=len(sample))


def ratio(above: Values, below: Values) -> tuple[Estimate, bool]:
    """Ratio of two means by the delta method, and whether it is paired.

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
    first, second = mean(above), mean(below)
    value = first.value / second.value
    error = math.hypot(first.error, value * second.error) / second.value
    return Estimate(value, error, min(first.df, second.df), blocks=min(first.blocks, second.blocks)), False


def _error(sample: NDArray[np.float64]) -> float:
    return float(sample.std(ddof=1) / math.sqrt(len(sample))) if len(sample) > 1 else math.nan
