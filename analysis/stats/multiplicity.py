"""Adjusted p-values for many tests at once; NaN is no test and belongs to no family."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def holm(p: Floats) -> Floats:
    """Holm's step-down adjustment: max over j ≤ i of (m − j + 1)·p(j), at most 1.

    Args:
        p: p-values, (m,); NaN where nothing was tested.

    Returns:
        Adjusted p-values, (m,); claiming those ≤ α keeps the family-wise error ≤ α.

    Source: Holm 1979 (Scand. J. Statist. 6).

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int(np.isfinite(p).sum())]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini and Hochberg's step-up adjustment: min over j ≥ i of m·p(j)/j, at most 1.

    Args:
        p: p-values, (m,); NaN where nothing was tested.

    Returns:
        Adjusted p-values, (m,); claiming those ≤ q keeps the false discovery rate ≤ q.

    Source: Benjamini & Hochberg 1995 (JRSS B 57); computed by scipy.

    >>> benjamini_hochberg(np.array([0.01, 0.04, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known], method="bh")
    return adjusted
