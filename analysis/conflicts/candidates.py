"""Pairs that the adaptive arm suggests: nominations, never verdicts.

The adaptive arm keeps what is good, so its trials cannot show a conflict: they say where to look. Over its finished
trials an additive model of the labels is fitted, y = μ + Σ β(t) [t is on] + residual, and for each pair that the
design did not cross, with enough trials in all four cells,

    R = r̄11 − r̄10 − r̄01 + r̄00,   error² = s² Σ 1/n(cell)

the pairs with the most negative R / error are nominated. They are then run on fresh seeds, and judged together: what
was chosen because it looked like a conflict is a family of tests like any other.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.conflicts.table import pairwise
from analysis.conflicts.verdicts import MARGIN
from analysis.records.schema import choosable

FEWEST = 3  # trials in each of the four cells
LEAST = 1.0  # errors below 0 from which on a suggestion is one
COLUMNS = ("a", "b", "suggested", "ratio", "n_00", "n_10", "n_01", "n_11")


def nominate(
    trials: pd.DataFrame, crossed: Collection[tuple[str, str]] = (), metric: str = "final/accuracy"
) -> pd.DataFrame:
    """Pairs that look as if they were in conflict, the most suspicious first.

    Args:
        trials: Table of trials; those of the arm "adaptive" that finished are read.
        crossed: Pairs that the design has, each sorted.
        metric: Column of the val split, a fraction.

    Returns:
        One row per pair: a, b, `suggested` (R, a fraction; biased by how trials were chosen), `ratio` (R / error) and
        the trials of the four cells. Empty where there is too little.

    Raises:
        RecordError: The metric is one of the test split.

    >>> import itertools
    >>> rows = [{"arm": "adaptive", "outcome": "finished", "tricks": on, "final/accuracy": y + 0.001 * i}
    ...         for i in range(4) for on, y in [((), 0.5), (("a",), 0.6), (("b",), 0.6), (("a", "b"), 0.55)]]
    >>> found = nominate(pd.DataFrame(rows)).iloc[0]
    >>> found.a, found.b, round(float(found.suggested), 3), int(found.n_11)
    ('a', 'b', -0.15, 4)
    """
    choosable(metric)
    rows = trials[(trials["arm"] == "adaptive") & (trials["outcome"] == "finished")]
    on = [frozenset(tricks) for tricks in rows["tricks"]]
    labels = _distinct(on)
    if len(on) < 4 * FEWEST or len(labels) < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    matrix = np.array([[label in cell for label in labels] for cell in on], dtype=float)
    scores = rows[metric].to_numpy(dtype=float)
    full = np.column_stack([np.ones(len(on)), matrix])
    fitted, _, rank, _ = np.linalg.lstsq(full, scores, rcond=None)
    residual = scores - full @ fitted
    freedom = len(on) - int(rank)
    if freedom < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    deviation = max(math.sqrt(float(residual @ residual) / freedom), 1e-3)
    found = []
    for i, j in combinations(range(len(labels)), 2):
        a, b = labels[i], labels[j]
        if (a, b) in crossed or b.startswith(f"{a}/"):
            continue
        cells = [(matrix[:, i] == x) & (matrix[:, j] == y) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))]
        counts = [int(cell.sum()) for cell in cells]
        if min(counts) < FEWEST:
            continue
        means = [float(residual[cell].mean()) for cell in cells]
        contrast = means[3] - means[1] - means[2] + means[0]
        ratio = contrast / (deviation * math.sqrt(sum(1 / count for count in counts)))
        if ratio <= -LEAST:
            found.append((a, b, contrast, ratio, *counts))
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.sort_values(["ratio", "a", "b"], ignore_index=True)


def candidate_table(trials: pd.DataFrame, metric: str = "final/accuracy", margin: float = MARGIN) -> pd.DataFrame:
    """Judges the nominated pairs on their fresh seeds, adjusted over all of them (Benjamini-Hochberg).

    Args:
        trials: Table of trials; those of the arm "nominated" are read. Those of the arm "design" lend their variances.
        metric: Column of the val split, a fraction.
        margin: The harm that would not matter, a fraction.

    Returns:
        As of `analysis.conflicts.pairwise`; empty where nothing was nominated, or no pair has two blocks.
    """
    try:
        table = pairwise(trials, metric, margin, arm="nominated", beside=trials)
    except ValueError:
        return pd.DataFrame()
    # tricks of two nominated pairs were not crossed with each other, and nobody asked
    return table[table["verdict"] != "not applicable"].reset_index(drop=True)


def _distinct(on: list[frozenset[str]]) -> list[str]:
    """Labels that are on in some trials and off in others; of those that always come together the shortest."""
    seen: dict[tuple[bool, ...], str] = {}
    for label in sorted(set().union(*on), key=lambda label: (len(label), label)):
        column = tuple(label in cell for cell in on)
        if any(column) and not all(column):
            seen.setdefault(column, label)
    return sorted(seen.values())
