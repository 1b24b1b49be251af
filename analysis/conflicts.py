"""Which tricks conflict: pairwise effects, intervals and verdicts. Tables in, tables out.

For two tricks A and B, everything else equal, a design holds four cells: neither ``00``, A alone ``10``, B alone
``01``, both ``11``. With block s (a seed: its own split, its own initialisation) and cell means μ:

    interaction   I = μ11 − μ10 − μ01 + μ00
    harms         H = μ11 − μ10 (adding B to A)   and   μ11 − μ01 (adding A to B)

**Noise.** A result is y(c, s) = μ(c) + block(s) + start(c, s) + leaf(c, s). The block cancels in every contrast; a
first stage that cells share (``start``) cancels between them. Three to five blocks cannot estimate a variance, so
all cells of a context lend theirs: half the variance of a difference of two cells over blocks estimates the pooled
variance; its excess or lack in one cell's differences gives that cell's factor (Grubbs 1948), which is then
moderated towards 1 with a prior worth d₀ degrees of freedom, d₀ estimated from the spread of the factors (Smyth
2004) and at most 8: beyond that, power hardly grows while tests of the noisiest cells become too bold.
A contrast Σ w(c)·μ(c) has the variance Σ w(c)²·σ²(c) / blocks, Satterthwaite's degrees of freedom, and Student's t.

**Verdicts** (the first that holds). "Shown" is one-sided at 1 − level, and must survive the adjustment below.

    conflict      one harm < 0 (Holm over the two) and I < 0:   p = max(p of I, Holm's smaller p of the harms)
    harmful       one harm < 0:                                 p = Holm's smaller p of the harms
    synergy       μ11 above each of the other three:            p = the largest of three
    redundant     I < 0 in accuracy and in log-odds:            p = the larger of two
    compatible    both harms' lower limits above −margin (intersection-union: no correction)
    unresolved    anything else;   not applicable: the four cells do not exist side by side

**Many pairs.** Each of the first four claims is one family of tests over the table: its p-values over all declared
primary pairs go through Holm (family-wise error ≤ 1 − level), those over all other pairs through Benjamini-Hochberg
(false discovery rate ≤ q; the raw p must be ≤ 1 − level as well, so that intervals and verdicts agree). All pairs
that pass the conflict test are called conflict, hence the bounds hold for the conflicts as a person counts them, and
for "some harm is real" over conflict and harmful together. Pairs that could not be tested are in no family.

**Replication.** The unit is one independently seeded first stage. Blocks that share a checkpoint are averaged into
one unit, with the pair's own (unmoderated) variance. Where A and B both act later, differences lie within a
checkpoint and fewer than three checkpoints are allowed; the reason then says that the result speaks of those only.

Differs from a plain t test per pair: the moderated variance assumes that, apart from shared first stages, a block
raises all cells alike; what it does to single cells is counted as their noise.

Source: Holm 1979 (Scand. J. Statist. 6); Benjamini & Hochberg 1995 (JRSS B 57); Grubbs 1948 (JASA 43); Smyth 2004
(doi 10.2202/1544-6115.1027); Satterthwaite 1946 (Biometrics 2); Wilson 1927 (JASA 22); Berger 1982 (Technometrics
24, intersection-union tests).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Cell = frozenset[str]

PRIOR_DF_MAX = 8.0  # see "Noise" above; the simulations are in tests/benchmarks/conflict_truth.py
DEVIATION_FLOOR = 1e-3  # a tenth of a point: no training repeats closer, so identical cells are no evidence
ACCURACY_FLOOR = 1e-3  # before log-odds: recalls of zero count as 1e-3 in the means of trainables.metrics too
FEWEST_BLOCKS = 2
FEWEST_FIRST_STAGES = 3  # a single shared checkpoint shows "effects" of its own trick in 34 to 65 % of cases
MOST_FURTHER_SEEDS = 100
SETTLING_POWER = 0.8  # "further seeds that would settle it" do so with this probability

_CONTRASTS: dict[str, tuple[float, float, float, float]] = {  # weights of the cells 00, 10, 01, 11
    "alone_a": (-1, 1, 0, 0),
    "alone_b": (-1, 0, 1, 0),
    "interaction": (1, -1, -1, 1),
    "b_given_a": (0, -1, 0, 1),
    "a_given_b": (0, 0, -1, 1),
    "both": (-1, 0, 0, 1),
}
_INDEX = {name: i for i, name in enumerate(_CONTRASTS)}
_REPORTED = ("alone_a", "alone_b", "interaction", "b_given_a", "a_given_b")
_CLAIMS = ("conflict", "harmful", "synergy", "redundant")  # in the order in which they are tried
_ACTIONS = {
    "conflict": "avoid together",
    "harmful": "avoid the one that harms",
    "synergy": "use together",
    "redundant": "one is enough",
    "compatible": "free",
    "unresolved": "unknown",
    "not applicable": "unknown",
}
_PAIR_COLUMNS = (
    *("a", "b", "primary", "n_seeds", "n_first_stages"),
    *("mean_00", "mean_10", "mean_01", "mean_11", "diverged_11"),
    *(f"{name}{end}" for name in _REPORTED for end in ("", "_low", "_high")),
    *("p_value", "adjusted_p", "verdict", "action", "sign_flip", "more_seeds", "reason"),
    *("context", "excluded_harm", "interaction_log_odds", "interaction_log_odds_low", "interaction_log_odds_high"),
    *("trials_11", "diverged_11_rate", "diverged_11_rate_low", "diverged_11_rate_high"),
)
_EFFECT_COLUMNS = (
    *("trick", "context", "n_seeds", "n_first_stages", "mean_without", "mean_with", "effect", "low", "high"),
)


def pairwise(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = 0.005,
    *,
    primary: Iterable[Sequence[str] | str] = (),
    level: float = 0.95,
    q: float = 0.10,
) -> pd.DataFrame:
    """Judge every pair of tricks of the design arm; see the module's text for formulas and error control.

    Args:
        trials: one row per trial. Columns ``arm`` (only "design" is read), ``seed`` (the block), ``first_stage`` (id
            of the first stage's checkpoint), ``tricks`` (tuple of labels), the metric (a fraction in [0,1]; not read
            where diverged); optional ``outcome`` ("finished" or "diverged"; absent means finished) and ``context``
            (cells are compared within one context only; absent means ""). Trials of one cell and seed are averaged.
        metric: column to judge by; never one of the test split.
        margin: the harm that would not matter, a fraction ≥ 0, declared beforehand (digits 0.02, CIFAR-100-LT 0.01).
        primary: pairs declared before the search, as ``("a", "b")`` in any order or ``"a×b"``.
        level: of the two-sided intervals; claims are tested one-sided at 1 − level.
        q: false discovery rate over the pairs that are not primary.

    Returns:
        One row per pair with a < b, sorted; effects and limits as fractions. Limits are unadjusted. ``b_given_a`` is
        mean_11 − mean_10. ``p_value`` and ``adjusted_p`` belong to the verdict's own test (unresolved and compatible:
        the conflict's). ``excluded_harm`` is the smallest harm that a one-sided interval still excludes (for both
        directions), ``more_seeds`` the further blocks that would settle the pair with 80 % probability if the present
        estimates were true (0: settled; at most 100; missing: cannot be said).

    Raises:
        ValueError: a column is missing, no design rows, one block only, a metric of the test split, a value outside
            [0,1] or missing in a finished trial, an unknown primary label, contradictory outcomes, options out of
            range.
        TypeError: ``tricks`` is not a collection of labels.

    >>> cells = {(): 0.66, ("sampler",): 0.88, ("weights",): 0.87, ("sampler", "weights"): 0.60}
    >>> jitter = {0: -0.01, 1: 0.0, 2: 0.01}
    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks,
    ...      "final/accuracy": mean + step * (1 + len(tricks))}
    ...     for tricks, mean in cells.items() for seed, step in jitter.items()])
    >>> row = pairwise(trials, margin=0.02).iloc[0]
    >>> row.verdict, row.action, bool(row.sign_flip)
    ('conflict', 'avoid together', True)
    >>> print(f"{row.interaction:.2f} ({row.interaction_low:.2f} to {row.interaction_high:.2f})")
    -0.49 (-0.51 to -0.47)
    >>> for part in row.reason.split(", "):
    ...     print(part)
    adding weights to sampler costs 28.0 points (26.1 to 29.9)
    and they overlap: interaction -49.0 points (-51.5 to -46.5)
    """
    _check_options(metric, margin, level, q)
    tables = _tables(trials, metric)
    labels = sorted(set().union(*(cell for table in tables for cell in table.cells)))
    declared = _primary_pairs(primary, labels)
    alpha = 1 - level
    pairs = [_judge_pair(a, b, tables) for a, b in combinations(labels, 2)]
    for pair in pairs:
        pair.primary = (pair.a, pair.b) in declared
    _adjust(pairs)
    rows = [_pair_row(pair, margin, level, alpha if pair.primary else q) for pair in pairs]
    return _frame(rows, _PAIR_COLUMNS, {"primary": "bool", "sign_flip": "bool", "more_seeds": "Int64"})


def effects(trials: pd.DataFrame, metric: str = "final/accuracy", *, level: float = 0.95) -> pd.DataFrame:
    """Effect of each trick alone: block differences from the baseline of its context, with moderated variances.

    A trick is measured against the smallest recipe of its context that exists with and without it (the baseline);
    in a fractional factorial, against the balanced average over the other tricks.

    Args:
        trials: as for :func:`pairwise`.
        metric: column to compare by; never one of the test split.
        level: of the two-sided intervals.

    Returns:
        One row per trick and context: trick, context, n_seeds, n_first_stages, mean_without, mean_with, effect, low,
        high (fractions). Limits are missing where there are fewer than two blocks, or fewer than three first stages
        behind a trick of the first stage.

    Raises:
        ValueError: as :func:`pairwise`.

    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks, "final/accuracy": y}
    ...     for tricks, ys in {(): (0.60, 0.63, 0.61), ("sampler",): (0.70, 0.74, 0.71)}.items()
    ...     for seed, y in enumerate(ys)])
    >>> row = effects(trials).iloc[0]
    >>> print(f"{row.trick}: {row.effect:.3f} ({row.low:.3f} to {row.high:.3f}), {row.n_seeds} seeds")
    sampler: 0.103 (0.089 to 0.118), 3 seeds
    """
    _check_options(metric, 0.0, level, 0.5)
    rows = []
    for table in _tables(trials, metric):
        for trick in sorted(set().union(*table.cells)):
            levels = _levels(table, (trick,))
            if levels is None:
                continue
            found = _measure(table, _smallest_rests(table, levels), np.array([[-1.0, 1.0]]))
            low, high = found.accuracy.interval(level)
            rows.append(
                {
                    "trick": trick,
                    "context": table.context,
                    "n_seeds": found.blocks.n_seeds,
                    "n_first_stages": found.blocks.n_first_stages,
                    "mean_without": found.means[0],
                    "mean_with": found.means[1],
                    "effect": found.accuracy.value[0],
                    "low": low[0] if not found.problem else math.nan,
                    "high": high[0] if not found.problem else math.nan,
                }
            )
    return _frame(sorted(rows, key=lambda row: (row["trick"], row["context"])), _EFFECT_COLUMNS, {})


def block_correlation(trials: pd.DataFrame, metric: str = "final/accuracy") -> pd.DataFrame:
    """How alike the cells of one block are: what pairing over seeds gains, per context.

    With τ² the mean variance of a cell over blocks and σ² half the mean variance of a difference of two cells over
    blocks, the correlation between cells is ρ = 1 − σ²/τ². Pairing divides the variance of a harm by 1/(1 − ρ);
    0 means that blocks share nothing, below 0 is chance.

    Args:
        trials: as for :func:`pairwise`.
        metric: column to read; never one of the test split.

    Returns:
        One row per context: context, n_cells, n_seeds, correlation, deviation (σ of one cell within blocks, a
        fraction), prior_df (d₀: what the pooled variance weighs beside a cell's own). Missing with one cell.

    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks, "final/accuracy": y}
    ...     for tricks, ys in {(): (0.60, 0.63, 0.61), ("sampler",): (0.70, 0.74, 0.71)}.items()
    ...     for seed, y in enumerate(ys)])
    >>> print(block_correlation(trials).round(3).to_string(index=False))
    context  n_cells  n_seeds  correlation  deviation  prior_df
                   2        3         0.95      0.004       8.0
    """
    _check_options(metric, 0.0, 0.95, 0.5)
    rows = []
    for table in _tables(trials, metric):
        score = table.score
        blocks = np.isfinite(score).sum(1)
        spread = [float(np.var(row[np.isfinite(row)], ddof=1)) for row in score[blocks > 1]]
        total = float(np.average(spread, weights=blocks[blocks > 1] - 1)) if spread else math.nan
        known = table.noise.pool_df > 0 and total > 0
        variance = table.noise.leaf + table.noise.start
        rows.append(
            {
                "context": table.context,
                "n_cells": len(table.cells),
                "n_seeds": len(table.seeds),
                "correlation": 1 - variance / total if known else math.nan,
                "deviation": math.sqrt(variance) if known else math.nan,
                "prior_df": table.noise.prior_df,
            }
        )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------- reading the trials


@dataclass(frozen=True)
class _Table:
    """The design of one context: cells × blocks, NaN or −1 where there is nothing finished."""

    context: str
    cells: tuple[Cell, ...]
    seeds: tuple[Hashable, ...]
    score: Floats  # (cells, blocks), the metric
    stage: Ints  # (cells, blocks), code of the first stage
    runs: Ints  # (cells, blocks), trials
    diverged: Ints  # (cells, blocks), diverged trials
    noise: _Noise
    noise_log_odds: _Noise


def _check_options(metric: str, margin: float, level: float, q: float) -> None:
    if "test" in metric.split("/"):
        raise ValueError(
            f"metric {metric!r} is of the test split, which may not choose anything; use a final/* metric, "
            "which is of the validation split, e.g. 'final/accuracy'"
        )
    if not 0 <= margin < 1:
        raise ValueError(f"margin is a fraction in [0, 1), e.g. 0.005 for half a point; got {margin}")
    if not 0.5 < level < 1:
        raise ValueError(f"level is a fraction in (0.5, 1), e.g. 0.95; got {level}")
    if not 0 < q < 1:
        raise ValueError(f"q, the false discovery rate, is a fraction in (0, 1), e.g. 0.10; got {q}")


def _tables(trials: pd.DataFrame, metric: str) -> list[_Table]:
    """One table per context, from the rows of the design arm."""
    for column in ("arm", "seed", "first_stage", "tricks", metric):
        if column not in trials.columns:
            near = difflib.get_close_matches(column, [str(name) for name in trials.columns], 1)
            raise ValueError(
                f"trials has no column {column!r}{_did_you_mean(near)}; pairwise reads arm, seed, first_stage, tricks, "
                f"{metric} and, where present, outcome and context"
            )
    design = trials[trials["arm"] == "design"]
    if design.empty:
        arms = sorted({str(arm) for arm in trials["arm"]})
        raise ValueError(
            f"trials has no rows with arm 'design' (arms found: {arms}); only the design arm, which is never "
            "stopped early, can show conflicts"
        )
    runs = _runs(design, metric)
    seeds = {seed for contexts in runs.values() for _, seed in contexts}
    if len(seeds) < FEWEST_BLOCKS:
        raise ValueError(
            f"the design arm has {len(seeds)} block (seed {next(iter(seeds))!r}); differences need at least "
            f"{FEWEST_BLOCKS}: run more seeds (--seeds)"
        )
    return [_table(context, runs[context]) for context in sorted(runs)]


class _Run(NamedTuple):
    first_stage: str
    score: float  # NaN: diverged


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
        design[metric],
        strict=True,
    )
    for index, seed, first_stage, tricks, outcome, context, value in columns:
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
        cell.setdefault((frozenset(map(str, tricks)), seed), []).append(_Run(str(first_stage), score))
    return here


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


def _table(context: str, runs: dict[tuple[Cell, Hashable], list[_Run]]) -> _Table:
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
    return _Table(
        context,
        tuple(cells),
        tuple(seeds),
        score,
        stage,
        count,
        diverged,
        _noise(score, stage, DEVIATION_FLOOR),
        _noise(_log_odds(score), stage, 4 * DEVIATION_FLOOR),  # d log-odds / dy is at least 4
    )


def _log_odds(score: Floats) -> Floats:
    kept = np.clip(score, ACCURACY_FLOOR, 1 - ACCURACY_FLOOR)
    return np.log(kept / (1 - kept))


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _did_you_mean(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]!r}?)" if near else ""


def _primary_pairs(primary: Iterable[Sequence[str] | str], labels: Sequence[str]) -> set[tuple[str, str]]:
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
                    f"primary: no trick {part!r} in the design arm{_did_you_mean(near)}; labels are {list(labels)}"
                )
        a, b = sorted(parts)
        pairs.add((a, b))
    return pairs


# ------------------------------------------------------------------------------------------------------- the noise


@dataclass(frozen=True)
class _Noise:
    """Variance of one result within its block, moderated over the cells of a context."""

    leaf: float  # variance of what is drawn anew in every trial
    start: float  # variance of what trials of one first stage share
    factor: Floats  # (cells,) moderated variance of each cell over the pooled one
    factor_df: Floats  # (cells,) degrees of freedom behind each factor
    pool_df: float  # all that the context's residuals hold
    start_df: float  # the same, counting cells that share their first stages once
    prior_df: float

    def variance(self, cells: Ints, weights: Floats, same: Floats) -> tuple[Floats, Floats]:
        """Variance per block, and its degrees of freedom, of contrasts of cells.

        With M(c, c') the share of blocks in which c and c' have the same first stage, and f the factors,
        V = Σ_c f(c)·w(c)·(leaf·w(c) + start·(M w)(c)), linear in the factors, so that Satterthwaite applies:
        df = V² / Σ_c (term c)² / df(c), never above what all residuals hold.

        Args:
            cells: rows of the table, (n,).
            weights: contrasts, (k, n).
            same: M, (n, n).
        """
        terms = self.factor[cells] * weights * (self.leaf * weights + self.start * (weights @ same))
        variance = np.maximum(terms.sum(1), self.leaf * (weights**2).sum(1) * self.factor[cells].min())
        df = variance**2 / np.maximum((terms**2 / self.factor_df[cells]).sum(1), 1e-300)
        between = np.einsum("ki,ij,kj->k", weights, same, weights) > 1e-9
        most = np.where(between, self.start_df, self.pool_df)
        return variance, np.clip(df, 1.0, np.maximum(most, 1.0))


def _noise(score: Floats, stage: Ints, floor: float) -> _Noise:
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
    pool_df = _residual_df(finite.sum(0))
    start_df = _residual_df(np.array([len(set(ids[here])) for ids, here in zip(stage.T, finite.T, strict=True)]))
    return _Noise(leaf, start, moderated, prior_df + own_df, pool_df, start_df, prior_df)


def _residual_df(per_block: Ints) -> float:
    """What is left of this many results per block once every block and every cell has its mean."""
    return float(np.maximum(per_block - 1, 0).sum() - max(per_block.max(initial=0) - 1, 0))


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
class _Estimate:
    """Contrasts with their standard errors; one entry per contrast."""

    value: Floats
    error: Floats  # NaN: unknown
    df: Floats

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
class _Blocks:
    """Blocks in which every cell of a comparison finished, and the independent units they form."""

    columns: Ints
    units: Ints  # unit of each column
    n_first_stages: int  # distinct ones behind the level that has the fewest
    from_start: bool  # some contrast compares different first stages
    same: Floats  # (n, n) share of blocks in which two cells have the same first stage

    @property
    def n_seeds(self) -> int:
        return len(self.columns)

    @property
    def n_units(self) -> int:
        return len(set(self.units))


@dataclass(frozen=True)
class _Measured:
    blocks: _Blocks
    means: Floats  # (levels,)
    accuracy: _Estimate
    log_odds: _Estimate
    lost: int  # seeds in which some of the cells diverged
    problem: str  # why nothing may be claimed; "" if something may


def _levels(table: _Table, labels: tuple[str, ...]) -> Ints | None:
    """Cells of the table for every combination of the labels, matched in all other tricks.

    Returns:
        Row numbers (combinations, matched recipes), combinations in the order 0, 1 or 00, 10, 01, 11; None where the
        design has no such cells. Where no other recipe is complete, as in a fractional factorial, the
        recipes of each combination are taken whole if they balance the other tricks singly and in pairs.
    """
    patterns = [frozenset(label for k, label in enumerate(labels) if code >> k & 1) for code in range(2 ** len(labels))]
    rests: dict[Cell, dict[Cell, int]] = {}
    both = frozenset(labels)
    for i, cell in enumerate(table.cells):
        rests.setdefault(cell - both, {})[cell & both] = i
    matched = [found for found in rests.values() if len(found) == len(patterns)]
    if matched:
        return np.array([[found[pattern] for found in matched] for pattern in patterns])
    margins = [[found[pattern] for found in rests.values() if pattern in found] for pattern in patterns]
    if len({len(cells) for cells in margins}) != 1 or not margins[0]:
        return None
    others = sorted(set().union(*rests))
    moments = []
    for cells in margins:
        present = np.array([[label in table.cells[i] for label in others] for i in cells], dtype=float)
        moments.append(present.T @ present)  # the diagonal holds the single counts
    balanced = all(np.array_equal(moments[0], other) for other in moments[1:])
    return np.array(margins) if balanced else None


def _smallest_rests(table: _Table, levels: Ints) -> Ints:
    """Keep the recipes with the fewest other tricks: "alone"."""
    sizes = np.array([len(table.cells[i]) for i in levels[0]])
    return levels[:, sizes == sizes.min()] if _is_matched(table, levels) else levels


def _is_matched(table: _Table, levels: Ints) -> bool:
    first, last = levels[0], levels[-1]
    added = table.cells[last[0]] - table.cells[first[0]]
    return all(table.cells[j] == table.cells[i] | added for i, j in zip(first, last, strict=True))


def _complete_blocks(table: _Table, levels: Ints, contrasts: Floats) -> tuple[Ints, _Blocks]:
    """The matched recipes that lost the fewest blocks, and the blocks in which all of them are complete."""
    finite = np.isfinite(table.score)
    if _is_matched(table, levels):
        complete = finite[levels].all(0).sum(1)
        levels = levels[:, complete == complete.max()]
    cells = levels.ravel()
    columns = np.flatnonzero(finite[cells].all(0))
    stage = table.stage[np.ix_(cells, columns)]
    same = (stage[:, None, :] == stage[None, :, :]).mean(2) if len(columns) else np.eye(len(cells))
    weights = _spread_weights(contrasts, levels)
    from_start = bool((np.einsum("ki,ij,kj->k", weights, same, weights) > 1e-9).any())
    by_level = stage.reshape(*levels.shape, len(columns))
    n_first = min((len(np.unique(ids)) for ids in by_level), default=0) if len(columns) else 0
    units = np.arange(len(columns))
    if from_start or n_first >= FEWEST_FIRST_STAGES:
        units = _independent_units(stage)
    return levels, _Blocks(columns, units, n_first, from_start, same)


def _independent_units(stage: Ints) -> Ints:
    """Number the groups of blocks (columns) that no first stage joins."""
    units = np.arange(stage.shape[1])
    for i, j in combinations(range(stage.shape[1]), 2):
        if units[i] != units[j] and set(stage[:, i]) & set(stage[:, j]):
            units[units == units[j]] = units[i]
    return np.unique(units, return_inverse=True)[1]


def _spread_weights(contrasts: Floats, levels: Ints) -> Floats:
    """Contrasts of levels (k, levels) as contrasts of cells (k, levels · recipes)."""
    weights: Floats = np.repeat(contrasts, levels.shape[1], axis=1) / levels.shape[1]
    return weights


def _measure(table: _Table, levels: Ints, contrasts: Floats) -> _Measured:
    levels, blocks = _complete_blocks(table, levels, contrasts)
    cells = levels.ravel()
    weights = _spread_weights(contrasts, levels)
    score = table.score[np.ix_(cells, blocks.columns)]
    averaged = _unit_means(score, blocks.units).mean(1) if blocks.n_seeds else np.full(len(cells), np.nan)
    means = averaged.reshape(levels.shape).mean(1)
    return _Measured(
        blocks,
        means,
        _estimate(table.noise, cells, weights, score, blocks, DEVIATION_FLOOR),
        _estimate(table.noise_log_odds, cells, weights, _log_odds(score), blocks, 4 * DEVIATION_FLOOR),
        int((table.diverged[cells].sum(0) > 0).sum()),
        _problem(table, blocks),
    )


def _unit_means(score: Floats, units: Ints) -> Floats:
    return np.column_stack([score[:, units == unit].mean(1) for unit in range(units.max() + 1)])


def _estimate(noise: _Noise, cells: Ints, weights: Floats, score: Floats, blocks: _Blocks, floor: float) -> _Estimate:
    unknown = np.full(len(weights), np.nan)
    if not blocks.n_seeds:
        return _Estimate(unknown, unknown, unknown)
    values = weights @ _unit_means(score, blocks.units)  # (contrasts, units)
    n_units = values.shape[1]
    if n_units < FEWEST_BLOCKS:
        return _Estimate(values.mean(1), unknown, unknown)
    if n_units < blocks.n_seeds:  # the pooled variance is one of seeds, not of these units
        variance = np.maximum(values.var(1, ddof=1), floor**2 * (weights**2).sum(1))
        df = np.full(len(weights), n_units - 1.0)
    else:
        variance, df = noise.variance(cells, weights, blocks.same)
    return _Estimate(values.mean(1), np.sqrt(variance / n_units), df)


def _nothing(problem: str) -> _Measured:
    """A pair that was never run."""
    unknown = np.full(len(_CONTRASTS), np.nan)
    estimate = _Estimate(unknown, unknown, unknown)
    none = np.zeros(0, dtype=np.int64)
    return _Measured(_Blocks(none, none, 0, False, np.eye(4)), unknown[:4], estimate, estimate, 0, problem)


def _problem(table: _Table, blocks: _Blocks) -> str:
    """Why these blocks allow no claim, or nothing."""
    if blocks.n_seeds < FEWEST_BLOCKS:
        return (
            f"all cells finished in {blocks.n_seeds} of {len(table.seeds)} seeds; at least {FEWEST_BLOCKS} are needed"
        )
    independent = min(blocks.n_first_stages, blocks.n_units)
    if blocks.from_start and independent < FEWEST_FIRST_STAGES:
        return (
            f"a trick of the first stage was measured on {_count(independent, 'independent first stage')} per level; a "
            f"claim about it needs at least {FEWEST_FIRST_STAGES}, however many later seeds share them"
        )
    return ""


# --------------------------------------------------------------------------------------------------------- judging


@dataclass
class _Pair:
    """One pair on its way to a verdict."""

    a: str
    b: str
    found: _Measured
    context: str = ""
    runs: int = 0  # trials of the cell 11
    diverged: int = 0
    impossible: bool = False
    primary: bool = False
    p: dict[str, float] = field(default_factory=dict)  # claim -> p; empty: not tested
    adjusted: dict[str, float] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        return self.found.problem


class _Harm(NamedTuple):
    """Adding one trick to the other."""

    name: str  # of the contrast
    added: str
    base: str
    p: float  # one-sided, Holm over the two harms


def _judge_pair(a: str, b: str, tables: Sequence[_Table]) -> _Pair:
    """Measure the pair in the context that has most blocks, and test the four claims."""
    contrasts = np.array(list(_CONTRASTS.values()), dtype=float)
    candidates = []
    for table in tables:
        levels = _levels(table, (a, b))
        if levels is not None:
            found = _measure(table, levels, contrasts)
            order = (bool(found.problem), -found.blocks.n_units, len(table.context), table.context)
            candidates.append((order, table, levels, found))
    if not candidates:
        return _Pair(a, b, _nothing(_absent_cells(a, b, tables)), impossible=True)
    _, table, levels, found = min(candidates, key=lambda candidate: candidate[0])
    runs, diverged = int(table.runs[levels[3]].sum()), int(table.diverged[levels[3]].sum())
    return _Pair(a, b, found, table.context, runs, diverged, p={} if found.problem else _claims(found))


def _absent_cells(a: str, b: str, tables: Sequence[_Table]) -> str:
    names = {
        f"{a} and {b} together": {a, b},
        f"{a} without {b}": {a},
        f"{b} without {a}": {b},
        f"neither {a} nor {b}": set(),
    }
    cells = {cell & {a, b} for table in tables for cell in table.cells}
    absent = [name for name, wanted in names.items() if frozenset(wanted) not in cells]
    if absent:
        return f"the design has no trial with {', nor with '.join(absent)}"
    return "the four cells never occur in one context with the same other tricks"


def _holm_two(p: float, other: float) -> float:
    """Holm's adjusted value of the first of two p-values."""
    return min(1.0, 2 * p) if p <= other else min(1.0, max(2 * other, p))


def _claims(found: _Measured) -> dict[str, float]:
    """P-value of each claim; conjunctions take the largest of their parts."""
    accuracy = found.accuracy
    harm = min(1.0, 2 * min(accuracy.below(_INDEX["b_given_a"]), accuracy.below(_INDEX["a_given_b"])))
    overlap = accuracy.below(_INDEX["interaction"])
    return {
        "conflict": max(overlap, harm),
        "harmful": harm,
        "synergy": max(accuracy.above(_INDEX[part]) for part in ("b_given_a", "a_given_b", "both")),
        "redundant": max(overlap, found.log_odds.below(_INDEX["interaction"])),
    }


def _adjust(pairs: Sequence[_Pair]) -> None:
    """Fill in adjusted p-values: per claim, Holm over the primary pairs, Benjamini-Hochberg over the others."""
    rules: dict[bool, Callable[[Floats], Floats]] = {True: holm, False: benjamini_hochberg}
    for primary, rule in rules.items():
        family = [pair for pair in pairs if pair.p and pair.primary is primary]
        columns = {claim: rule(np.array([pair.p[claim] for pair in family])) for claim in _CLAIMS}
        for i, pair in enumerate(family):
            pair.adjusted = {claim: float(columns[claim][i]) for claim in _CLAIMS}


def holm(p: Floats) -> Floats:
    """Holm's step-down adjustment: max over j ≤ i of (m − j + 1)·p(j), at most 1. Source: Holm 1979.

    Args:
        p: p-values, (m,).

    Returns:
        Adjusted p-values, (m,); those ≤ α may be claimed with family-wise error ≤ α.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def benjamini_hochberg(p: Floats) -> Floats:
    """Step-up adjustment: min over j ≥ i of m·p(j)/j, at most 1. Source: Benjamini & Hochberg 1995.

    Args:
        p: p-values, (m,).

    Returns:
        Adjusted p-values, (m,); those ≤ q may be claimed with false discovery rate ≤ q.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    order = np.argsort(p, kind="stable")[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def wilson_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Interval for a rate, sound for few trials and for rates of 0 and 1. Source: Wilson 1927.

    Args:
        count: trials with the outcome.
        total: trials; 0 gives NaN.
        level: of the two-sided interval.

    Returns:
        Lower and upper limit in [0,1].

    >>> print("{:.3f} {:.3f}".format(*wilson_interval(0, 5)))
    0.000 0.434
    """
    if total == 0:
        return math.nan, math.nan
    z = float(special.ndtri((1 + level) / 2))
    rate, scale = count / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    reach = z / scale * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _verdict(pair: _Pair, margin: float, level: float, threshold: float) -> str:
    if pair.impossible:
        return "not applicable"
    if pair.problem:
        return "unresolved"
    for claim in _CLAIMS:
        if pair.p[claim] <= 1 - level and pair.adjusted[claim] <= threshold:
            return claim
    return "compatible" if _lower_limit(pair, level) > -margin else "unresolved"


def _lower_limit(pair: _Pair, level: float) -> float:
    """Of the two one-sided lower limits of the harms, the lower one."""
    return min(pair.found.accuracy.lower(_INDEX[name], level) for name in ("b_given_a", "a_given_b"))


def _excluded_harm(pair: _Pair, level: float) -> float:
    """The smallest harm that both one-sided intervals exclude, ≥ 0; NaN where unknown."""
    return math.nan if pair.problem else max(0.0, -_lower_limit(pair, level))


def _harms(pair: _Pair) -> list[_Harm]:
    """Both harms, the clearer one first."""
    to_a = pair.found.accuracy.below(_INDEX["b_given_a"])
    to_b = pair.found.accuracy.below(_INDEX["a_given_b"])
    harms = [
        _Harm("b_given_a", pair.b, pair.a, _holm_two(to_a, to_b)),
        _Harm("a_given_b", pair.a, pair.b, _holm_two(to_b, to_a)),
    ]
    return harms if to_a <= to_b else harms[::-1]


def _sign_flip(pair: _Pair, alpha: float) -> bool:
    """One trick is shown to help alone and shown (Holm over the two harms) to hurt beside the other."""
    if pair.problem:
        return False
    alone = {"b_given_a": "alone_b", "a_given_b": "alone_a"}
    return any(
        harm.p <= alpha and pair.found.accuracy.above(_INDEX[alone[harm.name]]) <= alpha for harm in _harms(pair)
    )


def _further_seeds(pair: _Pair, margin: float, level: float, threshold: float) -> Any:
    """Blocks beyond the present ones after which some verdict would be reached, were the estimates true.

    A claim at n blocks is reached with probability ``SETTLING_POWER`` where estimate/error(n) exceeds the two
    t quantiles together; the adjustment is taken to multiply p by what it does now.
    """
    if pair.problem:
        return pd.NA
    estimate, units = pair.found.accuracy, pair.found.blocks.n_units
    further = np.arange(1, MOST_FURTHER_SEEDS + 1)
    growth = np.sqrt(units / (units + further))

    def reached(name: str, alpha: float, bound: float, sign: float, of: _Estimate = estimate) -> NDArray[np.bool_]:
        i = _INDEX[name]
        df = of.df[i] * (units + further - 1) / (units - 1)
        needed = special.stdtrit(df, 1 - alpha) + special.stdtrit(df, SETTLING_POWER)
        return np.asarray(sign * (of.value[i] - bound) / (of.error[i] * growth) >= needed)

    def alpha(claim: str) -> float:
        factor = pair.adjusted[claim] / pair.p[claim] if 0 < pair.p[claim] < 0.5 else 1.0
        return min(1 - level, threshold / max(factor, 1.0))

    harm = reached("b_given_a", alpha("harmful") / 2, 0.0, -1) | reached("a_given_b", alpha("harmful") / 2, 0.0, -1)
    synergy = np.all([reached(name, alpha("synergy"), 0.0, 1) for name in ("b_given_a", "a_given_b", "both")], axis=0)
    redundant = reached("interaction", alpha("redundant"), 0.0, -1)
    redundant &= reached("interaction", alpha("redundant"), 0.0, -1, pair.found.log_odds)
    compatible = np.all([reached(name, 1 - level, -margin, 1) for name in ("b_given_a", "a_given_b")], axis=0)
    settled = np.flatnonzero(harm | synergy | redundant | compatible)
    return int(further[settled[0]]) if len(settled) else MOST_FURTHER_SEEDS


# ------------------------------------------------------------------------------------------------------- reporting


def _pair_row(pair: _Pair, margin: float, level: float, threshold: float) -> dict[str, Any]:
    verdict = _verdict(pair, margin, level, threshold)
    test = verdict if verdict in _CLAIMS else "conflict"
    wilson = wilson_interval(pair.diverged, pair.runs, level)
    more_seeds = pd.NA if pair.impossible else 0
    if verdict == "unresolved":
        more_seeds = _further_seeds(pair, margin, level, threshold)
    row: dict[str, Any] = {
        "a": pair.a,
        "b": pair.b,
        "primary": pair.primary,
        "n_seeds": pair.found.blocks.n_seeds,
        "n_first_stages": pair.found.blocks.n_first_stages,
        "diverged_11": pair.diverged,
        "p_value": pair.p.get(test, math.nan),
        "adjusted_p": pair.adjusted.get(test, math.nan),
        "verdict": verdict,
        "action": _action(pair, verdict, 1 - level),
        # a flip whose harm did not survive the correction is not shown
        "sign_flip": verdict in ("conflict", "harmful") and _sign_flip(pair, 1 - level),
        "more_seeds": more_seeds,
        "context": pair.context,
        "excluded_harm": _excluded_harm(pair, level),
        "trials_11": pair.runs,
        "diverged_11_rate": pair.diverged / pair.runs if pair.runs else math.nan,
        "diverged_11_rate_low": wilson[0],
        "diverged_11_rate_high": wilson[1],
    }
    row["reason"] = _reason(pair, verdict, margin, level, more_seeds) + _caveats(pair)
    return row | _numbers(pair, level)


def _numbers(pair: _Pair, level: float) -> dict[str, float]:
    """Means, contrasts and their unadjusted limits; limits are missing where no claim may rest on them."""
    numbers = dict(zip(("mean_00", "mean_10", "mean_01", "mean_11"), map(float, pair.found.means), strict=True))
    for of, names in (
        (pair.found.accuracy, {name: name for name in _REPORTED}),
        (pair.found.log_odds, {"interaction": "interaction_log_odds"}),
    ):
        low, high = of.interval(level)
        for name, column in names.items():
            i = _INDEX[name]
            numbers[column] = float(of.value[i])
            numbers[f"{column}_low"] = math.nan if pair.problem else float(low[i])
            numbers[f"{column}_high"] = math.nan if pair.problem else float(high[i])
    return numbers


def _action(pair: _Pair, verdict: str, alpha: float) -> str:
    if verdict != "harmful":
        return _ACTIONS[verdict]
    shown = [harm.added for harm in _harms(pair) if harm.p <= alpha]
    return f"{_ACTIONS[verdict]}: {' and '.join(shown)}"


def _reason(pair: _Pair, verdict: str, margin: float, level: float, more_seeds: Any) -> str:
    if pair.problem:
        return pair.problem
    clearest = _harms(pair)[0]
    overlap = f"interaction {_span(pair, 'interaction', level)}"
    cost = f"adding {clearest.added} to {clearest.base} costs {_span(pair, clearest.name, level, sign=-1)}"
    excluded = f"harms above {_points(_excluded_harm(pair, level))} points are excluded"
    if verdict == "conflict":
        return f"{cost}, and they overlap: {overlap}"
    if verdict == "harmful":
        return f"{cost}, but that they work against each other is not shown: {overlap}"
    if verdict == "synergy":
        return (
            f"together they beat {pair.a} alone by {_span(pair, 'b_given_a', level)} and {pair.b} alone by "
            f"{_span(pair, 'a_given_b', level)}"
        )
    if verdict == "redundant":
        return f"their gains overlap: {overlap}; no harm is shown, {excluded}"
    if verdict == "compatible":
        return f"neither harms the other by {_points(margin)} points or more: {excluded}"
    return f"neither a harm nor its absence is shown: {excluded}; {_further(more_seeds)}"


def _further(more_seeds: Any) -> str:
    if more_seeds is pd.NA or more_seeds >= MOST_FURTHER_SEEDS:
        return f"even {MOST_FURTHER_SEEDS} further seeds would hardly settle it"
    return f"about {_count(more_seeds, 'further seed')} would settle it"


def _caveats(pair: _Pair) -> str:
    """What a reader must know beside the verdict."""
    text = ""
    if pair.diverged:
        low, high = wilson_interval(pair.diverged, pair.runs)
        text += f"; together they diverged in {pair.diverged} of {pair.runs} trials ({low:.0%} to {high:.0%})"
    if pair.found.lost:
        text += f"; {_count(pair.found.lost, 'seed')} with a diverged trial left out"
    first_stages = pair.found.blocks.n_first_stages
    if not pair.problem and first_stages < FEWEST_FIRST_STAGES:
        text += f"; measured on {_count(first_stages, 'first stage')} and true of no others"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _span(pair: _Pair, name: str, level: float, sign: int = 1) -> str:
    """A contrast in points with its limits, for people."""
    i = _INDEX[name]
    limits = sorted(sign * float(end[i]) for end in pair.found.accuracy.interval(level))
    value = sign * float(pair.found.accuracy.value[i])
    return f"{_points(value)} points ({_points(limits[0])} to {_points(limits[1])})"


def _points(fraction: float) -> str:
    return f"{100 * fraction + 0.0:.1f}"


def _frame(rows: list[dict[str, Any]], columns: Sequence[str], dtypes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(dtypes)
