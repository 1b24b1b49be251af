"""What a recipe gets wrong: precision of each class, the largest confusions, and how often confident answers are wrong.

Every function takes the trials of one recipe, one per seed, as rows of a table of trials; a share is the mean over
seeds, with an interval by their scatter and by the number of images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.records.intervals import bounded_interval
from analysis.records.schema import MOST_CONFUSIONS, Decisions

Share = tuple[float, float, float]
"""Mean, lower and upper limit; NaN where unknown."""

UNKNOWN: Share = (math.nan, math.nan, math.nan)
"""A share that the records do not tell."""


class Confusion(NamedTuple):
    """Images of one class that are taken for another.

    Args:
        true: The true class.
        predicted: The predicted class.
        images: Val images over all seeds; at least as many where the share is unknown.
        share: Share of the images of the true class; NaN where the record of a seed does not tell it.
    """

    true: int
    predicted: int
    images: int
    share: Share


def with_decisions(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials whose records have predictions; those of earlier versions do not."""
    if "decisions" not in trials:
        return trials.iloc[:0]
    return trials[trials["decisions"].map(lambda said: isinstance(said, Decisions) and bool(said.predicted))]


def recall(mine: pd.DataFrame, label: int) -> Share:
    """Share of the val images of a class that are assigned to it."""
    known = [float(value) for value in mine[f"recall/{label}"] if not math.isnan(value)]
    return bounded_interval(known, images=float(mine.iloc[0]["val_counts"][label]), same_images=_same(mine))


def precision(mine: pd.DataFrame, label: int) -> Share:
    """Share of the val images assigned to a class that belong to it, at val's class frequencies.

    Seeds that never predict the class are left out.
    """
    given = [said.predicted[label] for said in mine["decisions"]]
    right = [
        0 if math.isnan(value) else round(value * counts[label])
        for value, counts in zip(mine[f"recall/{label}"], mine["val_counts"], strict=True)
    ]
    return _share(mine, right, given)


def confusions(mine: pd.DataFrame) -> list[Confusion]:
    """The confusions of all seeds, the most frequent first.

    A list of `MOST_CONFUSIONS` is cut: a pair that it lacks was confused an unknown number of times.
    """
    each = [{(true, other): count for true, other, count in said.confusions} for said in mine["decisions"]]
    total: Counter[tuple[int, int]] = Counter()
    for seed in each:
        total.update(seed)
    found = []
    for pair, count in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        share = UNKNOWN
        if all(pair in seed or len(seed) < MOST_CONFUSIONS for seed in each):
            wholes = [counts[pair[0]] for counts in mine["val_counts"]]
            share = _share(mine, [seed.get(pair, 0) for seed in each], wholes)
        found.append(Confusion(*pair, count, share))
    return found


def wrong_above(mine: pd.DataFrame, label: int, confidence: str) -> tuple[float, Share]:
    """Mean number over seeds of a class's answers with at least a confidence, and the share of them that is wrong."""
    counts = [said.accepted[confidence] for said in mine["decisions"] if confidence in said.accepted]
    given, wrong = [each[0][label] for each in counts], [each[1][label] for each in counts]
    return sum(given) / len(given) if given else math.nan, _share(mine, wrong, given)


def _share(mine: pd.DataFrame, parts: Sequence[int], wholes: Sequence[int]) -> Share:
    known = [(part / whole, whole) for part, whole in zip(parts, wholes, strict=True) if whole]
    images = sum(whole for _, whole in known) / len(known) if known else 0.0
    return bounded_interval([share for share, _ in known], images=images, same_images=_same(mine))


def _same(mine: pd.DataFrame) -> bool:
    """Whether every seed was measured on the same images."""
    return "correct" in mine and bool(mine["correct"].map(len).any())
