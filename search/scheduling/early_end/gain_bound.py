"""How much better than the best recipe the next proposals may be, by a Gaussian process: an upper bound of the gain.

TPE, which proposes, has densities of good and of other recipes and no estimate of a recipe's accuracy. So a Gaussian
process is fitted to what the study has tried, and judges what TPE would propose next. Both sides are true accuracies,
without the noise of a seed: the gain is max(0, best of the proposals − best of the tried), and its 90 % quantile over
joint draws from the process is the bound. The mean would not do, because most proposals gain nothing and a few gain a
lot. Early stopping is assumed to lose no good proposal, and the race to find the best one.

- Recipes: every choice one-hot, a choice that the recipe does not have as a value of its own; numbers scaled to [0, 1]
  as they are sampled. Two recipes that differ in c choices lie √c apart. The kernel is Matérn's with ν = 5/2.
- The noise is known, not fitted: the variance between seeds of the design's cells, divided by a recipe's number of
  seeds. A process that fits it can read the few good recipes as luck.
- How bad a bad recipe is says nothing of how good a good one may be, so low results are clipped as far below the
  median as the best lies above it. Stopped trials do not count, because their final accuracy is unknown.
- Signal variance and length scale are averaged over a grid, weighted by marginal likelihood: sixty trials do not
  determine them, and the single likeliest value may be a process without any signal, which expects no gain.

Source: the best of several proposals under a joint posterior as in q-EI, Ginsbourger et al. 2010,
doi:10.1007/978-3-642-10701-6_6; ending a search at a bound of a Gaussian process as in Makarova et al. 2022,
arXiv:2104.08166. Differs: theirs bounds the regret over the whole space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

Floats = NDArray[np.float64]

FEWEST = 8
"""Finished trials without which nothing is expected of a model."""

BEST = 64
"""Finished trials, the best by their results, among which the best recipe is looked for."""

SCALES = (1.0, 2.0, 4.0)
"""Length scales, in root choices."""

SIGNALS = 5
"""Signal variances of the grid."""

DRAWS = 512

CONFIDENCE = 0.9
"""Probability, by the model, with which the gain is at most what is returned."""

DECIMALS = 4
"""Of the result, so that other machines round to the same: a hundredth of a point."""


def gain_bound(
    tried: Sequence[FrozenTrial],
    proposed: Sequence[FrozenTrial],
    noise: Callable[[FrozenTrial], float],
    margin: float,
    seed: int,
) -> float:
    """Upper bound of the gain of some proposals over the best recipe that was tried.

    Args:
        tried: Trials of the study; those that have not finished do not count.
        proposed: Recipes that may come next.
        noise: Variance of a trial's result over seeds.
        margin: Difference that matters, a fraction; the smallest signal of the grid is a quarter of it.
        seed: Of the draws.

    Returns:
        The bound, a fraction; infinite where too little is known.
    """
    finished = [trial for trial in tried if trial.state == TrialState.COMPLETE]
    finished.sort(key=lambda trial: (-trial.values[0], trial.number))
    if len(finished) < FEWEST or not proposed:
        return math.inf
    results = np.array([trial.values[0] for trial in finished])
    limit = 2 * np.median(results) - results.max()
    results = np.maximum(results, limit)
    known = len(results)
    points = encoded([*finished, *proposed])
    variances = np.array([noise(trial) for trial in finished])
    compared = np.r_[: min(BEST, len(finished)), known : len(points)]
    best = min(BEST, len(finished))
    normal = np.random.default_rng(seed).standard_normal((DRAWS, len(compared)))
    weights, gains = [], []
    for signal in np.geomspace(margin / 4, max(2 * results.std(), margin), SIGNALS):
        for scale in SCALES:
            # the second kernel is the mean of all recipes, which is not known either
            kernel = ConstantKernel(signal**2) * Matern(scale, nu=2.5) + ConstantKernel(4 * results.var() + margin**2)
            process = GaussianProcessRegressor(kernel, alpha=variances, optimizer=None)
            process.fit(points[:known], results - results.mean())
            mean, covariance = process.predict(points[compared], return_cov=True)
            values, vectors = np.linalg.eigh(covariance)
            drawn = mean + normal @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
            gains.append(np.maximum(drawn[:, best:].max(1) - drawn[:, :best].max(1), 0.0))
            weights.append(process.log_marginal_likelihood_value_)
    likelihood = np.repeat(np.exp(np.array(weights) - max(weights)), DRAWS)
    every = np.concatenate(gains)
    order = np.argsort(every, kind="stable")
    share = np.cumsum(likelihood[order]) / likelihood.sum()
    return round(float(every[order][np.searchsorted(share, CONFIDENCE)]), DECIMALS)


def encoded(trials: Sequence[FrozenTrial]) -> Floats:
    """Recipes as points, (trials, features)."""
    choices: dict[str, BaseDistribution] = {}
    for trial in trials:
        choices |= trial.distributions
    columns: list[list[float]] = []
    for name, domain in sorted(choices.items()):
        if domain.single():
            continue
        drawn = [trial.params.get(name) for trial in trials]
        there = [name in trial.params for trial in trials]
        if isinstance(domain, CategoricalDistribution):
            # by its number, because a choice may be None
            numbers = [domain.to_internal_repr(one) if has else -1 for one, has in zip(drawn, there, strict=True)]
            for option in range(-1, len(domain.choices)):
                columns.append([math.sqrt(0.5) * (number == option) for number in numbers])
        else:
            low, high = _scaled(domain, domain.low), _scaled(domain, domain.high)
            columns.append(
                [(_scaled(domain, one) - low) / (high - low) if has else 0.5
                 for one, has in zip(drawn, there, strict=True)]
            )  # fmt: skip
    return np.array(columns, dtype=float).reshape(len(columns), len(trials)).T


def _scaled(domain: BaseDistribution, value: float) -> float:
    return math.log(value) if domain.log else float(value)
