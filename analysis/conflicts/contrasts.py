"""Contrasts of a pair of tricks, one value per block, and their estimates with moderated variances.

For tricks A and B with cells 00 (neither), 10 (A), 01 (B), 11 (both), everything else equal, a block s gives

    interaction   I(s) = y11 − y10 − y01 + y00          also of the log-odds of y
    directions    y11 − y10 (adding B to A),  y11 − y01 (adding A to B)
    alone         y10 − y00,  y01 − y00                  both: y11 − y00

wherever it has the cells that a contrast needs: differences are paired within blocks, so what a block does to all
cells alike cancels, and no cell's noise stands for another's. The mean over blocks has the variance s̃²/blocks with s²
the variance of the block values, moderated over all contrasts of one kind (`analysis.stats.moderation`).

**Units.** Blocks that share a first stage (a checkpoint) are averaged into one unit. A contrast whose weights cancel
within every first stage, such as that of two tricks of later stages, says nothing of the first stages' own scatter: it
is moderated apart from contrasts between first stages, and fewer than three first stages are enough for it (the result
then speaks of those only).

**Factorials.** Where the four cells are not there, or the context is a factorial's, each block's cells are fitted by
least squares with a mean, the tricks' effects and those of pairs, and the four cells are what this predicts with all
other tricks off. This assumes that there are no interactions of three tricks: such results are exploratory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.conflicts.cells import FEWEST_BLOCKS, Cell, Floats, Table
from analysis.formatting import counted
from analysis.stats.fixed_val import images_variance
from analysis.stats.intervals import ACCURACY_FLOOR, UNKNOWN, Estimate, log_odds
from analysis.stats.moderation import moderate

CONTRASTS = {  # name -> weights of the cells 00, 10, 01, 11
    "alone_a": (-1, 1, 0, 0),
    "alone_b": (-1, 0, 1, 0),
    "interaction": (1, -1, -1, 1),
    "b_given_a": (0, -1, 0, 1),
    "a_given_b": (0, 0, -1, 1),
    "both": (-1, 0, 0, 1),
}
LOG_ODDS = "interaction_log_odds"
KINDS = {"alone_a": "alone", "alone_b": "alone", "b_given_a": "direction", "a_given_b": "direction"}
"""Contrasts that lend each other their variances under one name; the others are kinds by themselves."""

DEVIATION_FLOOR = 1e-3
"""A tenth of a point: no training repeats closer, so that identical cells are no evidence."""

FEWEST_FIRST_STAGES = 3
"""A single shared checkpoint shows "effects" of its own trick in 34 to 65 % of cases."""

FACTORIAL = "factorial"
"""First word of the context of a factorial's cells."""


@dataclass(frozen=True)
class Levels:
    """The four cells of a pair, or the two of a trick, as weighted sums of a table's cells.

    Args:
        rows: For every level the rows of the table that have its pattern of the labels; where `fitted` is false, all
            with the same other tricks.
        fitted: Whether the levels are predictions of a model without interactions of three.
        model: The model's columns of every cell, (cells, terms), and of every level, (levels, terms).
        known: Weights by the cells that a block has.
    """

    rows: tuple[tuple[int, ...], ...]
    fitted: bool = False
    model: tuple[Floats, Floats] | None = None
    known: dict[bytes, Floats] = field(default_factory=dict, repr=False, compare=False)

    def weights(self, present: NDArray[np.bool_]) -> Floats:
        """Of each cell in each level, (levels, cells), from the cells that a block has; NaN where it cannot tell."""
        key = present.tobytes()
        if key not in self.known:
            weights = np.zeros((len(self.rows), len(present)))
            if self.model is None:
                for level, rows in enumerate(self.rows):
                    weights[level, list(rows)] = 1 / len(rows)
            else:
                cells, levels = self.model
                weights[:, present] = levels @ np.linalg.pinv(cells[present])
                weights[np.abs(weights @ cells - levels).max(1) > 1e-6] = np.nan
            self.known[key] = weights
        return self.known[key]


@dataclass(frozen=True)
class Sample:
    """One contrast before its variance is moderated.

    Args:
        kind: Contrasts of one kind lend each other their variances.
        identity: Key of the contrast; one that occurs twice counts once.
        values: One per independent unit of blocks.
        blocks: Seed blocks that have its cells.
        first_stages: Distinct first stages behind the level that has the fewest.
        images: Variance of the mean from the images of a val that is the same in every block.
        n_images: Images of that val; 0 where val differs.
        floor: Smallest standard deviation to believe.
        problem: Why nothing may be claimed, "" if something may.
    """

    kind: tuple[Any, ...]
    identity: tuple[Any, ...]
    values: Floats
    blocks: int
    first_stages: int
    images: float
    n_images: int
    floor: float
    problem: str


def pair_levels(table: Table, labels: Sequence[str]) -> Levels | None:
    """Where a table holds every combination of the labels; `None` where it does not.

    Cells are matched in all other tricks, of which there are as few as possible.
    """
    patterns = [frozenset(x for k, x in enumerate(labels) if code >> k & 1) for code in range(2 ** len(labels))]
    both = frozenset(labels)
    rests: dict[Cell, dict[Cell, int]] = {}
    for i, cell in enumerate(table.cells):
        rests.setdefault(cell - both, {})[cell & both] = i
    whole = {rest: found for rest, found in rests.items() if len(found) == len(patterns)}
    fewest = min(map(len, whole), default=0)
    matched = tuple(
        tuple(found[pattern] for rest, found in whole.items() if len(rest) == fewest) for pattern in patterns
    )
    if whole and table.context.split("+")[0] != FACTORIAL:
        return Levels(matched)
    known = sorted(set().union(*table.cells))
    terms: list[tuple[str, ...]] = [(), *((x,) for x in known), *combinations(known, 2)]
    columns = [[float(cell >= set(term)) for term in terms] for cell in [*table.cells, *patterns]]
    cells, wanted = np.array(columns[: len(table.cells)]), np.array(columns[len(table.cells) :])
    rows = tuple(tuple(i for i, cell in enumerate(table.cells) if cell & both == pattern) for pattern in patterns)
    levels = Levels(rows, True, (cells, wanted))
    if both <= set(known) and np.isfinite(levels.weights(np.ones(len(cells), dtype=bool))).all():
        return levels
    return Levels(matched) if whole else None


def contrast_samples(table: Table, levels: Levels, *, pessimistic: bool = False) -> dict[str, Sample]:
    """The contrasts of a pair, `CONTRASTS` and `LOG_ODDS`, by name.

    Args:
        table: The context.
        levels: The pair's four cells.
        pessimistic: Whether a diverged trial counts as the worst value that its cell has reached.
    """
    score = table.pessimistic_score if pessimistic else table.score
    found = {
        name: _sample(table, levels, score, np.array(weights, dtype=float), KINDS.get(name, name))
        for name, weights in CONTRASTS.items()
    }
    found[LOG_ODDS] = _sample(
        table, levels, log_odds(score), np.array(CONTRASTS["interaction"], dtype=float), LOG_ODDS, odds=True
    )
    return found


def effect_sample(table: Table, levels: Levels) -> Sample:
    """The effect of one trick alone."""
    return _sample(table, levels, table.score, np.array([-1.0, 1.0]), "alone")


def estimates(samples: Iterable[Sample]) -> list[Estimate]:
    """Means with moderated standard errors, in the order of the samples."""
    samples = list(samples)
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.kind, {}).setdefault(sample.identity, sample)
    moderated: dict[tuple[Any, ...], tuple[float, float]] = {}
    for members in groups.values():
        kept = list(members.values())
        df = np.array([max(len(sample.values) - 1.0, 0.0) for sample in kept])
        variance = np.array([sample.values.var(ddof=1) if len(sample.values) > 1 else np.nan for sample in kept])
        lent = moderate(variance, df, kept[0].floor ** 2)
        moderated |= {sample.identity: (float(v), float(d)) for sample, v, d in zip(kept, *lent, strict=True)}
    return [_estimate(sample, *moderated[sample.identity]) for sample in samples]


def mean_levels(table: Table, levels: Levels) -> Floats:
    """Mean of every level over the blocks that have them all, (levels,); NaN without any."""
    blocks, weights = _block_weights(levels, table.score, np.eye(len(levels.rows)))
    found = [w @ column for w, column in zip(weights, _block_columns(table.score)[blocks], strict=True)]
    return np.mean(found, axis=0) if found else np.full(len(levels.rows), np.nan)


# ------------------------------------------------------------------------------------------------------ helpers


def _sample(table: Table, levels: Levels, score: Floats, weights: Floats, kind: str, *, odds: bool = False) -> Sample:
    """A contrast with these weights of the levels."""
    blocks, of_cells = _block_weights(levels, score, weights[None])
    columns = _block_columns(score)[blocks]
    values = np.array([own[0] @ column for own, column in zip(of_cells, columns, strict=True)])
    used = np.array(of_cells).reshape(len(blocks), len(table.cells))
    stage = table.stage[:, blocks].T
    within = all(_cancels(own, ids) for own, ids in zip(used, stage, strict=True))
    first_stages = _first_stages(table, levels, weights, blocks)
    units = np.arange(len(blocks))
    if not (within and first_stages < FEWEST_FIRST_STAGES):
        needed = np.abs(used) > 1e-9
        units = _independent_units([set(ids[own].tolist()) for own, ids in zip(needed, stage, strict=True)])
    numbers = sorted(set(units.tolist()))
    means = values if len(numbers) == len(blocks) else np.array([values[units == unit].mean() for unit in numbers])
    fixed = table.correct is not None and table.is_mean_of_images and len(blocks) >= FEWEST_BLOCKS
    images = _images_variance(table, used, blocks, odds=odds) if fixed else 0.0
    shared = len(means) < len(blocks)
    return Sample(
        (kind, within, shared),
        (kind, id(table), *(used[0].round(6).tolist() if blocks else [id(levels)])),
        means,
        len(blocks),
        first_stages,
        images,
        table.correct.shape[2] if fixed and table.correct is not None else 0,
        # d log-odds / dy is at least 4
        4 * DEVIATION_FLOOR if odds else DEVIATION_FLOOR,
        _problem(len(table.seeds), len(blocks), len(means), first_stages, within),
    )


def _block_weights(levels: Levels, score: Floats, weights: Floats) -> tuple[list[int], list[Floats]]:
    """Blocks that have every cell which sums of the levels need, and the weights of their cells.

    Args:
        levels: The levels.
        score: Metric, (cells, blocks).
        weights: Of each level in each sum, (sums, levels).

    Returns:
        Columns of `score`, and for each the weights (sums, cells).
    """
    known: dict[bytes, Floats | None] = {}
    blocks, found = [], []
    for s, present in enumerate(np.isfinite(score).T):
        key = present.tobytes()
        if key not in known:
            of_levels = levels.weights(present)
            own = np.array([each @ np.where(each[:, None] == 0, 0.0, of_levels) for each in weights])
            whole = np.isfinite(own).all() and present[np.abs(own).max(0) > 1e-9].all()
            known[key] = own if whole else None
        kept = known[key]
        if kept is not None:
            blocks.append(s)
            found.append(kept)
    return blocks, found


def _block_columns(score: Floats) -> Floats:
    """The metric by block, (blocks, cells), with 0 where no trial finished."""
    return np.where(np.isfinite(score.T), score.T, 0.0)


def _cancels(weights: Floats, stage: NDArray[np.int64]) -> bool:
    """Whether the weights of the cells of every first stage add up to nothing."""
    return all(abs(float(weights[stage == code].sum())) < 1e-9 for code in set(stage[np.abs(weights) > 1e-9]))


def _first_stages(table: Table, levels: Levels, weights: Floats, blocks: Sequence[int]) -> int:
    counts = []
    for rows, weight in zip(levels.rows, weights, strict=True):
        if weight:
            counts.append(len(set(table.stage[list(rows)][:, blocks].ravel().tolist()) - {-1}))
    return min(counts, default=0)


def _independent_units(stages: Sequence[set[int]]) -> NDArray[np.int64]:
    """Numbers the groups of blocks that no first stage joins."""
    units = np.arange(len(stages))
    if sum(map(len, stages)) == len(set().union(*stages)):
        return units
    for i, j in combinations(range(len(stages)), 2):
        if units[i] != units[j] and stages[i] & stages[j]:
            units[units == units[j]] = units[i]
    return np.unique(units, return_inverse=True)[1]


def _images_variance(table: Table, used: Floats, blocks: Sequence[int], *, odds: bool) -> float:
    assert table.correct is not None
    slope = np.ones(len(table.cells))
    if odds:  # to first order
        here = np.isfinite(table.score).any(1)
        mean = np.clip(np.nanmean(table.score[here], axis=1), ACCURACY_FLOOR, 1 - ACCURACY_FLOOR)
        slope[here] = 1 / (mean * (1 - mean))
    contrast = np.einsum("sc,csi->si", used * slope, np.nan_to_num(table.correct[:, blocks]))
    return images_variance(contrast)


def _problem(seeds: int, blocks: int, units: int, first_stages: int, within: bool) -> str:
    if blocks < FEWEST_BLOCKS:
        return f"all cells finished in {blocks} of {seeds} seeds; at least {FEWEST_BLOCKS} are needed"
    independent = min(first_stages, units)
    if not within and independent < FEWEST_FIRST_STAGES:
        return (
            f"a trick of the first stage was measured on {counted(independent, 'independent first stage')} per level; "
            f"a claim about it needs at least {FEWEST_FIRST_STAGES}, however many later seeds share them"
        )
    return ""


def _estimate(sample: Sample, variance: float, df: float) -> Estimate:
    units = len(sample.values)
    if not units:
        return UNKNOWN
    value = float(sample.values.mean())
    if sample.problem or math.isnan(variance):
        return Estimate(value, math.nan, math.nan, blocks=units)
    own = variance / units
    total = own + sample.images
    if sample.images:
        df = total**2 / (own**2 / df + sample.images**2 / (sample.n_images - 1))
    return Estimate(value, math.sqrt(total), df, sample.images, units)
