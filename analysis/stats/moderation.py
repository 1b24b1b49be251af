"""Variances that lend each other strength: empirical Bayes for many comparisons over few blocks.

Three to five blocks say little about a variance. With s² of each of G contrasts, d degrees of freedom each, and a prior
scaled inverse χ² with d₀ degrees of freedom,

    s̃² = (d₀ s̄² + d s²) / (d₀ + d),   t = estimate / √(s̃² / blocks)  with  min(d₀ + d, Σd)  degrees of freedom

d₀ comes from how far the G variances scatter: with e = log s² − ψ(d/2) + log(d/2), var(e) = mean ψ'(d/2) + ψ'(d₀/2).
Fewer than three variances have d₀ = 0: each contrast is tested by itself.

Differs from the source: variances are drawn towards their mean s̄² and not towards the prior's own scale, which lies
below it and makes the tests of the noisiest contrasts too bold; and d₀ is at most 8, because beyond that power hardly
grows while a single noisy contrast suffers.

Source: Smyth 2004 (doi 10.2202/1544-6115.1027), section 6.2; min(d₀ + d, Σd) as in the package limma.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

MOST_PRIOR_DF = 8.0
"""The largest weight of the other contrasts' variances beside a contrast's own."""


FEWEST = 3
"""Fewer variances than this say nothing about their scatter: each is taken as it is."""


class Prior(NamedTuple):
    """A scaled inverse χ² distribution of variances.

    Args:
        scale: s₀², the prior's scale.
        df: d₀, its degrees of freedom; infinite where the variances scatter no more than chance explains.
    """

    scale: float
    df: float


def fit_prior(variance: Floats, df: Floats) -> Prior:
    """The prior that the scatter of several variances suggests, by the moments of log s².

    Args:
        variance: s², (G,), above 0.
        df: Degrees of freedom of each, (G,), above 0.

    Returns:
        Scale and degrees of freedom; these are 0 for a single variance.

    >>> prior = fit_prior(np.array([1.0, 2.0, 4.0, 0.2]), np.full(4, 4.0))
    >>> print(f"{prior.scale:.3f} {prior.df:.2f}")
    0.998 2.85
    """
    if len(variance) < 2:
        return Prior(float(variance[0]) if len(variance) else math.nan, 0.0)
    e = np.log(variance) - special.psi(df / 2) + np.log(df / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, df / 2).mean())
    if excess <= 0:
        return Prior(float(variance.mean()), math.inf)
    half = trigamma_inverse(excess)
    return Prior(float(np.exp(e.mean() + special.psi(half) - np.log(half))), 2 * half)


def moderate(variance: Floats, df: Floats, floor: float = 0.0, most: float = MOST_PRIOR_DF) -> tuple[Floats, Floats]:
    """Moderated variances and their degrees of freedom; see the module.

    Args:
        variance: s², (G,).
        df: Degrees of freedom of each, (G,); 0 marks a variance that is unknown.
        floor: Smallest variance to believe, the resolution of what was measured.
        most: Bound of d₀.

    Returns:
        s̃² and degrees of freedom, (G,) each; NaN where a variance is unknown.

    >>> variance, df = moderate(np.array([1.0, 2.0, 4.0, 0.2]), np.full(4, 4.0))
    >>> print(variance.round(2), df.round(1))
    [1.33 1.92 3.08 0.87] [6.9 6.9 6.9 6.9]
    """
    known = df > 0
    moderated, total = np.full(len(variance), np.nan), np.full(len(variance), np.nan)
    if known.any():
        s2, d = np.maximum(variance[known], floor), df[known]
        prior = min(fit_prior(np.maximum(s2, 1e-300), d).df, most) if len(s2) >= FEWEST else 0.0
        moderated[known] = (prior * np.average(s2, weights=d) + d * s2) / (prior + d)
        total[known] = np.minimum(prior + d, d.sum())
    return moderated, total


def trigamma_inverse(value: float) -> float:
    """Solves ψ'(x) = value for x > 0 by Newton's method on 1/ψ', which is convex (Smyth 2004, appendix).

    >>> print(f"{trigamma_inverse(float(special.polygamma(1, 2.5))):.6f}")
    2.500000
    """
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-9 * x:
            break
    return x
