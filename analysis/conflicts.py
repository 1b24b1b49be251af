"""Which tricks conflict: pairwise effects, intervals and verdicts. Tables in, tables out.

For two tricks A and B, everything else equal, a design holds four cells: neither ``00``, A alone ``10``, B alone
``01``, both ``11``. With block s (a seed: its own split, its own initialisation) and cell means μ:

    interaction   I = μ11 − μ10 − μ01 + μ00
    harms         H = μ11 − μ10 (adding B to A)   and   μ11 − μ01 (adding A to B)

**Estimator.** y(c, s) = μ(c) + block(s) + start(c, s) + leaf(c, s), fitted with free cells and blocks by
`analysis.cells`: differences within blocks where every cell is in every block; with more blocks of baseline and single
tricks than of pairs these sharpen every contrast. A first stage that cells share (``start``) cancels between them. In a
two-level fraction the four cells are what its effects and pairs predict with all other tricks off; where cells beside
it show that this does not hold, a pair is judged by its own four cells.

**Noise.** Three to five blocks cannot estimate a variance, so all cells of a context lend theirs: half the variance of
a difference of two cells over blocks estimates the pooled variance; its excess or lack in one cell's differences gives
that cell's factor (Grubbs 1948), which is then moderated towards 1 with a prior worth d₀ degrees of freedom, d₀
estimated from the spread of the factors (Smyth 2004) and at most 8: beyond that, power hardly grows while tests of the
noisiest cells become too bold. A weighted sum of results has the variance Σ w²·σ²(c) (plus what first stages share),
Satterthwaite's degrees of freedom, and Student's t. Where val is the same in every block, the images' share is added.

**Verdicts** (the first that holds). "Shown" is one-sided at 1 − level, and must survive the adjustment below.

    conflict      one harm < 0 (Holm over the two) and I < 0:   p = max(p of I, Holm's smaller p of the harms)
    harmful       one harm < 0:                                 p = Holm's smaller p of the harms
    synergy       μ11 above each of the other three and I > 0:  p = the largest of four
    redundant     I < 0 in accuracy and in log-odds:            p = the larger of two
    compatible    both harms' lower limits above −margin (intersection-union: no correction)
    unresolved    anything else;   not applicable: the four cells do not exist side by side

A pair of which trials diverged together is never called synergy or compatible, but unresolved: estimates are of the
trials that finished, so that a harm they show is there, while one they exclude may be in those that are lost.

**Many pairs.** Each of the first four claims is one family of tests over the table: its p-values over all declared
primary pairs go through Holm (family-wise error ≤ 1 − level), those over all other pairs through Benjamini-Hochberg
(false discovery rate ≤ q; the raw p must be ≤ 1 − level as well, so that intervals and verdicts agree). All pairs
that pass the conflict test are called conflict, hence the bounds hold for the conflicts as a person counts them, and
for "some harm is real" over conflict and harmful together. Pairs that could not be tested are in no family. Where
further blocks may follow, primary pairs are tested at their look's share of the level (`analysis.sequential`).

**Replication.** The unit is one independently seeded first stage. Blocks that share a checkpoint are averaged into
one unit, with the pair's own (unmoderated) variance. Where A and B both act later, differences lie within a
checkpoint and fewer than three checkpoints are allowed; the reason then says that the result speaks of those only.

**Limits.** The moderated variance assumes that, apart from shared first stages, a block raises all cells alike; what it
does to single cells is counted as their noise. A table of one pair holds four cells: at three blocks, with one cell
three times as noisy as the others, 95 % intervals of its harms hold 88 to 90 %, at five 91 to 92 % (interaction: 93 to
94 %); no weight of the prior mends that, and the reason says so. With 22 cells they hold 94 to 97 %
(`tests/benchmarks/conflict_truth.py --only lone`, and `additive`).

Differs: synergy needs I > 0 as a conflict needs I < 0: otherwise an additive world makes a synergy of every two tricks
that help, and the table of Bag of Tricks one of input mixup × CAM-based sampling, whose gains merely add up.

Source: Holm 1979 (Scand. J. Statist. 6); Benjamini & Hochberg 1995 (JRSS B 57); Grubbs 1948 (JASA 43); Smyth 2004
(doi 10.2202/1544-6115.1027); Satterthwaite 1946 (Biometrics 2); Wilson 1927 (JASA 22); Berger 1982 (Technometrics
24, intersection-union tests).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis import cells
from analysis.cells import (
    FEWEST_BLOCKS,
    FEWEST_FIRST_STAGES,
    Estimate,
    Floats,
    Measured,
    Table,
    counted,
    levels_of,
    measure,
    nothing,
    smallest_rests,
)
from analysis.sequential import LOOKS, level_at

FEW_VAL_IMAGES = 50  # below, means that the lowest recalls decide are noise
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
_USE_BOTH = ("synergy", "compatible")
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
    *(f"{name}{end}" for name in _REPORTED for end in ("_se", "_df")),
    *("n_seeds_alone", "averaged_over", "spread", "val_images", "images_share"),
    *("correlation", "correlation_low", "correlation_high", "look"),
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
    arm: str = "design",
    look: int | None = None,
    earlier: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Judge every pair of tricks of the design arm; see the module's text for formulas and error control.

    Args:
        trials: one row per trial. Columns ``arm`` (only the rows of `arm` are read), ``seed`` (the block),
            ``first_stage`` (id of the first stage's checkpoint), ``tricks`` (tuple of labels), the metric (a fraction
            in [0,1]; not read where diverged). Optional: ``outcome`` ("finished", "diverged", or "failed", which is
            left out; absent means finished), ``context`` (cells are compared within one context only; absent means
            ""), ``correct`` (per-image 0 and 1 where every block has the same val; one length in all rows),
            ``split_seed``, ``epochs``. Trials of one cell and seed are averaged.
        metric: column to judge by; never one of the test split.
        margin: the harm that would not matter, a fraction ≥ 0, declared beforehand (digits 0.02, CIFAR-100-LT 0.01).
        primary: pairs declared before the search, as ``("a", "b")`` in any order or ``"a×b"``.
        level: of the two-sided intervals; claims are tested one-sided at 1 − level.
        q: false discovery rate over the pairs that are not primary.
        arm: whose rows are judged: "design", or "nominated", or cells of the check arm (one setting at a time).
        look: which look at the primary pairs this is, 1 to 3, where further blocks may follow (see
            `analysis.sequential`); None: this look is the only one.
        earlier: the table of the look before; what it has shown of primary pairs stays shown, unless a verdict that
            stands before it is shown now.

    Returns:
        One row per pair with a < b, sorted; effects and limits as fractions. Limits are unadjusted; ``_se`` and
        ``_df`` belong to them. ``mean_…`` are means at the average block, ``n_seeds`` the blocks with all four cells,
        ``n_seeds_alone`` those of the rarest of the other three. ``b_given_a`` is mean_11 − mean_10. ``averaged_over``
        is the number of settings of the other tricks that each mean is an average of (in a fraction the interaction;
        means, harms and effects alone are fitted with the other tricks off, see `analysis.cells`), ``spread`` the
        deviation of the interaction between them (missing: one setting, or aliased). ``val_images`` counts the images
        of a val that is the same in every block, ``images_share`` is their part of the interaction's variance.
        ``correlation`` is that between cells of a block (see `block_correlation`). ``p_value`` and ``adjusted_p``
        belong to the verdict's own test (unresolved and compatible: the conflict's). ``excluded_harm`` is the smallest
        harm that a one-sided interval still excludes (for both directions), ``more_seeds`` the further blocks that
        would settle the pair with 80 % probability if the present estimates were true (0: settled; at most 100;
        missing: cannot be said).

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
    >>> for part in row.reason.split("; ")[0].split(", "):
    ...     print(part)
    adding weights to sampler costs 28.0 points (26.1 to 29.9)
    and they overlap: interaction -49.0 points (-51.5 to -46.5)
    """
    cells.check_options(metric, margin, level, q)
    contexts = cells.tables(trials, metric, arm)
    labels = sorted(set().union(*(cell for table in contexts for cell in table.cells)))
    declared = cells.primary_pairs(primary, labels)
    at_look = level_at(look, level)
    shown = _shown(earlier)
    pairs = [_judge_pair(a, b, contexts) for a, b in combinations(labels, 2)]
    correlations = {table.context: table.correlation(level) for table in contexts}
    for pair in pairs:
        pair.primary = (pair.a, pair.b) in declared
        pair.correlation = correlations.get(pair.context, pair.correlation) if not pair.impossible else pair.correlation
        pair.shown = shown.get((pair.a, pair.b), ("", 0)) if pair.primary else ("", 0)
    _adjust(pairs)
    rows = []
    for pair in pairs:
        own_level = at_look if pair.primary else level
        rule = _Rule(margin, level, own_level, 1 - own_level if pair.primary else q, look)
        rows.append(_pair_row(pair, rule, metric))
    whole = {"more_seeds": "Int64", "look": "Int64", "n_seeds_alone": "int64", "averaged_over": "int64"}
    return _frame(rows, _PAIR_COLUMNS, {"primary": "bool", "sign_flip": "bool", **whole})


def at_looks(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = 0.005,
    *,
    primary: Iterable[Sequence[str] | str] = (),
    firsts: Sequence[int] = (),
    level: float = 0.95,
    q: float = 0.10,
) -> pd.DataFrame:
    """The table where further blocks may be added for primary pairs, or were: each look judges what it had.

    Args:
        trials: as for :func:`pairwise`.
        metric: as there.
        margin: as there.
        primary: as there; without any nothing may ask for further blocks, and there is one look at the full level.
        firsts: of each further look, in order, the first seed block that it added; blocks of one look have seeds from
            there on, below the next look's.
        level: as for :func:`pairwise`.
        q: as there.

    Raises:
        ValueError: as :func:`pairwise`; more than three looks.
    """
    primary = list(primary)
    if not primary:
        return pairwise(trials, metric, margin, level=level, q=q)
    table = None
    for look, end in enumerate([*firsts, None], start=1):
        rows = trials if end is None else trials[(trials["arm"] != "design") | (trials["seed"] < end)]
        table = pairwise(rows, metric, margin, primary=primary, level=level, q=q, look=look, earlier=table)
    assert table is not None
    return table


class Tables(dict[str, pd.DataFrame]):
    """Tables of pairs by metric.

    Args:
        primary: the metric whose table decides; the error rates hold for it, the others are to be looked at.
        skipped: metric -> why it has no table.
        notes: metric -> what a reader of its table must know.
    """

    def __init__(self, primary: str) -> None:
        super().__init__()
        self.primary = primary
        self.skipped: dict[str, str] = {}
        self.notes: dict[str, str] = {}


def tables(
    trials: pd.DataFrame,
    margin: float = 0.005,
    primary_metric: str = "final/accuracy",
    *,
    others: Sequence[str] = ("final/few", "final/smoothed_harmonic_mean"),
    **options: Any,
) -> Tables:
    """Judge the pairs by the primary metric, and beside it by few-shot accuracy and the smoothed harmonic mean.

    Where trials have ``recalls`` and ``val_counts`` but no smoothed harmonic mean, it is taken from them, with recalls
    (k + ½)/(n + 1).

    Args:
        trials: as for :func:`pairwise`.
        margin: as there, for all metrics.
        primary_metric: the one by which pairs are called conflicts; must be there.
        others: further metrics; one that is missing is skipped, with the reason.
        options: of :func:`pairwise`.

    Raises:
        ValueError: as :func:`pairwise`, of the primary metric.
    """
    found = Tables(primary_metric)
    found[primary_metric] = pairwise(trials, primary_metric, margin, **options)
    for metric in others:
        if metric == primary_metric:
            continue
        rows = trials
        if metric == "final/smoothed_harmonic_mean" and metric not in trials.columns:
            rows = _with_smoothed_mean(trials, metric)
        present = rows[metric].notna().any() if metric in rows.columns else False
        if not present:
            group = " (no class has fewer than 20 training images)" if metric == "final/few" else ""
            found.skipped[metric] = f"no trial has {metric}{group}"
            continue
        try:
            found[metric] = pairwise(rows, metric, margin, **options)
        except ValueError as error:
            found.skipped[metric] = str(error)
            continue
        if "harmonic" in metric and "val_counts" in rows.columns:
            fewest = min((min(counts) for counts in rows["val_counts"] if len(counts)), default=FEW_VAL_IMAGES)
            if fewest < FEW_VAL_IMAGES:
                found.notes[metric] = f"a class has {fewest} val images only, so that few images decide this mean"
    return found


def _with_smoothed_mean(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The harmonic mean of (k + ½)/(n + 1) over classes, from recalls k/n; unchanged where these are unknown."""
    if not {"recalls", "val_counts"} <= set(trials.columns):
        return trials
    means = []
    for recalls, counts in zip(trials["recalls"], trials["val_counts"], strict=True):
        r, n = np.asarray(recalls, dtype=float), np.asarray(counts, dtype=float)
        known = np.isfinite(r) & (n > 0) if len(r) and len(r) == len(n) else np.zeros(0, dtype=bool)
        smoothed = (np.round(r[known] * n[known]) + 0.5) / (n[known] + 1) if known.any() else np.zeros(0)
        means.append(len(smoothed) / float((1 / smoothed).sum()) if len(smoothed) else math.nan)
    return trials.assign(**{metric: means})


def effects(trials: pd.DataFrame, metric: str = "final/accuracy", *, level: float = 0.95) -> pd.DataFrame:
    """Effect of each trick alone: block differences from the baseline of its context, with moderated variances.

    A trick is measured against the smallest recipe of its context that exists with and without it (the baseline); in a
    two-level fraction whose model holds, by all runs, as they predict it with the other tricks off (`analysis.cells`).

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
    cells.check_options(metric, 0.0, level, 0.5)
    rows = []
    for table in cells.tables(trials, metric):
        for trick in sorted(set().union(*table.cells)):
            levels = levels_of(table, (trick,))
            if levels is None:
                continue
            found = measure(table, smallest_rests(table, levels), np.array([[-1.0, 1.0]]))
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


def block_correlation(
    trials: pd.DataFrame, metric: str = "final/accuracy", *, level: float = 0.95, arm: str = "design"
) -> pd.DataFrame:
    """How alike the cells of one block are: what pairing over seeds gains, per context.

    With τ² the mean variance of a cell over blocks and σ² half the mean variance of a difference of two cells over
    blocks, the correlation between cells is ρ = 1 − σ²/τ². Pairing divides the variance of a harm by 1/(1 − ρ);
    0 means that blocks share nothing, below 0 is chance. Limits from F = (1 + (k − 1)ρ)/(1 − ρ) for k cells, exact
    where all cells are in every block and equally noisy.

    Args:
        trials: as for :func:`pairwise`.
        metric: column to read; never one of the test split.
        level: of the two-sided interval.
        arm: whose rows are read.

    Returns:
        One row per context: context, n_cells, n_seeds, correlation, correlation_low, correlation_high, deviation (σ of
        one cell within blocks, a fraction), prior_df (d₀: what the pooled variance weighs beside a cell's own).
        Missing with one cell.

    Source: intraclass correlation of the two-way layout and its limits: Shrout & Fleiss 1979 (Psychol. Bull. 86),
        case 3.

    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks, "final/accuracy": y}
    ...     for tricks, ys in {(): (0.60, 0.63, 0.61), ("sampler",): (0.70, 0.74, 0.71)}.items()
    ...     for seed, y in enumerate(ys)])
    >>> print(block_correlation(trials).round(3).to_string(index=False))
    context  n_cells  n_seeds  correlation  correlation_low  correlation_high  deviation  prior_df
                   2        3         0.95              0.0             0.999      0.004       8.0
    """
    cells.check_options(metric, 0.0, level, 0.5)
    rows = []
    for table in cells.tables(trials, metric, arm):
        correlation, low, high = table.correlation(level)
        rows.append(
            {
                "context": table.context,
                "n_cells": len(table.cells),
                "n_seeds": len(table.seeds),
                "correlation": correlation,
                "correlation_low": low,
                "correlation_high": high,
                "deviation": math.nan if math.isnan(correlation) else table.noise.deviation,
                "prior_df": table.noise.prior_df,
            }
        )
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------------- judging


@dataclass
class _Pair:
    """One pair on its way to a verdict."""

    a: str
    b: str
    found: Measured
    context: str = ""
    runs: int = 0  # trials of the cell 11
    diverged: int = 0
    impossible: bool = False
    primary: bool = False
    n_cells: int = 0  # that tell the noise of its context
    alone: int = 0  # blocks of the rarest of the cells 00, 10, 01
    longer: tuple[float, float] = (1.0, 1.0)  # epochs with a over those without, the same of b
    fixed_val: str = ""  # what the intervals speak of where val is the same in every block
    correlation: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    shown: tuple[str, int] = ("", 0)  # claim of an earlier look, and which
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


class _Rule(NamedTuple):
    """By what a pair is judged."""

    margin: float
    shown_level: float  # of the printed intervals
    level: float  # claims are tested at 1 − level, which a look shares
    threshold: float  # for adjusted p
    look: int | None


def _shown(earlier: pd.DataFrame | None) -> dict[tuple[str, str], tuple[str, int]]:
    """What the table of an earlier look has shown: pair -> claim and look."""
    if earlier is None:
        return {}
    if "look" not in earlier.columns or earlier["look"].isna().any():
        raise ValueError("earlier: the table is of no look; make it by pairwise(…, look=1)")
    return {
        (row["a"], row["b"]): (row["verdict"], int(row["look"]))
        for row in earlier.to_dict("records")
        if row["primary"] and row["verdict"] in _CLAIMS
    }


def _judge_pair(a: str, b: str, contexts: Sequence[Table]) -> _Pair:
    """Measure the pair in the context that has most blocks, and test the four claims."""
    contrasts = np.array(list(_CONTRASTS.values()), dtype=float)
    candidates = []
    for table in contexts:
        levels = levels_of(table, (a, b))
        if levels is not None:
            found = measure(table, levels, contrasts, (a, b))
            order = (bool(found.problem), -found.blocks.n_units, len(table.context), table.context)
            candidates.append((order, table, levels, found))
    if not candidates:
        return _Pair(a, b, nothing(_absent_cells(a, b, contexts), len(contrasts), 4), impossible=True)
    _, table, levels, found = min(candidates, key=lambda candidate: candidate[0])
    epochs = table.epochs[levels].mean(1) if len(table.epochs) else np.ones(4)
    return _Pair(
        a,
        b,
        found,
        table.context,
        runs=int(table.runs[levels[3]].sum()),
        diverged=int(table.diverged[levels[3]].sum()),
        n_cells=int(np.isfinite(table.score).any(1).sum()),
        alone=int(np.isfinite(table.score[levels[:3]]).sum(2).min()),
        longer=(float(epochs[1] / epochs[0]), float(epochs[2] / epochs[0])),
        fixed_val=_fixed_val(table, found),
        p={} if found.problem else _claims(found),
    )


def _fixed_val(table: Table, found: Measured) -> str:
    if table.correct is not None and found.images:
        return f"val is the same in every block, the share of its {found.images} images is in the intervals"
    if table.correct is not None:
        return "val is the same in every block and the metric is no mean over its images: true of these images only"
    if table.one_split:
        return "val is the same in every block and its images were not kept: true of these images only"
    return ""


def _absent_cells(a: str, b: str, contexts: Sequence[Table]) -> str:
    names = {
        f"{a} and {b} together": {a, b},
        f"{a} without {b}": {a},
        f"{b} without {a}": {b},
        f"neither {a} nor {b}": set(),
    }
    present = {cell & {a, b} for table in contexts for cell in table.cells}
    absent = [name for name, wanted in names.items() if frozenset(wanted) not in present]
    if absent:
        return f"the design has no trial with {', nor with '.join(absent)}"
    return "the four cells never occur in one context with the same other tricks"


def _holm_two(p: float, other: float) -> float:
    """Holm's adjusted value of the first of two p-values."""
    return min(1.0, 2 * p) if p <= other else min(1.0, max(2 * other, p))


def _claims(found: Measured) -> dict[str, float]:
    """P-value of each claim; conjunctions take the largest of their parts."""
    accuracy = found.accuracy
    harm = min(1.0, 2 * min(accuracy.below(_INDEX["b_given_a"]), accuracy.below(_INDEX["a_given_b"])))
    overlap = accuracy.below(_INDEX["interaction"])
    return {
        "conflict": max(overlap, harm),
        "harmful": harm,
        "synergy": max(accuracy.above(_INDEX[part]) for part in ("b_given_a", "a_given_b", "both", "interaction")),
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


def _verdict(pair: _Pair, rule: _Rule) -> str:
    found = _of_the_finished(pair, rule)
    return "unresolved" if pair.diverged and found in _USE_BOTH else found


def _of_the_finished(pair: _Pair, rule: _Rule) -> str:
    """The verdict on the trials that finished."""
    if pair.impossible:
        return "not applicable"
    if pair.problem:
        return "unresolved"
    for claim in _CLAIMS:
        if claim == pair.shown[0] or (pair.p[claim] <= 1 - rule.level and pair.adjusted[claim] <= rule.threshold):
            return claim
    return "compatible" if _lower_limit(pair, rule.level) > -rule.margin else "unresolved"


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


def _further_seeds(pair: _Pair, rule: _Rule) -> Any:
    """Blocks beyond the present ones after which some verdict would be reached, were the estimates true.

    A claim at n blocks is reached with probability ``SETTLING_POWER`` where estimate/error(n) exceeds the two
    t quantiles together; the adjustment is taken to multiply p by what it does now. Further blocks do not lower the
    share of a fixed val's images. Where looks are shared, the next look's level counts.
    """
    if pair.problem:
        return pd.NA
    estimate, units = pair.found.accuracy, pair.found.blocks.n_units
    further = np.arange(1, MOST_FURTHER_SEEDS + 1)
    shrunk = units / (units + further)
    level = rule.level
    if rule.look is not None and pair.primary:
        level = level_at(min(rule.look + 1, LOOKS), rule.shown_level)
    threshold = 1 - level if pair.primary else rule.threshold

    def reached(name: str, alpha: float, bound: float, sign: float, of: Estimate = estimate) -> NDArray[np.bool_]:
        i = _INDEX[name]
        df = of.df[i] * (units + further - 1) / (units - 1)
        needed = special.stdtrit(df, 1 - alpha) + special.stdtrit(df, SETTLING_POWER)
        error = np.sqrt((of.error[i] ** 2 - of.images[i]) * shrunk + of.images[i])
        return np.asarray(sign * (of.value[i] - bound) / error >= needed)

    def alpha(claim: str) -> float:
        factor = pair.adjusted[claim] / pair.p[claim] if 0 < pair.p[claim] < 0.5 else 1.0
        return min(1 - level, threshold / max(factor, 1.0))

    harm = reached("b_given_a", alpha("harmful") / 2, 0.0, -1) | reached("a_given_b", alpha("harmful") / 2, 0.0, -1)
    better = ("b_given_a", "a_given_b", "both", "interaction")
    synergy = np.all([reached(name, alpha("synergy"), 0.0, 1) for name in better], axis=0)
    redundant = reached("interaction", alpha("redundant"), 0.0, -1)
    redundant &= reached("interaction", alpha("redundant"), 0.0, -1, pair.found.log_odds)
    compatible = np.all([reached(name, 1 - level, -rule.margin, 1) for name in ("b_given_a", "a_given_b")], axis=0)
    use_both = np.zeros_like(harm) if pair.diverged else synergy | compatible  # see the module: verdicts
    settled = np.flatnonzero(harm | redundant | use_both)
    return int(further[settled[0]]) if len(settled) else MOST_FURTHER_SEEDS


# ------------------------------------------------------------------------------------------------------- reporting


def _pair_row(pair: _Pair, rule: _Rule, metric: str) -> dict[str, Any]:
    verdict = _verdict(pair, rule)
    test = verdict if verdict in _CLAIMS else "conflict"
    wilson = wilson_interval(pair.diverged, pair.runs, rule.shown_level)
    more_seeds = pd.NA if pair.impossible else 0
    if verdict == "unresolved":
        more_seeds = _further_seeds(pair, rule)
    found, i = pair.found, _INDEX["interaction"]
    row: dict[str, Any] = {
        "a": pair.a,
        "b": pair.b,
        "primary": pair.primary,
        "n_seeds": found.blocks.n_seeds,
        "n_first_stages": found.blocks.n_first_stages,
        "diverged_11": pair.diverged,
        "p_value": pair.p.get(test, math.nan),
        "adjusted_p": pair.adjusted.get(test, math.nan),
        "verdict": verdict,
        "action": _action(pair, verdict, 1 - rule.level),
        # a flip whose harm did not survive the correction is not shown
        "sign_flip": verdict in ("conflict", "harmful") and _sign_flip(pair, 1 - rule.level),
        "more_seeds": more_seeds,
        "context": pair.context,
        "excluded_harm": _excluded_harm(pair, rule.level),
        "trials_11": pair.runs,
        "diverged_11_rate": pair.diverged / pair.runs if pair.runs else math.nan,
        "diverged_11_rate_low": wilson[0],
        "diverged_11_rate_high": wilson[1],
        "n_seeds_alone": pair.alone,
        "averaged_over": found.averaged_over,
        "spread": found.spread,
        "val_images": found.images,
        "images_share": float(found.accuracy.images[i] / found.accuracy.error[i] ** 2) if found.images else math.nan,
        **dict(zip(("correlation", "correlation_low", "correlation_high"), pair.correlation, strict=True)),
        "look": pd.NA if rule.look is None else rule.look,
    }
    row["reason"] = _reason(pair, verdict, rule, more_seeds) + _caveats(pair, verdict, rule.shown_level)
    return row | _numbers(pair, rule.shown_level)


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
            ends = {"_low": low[i], "_high": high[i]}
            if column in _REPORTED:
                ends |= {"_se": of.error[i], "_df": of.df[i]}
            for end, value in ends.items():
                numbers[f"{column}{end}"] = math.nan if pair.problem else float(value)
    return numbers


def _action(pair: _Pair, verdict: str, alpha: float) -> str:
    if verdict != "harmful":
        return _ACTIONS[verdict]
    harms = _harms(pair)
    # what an earlier look has shown need not be shown again at this one's share
    shown = [harm.added for harm in harms if harm.p <= alpha] or [harms[0].added]
    return f"{_ACTIONS[verdict]}: {' and '.join(shown)}"


def _reason(pair: _Pair, verdict: str, rule: _Rule, more_seeds: Any) -> str:
    if pair.problem:
        return pair.problem
    level = rule.shown_level
    clearest = _harms(pair)[0]
    overlap = f"interaction {_span(pair, 'interaction', level)}"
    cost = f"adding {clearest.added} to {clearest.base} costs {_span(pair, clearest.name, level, sign=-1)}"
    excluded = f"harms above {_points(_excluded_harm(pair, rule.level))} points are excluded"
    if verdict == "conflict":
        return f"{cost}, and they overlap: {overlap}"
    if verdict == "harmful":
        return f"{cost}, but that they work against each other is not shown: {overlap}"
    if verdict == "synergy":
        return (
            f"together they beat {pair.a} alone by {_span(pair, 'b_given_a', level)} and {pair.b} alone by "
            f"{_span(pair, 'a_given_b', level)}, more than their gains add up to: {overlap}"
        )
    if verdict == "redundant":
        return f"their gains overlap: {overlap}; no harm is shown, {excluded}"
    if verdict == "compatible":
        return f"neither harms the other by {_points(rule.margin)} points or more: {excluded}"
    finished = _of_the_finished(pair, rule)
    if finished in _USE_BOTH:
        return f"{finished} in the trials that finished ({excluded} there), but some of them together did not"
    return f"neither a harm nor its absence is shown: {excluded}; {_further(more_seeds)}"


def _further(more_seeds: Any) -> str:
    if more_seeds is pd.NA or more_seeds >= MOST_FURTHER_SEEDS:
        return f"even {MOST_FURTHER_SEEDS} further seeds would hardly settle it"
    return f"about {counted(more_seeds, 'further seed')} would settle it"


def _caveats(pair: _Pair, verdict: str, level: float) -> str:
    """What a reader must know beside the verdict."""
    found = pair.found
    words = []
    if pair.shown[0] and verdict == pair.shown[0]:
        words.append(f"shown at look {pair.shown[1]}")
    if pair.diverged:
        low, high = wilson_interval(pair.diverged, pair.runs, level)
        words.append(f"together they diverged in {pair.diverged} of {pair.runs} trials ({low:.0%} to {high:.0%})")
    if found.lost:
        words.append(f"the diverged trials of {counted(found.lost, 'seed')} left out")
    first_stages = found.blocks.n_first_stages
    if not pair.problem and first_stages < FEWEST_FIRST_STAGES:
        words.append(f"measured on {counted(first_stages, 'first stage')} and true of no others")
    # units of several blocks have a variance of their own, which needs no guess
    if not pair.problem and pair.n_cells <= 4 and found.blocks.n_units == found.blocks.n_seeds <= 3:
        words.append(
            "four cells and three blocks hardly tell which cell is noisier: 95 % intervals of harms may hold 88 %"
        )
    if not pair.problem and found.averaged_over > 1:
        words.append(
            f"fitted to {found.fitted} runs of a fraction with the other tricks off, the interaction an average over "
            f"{found.averaged_over} settings of them"
            if found.fitted
            else f"an average over {found.averaged_over} settings of the other tricks"
        )
        if not math.isnan(found.spread):
            words[-1] += f", between which the interaction varies by {_points(found.spread)} points"
    if not pair.problem and found.unfit < 1:
        words.append(
            "judged by its own four cells: interactions of three tricks are shown in the fraction "
            f"(p {'< 0.001' if found.unfit < 0.001 else f'= {found.unfit:.3f}'})"
        )
    if not pair.problem and found.unfinished:
        words.append(
            f"judged by its own four cells: {counted(found.unfinished, 'cell')} of the fraction finished in fewer than "
            f"{FEWEST_BLOCKS} blocks"
        )
    for label, ratio in zip((pair.a, pair.b), pair.longer, strict=True):
        if ratio > 1.05 or ratio < 0.95:
            words.append(f"trials with {label} were trained {ratio:.1f} times as long as those without")
    if not pair.problem and pair.fixed_val:
        words.append(pair.fixed_val)
    return "".join(f"; {word}" for word in words)


def _span(pair: _Pair, name: str, level: float, sign: int = 1) -> str:
    """A contrast in points with its limits, for people."""
    i = _INDEX[name]
    limits = sorted(sign * float(end[i]) for end in pair.found.accuracy.interval(level))
    value = sign * float(pair.found.accuracy.value[i])
    return f"{_points(value)} points ({_points(limits[0])} to {_points(limits[1])})"


def _points(fraction: float) -> str:
    return f"{100 * fraction + 0.0:.1f}"


def _frame(rows: list[dict[str, Any]], columns: Sequence[str], dtypes: dict[str, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    for name, dtype in dtypes.items():
        table[name] = table[name].astype(dtype)
    return table
