"""Around the winner: what may be removed from it, what depends on what, and the path from the baseline up to it.

The search runs the winner with some of its tricks removed, all cells on the same fresh seed blocks (arm "around",
`tricks` = the removable labels that are on, `context` = "around:<recipe>"). With y(c, s) the accuracy of a cell on
block s and W all tricks:

    loss of removing t      L(t) = mean over s of  y(W, s) − y(W − t, s)
    dependency of t and u   D(t, u) = mean over s of  y(W, s) − y(W − t, s) − y(W − u, s) + y(W − t − u, s)

D above 0: the two are worth more beside each other; below 0: one stands in for the other. Three to five blocks say
little about a variance, so the contrasts of one kind lend each other theirs: s̃² = (d₀ s₀² + d s²) / (d₀ + d), with
s₀² and d₀ (at most 8) estimated from the spread of the variances; t with d₀ + d degrees of freedom. As all of them
hold the winner's own noise they know a little less than that: on three blocks 95 % intervals hold 92 to 94 %.

The path goes down greedily from the winner, at each step to the best of the cells that were run one trick below, and
is read from the baseline up. Its steps were chosen on the blocks that measure them: what a step adds may look a
little smaller than it is.

Source: Smyth 2004 (doi 10.2202/1544-6115.1027), section 6.2, for s₀² and d₀; Holm 1979 (Scand. J. Statist. 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from analysis.record import NUMBERS, choosable

Cell: TypeAlias = frozenset[str]
Values: TypeAlias = Mapping[Cell, Mapping[int, float]]

ARM = "around"
PRIOR_DF_MAX = 8.0  # as in analysis.conflicts
DEVIATION_FLOOR = 1e-3  # a tenth of a point: identical cells are no evidence

NEEDED, REMOVABLE, UNKNOWN = "needed", "may be removed", "unknown"

REMOVAL_COLUMNS = (
    "removed", "n_seeds", "mean", "loss", "loss_low", "loss_high", "p_value", "adjusted_p", "word",
    "dependency", "dependency_low", "dependency_high", "depends",
)  # fmt: skip
PATH_COLUMNS = (
    "step", "added", "tricks", "recipe", "n_seeds", "mean", "low", "high", "gain", "gain_low", "gain_high",
    "total", "total_low", "total_high",
)  # fmt: skip


def removals(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = 0.005,
    *,
    winner: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """What the winner loses without each of its tricks, and without two of them.

    Args:
        trials: Table of trials; rows of the arm "around" are read.
        metric: Column of the val split, a fraction.
        margin: Loss that would not matter, a fraction.
        winner: Id of the recipe; that of the latest trial where absent.
        level: Of the two-sided intervals.

    Returns:
        One row per removal, single tricks first, then pairs; within these the smallest loss first. `removed` is a
        tuple of labels. `adjusted_p` is Holm's over the rows of its kind, of the one-sided test that there is a loss.
        `word`: "needed" (a loss is shown), "may be removed" (a loss as large as the margin is excluded, one-sided),
        "unknown". Of pairs also the dependency, and `depends`: "worth more together", "one stands in for the other"
        or "". Fractions. Empty where nothing was run around a winner.

    Raises:
        ValueError: The metric is one of the test split.

    >>> rows = [{"arm": "around", "context": "around:w", "outcome": "finished", "started": 0.0, "recipe": "r",
    ...          "seed": seed, "tricks": on, "final/accuracy": 0.5 + 0.1 * ("a" in on) + 0.01 * seed * len(on)}
    ...         for seed in range(3) for on in [("a", "b"), ("a",), ("b",), ()]]
    >>> removals(pd.DataFrame(rows))[["removed", "loss", "word"]].round(3).to_string(index=False).splitlines()[1:3]
    ['   (b,)  0.01 unknown', '   (a,)  0.11  needed']
    """
    values, _ = _read(trials, metric, winner)
    if not values:
        return pd.DataFrame(columns=list(REMOVAL_COLUMNS))
    whole = max(values, key=len)
    singles = {cell: whole - cell for cell in values if is_step(whole, cell) and whole - cell != {NUMBERS}}
    roots = {min(gone, key=len): cell for cell, gone in singles.items()}
    table = [
        *_rows({(unit,): {whole: 1, cell: -1} for unit, cell in roots.items()}, values, margin, level),
    ]
    pairs: dict[tuple[str, ...], dict[Cell, int]] = {}
    losses: dict[tuple[str, ...], dict[Cell, int]] = {}
    for a, b in combinations(sorted(roots), 2):
        both = roots[a] & roots[b]
        if both in values and both not in (roots[a], roots[b]):
            losses[a, b] = {whole: 1, both: -1}
            pairs[a, b] = {whole: 1, roots[a]: -1, roots[b]: -1, both: 1}
    found = dict(zip(pairs, _contrasts(list(pairs.values()), values, level), strict=True))
    for row in _rows(losses, values, margin, level):
        mean, low, high, *_ = found[row["removed"]]
        depends = "worth more together" if low > 0 else "one stands in for the other" if high < 0 else ""
        table.append(row | {"dependency": mean, "dependency_low": low, "dependency_high": high, "depends": depends})
    return pd.DataFrame(table, columns=list(REMOVAL_COLUMNS))


def path(
    trials: pd.DataFrame, metric: str = "final/accuracy", *, winner: str | None = None, level: float = 0.95
) -> pd.DataFrame:
    """The steps from the baseline up to the winner, each with real runs.

    Args:
        trials: Table of trials; rows of the arm "around" are read.
        metric: Column of the val split, a fraction.
        winner: Id of the recipe; that of the latest trial where absent.
        level: Of the two-sided intervals.

    Returns:
        One row per step, the baseline (step 0) first: what was `added`, all `tricks` that are on, mean with a t
        interval, the `gain` over the step before and the `total` over the baseline, both paired by seed. "numbers"
        stands for the winner's learning rates, decays and lengths. Empty where the path does not reach the baseline.

    Raises:
        ValueError: The metric is one of the test split.
    """
    values, recipes = _read(trials, metric, winner)
    if not values:
        return pd.DataFrame(columns=list(PATH_COLUMNS))
    here: Cell | None = max(values, key=len)
    down = []
    while here is not None:
        down.append(here)
        here = best_step(values, here)
    if down[-1]:
        return pd.DataFrame(columns=list(PATH_COLUMNS))
    up = down[::-1]
    gains = _contrasts([{after: 1, before: -1} for before, after in pairwise(up)], values, level)
    totals = _contrasts([{after: 1, up[0]: -1} for after in up[1:]], values, level)
    rows = []
    for step, cell in enumerate(up):
        mean, low, high = _interval(list(values[cell].values()), level)
        row: dict[str, Any] = {
            "step": step,
            "added": tuple(sorted(cell - up[step - 1])) if step else (),
            "tricks": tuple(sorted(cell)),
            "recipe": recipes[cell],
            "n_seeds": len(values[cell]),
            **dict(zip(("mean", "low", "high"), (mean, low, high), strict=True)),
        }
        for name, found in (("gain", gains), ("total", totals)):
            numbers = found[step - 1][:3] if step else (math.nan,) * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(PATH_COLUMNS))


def is_step(upper: Cell, lower: Cell) -> bool:
    """Whether one trick lies between two cells, or one stage with the tricks in it.

    >>> is_step(frozenset({"a", "s", "s/x"}), frozenset({"a"})), is_step(frozenset({"a", "b"}), frozenset())
    (True, False)
    """
    gone = upper - lower
    if not lower < upper:
        return False
    root = min(gone, key=len)
    return all(unit == root or unit.startswith(f"{root}/") for unit in gone)


def best_step(values: Values, here: Cell) -> Cell | None:
    """The best of the cells that were run one step below; `None` where there is none."""
    below = [cell for cell in values if is_step(here, cell)]
    return max(below, key=lambda cell: (_mean(values[cell]), sorted(cell)), default=None)


def missed_least(values: Values, whole: Cell) -> dict[Cell, int]:
    """Places of the cells one step below the whole recipe: 0 for the one that is missed least."""
    below = [cell for cell in values if is_step(whole, cell)]
    ranked = sorted(below, key=lambda cell: (-_mean(values[cell]), sorted(cell)))
    return {cell: place for place, cell in enumerate(ranked)}


def moderated(samples: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """(mean, standard error, degrees of freedom) of several samples that lend each other their variances.

    Samples of fewer than two values have an error of NaN. With fewer than three samples nothing is lent.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    kept = [array for array in arrays if array.size > 1]
    df = np.array([array.size - 1.0 for array in kept])
    variance = np.array([max(float(array.var(ddof=1)), DEVIATION_FLOOR**2) for array in kept])
    prior, prior_df = _prior(variance, df) if len(kept) > 2 else (0.0, 0.0)
    found: list[tuple[float, float, float]] = []
    at = 0
    for array in arrays:
        if array.size < 2:
            found.append((float(array.mean()) if array.size else math.nan, math.nan, math.nan))
            continue
        total = prior_df + df[at]
        lent = (prior_df * prior + df[at] * variance[at]) / total
        found.append((float(array.mean()), math.sqrt(lent / array.size), float(total)))
        at += 1
    return found


# ------------------------------------------------------------------------------------------------------ helpers


def _read(
    trials: pd.DataFrame, metric: str, winner: str | None
) -> tuple[dict[Cell, dict[int, float]], dict[Cell, str]]:
    choosable(metric)
    rows = trials[(trials["arm"] == ARM) & (trials["outcome"] == "finished")]
    if rows.empty:
        return {}, {}
    context = f"{ARM}:{winner}" if winner is not None else str(rows.sort_values("started")["context"].iloc[-1])
    values: dict[Cell, dict[int, float]] = {}
    recipes: dict[Cell, str] = {}
    for row in rows[rows["context"] == context].to_dict("records"):
        cell = frozenset(row["tricks"])
        values.setdefault(cell, {})[row["seed"]] = float(row[metric])
        recipes[cell] = str(row["recipe"])
    return values, recipes


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _rows(
    contrasts: Mapping[tuple[str, ...], Mapping[Cell, int]], values: Values, margin: float, level: float
) -> list[dict[str, Any]]:
    found = _contrasts(list(contrasts.values()), values, level)
    adjusted = _holm([p for *_, p, _, _ in found])
    rows = []
    for (removed, weights), (mean, low, high, p, upper, seeds), after in zip(
        contrasts.items(), found, adjusted, strict=True
    ):
        cell = next(cell for cell, weight in weights.items() if weight < 0)
        word = NEEDED if after <= 1 - level else REMOVABLE if upper < margin else UNKNOWN
        rows.append(
            {
                "removed": removed, "n_seeds": seeds, "mean": _mean(values[cell]), "loss": mean, "loss_low": low,
                "loss_high": high, "p_value": p, "adjusted_p": after, "word": word, "dependency": math.nan,
                "dependency_low": math.nan, "dependency_high": math.nan, "depends": "",
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["loss"], row["removed"]))


def _contrasts(
    contrasts: Sequence[Mapping[Cell, int]], values: Values, level: float
) -> list[tuple[float, float, float, float, float, int]]:
    """(mean, low, high, one-sided p that it is above 0, one-sided upper limit, seeds) of each."""
    samples = []
    for weights in contrasts:
        seeds = sorted(set.intersection(*(set(values[cell]) for cell in weights)))
        samples.append([sum(weight * values[cell][seed] for cell, weight in weights.items()) for seed in seeds])
    rows = []
    for sample, (mean, error, df) in zip(samples, moderated(samples), strict=True):
        if not math.isfinite(error):
            rows.append((mean, math.nan, math.nan, math.nan, math.nan, len(sample)))
            continue
        half = float(stats.t.ppf(0.5 + level / 2, df)) * error
        p, upper = float(stats.t.sf(mean / error, df)), mean + float(stats.t.ppf(level, df)) * error
        rows.append((mean, mean - half, mean + half, p, upper, len(sample)))
    return rows


def _prior(variance: NDArray[np.float64], df: NDArray[np.float64]) -> tuple[float, float]:
    """(s₀², d₀) of a scaled inverse chi-squared prior, by the moments of log s²."""
    e = np.log(variance) - special.digamma(df / 2) + np.log(df / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, df / 2).mean())
    most = PRIOR_DF_MAX
    if excess <= special.polygamma(1, most / 2):
        d0 = most
    else:
        d0 = 2 * float(optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-3, most / 2))
    return float(np.average(variance, weights=df)), d0


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; NaN stays NaN and is in no family."""
    known = sorted((value, at) for at, value in enumerate(p) if math.isfinite(value))
    adjusted = [math.nan] * len(p)
    worst = 0.0
    for place, (value, at) in enumerate(known):
        worst = max(worst, min(1.0, (len(known) - place) * value))
        adjusted[at] = worst
    return adjusted


def _interval(values: list[float], level: float) -> tuple[float, float, float]:
    from analysis.record import bounded_interval

    return bounded_interval(values, level)
