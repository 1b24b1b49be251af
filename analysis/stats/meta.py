"""Random-effects means: one contrast measured in several searches.

Searches i = 1 … k, on other data, imbalance, network or length, give an estimate y(i) with its standard error s(i). A
random-effects model, y(i) = μ + u(i) + e(i) with u of variance τ², asks what holds on average and how much searches
differ:

    Q = Σ (y(i) − ȳ)²/s(i)²,  I² = max(0, (Q − (k − 1))/Q)
    F = Q/(k − 1) / (1 + 2(k − 2)·h/(k² − 1)),  h = Σ (1 − w(i)/Σw)²/df(i),  w = 1/s²
      ~ F(k − 1, (k² − 1)/(3h)) where searches agree                                  (Welch)
    τ² by DerSimonian and Laird,  μ̂ = Σ w y / Σ w  with  w = 1/(s² + τ²)
    interval μ̂ ± t(k − 1)·√max(1, q)/√Σw,  q = Σ w (y − μ̂)²/(k − 1)      (Hartung, Knapp, Sidik, Jonkman)
    prediction for one more search: μ̂ ± t(k − 2)·√(τ² + var μ̂)             (k ≥ 3)

An s(i) of few degrees of freedom is itself an estimate: with 6 of them, Q read as χ²(k − 1) says in 11 % of cases that
four searches differ where they do not, Welch's F in 5 % (tests/analysis/test_other_searches.py).

Source: DerSimonian & Laird 1986 (Controlled Clinical Trials 7); Hartung & Knapp 2001 (Stat. Med. 20); the bound q ≥ 1:
Knapp & Hartung 2003 (Stat. Med. 22); F: Welch 1951 (Biometrika 38); prediction: Higgins, Thompson & Spiegelhalter 2009
(JRSS A 172); I²: Higgins & Thompson 2002 (Stat. Med. 21).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


class Pooled(NamedTuple):
    """One contrast over several searches; NaN where there are too few.

    Args:
        mean: μ̂.
        low: Lower limit of μ̂.
        high: Upper limit of μ̂.
        predicted_low: Lower limit of the prediction for one more search.
        predicted_high: Its upper limit.
        tau: Deviation between searches.
        i2: Share of the variance that is between searches, in [0, 1].
        q_p: P-value of "all searches agree", by Welch's F.
    """

    mean: float
    low: float
    high: float
    predicted_low: float
    predicted_high: float
    tau: float
    i2: float
    q_p: float


def pool(values: Floats, errors: Floats, df: Floats | None = None, level: float = 0.95) -> Pooled:
    """Random-effects mean of estimates with their standard errors.

    Args:
        values: (k,).
        errors: (k,), > 0.
        df: degrees of freedom of the errors, (k,); None: they are known exactly, and Q ~ χ²(k − 1).
        level: Confidence level of the two-sided intervals.

    >>> found = pool(np.array([-0.02, -0.03, -0.01]), np.array([0.005, 0.005, 0.005]))
    >>> print(" ".join(f"{value:.3f}" for value in found))
    -0.020 -0.045 0.005 -0.152 0.112 0.009 0.750 0.018
    """
    k = len(values)
    if k == 0:
        return Pooled(*[math.nan] * 8)
    fixed = 1 / errors**2
    if k == 1:
        return Pooled(float(values[0]), *[math.nan] * 7)
    centre = float(fixed @ values / fixed.sum())
    q = float(fixed @ (values - centre) ** 2)
    tau2 = max(0.0, (q - (k - 1)) / float(fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (errors**2 + tau2)
    mean = float(weights @ values / weights.sum())
    excess = max(1.0, float(weights @ (values - mean) ** 2) / (k - 1))
    variance = excess / float(weights.sum())
    reach = float(special.stdtrit(k - 1, (1 + level) / 2)) * math.sqrt(variance)
    further = math.nan
    if k >= 3:
        further = float(special.stdtrit(k - 2, (1 + level) / 2)) * math.sqrt(tau2 + variance)
    i2 = max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0
    unsure = 0.0 if df is None else float(((1 - fixed / fixed.sum()) ** 2 / df).sum())
    if unsure > 0:
        welch = q / (k - 1) / (1 + 2 * (k - 2) * unsure / (k**2 - 1))
        p = float(special.fdtrc(k - 1, (k**2 - 1) / (3 * unsure), welch))
    else:
        p = float(special.chdtrc(k - 1, q))
    return Pooled(mean, mean - reach, mean + reach, mean - further, mean + further, math.sqrt(tau2), i2, p)
