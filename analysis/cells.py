"""The cells of a design: read from trials, their noise estimated, contrasts of them measured.

**Estimator.** Within a context, y(c, s) = μ(c) + block(s) + start(c, s) + leaf(c, s): cell c, block s, a deviation that
cells of one first stage share, and one of each trial. All cells of the context are fitted at once by generalised least
squares with free cell and block effects and the working covariance leaf·1 + start·(same first stage). Where every cell
is in every block this is the difference within blocks; blocks that hold only some cells (more blocks for baseline
and single tricks, a diverged trial) sharpen what they speak of, and bring no bias, since their block effect is fitted.
The working covariance only weighs; the variance of what comes out is estimated by cell, see `Noise`.

**Fractions.** In a two-level fraction of resolution V no cell has its three partners. The mean, all effects and all
pairs are orthogonal over its N runs, and a level of a pair (or of a trick) is what they predict for it *with the other
tricks off*: Σ_t x_t(level)·β_t with β_t = Σ_c x_t(c)·μ(c)/N, interactions of three and more taken to be nothing. An
average over the other tricks would give the same interaction, but lay the harm of a conflict with one of them at the
door of every pair: tricks that gain 10 points alone and lose 27 together would look harmful beside everything. A harm
has the variance 4kσ²/(N·r) with k tricks and r blocks: 1.25σ²/r in 16 runs of five, 2σ²/r in four cells of its own.
Cells beside the fraction (tricks alone, which even half fractions lack) test that model: where it is shown not to hold,
pairs are judged by their own four cells.

**Fixed images.** Where every block is validated on the same images, a contrast z(i) of the images' mean correctness
differs between images for two reasons: the cells treat image i differently (β), or trainings scatter (ε). What an
interval for *new* images lacks is var(β)/n = max(0, var z(i) − what ε alone gives)/n, with ε from the scatter of the
same contrast over blocks (two-way layout blocks × images). Images are taken as a simple random sample; a val that is
balanced by class varies a little less, so that intervals are slightly wide.

Source: Satterthwaite 1946 (Biometrics 2); Grubbs 1948 (JASA 43); Smyth 2004 (doi 10.2202/1544-6115.1027); Aitken 1935
(generalised least squares); Searle, Casella & McCulloch 1992, "Variance Components" (two-way layout).
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.record import choosable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Cell = frozenset[str]

PRIOR_DF_MAX = 8.0  # beyond that, power hardly grows while tests of the noisiest cells become too bold
ADEQUATE = 0.05  # below this p a fraction's model without interactions of three is not believed
DEVIATION_FLOOR = 1e-3  # a tenth of a point: no training repeats closer, so identical cells are no evidence
INTERACTION = np.array([1.0, -1.0, -1.0, 1.0])  # weights of the cells 00, 10, 01, 11
ACCURACY_FLOOR = 1e-3  # before log-odds: recalls of zero count as 1e-3 in the means of trainables.metrics too
FEWEST_BLOCKS = 2
FEWEST_FIRST_STAGES = 3  # a single shared checkpoint shows "effects" of its own trick in 34 to 65 % of cases


# ---------------------------------------------------------------------------------------------- reading the trials


@dataclass(frozen=True)
class Table:
    """The design of one context: cells × blocks, NaN or −1 where there is nothing finished."""

    context: str
    cells: tuple[Cell, ...]
    seeds: tuple[Hashable, ...]
    score: Floats  # (cells, blocks), the metric
    stage: Ints  # (cells, blocks), code of the first stage
    runs: Ints  # (cells, blocks), trials
    diverged: Ints  # (cells, blocks), diverged trials
    noise: Noise
    noise_log_odds: Noise
    correct: NDArray[np.float32] | None = None  # (cells, blocks, images), where every block has the same images
    linear: bool = True  # whether the metric is the mean of `correct`
    one_split: bool = False  # whether all blocks have one split, by `split_seed`
    epochs: Floats = field(default_factory=lambda: np.zeros(0))  # (cells,) mean epochs of a trial; () unknown
    fits: dict[tuple[bytes, bytes], Floats] = field(default_factory=dict)  # what `_fit` has found

    @functools.cached_property
    def unrepeated(self) -> Ints:
        """Cells that have a first stage of their own in every block."""
        finite = np.isfinite(self.score)
        return np.array([c for c in range(len(finite)) if not _repeats(self.stage[c : c + 1, finite[c]])])

    def correlation(self, level: float) -> tuple[float, float, float]:
        """Between the cells of a block, with its limits; see `analysis.conflicts.block_correlation`."""
        finite = np.isfinite(self.score)
        blocks = finite.sum(1)
        df = self.noise.pool_df
        if df < 1:
            return math.nan, math.nan, math.nan
        means = np.where(finite, self.score, 0.0).sum(1) / np.maximum(blocks, 1)
        centred = np.where(finite, self.score - means[:, None], 0.0)
        total = float((centred**2).sum() / np.maximum(blocks - 1, 0).sum())
        if total <= 0:
            return math.nan, math.nan, math.nan
        per_block = finite.sum(0)
        size, n_blocks = float(per_block[per_block > 1].mean()), int((per_block > 1).sum())
        found = max(1 - self.noise.deviation**2 / total, -1 / (size - 1))
        ratio = (1 + (size - 1) * found) / max(1 - found, 1e-9)
        f = [ratio / float(special.fdtri(n_blocks - 1, df, tail)) for tail in ((1 + level) / 2, (1 - level) / 2)]
        return found, (f[0] - 1) / (f[0] + size - 1), (f[1] - 1) / (f[1] + size - 1)


def check_options(metric: str, margin: float, level: float, q: float) -> None:
    """Refuse options that are out of range, and metrics of the test split."""
    choosable(metric)
    if not 0 <= margin < 1:
        raise ValueError(f"margin is a fraction in [0, 1), e.g. 0.005 for half a point; got {margin}")
    if not 0.5 < level < 1:
        raise ValueError(f"level is a fraction in (0.5, 1), e.g. 0.95; got {level}")
    if not 0 < q < 1:
        raise ValueError(f"q, the false discovery rate, is a fraction in (0, 1), e.g. 0.10; got {q}")


def tables(trials: pd.DataFrame, metric: str, arm: str = "design") -> list[Table]:
    """One table per context, from the rows of one arm."""
    for column in ("arm", "seed", "first_stage", "tricks", metric):
        if column not in trials.columns:
            near = difflib.get_close_matches(column, [str(name) for name in trials.columns], 1)
            raise ValueError(
                f"trials has no column {column!r}{did_you_mean(near)}; pairwise reads arm, seed, first_stage, tricks, "
                f"{metric} and, where present, outcome, context, correct, split_seed and epochs"
            )
    design = trials[trials["arm"] == arm]
    if "outcome" in design.columns:
        # a worker that was lost says nothing about the tricks: their cell is missing in that block
        design = design[design["outcome"] != "failed"]
    if design.empty:
        arms = sorted({str(name) for name in trials["arm"]})
        raise ValueError(
            f"trials has no rows with arm {arm!r} (arms found: {arms}); only designed cells, which are never "
            "stopped early, can show conflicts"
        )
    runs = _runs(design, metric)
    seeds = {seed for contexts in runs.values() for _, seed in contexts}
    if len(seeds) < FEWEST_BLOCKS:
        raise ValueError(
            f"the {arm} arm has {len(seeds)} block (seed {next(iter(seeds))!r}); differences need at least "
            f"{FEWEST_BLOCKS}: run more seeds (--seeds)"
        )
    return [_table(context, runs[context]) for context in sorted(runs)]


class _Run(NamedTuple):
    first_stage: str
    score: float  # NaN: diverged
    correct: NDArray[np.float32] | None  # (images,)
    split: Any  # None: unknown
    epochs: float  # NaN: unknown


def _runs(design: pd.DataFrame, metric: str) -> dict[str, dict[tuple[Cell, Hashable], list[_Run]]]:
    """Checked trials by context, then by cell and seed."""
    here: dict[str, dict[tuple[Cell, Hashable], list[_Run]]] = {}
    blank = [None] * len(design)
    columns = zip(
        design.index,
        design["seed"],
        design["first_stage"],
        design["tricks"],
        design["outcome"] if "outcome" in design.columns else blank,
        design["context"] if "context" in design.columns else blank,
        design["correct"] if "correct" in design.columns else blank,
        design["split_seed"] if "split_seed" in design.columns else blank,
        design["epochs"] if "epochs" in design.columns else blank,
        design[metric],
        strict=True,
    )
    for index, seed, first_stage, tricks, outcome, context, correct, split, epochs, value in columns:
        place = f"trials row {index!r}"
        if isinstance(tricks, str) or not isinstance(tricks, (tuple, list, set, frozenset)):
            raise TypeError(f"{place}: tricks must be a tuple of labels such as ('cutout',), got {tricks!r}")
        if _missing(seed) or _missing(first_stage):
            raise ValueError(
                f"{place}: seed and first_stage must be known, got seed={seed!r}, first_stage={first_stage!r}; "
                "without them replicates cannot be told from copies"
            )
        score = _score(value, "finished" if _missing(outcome) else str(outcome), metric, place)
        cell = here.setdefault("" if _missing(context) else str(context), {})
        images = _images(correct, place) if math.isfinite(score) else None
        length = math.nan if _missing(epochs) else float(epochs)
        run = _Run(str(first_stage), score, images, None if _missing(split) else split, length)
        cell.setdefault((frozenset(map(str, tricks)), seed), []).append(run)
    _check_images(here)
    return here


def _images(correct: Any, place: str) -> NDArray[np.float32] | None:
    """Per-image correctness of one trial; None where it was not kept."""
    if _missing(correct) or len(correct) == 0:
        return None
    images = np.asarray(correct, dtype=np.float32)
    if images.ndim != 1 or not np.isin(images, (0, 1)).all():
        raise ValueError(f"{place}: correct must be a list of 0 and 1, one per image of val")
    return images


def _check_images(runs: dict[str, dict[tuple[Cell, Hashable], list[_Run]]]) -> None:
    finished = [run for cells in runs.values() for many in cells.values() for run in many if math.isfinite(run.score)]
    lengths = {-1 if run.correct is None else len(run.correct) for run in finished}
    if len(lengths) > 1:
        got = ", ".join("none" if length < 0 else str(length) for length in sorted(lengths))
        raise ValueError(
            f"correct (per-image correctness) must have one length in all finished trials, got {got}; keep it where "
            "every block has the same val images, and leave it empty everywhere else"
        )


def _score(value: Any, outcome: str, metric: str, place: str) -> float:
    if outcome == "diverged":
        return math.nan
    if outcome != "finished":
        raise ValueError(
            f"{place}: outcome {outcome!r} in the design arm; allowed are 'finished' and 'diverged' (a stopped trial "
            "would let survivors decide): give such trials another arm"
        )
    score = math.nan if _missing(value) else float(value)
    if math.isnan(score):
        raise ValueError(f"{place}: {metric} is missing although the trial finished; mark it outcome='diverged'")
    if not 0 <= score <= 1:
        raise ValueError(f"{place}: {metric} must be a fraction in [0, 1], got {score:g}; divide percent by 100")
    return score


def _table(context: str, runs: dict[tuple[Cell, Hashable], list[_Run]]) -> Table:
    cells = sorted({cell for cell, _ in runs}, key=lambda cell: (len(cell), sorted(cell)))
    seeds = sorted({seed for _, seed in runs}, key=lambda seed: (str(type(seed)), seed))
    row, column = {cell: i for i, cell in enumerate(cells)}, {seed: i for i, seed in enumerate(seeds)}
    shape = (len(cells), len(seeds))
    score, stage = np.full(shape, np.nan), np.full(shape, -1, dtype=np.int64)
    count, diverged = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    codes: dict[str, int] = {}
    for (cell, seed), replicates in runs.items():
        at = row[cell], column[seed]
        scores = np.array([run.score for run in replicates])
        lost = np.isnan(scores)
        if lost.any() and not lost.all():
            raise ValueError(
                f"tricks {tuple(sorted(cell))} at seed {seed!r} both finished and diverged; one cell and seed has one "
                "outcome: remove the trial that was repeated"
            )
        score[at], count[at], diverged[at] = scores.mean(), len(scores), lost.sum()
        name = "+".join(sorted({run.first_stage for run in replicates}))
        stage[at] = codes.setdefault(name, len(codes))
    correct = _correct(runs, row, column)
    return Table(
        context,
        tuple(cells),
        tuple(seeds),
        score,
        stage,
        count,
        diverged,
        _noise(score, stage, DEVIATION_FLOOR),
        _noise(log_odds(score), stage, 4 * DEVIATION_FLOOR),  # d log-odds / dy is at least 4
        correct,
        correct is None or bool(np.nanmax(np.abs(correct.mean(2) - score)) < 1e-4),
        len(seeds) > 1 and len({run.split for many in runs.values() for run in many} | {None}) == 2,
        np.array([np.mean([run.epochs for s in seeds for run in runs.get((cell, s), ())]) for cell in cells]),
    )


def _correct(
    runs: dict[tuple[Cell, Hashable], list[_Run]], row: dict[Cell, int], column: dict[Hashable, int]
) -> NDArray[np.float32] | None:
    """Correctness of every image (cells, blocks, images), NaN where there is nothing finished; None: not kept."""
    kept = {
        key: np.mean([run.correct for run in many if run.correct is not None], axis=0)
        for key, many in runs.items()
        if any(run.correct is not None for run in many)
    }
    if not kept:
        return None
    correct = np.full((len(row), len(column), len(next(iter(kept.values())))), np.nan, dtype=np.float32)
    for (cell, seed), images in kept.items():
        correct[row[cell], column[seed]] = images
    return correct


def log_odds(score: Floats) -> Floats:
    """Of fractions; 0 and 1 count as ``ACCURACY_FLOOR`` from the end."""
    kept = np.clip(score, ACCURACY_FLOOR, 1 - ACCURACY_FLOOR)
    return np.log(kept / (1 - kept))


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def did_you_mean(near: Sequence[str]) -> str:
    """The nearest name in brackets, or nothing."""
    return f" (did you mean {near[0]!r}?)" if near else ""


def primary_pairs(primary: Iterable[Sequence[str] | str], labels: Sequence[str]) -> set[tuple[str, str]]:
    """Declared pairs, each sorted; refused where a label is unknown."""
    if isinstance(primary, str):
        raise ValueError(f"primary is a list of pairs, got the text {primary!r}; write [{primary!r}]")
    pairs = set()
    for entry in primary:
        parts = [part.strip() for part in entry.split("×")] if isinstance(entry, str) else list(entry)
        if len(parts) != 2 or parts[0] == parts[1]:
            raise ValueError(f"primary: {entry!r} is not a pair; write ('a', 'b') or 'a×b' with two different labels")
        for part in parts:
            if part not in labels:
                near = difflib.get_close_matches(str(part), labels, 1, cutoff=0.0)
                raise ValueError(
                    f"primary: no trick {part!r} in the design arm{did_you_mean(near)}; labels are {list(labels)}"
                )
        a, b = sorted(parts)
        pairs.add((a, b))
    return pairs


# ------------------------------------------------------------------------------------------------------- the noise


@dataclass(frozen=True)
class Noise:
    """Variance of one result within its block, moderated over the cells of a context."""

    leaf: float  # variance of what is drawn anew in every trial
    start: float  # variance of what trials of one first stage share
    factor: Floats  # (cells,) moderated variance of each cell over the pooled one
    factor_df: Floats  # (cells,) degrees of freedom behind each factor
    pool_df: float  # all that the context's residuals hold
    start_df: float  # the same, counting cells that share their first stages once
    prior_df: float

    @property
    def deviation(self) -> float:
        """Of one result within its block."""
        return math.sqrt(self.leaf + self.start)

    def variance(self, weights: Floats, stage: Ints) -> tuple[Floats, Floats]:
        """Variance of weighted sums of results, and its degrees of freedom.

        V = Σ_c f(c)·Σ_s w(c,s)·(leaf·w(c,s) + start·Σ_{c': same first stage in s} w(c',s)), linear in the factors f, so
        that Satterthwaite applies: df = V² / Σ_c (term c)² / df(c), never above what all residuals hold.

        Args:
            weights: of every result, (k, cells, blocks).
            stage: code of each result's first stage, (cells, blocks).
        """
        alike = np.zeros_like(weights)
        if self.start > 0:
            for s in range(stage.shape[1]):
                here = np.flatnonzero(np.abs(weights[:, :, s]).max(0) > 0)
                same = (stage[here, s][:, None] == stage[here, s]).astype(float)
                alike[:, here, s] = weights[:, here, s] @ same
        terms = self.factor * (weights * (self.leaf * weights + self.start * alike)).sum(2)
        squares = (weights**2).sum((1, 2))
        variance = np.maximum(terms.sum(1), self.leaf * squares * self.factor.min())
        df = variance**2 / np.maximum((terms**2 / self.factor_df).sum(1), 1e-300)
        between = (weights * alike).sum((1, 2)) > 1e-9 * squares
        most = np.where(between, self.start_df, self.pool_df)
        return variance, np.clip(df, 1.0, np.maximum(most, 1.0))


def _noise(score: Floats, stage: Ints, floor: float) -> Noise:
    """Estimate the noise of one context from all differences between its cells."""
    spread, weight, shared = _difference_variances(score, stage)
    # A checkpoint that serves several blocks repeats its own deviation: such differences look too calm.
    present = stage >= 0
    repeated = np.array([len(set(ids[here])) < here.sum() for ids, here in zip(stage, present, strict=True)])
    within = np.where(shared == 1, weight, 0.0)
    between = np.where((shared == 0) & ~(repeated[:, None] | repeated[None, :]), weight, 0.0)
    calm, full = _half_mean(spread, within), _half_mean(spread, between)
    known = [value for value in (calm, full) if not math.isnan(value)]
    leaf = max(known[0] if known else 0.0, floor**2)
    start = max(full - leaf, 0.0) if len(known) == 2 else 0.0

    blocks = np.isfinite(score).sum(1)
    own_df = np.maximum(blocks - 1.0, 0.0)
    factor = _cell_factors(spread / (2 * leaf + 2 * start * (1 - shared)), within + between)
    prior_df = _prior_df(factor[own_df > 0], own_df[own_df > 0])
    moderated = (prior_df + own_df * factor) / (prior_df + own_df)
    finite = np.isfinite(score)
    pool_df = _residual_df(finite.sum(0), int(finite.any(1).sum()))
    distinct = np.array([len(set(ids[here])) for ids, here in zip(stage.T, finite.T, strict=True)])
    start_df = _residual_df(distinct, int(distinct.max(initial=0)))
    return Noise(leaf, start, moderated, prior_df + own_df, pool_df, start_df, prior_df)


def _residual_df(per_block: Ints, means: int) -> float:
    """What is left of this many results per block once every block and every one of `means` cells has its mean."""
    return float(max(np.maximum(per_block - 1, 0).sum() - max(means - 1, 0), 0))


def _difference_variances(score: Floats, stage: Ints) -> tuple[Floats, Floats, Floats]:
    """Of every two cells over common blocks: variance of the difference, its df, share of same first stages."""
    size = len(score)
    spread, weight, shared = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size))
    finite = np.isfinite(score)
    for c in range(size):  # row by row: cells × cells × blocks at once would not fit for large screens
        common = finite & finite[c]
        blocks = common.sum(1)
        difference = np.where(common, score - score[c], 0.0)
        centred = np.where(common, difference - (difference.sum(1) / np.maximum(blocks, 1))[:, None], 0.0)
        spread[c] = (centred**2).sum(1) / np.maximum(blocks - 1, 1)
        weight[c] = np.maximum(blocks - 1, 0)
        shared[c] = (common & (stage == stage[c])).sum(1) / np.maximum(blocks, 1)
    np.fill_diagonal(weight, 0.0)
    return spread, weight, shared


def _half_mean(spread: Floats, weight: Floats) -> float:
    return float((spread * weight).sum() / weight.sum() / 2) if weight.sum() > 0 else math.nan


def _cell_factors(ratio: Floats, weight: Floats) -> Floats:
    """Variance of each cell over the pooled one: least squares of ratio(c, c') = (f(c) + f(c')) / 2 (Grubbs 1948)."""
    used = weight.sum(1) > 0
    if not used.any():
        return np.ones(len(ratio))
    system = np.diag(weight.sum(1)) + weight
    factor = np.linalg.lstsq(system, 2 * (weight * ratio).sum(1), rcond=None)[0]
    mean = factor[used].mean()
    factor = factor / mean if mean > 1e-9 else np.ones(len(ratio))
    # Differences of variances may come out negative; a twentieth is as little as few blocks can tell from 0.
    return np.where(used, np.maximum(factor, 0.05), 1.0)


def _prior_df(factor: Floats, df: Floats) -> float:
    """Degrees of freedom d₀ of the prior: var(log f) = ψ'(df/2) + ψ'(d₀/2) (Smyth 2004)."""
    if len(factor) < 3:
        return PRIOR_DF_MAX
    level = np.log(factor) - special.psi(df / 2) + np.log(df / 2)
    excess = float(level.var(ddof=1) - special.polygamma(1, df / 2).mean())
    if excess <= float(special.polygamma(1, PRIOR_DF_MAX / 2)):
        return PRIOR_DF_MAX
    return 2 * _trigamma_inverse(excess)


def _trigamma_inverse(value: float) -> float:
    """Solve ψ'(x) = value by Newton's method on 1/ψ', which is convex (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(20):
        trigamma = float(special.polygamma(1, x))
        x += trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
    return x


# ------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Estimate:
    """Contrasts with their standard errors; one entry per contrast.

    Args:
        value: What was measured.
        error: Standard errors; NaN: unknown.
        df: Degrees of freedom of the errors.
        images: The part of error² that further blocks do not lower: that of fixed val images.
    """

    value: Floats
    error: Floats
    df: Floats
    images: Floats

    def below(self, i: int, bound: float = 0.0) -> float:
        """One-sided p for "the contrast is below the bound"."""
        return float(special.stdtr(self.df[i], (self.value[i] - bound) / self.error[i]))

    def above(self, i: int, bound: float = 0.0) -> float:
        """One-sided p for "the contrast is above the bound"."""
        return float(special.stdtr(self.df[i], (bound - self.value[i]) / self.error[i]))

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Two-sided limits."""
        reach = special.stdtrit(self.df, (1 + level) / 2) * self.error
        return self.value - reach, self.value + reach

    def lower(self, i: int, level: float) -> float:
        """One-sided lower limit."""
        return float(self.value[i] - special.stdtrit(self.df[i], level) * self.error[i])


@dataclass(frozen=True)
class Blocks:
    """What a comparison rests on.

    Args:
        n_seeds: Blocks of the cell that has the fewest, with all others of its comparison beside it.
        n_units: The independent units that they form.
        n_first_stages: Distinct first stages behind the level that has the fewest.
        from_start: Whether some contrast compares different first stages.
    """

    n_seeds: int
    n_units: int
    n_first_stages: int
    from_start: bool


@dataclass(frozen=True)
class Measured:
    """Contrasts of one pair or trick.

    Args:
        blocks: What they rest on.
        means: Of each level, (levels,), at the average block.
        accuracy: The contrasts.
        log_odds: The same of the log-odds.
        lost: Seeds in which some of the cells diverged.
        problem: Why nothing may be claimed; "" if something may.
        averaged_over: Settings of the other tricks over which each level is averaged; in a fraction, the interaction.
        unfit: P-value of the fraction's lack of fit, where that made these cells be judged by themselves; else 1.
        unfinished: Cells of the fraction that hardly ever finished, where that made these cells be judged by
            themselves; else 0.
        fitted: Runs of the fraction whose fit gives the levels with the other tricks off; 0 where it is none.
        spread: Deviation of the interaction between these settings, NaN: unknown.
        images: Images of a val that is the same in every block; 0 where it is not, or their share is unknown.
    """

    blocks: Blocks
    means: Floats
    accuracy: Estimate
    log_odds: Estimate
    lost: int
    problem: str
    averaged_over: int = 1
    fitted: int = 0
    unfit: float = 1.0
    spread: float = math.nan
    images: int = 0
    unfinished: int = 0


def levels_of(table: Table, labels: tuple[str, ...]) -> Ints | None:
    """Cells of the table for every combination of the labels, over the same or balanced settings of all others.

    Cells are matched in all other tricks. Where the table holds a two-level fraction that crosses the labels (see
    `_fraction`) and gives more cells, the recipes of each combination are taken whole, if they balance the other
    tricks singly and in pairs; not where its model is shown not to hold (`lack_of_fit`) or one of its cells hardly ever
    finished, and matched cells are there.

    Returns:
        Row numbers (combinations, recipes), combinations in the order 0, 1 or 00, 10, 01, 11; None where the
        design has no such cells.
    """
    matched = _matched(table.cells, range(len(table.cells)), labels)
    crossed = _fraction(table.cells, labels)
    if crossed is not None and matched is not None and not _believed(table, crossed):
        return matched
    if crossed is None and matched is None:
        crossed = np.arange(len(table.cells))
    if crossed is not None:
        whole = _matched(table.cells, crossed, labels)
        whole = _margins(table.cells, crossed, labels) if whole is None else whole
        if whole is not None and (matched is None or whole.shape[1] >= matched.shape[1]):
            return whole
    return matched


def _patterns(labels: tuple[str, ...]) -> list[Cell]:
    return [frozenset(label for k, label in enumerate(labels) if code >> k & 1) for code in range(2 ** len(labels))]


def _matched(cells: Sequence[Cell], rows: Iterable[int], labels: tuple[str, ...]) -> Ints | None:
    """For every pattern of the labels the recipes that exist with all patterns."""
    patterns, both = _patterns(labels), frozenset(labels)
    rests: dict[Cell, dict[Cell, int]] = {}
    for i in rows:
        rests.setdefault(cells[i] - both, {})[cells[i] & both] = int(i)
    found = [rest for rest in rests.values() if len(rest) == len(patterns)]
    return np.array([[rest[pattern] for rest in found] for pattern in patterns]) if found else None


def _margins(cells: Sequence[Cell], rows: Ints, labels: tuple[str, ...]) -> Ints | None:
    """For every pattern of the labels all recipes that show it, if these balance all other tricks."""
    both = frozenset(labels)
    margins = [[int(i) for i in rows if cells[i] & both == pattern] for pattern in _patterns(labels)]
    if len({len(margin) for margin in margins}) != 1 or not margins[0]:
        return None
    others = sorted(set().union(*(cells[i] for i in rows)) - both)
    moments = []
    for margin in margins:
        present = np.array([[label in cells[i] for label in others] for i in margin], dtype=float)
        moments.append(present.T @ present)  # the diagonal holds the single counts
    balanced = all(np.array_equal(moments[0], other) for other in moments[1:])
    return np.array(margins) if balanced else None


def _fraction(cells: Sequence[Cell], labels: tuple[str, ...]) -> Ints | None:
    """Rows of the two-level fraction that crosses the labels, among other cells; None where there is none.

    A regular fraction is an affine space over {0, 1}: with any three of its cells, the labels that are in an odd number
    of them are one of its cells too. Only a fraction has cells of three tricks and more, and those span it; where
    several have no trick in common, it is the one with the labels.
    """
    near = set(labels)
    while grown := set().union(*(cell for cell in cells if len(cell) >= 3 and cell & near)) - near:
        near |= grown
    large = [cell for cell in cells if len(cell) >= 3 and cell <= near]
    if len(large) < 3 or not set(labels) <= set().union(*large):
        return None
    start = large[0]
    basis: list[Cell] = []
    for cell in large[1:]:
        step = _reduced(cell ^ start, basis)
        if step:
            basis.append(step)
    if 2 ** len(basis) > len(cells):
        return None
    row = {cell: i for i, cell in enumerate(cells)}
    span = [start]
    for step in basis:
        span += [cell ^ step for cell in span]
    return np.array(sorted(row[cell] for cell in span)) if all(cell in row for cell in span) else None


def _believed(table: Table, crossed: Ints) -> bool:
    """Whether a fraction can be fitted, and its model is not shown to be wrong."""
    return not _lost_cells(table, crossed) and lack_of_fit(table, crossed) >= ADEQUATE


def _lost_cells(table: Table, crossed: Ints) -> int:
    """Cells of a fraction without which it cannot be fitted: finished in fewer than two blocks."""
    return int((np.isfinite(table.score[crossed]).sum(1) < FEWEST_BLOCKS).sum())


def lack_of_fit(table: Table, crossed: Ints) -> float:
    """P-value of "cells beside a fraction are what its effects and pairs predict"; 1 where there are none.

    With d the measured less the predicted means of m such cells over r blocks, d = L·μ and V the working covariance of
    the cells of a block (σ²·1 where no first stage is shared), F = dᵀ(L·V·Lᵀ)⁻¹d·r / m with m degrees of freedom and
    those of the pooled variance. Cells of three tricks and more, or of other tricks, are left out.

    Args:
        table: the context.
        crossed: rows of the fraction.
    """
    labels = sorted(set().union(*(table.cells[int(i)] for i in crossed)))
    inside = set(crossed.tolist())
    beside = [i for i, cell in enumerate(table.cells) if i not in inside and len(cell) <= 2 and cell <= set(labels)]
    model = _signs([table.cells[int(i)] for i in crossed], labels)
    if not beside or np.abs(model.T @ model - len(crossed) * np.eye(model.shape[1])).max() > 1e-9:
        return 1.0
    rows = np.array([*beside, *crossed])
    blocks = np.flatnonzero(np.isfinite(table.score[rows]).all(0))
    noise = table.noise
    if not len(blocks) or noise.pool_df < 1:
        return 1.0
    predicted = _signs([table.cells[i] for i in beside], labels) @ model.T / len(crossed)
    gaps = np.hstack([np.eye(len(beside)), -predicted])
    stage = table.stage[np.ix_(rows, blocks)]
    same = (stage[:, None] == stage[None]).mean(2)
    between = noise.start * gaps @ same @ gaps.T
    covariance = between + noise.leaf * gaps @ gaps.T
    gap = gaps @ table.score[np.ix_(rows, blocks)].mean(1)
    statistic = float(gap @ np.linalg.solve(covariance, gap)) * len(blocks) / len(beside)
    # as Satterthwaite's, by what first stages have of the covariance
    share = float(np.trace(np.linalg.solve(covariance, between))) / len(beside)
    shared = bool((same.sum(1) > 1).any())
    df = 1 / (share**2 / max(noise.start_df, 1.0) + (1 - share) ** 2 / noise.pool_df) if shared else noise.pool_df
    return float(special.fdtrc(len(beside), df, statistic))


def _reduced(step: Cell, basis: Sequence[Cell]) -> Cell:
    """What is left of a step once the earlier ones have taken away their first labels."""
    for known in basis:
        if min(known) in step:
            step = step ^ known
    return step


def smallest_rests(table: Table, levels: Ints) -> Ints:
    """Keep the recipes with the fewest other tricks: "alone"; in a fraction whose model holds all."""
    sizes = np.array([len(table.cells[i]) for i in levels[0]])
    crossed = _fraction(table.cells, tuple(table.cells[levels[-1][0]]))
    if not _is_matched(table, levels) or (crossed is not None and _believed(table, crossed)):
        return levels
    return levels[:, sizes == sizes.min()]


def _is_matched(table: Table, levels: Ints) -> bool:
    """Whether the recipes of all levels agree in the other tricks, one by one."""
    own = table.cells[levels[-1][0]] - table.cells[levels[0][0]]
    return all(len({table.cells[i] - own for i in recipe}) == 1 for recipe in levels.T)


@dataclass(frozen=True)
class _Frame:
    """The cells of a comparison and where they may be compared."""

    levels: Ints  # (levels, recipes)
    columns: Ints  # blocks that count
    units: Ints  # unit of each, where blocks that share first stages are averaged
    shares: Floats  # (levels, levels · recipes), of each recipe's mean in each level's
    fitted: Ints  # cells that help to fit the blocks
    by_units: bool
    blocks: Blocks


def _frame(table: Table, levels: Ints, contrasts: Floats) -> _Frame:
    """The recipes that lost few blocks, their blocks, and what these are worth."""
    finite = np.isfinite(table.score)
    single = levels.shape[1] == 1
    if not single and _is_matched(table, levels):
        whole = finite[levels].all(0).sum(1)
        levels = levels[:, whole >= max(whole.max() / 2, min(FEWEST_BLOCKS, whole.max()))]
        single = levels.shape[1] == 1
    cells = levels.ravel()
    complete = np.flatnonzero(finite[cells].all(0))
    present = finite[cells]
    stage = np.where(present, table.stage[cells], -1 - np.arange(len(cells))[:, None])
    used = stage[:, complete] if single else stage
    same = (used[:, None, :] == used[None, :, :]).mean(2) if used.shape[1] else np.eye(len(cells))
    shares = _shares(table.cells, levels)
    spread = contrasts @ shares
    from_start = bool((np.einsum("ki,ij,kj->k", spread, same, spread) > 1e-9).any())
    by_level = used.reshape(*levels.shape, used.shape[1])
    n_first = min(len(np.unique(ids[ids >= 0])) for ids in by_level)
    n_seeds = len(complete) if single else int(present.sum(1).min())

    own = np.sort(cells)
    if not from_start and n_first < FEWEST_FIRST_STAGES:  # differences within these few first stages, and no others
        return _Frame(levels, complete, complete, shares, own, False, Blocks(n_seeds, n_seeds, n_first, from_start))
    if _repeats(stage):
        units = _independent_units(stage[:, complete])
        blocks = Blocks(len(complete), len(set(units)), n_first, from_start)
        return _Frame(levels, complete, units, shares, own, True, blocks)
    fitted = table.unrepeated
    columns = np.flatnonzero(finite[fitted].any(0))
    return _Frame(levels, columns, columns, shares, fitted, False, Blocks(n_seeds, n_seeds, n_first, from_start))


def _shares(cells: Sequence[Cell], levels: Ints) -> Floats:
    """How each level's mean is made of the recipes' means, (levels, levels · recipes), see the module.

    Evenly of its own recipes; in a fraction, of all runs as the effects and pairs predict it with all else off.
    """
    evenly: Floats = np.kron(np.eye(len(levels)), np.full(levels.shape[1], 1 / levels.shape[1]))
    own = [frozenset.intersection(*(cells[int(i)] for i in level)) for level in levels]
    runs = [cells[int(i)] for i in levels.ravel()]
    labels = sorted(set().union(*runs))
    model = _signs(runs, labels)
    if levels.shape[1] == 1 or model.shape[1] > len(runs):
        return evenly
    if len(runs) == 2 ** len(labels) or np.abs(model.T @ model - len(runs) * np.eye(model.shape[1])).max() > 1e-9:
        return evenly
    shares: Floats = _signs(own, labels) @ model.T / len(runs)
    return shares


def _signs(cells: Sequence[Cell], labels: Sequence[str]) -> Floats:
    """Columns of ±1 of the mean, every label and every two labels, (cells, columns)."""
    sign = np.array([[1.0 if label in cell else -1.0 for label in labels] for cell in cells])
    pairs = [sign[:, i] * sign[:, j] for i, j in combinations(range(len(labels)), 2)]
    return np.column_stack([np.ones(len(cells)), sign, *pairs])


def _repeats(stage: Ints) -> bool:
    """Whether a cell has one first stage in two blocks; codes below 0 are none."""
    return any(len(set(ids[ids >= 0])) < (ids >= 0).sum() for ids in stage)


def _independent_units(stage: Ints) -> Ints:
    """Number the groups of blocks (columns) that no first stage joins."""
    units = np.arange(stage.shape[1])
    for i, j in combinations(range(stage.shape[1]), 2):
        if units[i] != units[j] and set(stage[:, i]) & set(stage[:, j]):
            units[units == units[j]] = units[i]
    return np.unique(units, return_inverse=True)[1]


def measure(table: Table, levels: Ints, contrasts: Floats, pair: tuple[str, str] | None = None) -> Measured:
    """Measure contrasts of levels.

    Args:
        table: the context.
        levels: rows of the table, (levels, recipes).
        contrasts: weights of the levels, (k, levels).
        pair: the labels, where the spread of their interaction is wanted.
    """
    frame = _frame(table, levels, contrasts)
    weights = _level_weights(table, frame)
    of_contrasts = np.einsum("kl,lcs->kcs", contrasts, weights)
    score, odds = np.nan_to_num(table.score), np.nan_to_num(log_odds(table.score))
    something = bool(np.abs(weights).sum())
    means = np.einsum("lcs,cs->l", weights, score) if something else np.full(len(levels), np.nan)
    images = [_image_share(table, frame, of_contrasts, log_odds_scale=scale) for scale in (False, True)]
    accuracy = _estimate(table, table.noise, frame, of_contrasts, score, DEVIATION_FLOOR, images[0])
    of_odds = _estimate(table, table.noise_log_odds, frame, of_contrasts, odds, 4 * DEVIATION_FLOOR, images[1])
    problem = _problem(table, frame, weights)
    spread, unfit, unfinished = math.nan, 1.0, 0
    crossed = _fraction(table.cells, pair) if pair is not None and frame.levels.shape[1] == 1 else None
    if crossed is not None:
        unfinished = _lost_cells(table, crossed)
        unfit = lack_of_fit(table, crossed)
    if pair is not None and not problem:
        spread = _spread(table, frame, pair, float(accuracy.error[(contrasts == INTERACTION).all(1)][0]))
    return Measured(
        frame.blocks,
        means,
        accuracy,
        of_odds,
        lost=int((table.diverged[frame.levels.ravel()].sum(0) > 0).sum()),
        problem=problem,
        averaged_over=frame.levels.shape[1],
        fitted=frame.levels.size if (frame.shares < 0).any() else 0,
        unfit=unfit if unfit < ADEQUATE else 1.0,
        spread=spread,
        images=table.correct.shape[2] if table.correct is not None and table.linear else 0,
        unfinished=unfinished,
    )


def _level_weights(table: Table, frame: _Frame) -> Floats:
    """Weights of every result in each level's mean, (levels, cells, blocks)."""
    weights, rows = np.zeros((len(frame.levels), *table.score.shape)), frame.levels.ravel()
    if not frame.blocks.n_seeds:
        return weights
    if frame.by_units:
        share = 1 / (frame.blocks.n_units * np.bincount(frame.units)[frame.units])
        for level, of_runs in enumerate(frame.shares):
            weights[level][np.ix_(rows, frame.columns)] = of_runs[:, None] * share
    else:
        means = _fit(table, frame.fitted, frame.columns)
        for level, of_runs in enumerate(frame.shares):
            weights[level] = np.tensordot(of_runs, means[rows], 1)
    return weights


def _fit(table: Table, cells: Ints, columns: Ints) -> Floats:
    """Weights of every result in every cell's mean at the average block, (cells, cells, blocks); see the module."""
    key = (cells.tobytes(), columns.tobytes())
    if key in table.fits:
        return table.fits[key]
    n_cells, n_blocks = table.score.shape
    weights = np.zeros((n_cells, n_cells, n_blocks))
    finite = np.isfinite(table.score[np.ix_(cells, columns)])
    if finite.all():
        for c in cells:
            weights[c, c, columns] = 1 / len(columns)
    else:
        ratio = table.noise.start / table.noise.leaf
        size = len(cells) + len(columns)
        normal, right = np.zeros((size, size)), np.zeros((size, len(cells), len(columns)))
        for j, s in enumerate(columns):
            here = np.flatnonzero(finite[:, j])
            ids = table.stage[cells[here], s]
            inverse = np.linalg.inv(np.eye(len(here)) + ratio * (ids[:, None] == ids))
            design = np.zeros((len(here), size))
            design[np.arange(len(here)), here] = 1
            design[:, len(cells) + j] = 1
            normal += design.T @ inverse @ design
            right[:, here, j] = design.T @ inverse
        solved = np.linalg.pinv(normal, hermitian=True) @ right.reshape(size, -1)
        solved = solved.reshape(right.shape)
        means = solved[: len(cells)] + solved[len(cells) :].mean(0)
        weights[np.ix_(cells, cells, columns)] = means
    table.fits[key] = weights
    return weights


def _estimate(
    table: Table, noise: Noise, frame: _Frame, weights: Floats, score: Floats, floor: float, images: Floats
) -> Estimate:
    """Contrasts by their weights (k, cells, blocks); `images`: what a fixed val adds to their variance."""
    unknown = np.full(len(weights), np.nan)
    if not np.abs(weights).sum():
        return Estimate(unknown, unknown, unknown, unknown)
    values = np.einsum("kcs,cs->k", weights, score)
    n_units = frame.blocks.n_units
    if n_units < FEWEST_BLOCKS:
        return Estimate(values, unknown, unknown, unknown)
    if frame.by_units:  # the pooled variance is one of seeds, not of these units
        parts = np.einsum("kcs,cs->ks", weights, score)[:, frame.columns]
        units = n_units * np.column_stack([parts[:, frame.units == unit].sum(1) for unit in range(n_units)])
        least = floor**2 * (weights.sum(2) ** 2).sum(1)
        variance = np.maximum(units.var(1, ddof=1), least) / n_units
        df = np.full(len(weights), n_units - 1.0)
    else:
        variance, df = noise.variance(weights, table.stage)
    total = variance + images
    if table.correct is not None:
        df = total**2 / (variance**2 / df + images**2 / max(table.correct.shape[2] - 1, 1))
    return Estimate(values, np.sqrt(total), df, images)


def _image_share(table: Table, frame: _Frame, weights: Floats, *, log_odds_scale: bool) -> Floats:
    """Variance of contrasts (k,) from which images a fixed val happens to hold; 0 where val is not fixed."""
    if table.correct is None or not table.linear or frame.blocks.n_seeds < FEWEST_BLOCKS:
        return np.zeros(len(weights))
    used = np.flatnonzero(np.abs(weights).max((0, 2)) > 1e-9)
    correct, score = np.nan_to_num(table.correct[used]), table.score[used]
    slope = np.ones(len(used))
    if log_odds_scale:
        mean = np.clip(np.nanmean(score, axis=1), ACCURACY_FLOOR, 1 - ACCURACY_FLOOR)
        slope = 1 / (mean * (1 - mean))
    scaled = weights[:, used] * slope[:, None]
    n_images = correct.shape[2]
    between = (scaled.reshape(len(scaled), -1) @ correct.reshape(-1, n_images)).var(1, ddof=1)
    contrast = scaled.sum(2)  # (k, used)
    main = np.abs(contrast).max(0) > 1e-9
    complete = np.flatnonzero(np.isfinite(score[main]).all(0))
    if len(complete) < FEWEST_BLOCKS:  # nothing to tell scatter from difficulty by: too wide rather than too narrow
        return np.asarray(between / n_images)
    within = np.einsum("kc,csi->ksi", contrast[:, main], correct[main][:, complete])
    within = within - within.mean(1, keepdims=True) - within.mean(2, keepdims=True) + within.mean((1, 2), keepdims=True)
    scatter = (within**2).sum((1, 2)) / ((len(complete) - 1) * (n_images - 1))
    per_result = scatter / np.maximum((contrast**2).sum(1), 1e-300)
    return np.asarray(np.maximum(between - per_result * (scaled**2).sum((1, 2)), 0.0) / n_images)


def _spread(table: Table, frame: _Frame, pair: tuple[str, str], error: float) -> float:
    """Deviation of the interaction between the settings of the other tricks over which it is averaged, noise removed.

    With matched recipes, that of their interactions; in a fraction √Σ δ² over the other tricks, δ half the difference
    of the interaction with and without one of them. NaN with one setting, and where the fraction lets a δ coincide
    with an effect or a pair of other tricks, as in 16 runs of five tricks.
    """
    recipes = frame.levels.shape[1]
    if recipes < 2 or frame.by_units:
        return math.nan
    means = np.einsum("dcs,cs->d", _fit(table, frame.fitted, frame.columns), np.nan_to_num(table.score))
    if _is_matched(table, frame.levels):
        values = INTERACTION @ means[frame.levels]
        return math.sqrt(max(float(values.var()) - (recipes - 1) * error**2, 0.0))
    rows = frame.levels.ravel()
    sign = {
        label: np.array([1.0 if label in table.cells[i] else -1.0 for i in rows])
        for label in sorted(set().union(*(table.cells[i] for i in rows)))
    }
    known = [*sign.values(), *(sign[x] * sign[y] for x, y in combinations(sign, 2))]
    total = 0.0
    for label in sorted(set(sign) - set(pair)):
        product = sign[pair[0]] * sign[pair[1]] * sign[label]
        if any(abs(product @ other) > 1e-9 for other in known):
            return math.nan
        total += (4 / len(rows) * float(product @ means[rows])) ** 2 - error**2
    return math.sqrt(max(total, 0.0))


def nothing(problem: str, contrasts: int, levels: int) -> Measured:
    """Something that was never run."""
    unknown = np.full(contrasts, np.nan)
    estimate = Estimate(unknown, unknown, unknown, unknown)
    return Measured(Blocks(0, 0, 0, False), np.full(levels, np.nan), estimate, estimate, 0, problem)


def _problem(table: Table, frame: _Frame, weights: Floats) -> str:
    """Why these blocks allow no claim, or nothing."""
    blocks = frame.blocks
    if blocks.n_seeds < FEWEST_BLOCKS:
        return (
            f"all cells finished in {blocks.n_seeds} of {len(table.seeds)} seeds; at least {FEWEST_BLOCKS} are needed"
        )
    independent = min(blocks.n_first_stages, blocks.n_units) if frame.by_units else blocks.n_first_stages
    if blocks.from_start and independent < FEWEST_FIRST_STAGES:
        return (
            f"a trick of the first stage was measured on {counted(independent, 'independent first stage')} per level; "
            f"a claim about it needs at least {FEWEST_FIRST_STAGES}, however many later seeds share them"
        )
    own = np.zeros((len(weights), weights.shape[1]))
    own[:, frame.levels.ravel()] = frame.shares
    per_block, per_cell = weights.sum(1), weights.sum(2)
    if np.abs(per_block - per_block[0]).max() > 1e-8 or np.abs(per_cell - own)[:, own.any(0)].max() > 1e-8:
        return "no chain of common seeds joins the cells, so that they cannot be compared within blocks"
    return ""


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "seed"), counted(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
