"""Estimates with their errors, and intervals of rates."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

ACCURACY_FLOOR = 1e-3
"""Fractions keep this distance from 0 and 1 before log-odds are taken."""


class Estimate(NamedTuple):
    """A contrast with its standard error and degrees of freedom, tested by Student's t.

    Args:
        value: The estimate.
        error: Standard error; NaN where unknown.
        df: Degrees of freedom of the error.
        images: The part of error² that further blocks do not lower, because val holds the same images in every block.
        blocks: Independent blocks behind it.
    """

    value: float
    error: float
    df: float
    images: float = 0.0
    blocks: int = 0

    @property
    def p(self) -> float:
        """Two-sided p-value of "the contrast is 0"."""
        return 2 * min(self.below(), self.above())

    def below(self, bound: float = 0.0) -> float:
        """One-sided p-value of "the contrast is at least the bound"."""
        return float(special.stdtr(self.df, (self.value - bound) / self.error))

    def above(self, bound: float = 0.0) -> float:
        """One-sided p-value of "the contrast is at most the bound"."""
        return float(special.stdtr(self.df, (bound - self.value) / self.error))

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided limits."""
        reach = float(special.stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.value - reach, self.value + reach

    def lower(self, level: float) -> float:
        """One-sided lower limit."""
        return float(self.value - special.stdtrit(self.df, level) * self.error)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)
"""Nothing was measured."""


def log_odds(fraction: Floats) -> Floats:
    """log(p / (1 − p)); fractions nearer to 0 or 1 than `ACCURACY_FLOOR` count as lying there.

    >>> log_odds(np.array([0.0, 0.5, 0.75])).round(3).tolist()
    [-6.907, 0.0, 1.099]
    """
    kept = np.clip(fraction, ACCURACY_FLOOR, 1 - ACCURACY_FLOOR)
    return np.asarray(special.logit(kept))


def wilson_interval(count: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a rate that is sound for few trials and for rates of 0 and 1.

    Args:
        count: Trials with the outcome; need not be whole.
        total: All trials, or their effective number; 0 gives NaN.
        level: Confidence level of the two-sided interval.

    Returns:
        Lower and upper limit in [0, 1].

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> print("{:.3f} {:.3f}".format(*wilson_interval(0, 5)))
    0.000 0.434
    """
    if math.isnan(count) or not total > 0:
        return math.nan, math.nan
    return wilson(count / total, float(special.ndtri(0.5 + level / 2)) ** 2 / total)


def wilson(share: float, spread: float) -> tuple[float, float]:
    """Wilson's limits of a share, in [0, 1]: (p + s/2 ± √(p(1 − p)s + s²/4)) / (1 + s).

    Args:
        share: p, in [0, 1].
        spread: s = q² / n for the normal quantile q and n trials, above 0.
    """
    centre = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # rounding must not leave the share outside
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))
