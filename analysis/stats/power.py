"""What a conflict table can show, before anything is trained: the smallest harm, interaction and margin.

With σ the noise of one trial within its block and r blocks of every cell, a difference of two cells has the variance
2σ²/r and the interaction 4σ²/r, with at most 8 + r − 1 degrees of freedom (`analysis.stats.moderation`).

Source: noncentral t as in Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from analysis.stats.alpha_spending import share_at
from analysis.stats.moderation import FEWEST, MOST_PRIOR_DF


class Detectable(NamedTuple):
    """The smallest effects that are shown with the wanted power, as fractions (0.01 is one point).

    Args:
        harm: Smallest loss by adding one trick to the other.
        interaction: Smallest interaction of two tricks.
        compatible: Smallest margin for which a pair without harm is shown to be safe to combine.
    """

    harm: float
    interaction: float
    compatible: float


class PowerError(ValueError):
    """Raised for a design whose power cannot be computed."""


def detectable(
    *,
    n_pairs: int,
    blocks: int,
    sd: float,
    primary: bool = False,
    look: int | None = None,
    level: float = 0.95,
    power: float = 0.8,
    q: float = 0.10,
) -> Detectable:
    """The smallest effects that a design of pairs shows.

    A pair is taken to be the only real one of its family, the hardest case: its p-value must then pass α/m (primary,
    Holm) or min(α, q/m) (the matrix, Benjamini-Hochberg) with m tests in the family. Two-sided tests; "safe to combine"
    needs both one-sided lower limits at once and no correction.

    Args:
        n_pairs: Pairs that are corrected together, ≥ 1: the primary pairs, or all others.
        blocks: r, blocks of every cell, ≥ 2.
        sd: σ, deviation of one trial within its block, a fraction > 0.
        primary: Whether the pair was declared.
        look: Number of the look, where further blocks may follow.
        level: Confidence level of the two-sided intervals.
        power: Probability with which the effect is to be shown.
        q: False discovery rate of the matrix.

    Raises:
        PowerError: A number out of its range.

    >>> found = detectable(n_pairs=15, blocks=5, sd=0.005)
    >>> print(" ".join(f"{100 * value:.2f}" for value in found))
    1.46 1.88 0.94
    """
    _check(n_pairs, blocks, sd, level, power, q)
    alpha, rate = share_at(look, primary) * (1 - level), share_at(look, primary) * q
    harm, interaction = sd * math.sqrt(2 / blocks), sd * math.sqrt(4 / blocks)

    def reach(tests: int) -> float:
        threshold = alpha / tests if primary else min(alpha, rate / tests)
        return _noncentrality(_df(blocks, tests), threshold / 2, power)

    margin = _both_shown(_df(blocks, 2 * n_pairs), 1 - level, power, 0.5)
    return Detectable(harm * reach(2 * n_pairs), interaction * reach(n_pairs), harm * margin)


def _df(blocks: int, contrasts: int) -> float:
    """Degrees of freedom where all contrasts of a kind scatter alike."""
    own = blocks - 1.0
    return own if contrasts < FEWEST else min(MOST_PRIOR_DF + own, contrasts * own)


def _noncentrality(df: float, alpha: float, power: float) -> float:
    """δ with P(t'(df, δ) > t(1 − α)) = power."""
    return float(special.nctdtrinc(df, 1 - power, special.stdtrit(df, 1 - alpha)))


def _both_shown(df: float, alpha: float, power: float, correlation: float) -> float:
    """δ with P(both of two equal, correlated statistics exceed t(1 − α)) = power.

    The two share their estimate of σ, so the probability is an average over s/σ = √(χ²(df)/df).
    """
    critical = float(special.stdtrit(df, 1 - alpha))
    spread = np.sqrt(stats.chi2.ppf((np.arange(32) + 0.5) / 32, df) / df)
    pair = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]])

    def shortfall(shift: float) -> float:
        reach = shift - critical * spread
        return float(np.mean(pair.cdf(np.column_stack([reach, reach])))) - power

    return float(optimize.brentq(shortfall, 0.0, critical + 50, xtol=1e-4))


def _check(n_pairs: int, blocks: int, sd: float, level: float, power: float, q: float) -> None:
    for name, value, least in (("n_pairs", n_pairs, 1), ("blocks", blocks, 2)):
        if value < least:
            raise PowerError(f"{name} must be at least {least}, got {value}")
    if not sd > 0:
        raise PowerError(f"sd is the deviation of one trial within its block, a fraction above 0, got {sd}")
    for name, share, low in (("level", level, 0.5), ("power", power, 0.5), ("q", q, 0.0)):
        if not low < share < 1:
            raise PowerError(f"{name} is a fraction in ({low:g}, 1), got {share}")
