"""Ablation of the winner: what may be removed, what depends on what, and the path from the baseline up to it.

The search runs the winner with some of its tricks removed, all cells on the same fresh seed blocks (arm "around",
`tricks` = the removable labels that are on, `context` = "around:<recipe>"). With y(c, s) the accuracy of a cell on
block s and W all tricks:

    loss of removing t      L(t) = mean over s of  y(W, s) − y(W − t, s)
    dependency of t and u   D(t, u) = mean over s of  y(W, s) − y(W − t, s) − y(W − u, s) + y(W − t − u, s)

D above 0: the two are worth more beside each other; below 0: one stands in for the other. Three to five blocks say
little about a variance, so the contrasts of one kind lend each other theirs (`analysis.stats.moderation`). As all of
them hold the winner's own noise they know a little less than that: on three blocks 95 % intervals hold 92 to 94 %.

The path goes down greedily from the winner, at each step to the best of the cells that were run one trick below, and
is read from the baseline up. Its steps were chosen on the blocks that measure them: what a step adds may look a
little smaller than it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from analysis.conflicts.contrasts import DEVIATION_FLOOR, Sample, estimates
from analysis.conflicts.verdicts import MARGIN
from analysis.records.intervals import bounded_interval
from analysis.records.schema import NUMBERS, choosable
from analysis.stats.fixed_val import images_variance
from analysis.stats.multiplicity import holm

Cell: TypeAlias = frozenset[str]


class Run(NamedTuple):
    """One trial around the winner.

    Args:
        score: The metric, a fraction.
        correct: Whether each val image was classified correctly, (images,), where val is the same in every block.
    """

    score: float
    correct: Any = None


Values: TypeAlias = Mapping[Cell, Mapping[int, Run]]
Scores: TypeAlias = Mapping[Cell, Mapping[int, float]]

ARM = "around"

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
    margin: float = MARGIN,
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
        level: Confidence level of the two-sided intervals.

    Returns:
        One row per removal, single tricks first, then pairs; within these the smallest loss first. `removed` is a
        tuple of labels. `adjusted_p` is Holm's over the rows of its kind, of the two-sided test that there is a loss.
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
        level: Confidence level of the two-sided intervals.

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
    scores = _scores(values)
    here: Cell | None = max(values, key=len)
    down = []
    while here is not None:
        down.append(here)
        here = best_step(scores, here)
    if down[-1]:
        return pd.DataFrame(columns=list(PATH_COLUMNS))
    up = down[::-1]
    gains = _contrasts([{after: 1, before: -1} for before, after in pairwise(up)], values, level)
    totals = _contrasts([{after: 1, up[0]: -1} for after in up[1:]], values, level)
    rows = []
    for step, cell in enumerate(up):
        mean, low, high = bounded_interval(list(scores[cell].values()), level)
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


def best_step(scores: Scores, here: Cell) -> Cell | None:
    """The best of the cells that were run one step below; `None` where there is none."""
    below = [cell for cell in scores if is_step(here, cell)]
    return max(below, key=lambda cell: (_mean(scores[cell]), sorted(cell)), default=None)


def missed_least(scores: Scores, whole: Cell) -> dict[Cell, int]:
    """Places of the cells one step below the whole recipe: 0 for the one that is missed least."""
    below = [cell for cell in scores if is_step(whole, cell)]
    ranked = sorted(below, key=lambda cell: (-_mean(scores[cell]), sorted(cell)))
    return {cell: place for place, cell in enumerate(ranked)}


# ------------------------------------------------------------------------------------------------------ helpers


def _read(trials: pd.DataFrame, metric: str, winner: str | None) -> tuple[dict[Cell, dict[int, Run]], dict[Cell, str]]:
    choosable(metric)
    rows = trials[(trials["arm"] == ARM) & (trials["outcome"] == "finished")]
    if rows.empty:
        return {}, {}
    context = f"{ARM}:{winner}" if winner is not None else str(rows.sort_values("started")["context"].iloc[-1])
    values: dict[Cell, dict[int, Run]] = {}
    recipes: dict[Cell, str] = {}
    for row in rows[rows["context"] == context].to_dict("records"):
        cell = frozenset(row["tricks"])
        correct = row.get("correct")
        known = correct is not None and not isinstance(correct, float) and len(correct) > 0
        images = np.asarray(correct, dtype=float) if known else None
        values.setdefault(cell, {})[row["seed"]] = Run(float(row[metric]), images)
        recipes[cell] = str(row["recipe"])
    return values, recipes


def _mean(scores: Mapping[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _scores(values: Values) -> dict[Cell, dict[int, float]]:
    return {cell: {seed: run.score for seed, run in runs.items()} for cell, runs in values.items()}


def _rows(
    contrasts: Mapping[tuple[str, ...], Mapping[Cell, int]], values: Values, margin: float, level: float
) -> list[dict[str, Any]]:
    found, scores = _contrasts(list(contrasts.values()), values, level), _scores(values)
    adjusted = holm(np.array([p for *_, p, _, _ in found]))
    rows = []
    for (removed, weights), (mean, low, high, p, upper, seeds), after in zip(
        contrasts.items(), found, adjusted, strict=True
    ):
        cell = next(cell for cell, weight in weights.items() if weight < 0)
        word = NEEDED if after <= 1 - level else REMOVABLE if upper < margin else UNKNOWN
        rows.append(
            {
                "removed": removed, "n_seeds": seeds, "mean": _mean(scores[cell]), "loss": mean, "loss_low": low,
                "loss_high": high, "p_value": p, "adjusted_p": after, "word": word, "dependency": math.nan,
                "dependency_low": math.nan, "dependency_high": math.nan, "depends": "",
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["loss"], row["removed"]))


def _contrasts(
    contrasts: Sequence[Mapping[Cell, int]], values: Values, level: float
) -> list[tuple[float, float, float, float, float, int]]:
    """(mean, low, high, two-sided p that it is above 0, one-sided upper limit, seeds) of each."""
    samples = [
        _sample(weights, values, sorted(set.intersection(*(set(values[cell]) for cell in weights))))
        for weights in contrasts
    ]
    rows = []
    for sample, found in zip(samples, estimates(samples), strict=True):
        # an upper limit of the loss is a lower one of the gain
        upper = -found._replace(value=-found.value).lower(level)
        rows.append((found.value, *found.interval(level), min(1.0, 2 * found.above()), upper, sample.blocks))
    return rows


def _sample(weights: Mapping[Cell, int], values: Values, seeds: Sequence[int]) -> Sample:
    runs = [[values[cell][seed] for seed in seeds] for cell in weights]
    signs = np.array(list(weights.values()), dtype=float)
    scores = signs @ np.array([[run.score for run in cell] for cell in runs]).reshape(len(signs), len(seeds))
    images, n_images = 0.0, 0
    if seeds and all(run.correct is not None for cell in runs for run in cell):
        contrast = np.einsum("c,csi->si", signs, np.array([[run.correct for run in cell] for cell in runs]))
        images, n_images = images_variance(contrast), contrast.shape[1]
    identity = tuple(sorted((tuple(sorted(cell)), weight) for cell, weight in weights.items()))
    return Sample((len(signs),), identity, scores, len(seeds), len(seeds), images, n_images, DEVIATION_FLOOR, "")
