"""What a conflict table can show, before anything is trained: the smallest harm, interaction and margin.

With σ the noise of one trial within its block, r blocks of every cell and e further blocks of the baseline and the k
labels alone (K = k + 1 cells), the two-way fit of `analysis.conflicts` has

    var H = σ²·[(1 + 1/K)/r + (1 − 1/K)/(r + e)]        a harm, 2σ²/r at e = 0
    var I = σ²·[(1 + 1/K)/r + (3 − 1/K)/(r + e)]        the interaction, 4σ²/r at e = 0

in all N = 2ᵏ combinations a block, where each of the four cells is an average of N/4 runs,

    var H = 8σ²/(N·r)        var I = 16σ²/(N·r)

and in a fraction of these, whose fit gives the cells with the other tricks off,

    var H = 4kσ²/(N·r)       var I = 16σ²/(N·r)

Source: the variances follow from the normal equations; noncentral t as in Cohen 1988, "Statistical Power Analysis".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

PRIOR_DF = 8.0  # what the other cells' variance weighs beside a cell's own, see `analysis.conflicts`


class Detectable(NamedTuple):
    """The smallest effects that are shown with the wanted power, as fractions (0.01 is one point).

    Args:
        harm: Of adding one trick to the other.
        interaction: Of two tricks.
        compatible: Smallest margin for which a pair without harm is shown to be compatible.
    """

    harm: float
    interaction: float
    compatible: float


class PowerError(ValueError):
    """A design whose power cannot be told."""


def detectable(
    *,
    n_pairs: int,
    blocks: int,
    extra_blocks: int = 0,
    sd: float,
    level: float = 0.95,
    n_labels: int,
    factorial_runs: int | None = None,
    primary: bool = False,
    power: float = 0.8,
    q: float = 0.10,
) -> Detectable:
    """The smallest effects that a design shows.

    A pair is taken to be the only real one of its family, the hardest case: its p-value must then pass α/n_pairs
    (primary, Holm) or min(α, q/n_pairs) (the matrix, Benjamini-Hochberg), and a harm twice that, as it is the
    clearer one of two. "Compatible" needs both harms' lower limits at once and no correction.

    Args:
        n_pairs: Pairs that are corrected together, ≥ 1: the primary pairs, or all others.
        blocks: r, blocks in which every cell of the pair is run, ≥ 2.
        extra_blocks: e, further blocks of the baseline and of each label alone.
        sd: σ, deviation of one trial within its block, a fraction > 0.
        level: Of the two-sided intervals; claims are tested one-sided at α = 1 − level.
        n_labels: k, screened labels, ≥ 2.
        factorial_runs: N, runs of one block in a two-level fraction; None: baseline, singles and pairs.
        primary: Whether the pair was declared.
        power: Probability with which the effect is to be shown.
        q: False discovery rate of the matrix.

    Raises:
        PowerError: A number out of its range.

    >>> few = detectable(n_pairs=15, blocks=3, sd=0.005, n_labels=6)
    >>> print(" ".join(f"{100 * value:.2f}" for value in few))
    1.60 1.99 1.19
    >>> fraction = detectable(n_pairs=15, blocks=3, sd=0.005, n_labels=6, factorial_runs=32)
    >>> print(" ".join(f"{100 * value:.2f}" for value in fraction))
    0.92 0.69 0.73
    """
    _check(n_pairs, blocks, extra_blocks, sd, level, n_labels, factorial_runs, power, q)
    var_harm, var_interaction, correlation = _variances(blocks, extra_blocks, n_labels, factorial_runs)
    per_level = 1 if factorial_runs is None else factorial_runs // 4
    cells = 1 + n_labels + math.comb(n_labels, 2) if factorial_runs is None else factorial_runs
    residual = (cells - 1) * (blocks - 1) + (0 if factorial_runs else n_labels * extra_blocks)
    own = PRIOR_DF + blocks - 1
    df_harm, df_interaction = (float(min(residual, n * per_level * own)) for n in (2, 4))
    alpha = (1 - level) / n_pairs if primary else min(1 - level, q / n_pairs)
    harm = _noncentrality(df_harm, alpha / 2, power) * math.sqrt(var_harm)
    interaction = _noncentrality(df_interaction, alpha, power) * math.sqrt(var_interaction)
    margin = _both_shown(df_harm, 1 - level, power, correlation) * math.sqrt(var_harm)
    return Detectable(sd * harm, sd * interaction, sd * margin)


def _variances(blocks: int, extra: int, labels: int, runs: int | None) -> tuple[float, float, float]:
    """Variance of a harm and of the interaction at σ = 1, and the correlation of the two harms."""
    if runs is not None:
        # the harms of a fraction have the pair's own term in common: 4σ²/(N·r) of 4kσ²/(N·r)
        whole = runs >= 2**labels
        return (8 if whole else 4 * labels) / (runs * blocks), 16 / (runs * blocks), 0.5 if whole else 1 / labels
    core = labels + 1
    both, alone = (1 + 1 / core) / blocks, 1 / (blocks + extra)
    harm = both + (1 - 1 / core) * alone
    return harm, both + (3 - 1 / core) * alone, (both - alone / core) / harm


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


def _check(
    n_pairs: int,
    blocks: int,
    extra: int,
    sd: float,
    level: float,
    labels: int,
    runs: int | None,
    power: float,
    q: float,
) -> None:
    for name, value, least in (
        ("n_pairs", n_pairs, 1), ("blocks", blocks, 2), ("extra_blocks", extra, 0), ("n_labels", labels, 2),
    ):  # fmt: skip
        if value < least:
            raise PowerError(f"{name} must be at least {least}, got {value}")
    if not sd > 0:
        raise PowerError(f"sd is the deviation of one trial within its block, a fraction above 0, got {sd}")
    if runs is not None and (runs < 8 or runs & (runs - 1)):
        raise PowerError(f"factorial_runs must be a power of 2 from 8 on, got {runs}")
    for name, share, low in (("level", level, 0.5), ("power", power, 0.5), ("q", q, 0.0)):
        if not low < share < 1:
            raise PowerError(f"{name} is a fraction in ({low:g}, 1), got {share}")
