"""The conflict table: trials in, one row per pair out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.conflicts.cells import Table, check_options, primary_pairs, read_tables
from analysis.conflicts.contrasts import (
    LOG_ODDS,
    Levels,
    Sample,
    contrast_samples,
    effect_sample,
    estimates,
    mean_levels,
    pair_levels,
)
from analysis.conflicts.reasons import Facts, action, caveats, reason
from analysis.conflicts.verdicts import CLAIMS, DIRECTIONS, HELPS, HURTS, MARGIN, Pair, Rule, adjust, rule_for
from analysis.conflicts.verdicts import UNKNOWN as NOT_KNOWN
from analysis.records.schema import RECIPE
from analysis.stats.intervals import UNKNOWN, Estimate, wilson_interval

REPORTED = ("alone_a", "alone_b", "interaction", "b_given_a", "a_given_b")
COLUMNS = (
    *("a", "b", "primary", "n_seeds", "n_first_stages"),
    *("mean_00", "mean_10", "mean_01", "mean_11", "diverged_11"),
    *(f"{name}{end}" for name in REPORTED for end in ("", "_low", "_high")),
    *("p_value", "adjusted_p", "verdict", "action", "sign_flip", "more_seeds", "reason"),
    *(f"{name}{end}" for name in DIRECTIONS for end in ("_verdict", "_p", "_adjusted_p")),
    *("context", "excluded_harm", LOG_ODDS, f"{LOG_ODDS}_low", f"{LOG_ODDS}_high"),
    *("trials_11", "diverged_11_rate", "diverged_11_rate_low", "diverged_11_rate_high", "lost"),
    *(f"{name}{end}" for name in REPORTED for end in ("_se", "_df")),
    *("exploratory", "val_images", "images_share", "look"),
    *(f"{name}_more_seeds" for name in DIRECTIONS),
)
EFFECT_COLUMNS = (
    *("trick", "context", "n_seeds", "n_first_stages", "mean_without", "mean_with", "effect", "low", "high"),
)


def pairwise(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    *,
    primary: Iterable[Sequence[str] | str] = (),
    level: float = 0.95,
    q: float = 0.10,
    arm: str = "design",
    look: int | None = None,
    earlier: pd.DataFrame | None = None,
    beside: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Judges every pair of tricks of the design arm: directions, interaction, verdict.

    The estimator is described in `analysis.conflicts.contrasts`, verdicts and error control in
    `analysis.conflicts.verdicts`.

    Args:
        trials: One row per trial. Columns `arm` (only the rows of `arm` are read), `seed` (the block), `first_stage`
            (id of the first stage's checkpoint), `tricks` (tuple of labels), the metric (a fraction in [0, 1]; not read
            where a trial diverged). Optional: `outcome` ("finished", "diverged", or "failed", which is left out;
            absent means finished), `context` (cells are compared within one context only; absent means ""),
            `correct` (per-image 0 and 1 where every block has the same val images; one length in all rows),
            `split_seed`, `epochs`. Trials of one cell and seed are averaged.
        metric: Column to judge by; never one of the test split.
        margin: The loss that would not matter, a fraction ≥ 0, declared beforehand (digits 0.02, CIFAR-100-LT 0.01).
        primary: Pairs declared before the search, as `("a", "b")` in any order or `"a×b"`.
        level: Confidence level of the two-sided intervals; claims are tested two-sided at 1 − level.
        q: False discovery rate over the pairs that are not primary.
        arm: Arm whose rows are judged.
        look: Number of the look, where blocks were added after a look (`analysis.stats.alpha_spending`); `None`: there
            is one look only.
        earlier: The table of the look before. What it has shown stays shown.
        beside: Trials whose design arm lends its variances, not its values, to rows of another arm or setting, which
            have few blocks and pairs of their own.

    Returns:
        One row per pair with a < b, sorted; effects and limits as fractions, `b_given_a` is mean_11 − mean_10. Limits
        are unadjusted, at `level`; `_se` and `_df` belong to them. `b_given_a_verdict` and `a_given_b_verdict` are
        "helps", "hurts", "no loss" or "unknown", with their `_p` and `_adjusted_p`. `verdict` is "conflict", "harmful",
        "synergy", "better together", "redundant", "compatible", "unresolved" or "not applicable"; `p_value` and
        `adjusted_p` belong to its test (unresolved and compatible: the conflict's). `n_seeds` counts the blocks with
        all four cells, `lost` the diverged trials of the four, `excluded_harm` is the smallest loss that one-sided
        intervals exclude in both directions, `more_seeds` the further blocks that would settle the pair with 80 %
        probability if the present estimates were true (0: settled; at most 100; missing: cannot be said), and
        `b_given_a_more_seeds` and `a_given_b_more_seeds` those that would settle a direction.
        `exploratory` marks pairs that are fitted to a factorial. `val_images` counts the images of a val that is the
        same in every block, `images_share` is their part of the interaction's variance.

    Raises:
        ValueError: A column is missing, no design rows, one block only, a metric of the test split, a value outside
            [0, 1] or missing in a finished trial, an unknown primary label, contradictory outcomes, options out of
            range.
        TypeError: `tricks` is not a collection of labels.

    >>> cells = {(): 0.66, ("sampler",): 0.88, ("weights",): 0.87, ("sampler", "weights"): 0.60}
    >>> jitter = {0: (-0.01, 0.0, 0.01, 0.0), 1: (0.0, 0.01, 0.0, 0.01), 2: (0.01, 0.0, -0.01, 0.0)}
    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks,
    ...      "final/accuracy": mean + jitter[seed][i]}
    ...     for i, (tricks, mean) in enumerate(cells.items()) for seed in jitter])
    >>> row = pairwise(trials, margin=0.02).iloc[0]
    >>> row.verdict, row.action, bool(row.sign_flip)
    ('conflict', 'avoid together', True)
    >>> print(f"{row.interaction:.2f} ({row.interaction_low:.2f} to {row.interaction_high:.2f})")
    -0.49 (-0.54 to -0.44)
    >>> for part in row.reason.split("; ")[:3]:
    ...     print(part)
    adding weights to sampler hurts: −28.0 points (−28.2 to −27.8)
    adding sampler to weights hurts: −26.7 points (−29.5 to −23.8)
    their gains overlap, in accuracy and in log-odds: interaction −49.0 points (−54.0 to −44.0)
    """
    check_options(metric, margin, level, q)
    tables = read_tables(trials, metric, arm)
    labels = [label for label in sorted(set().union(*(cell for table in tables for cell in table.cells)))
              if not label.startswith(RECIPE)]  # fmt: skip
    declared = primary_pairs(primary, labels)
    shown = _shown(earlier)
    lenders = [] if beside is None else _lenders(beside, metric)
    sites = [_Site(a, b, tables) for a, b in combinations(labels, 2)]
    for view, site in _estimated(sites, lenders):
        site.pair.views = (*site.pair.views, view)
    for site in sites:
        site.pair.primary = (site.pair.a, site.pair.b) in declared
        site.pair.earlier = shown.get((site.pair.a, site.pair.b), {})
        if not site.pair.impossible and not site.pair.problem:
            site.pair.test()
    adjust([site.pair for site in sites])
    rows = [site.row(rule_for(site.pair.primary, margin, level, q, look)) for site in sites]
    types = {"primary": "bool", "sign_flip": "bool", "exploratory": "bool", "look": "Int64", "more_seeds": "Int64"}
    return _frame(rows, COLUMNS, types | {f"{name}_more_seeds": "Int64" for name in DIRECTIONS})


def effects(trials: pd.DataFrame, metric: str = "final/accuracy", *, level: float = 0.95) -> pd.DataFrame:
    """Effect of each trick alone: differences within blocks from the baseline of its context, moderated over tricks.

    Args:
        trials: Table of trials, see `pairwise`.
        metric: Column to compare by; never one of the test split.
        level: Confidence level of the two-sided intervals.

    Returns:
        One row per trick and context: trick, context, n_seeds, n_first_stages, mean_without, mean_with, effect, low,
        high (fractions). Limits are missing where there are fewer than two blocks, or fewer than three first stages
        behind a trick of the first stage.

    Raises:
        ValueError: The design arm cannot be read, see `pairwise`.

    >>> trials = pd.DataFrame([
    ...     {"arm": "design", "seed": seed, "first_stage": f"{tricks}{seed}", "tricks": tricks, "final/accuracy": y}
    ...     for tricks, ys in {(): (0.60, 0.63, 0.61), ("sampler",): (0.70, 0.74, 0.71)}.items()
    ...     for seed, y in enumerate(ys)])
    >>> row = effects(trials).iloc[0]
    >>> print(f"{row.trick}: {row.effect:.3f} ({row.low:.3f} to {row.high:.3f}), {row.n_seeds} seeds")
    sampler: 0.103 (0.089 to 0.118), 3 seeds
    """
    check_options(metric, 0.0, level, 0.5)
    found: list[tuple[str, Table, Levels, Sample]] = []
    for table in read_tables(trials, metric):
        for trick in sorted(set().union(*table.cells)):
            levels = pair_levels(table, (trick,))
            if levels is not None:
                found.append((trick, table, levels, effect_sample(table, levels)))
    rows = []
    for (trick, table, levels, sample), estimate in zip(found, estimates(each[3] for each in found), strict=True):
        means, (low, high) = mean_levels(table, levels), estimate.interval(level)
        values = (trick, table.context, sample.blocks, sample.first_stages, *means, estimate.value, low, high)
        rows.append(dict(zip(EFFECT_COLUMNS, values, strict=True)))
    return _frame(sorted(rows, key=lambda row: (row["trick"], row["context"])), EFFECT_COLUMNS, {})


# ------------------------------------------------------------------------------------------------------ helpers


class _Site:
    """Where a pair is measured: the context that has most blocks of it."""

    def __init__(self, a: str, b: str, tables: Sequence[Table]) -> None:
        candidates = []
        for table in tables:
            levels = pair_levels(table, (a, b))
            if levels is not None:
                samples = contrast_samples(table, levels)
                problem = _problem(samples)
                order = (bool(problem), -samples["interaction"].blocks, len(table.context), table.context)
                candidates.append((order, table, levels, samples, problem))
        self.pair = Pair(a, b)
        self.samples: list[dict[str, Sample]] = []
        self.table: Table | None = None
        if not candidates:
            self.pair.impossible = True
            self.pair.problem = _absent_cells(a, b, tables)
            return
        _, self.table, self.levels, samples, self.pair.problem = min(candidates, key=lambda candidate: candidate[0])
        self.samples.append(samples)
        self.needed = [row for rows in self.levels.rows for row in rows]
        if self._diverged(self.needed):
            self.samples.append(contrast_samples(self.table, self.levels, pessimistic=True))

    def _diverged(self, rows: Sequence[int]) -> int:
        assert self.table is not None
        return int(self.table.diverged[list(rows)].sum())

    def row(self, rule: Rule) -> dict[str, Any]:
        """The pair's row of the table."""
        pair, table = self.pair, self.table
        verdict = pair.verdict(rule)
        more_seeds = pd.NA if pair.impossible else pair.further_seeds(rule) if verdict == "unresolved" else 0
        facts, means, share, images = Facts(), np.full(4, np.nan), math.nan, 0
        if table is not None:
            both, overlap = list(self.levels.rows[3]), self.samples[0]["interaction"]
            epochs = [float(np.mean(table.epochs[list(rows)])) for rows in self.levels.rows]
            facts = Facts(
                lost=self._diverged(self.needed),
                diverged=self._diverged(both),
                trials=int(table.runs[both].sum()),
                first_stages=min(sample.first_stages for sample in self.samples[0].values()),
                blocks=overlap.blocks,
                fitted=self.levels.fitted,
                longer=(epochs[1] / epochs[0], epochs[2] / epochs[0]),
                fixed_val=_fixed_val(table, overlap),
            )
            means, images = mean_levels(table, self.levels), overlap.n_images
            estimate = pair.estimate("interaction")
            share = estimate.images / estimate.error**2 if images else math.nan
        wilson = wilson_interval(facts.diverged, facts.trials, rule.level)
        tested = _test_of(pair, verdict)
        directions = {name: pair.direction(name, rule) for name in DIRECTIONS}
        return {
            "a": pair.a,
            "b": pair.b,
            "primary": pair.primary,
            "n_seeds": facts.blocks,
            "n_first_stages": facts.first_stages,
            **dict(zip(("mean_00", "mean_10", "mean_01", "mean_11"), map(float, means), strict=True)),
            "diverged_11": facts.diverged,
            **self._numbers(rule.level),
            "p_value": pair.p.get(tested, math.nan),
            "adjusted_p": pair.adjusted.get(tested, math.nan),
            "verdict": verdict,
            "action": action(pair, verdict, rule),
            "sign_flip": verdict in ("conflict", "harmful") and not pair.problem and pair.sign_flip(rule),
            "more_seeds": more_seeds,
            "reason": reason(pair, verdict, rule, more_seeds) + caveats(pair, verdict, rule, facts),
            **{f"{name}_verdict": word for name, word in directions.items()},
            **{
                f"{name}_more_seeds": pair.further_seeds_of(name, rule) if word == NOT_KNOWN else 0
                for name, word in directions.items()
            },
            **{f"{name}_p": pair.p.get(name, math.nan) for name in DIRECTIONS},
            **{f"{name}_adjusted_p": pair.adjusted.get(name, math.nan) for name in DIRECTIONS},
            "context": "" if table is None else table.context,
            "excluded_harm": pair.excluded_harm(rule.level),
            "trials_11": facts.trials,
            "diverged_11_rate": facts.diverged / facts.trials if facts.trials else math.nan,
            "diverged_11_rate_low": wilson[0],
            "diverged_11_rate_high": wilson[1],
            "lost": facts.lost,
            "exploratory": facts.fitted,
            "val_images": images,
            "images_share": share,
            "look": pd.NA if rule.look is None else rule.look,
        }

    def _numbers(self, level: float) -> dict[str, float]:
        """Contrasts with their unadjusted limits; these are missing where no claim may rest on them."""
        numbers: dict[str, float] = {}
        for name in (*REPORTED, LOG_ODDS):
            found = self.pair.estimate(name) if self.pair.views else UNKNOWN
            low, high = found.interval(level)
            ends = {"_low": low, "_high": high} | ({"_se": found.error, "_df": found.df} if name in REPORTED else {})
            numbers[name] = found.value
            numbers |= {f"{name}{end}": math.nan if self.pair.problem else value for end, value in ends.items()}
        return numbers


def _estimated(sites: Sequence[_Site], lenders: Sequence[Sample]) -> Iterable[tuple[Mapping[str, Estimate], _Site]]:
    """Every pair's views, first of the trials that finished, then with the diverged ones."""
    for view in range(2):
        # pairs without lost trials lend their variances to both views
        names, samples = [], []
        for site in sites:
            for name, sample in (site.samples[min(view, len(site.samples) - 1)] if site.samples else {}).items():
                names.append((site, name))
                samples.append(sample)
        found: dict[int, dict[str, Estimate]] = {}
        for (site, name), estimate in zip(names, estimates([*samples, *lenders]), strict=False):
            found.setdefault(id(site), {})[name] = estimate
        for site in sites:
            if len(site.samples) > view:
                yield found[id(site)], site
        if all(len(site.samples) < 2 for site in sites):
            return


def _lenders(trials: pd.DataFrame, metric: str) -> list[Sample]:
    """All contrasts of all pairs of the design arm; none where it cannot be read."""
    found = []
    if not (trials["arm"] == "design").any():
        return []
    for table in read_tables(trials, metric):
        labels = sorted(set().union(*table.cells))
        for pair in combinations(labels, 2):
            levels = pair_levels(table, pair)
            if levels is not None:
                found += list(contrast_samples(table, levels).values())
    return found


def _problem(samples: Mapping[str, Sample]) -> str:
    """Why a pair cannot be judged."""
    return next((samples[name].problem for name in ("interaction", *DIRECTIONS) if samples[name].problem), "")


def _test_of(pair: Pair, verdict: str) -> str:
    """Whose p-value stands in the row."""
    if not pair.p:
        return ""
    if verdict == "harmful":
        return min(DIRECTIONS, key=lambda name: pair.p_of(name, -1))
    if verdict == "better together":
        return max(DIRECTIONS, key=lambda name: pair.p[name])
    return verdict if verdict in pair.p else "conflict"


def _shown(earlier: pd.DataFrame | None) -> dict[tuple[str, str], dict[str, Any]]:
    """What the table of an earlier look has shown."""
    if earlier is None:
        return {}
    if "look" not in earlier.columns or earlier["look"].isna().any():
        raise ValueError("earlier: the table is of no look; make it by pairwise(…, look=1)")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in earlier.to_dict("records"):
        kept = {name: row[f"{name}_verdict"] for name in DIRECTIONS if row[f"{name}_verdict"] in (HELPS, HURTS)}
        if row["verdict"] in CLAIMS:
            kept |= {"verdict": row["verdict"], "look": int(row["look"])}
        found[row["a"], row["b"]] = kept
    return found


def _fixed_val(table: Table, sample: Sample) -> str:
    if table.correct is not None and sample.n_images:
        return f"val is the same in every block, the share of its {sample.n_images} images is in the intervals"
    if table.correct is not None:
        return "val is the same in every block and the metric is no mean over its images: true of these images only"
    if table.one_split:
        return "val is the same in every block and its images were not kept: true of these images only"
    return ""


def _absent_cells(a: str, b: str, tables: Sequence[Table]) -> str:
    names = {
        f"{a} and {b} together": {a, b},
        f"{a} without {b}": {a},
        f"{b} without {a}": {b},
        f"neither {a} nor {b}": set(),
    }
    present = {cell & {a, b} for table in tables for cell in table.cells}
    absent = [name for name, wanted in names.items() if frozenset(wanted) not in present]
    if absent:
        return f"the design has no trial with {', nor with '.join(absent)}"
    return "the four cells never occur in one context with the same other tricks"


def _frame(rows: list[dict[str, Any]], columns: Sequence[str], dtypes: Mapping[str, str]) -> pd.DataFrame:
    values: dict[str, Any] = {name: [row[name] for row in rows] for name in columns}
    return pd.DataFrame(values | {name: pd.array(values[name], dtype=dtype) for name, dtype in dtypes.items()})
