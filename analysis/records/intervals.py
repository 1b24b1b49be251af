"""Intervals of a few fractions: one value of each seed, measured on a few images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from analysis.stats.intervals import wilson


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided t interval of a few values; the bounds are NaN for fewer than two.

    >>> [round(x, 4) for x in interval([0.60, 0.62, 0.64])]
    [0.62, 0.5703, 0.6697]
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(array.mean())
    if array.size < 2:
        return mean, float("nan"), float("nan")
    half = float(special.stdtrit(array.size - 1, 0.5 + level / 2) * array.std(ddof=1) / np.sqrt(array.size))
    return mean, mean - half, mean + half


def bounded_interval(
    values: Sequence[float], level: float = 0.95, *, images: float = 0.0, same_images: bool = False
) -> tuple[float, float, float]:
    """Mean and two-sided interval of a few fractions, with limits in [0, 1].

    Wilson's interval with an effective number of images: n_eff / q² = m(1 − m) / h², where h is the half width of the
    t interval of the mean m, or of what the number of images alone allows where that says less. So seeds that agree by
    chance, or because they judge the same few images right, give no interval of width 0. For little scatter it equals
    `interval`.

    Args:
        values: One fraction of each seed.
        level: Coverage of the interval.
        images: Images that each value was measured on, see `effective_images`; 0 where unknown.
        same_images: Whether every seed was measured on the same ones, so that more seeds do not make them more.

    Returns:
        Mean, lower and upper limit. The limits are NaN for fewer than two values, and for equal ones of unknown images.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; effective size: Korn and Graubard 1998, Survey Methodology
        24, 193-201.
    Differs: the effective size is the smaller of two, not an estimate of the design effect.

    >>> [round(x, 3) for x in bounded_interval([0.02, 0.12, 0.03])]
    [0.057, 0.007, 0.336]
    >>> [round(x, 3) for x in interval([0.02, 0.12, 0.03])]
    [0.057, -0.08, 0.193]
    >>> [round(x, 3) for x in bounded_interval([1.0, 1.0], images=7)]
    [1.0, 0.785, 1.0]
    """
    mean, low, high = interval(values, level)
    if math.isnan(low):
        return mean, low, high
    half = (high - low) / 2
    # q² / n_eff; fractions that scatter have a mean inside (0, 1)
    spread = half**2 / (mean * (1 - mean)) if 0 < mean < 1 else 0.0
    if images:
        of_images = float(special.ndtri(0.5 + level / 2)) ** 2 / (images * (1 if same_images else len(values)))
        spread = spread + of_images if same_images else max(spread, of_images)
    if not spread:
        return mean, math.nan, math.nan
    return mean, *wilson(mean, spread)


def effective_images(value: float, error: float) -> float:
    """How many images measure a fraction with this standard error, 0 where the error is unknown.

    The N at which √(p(1 − p) / N) is the error, with p = (N · value + ½) / (N + 1), as the error is taken from smoothed
    recalls: a fraction of 1 does not mean that it is known exactly.

    >>> round(effective_images(0.8, 0.04)), round(effective_images(1.0, 0.1)), effective_images(0.8, float("nan"))
    (101, 6, 0.0)
    """
    if not error > 0 or not math.isfinite(value):
        return 0.0

    def lacking(log_images: float) -> float:
        images = math.exp(log_images)
        p = (images * value + 0.5) / (images + 1)
        return math.sqrt(p * (1 - p) / images) - error

    lowest, highest = math.log(1e-3), math.log(1e12)
    if lacking(lowest) < 0 or lacking(highest) > 0:
        return 0.0
    return math.exp(optimize.brentq(lacking, lowest, highest))


def difference_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided t interval of a few differences of fractions, cut to [−1, 1], where differences lie.

    >>> difference_interval([0.1, 0.9])[1:]
    (-1.0, 1.0)
    """
    mean, low, high = interval(values, level)
    # NaN stays, as no comparison with it holds
    return mean, -1.0 if low < -1 else low, 1.0 if high > 1 else high


def prediction_interval(
    values: Sequence[float], further: int = 1, level: float = 0.95, error: float = 0.0
) -> tuple[float, float]:
    """Where the mean of `further` fresh runs should fall, given the fractions of earlier runs.

    mean ± t(n − 1) · s · √(1/n + 1/further), cut to [0, 1], where fractions lie. With the standard error of one value
    by the number of its images, at least what that alone allows: values that agree by chance do not promise the next.

    >>> [round(x, 4) for x in prediction_interval([0.60, 0.62, 0.64])]
    [0.5206, 0.7194]
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return float("nan"), float("nan")
    scatter = float(special.stdtrit(array.size - 1, 0.5 + level / 2)) * float(array.std(ddof=1))
    of_images = float(special.ndtri(0.5 + level / 2)) * (error if error > 0 else 0.0)
    half = max(scatter, of_images) * float(np.sqrt(1 / array.size + 1 / further))
    return max(0.0, float(array.mean()) - half), min(1.0, float(array.mean()) + half)
