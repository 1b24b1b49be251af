"""Planted truth: how often the conflict table is wrong, whether its intervals cover, and how much it finds.

A simulated search screens six tricks in the pairs design (baseline, 6 singles, 15 pairs) over seed blocks; five pairs
are declared, ten are explored. A result is

    y(c, s) = truth(c) + split(s) + Σ over the tricks t in c of gain(t, s) + start(c, s) + noise(c, s) + val(c, s)

with standard deviations of 1 point for split and noise, and val the error of 1,000 validation images of which 70 % of
the variance is shared by all cells of a block; gain and start are 0 but where a world says so. Hence truth(c) is the
mean over new seeds, splits and images. The truth of a contrast is that of the truth of its cells.

Printed for every world, over the simulated searches:

* conflict, declared: share of searches with a false conflict among the declared pairs (family-wise, nominal 5 %);
* conflict, matrix: share of false ones among the conflicts of the other pairs (false discovery rate, nominal 10 %);
* any, declared and matrix: the same of every false claim (conflict, a direction that helps or hurts, better together,
  synergy, redundant);
* no loss: share of wrong "no loss" among all directions whose truth is a loss of the margin or more (nominal 5 %);
* coverage of the 95 % intervals of the interaction, the directions and the effects alone: lowest and highest;
* the same of a factorial's 32 cells, which is fitted on the assumption that no three tricks interact;
* beside it the same false conflicts and coverage by other estimators under the same rules: a paired t test for each
  contrast, least squares with block effects and one variance, and limma's moderation (towards the prior's own scale,
  prior degrees of freedom without a bound);
* planted conflicts: the share found;
* looks: false conflicts at some look, where blocks are added twice;
* spent: false claims about the declared pairs where early ends pay twice for further blocks of the directions that
  need the fewest (`--spend-on verdicts`), beside blocks that are added to all cells;
* survivors: what a naive table of the trials that TPE and successive halving let live calls an interaction.

    OMP_NUM_THREADS=1 python tests/benchmarks/conflict_truth.py --searches 1000
"""

from __future__ import annotations

import argparse
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import optuna
import pandas as pd
from scipy import special, stats

from analysis.conflicts import at_looks, open_directions, pairwise
from analysis.conflicts.contrasts import CONTRASTS, LOG_ODDS
from analysis.conflicts.verdicts import DIRECTIONS, HELPS, HURTS, NO_LOSS, Pair, adjust, rule_for
from analysis.stats.intervals import Estimate, log_odds
from analysis.stats.moderation import fit_prior
from analysis.stats.multiplicity import benjamini_hochberg
from search.phases.verdicts import MOST, choose

TRICKS = tuple("abcdef")
PAIRS = tuple(combinations(TRICKS, 2))
CELLS = ((), *((trick,) for trick in TRICKS), *PAIRS)
TRIPLES = tuple(combinations(TRICKS, 3))
HALF_FRACTION = tuple(
    cell for size in range(len(TRICKS) + 1) for cell in combinations(TRICKS, size) if len(cell) % 2 == 0
)
"""The 32 cells of a factorial in six tricks of which each is the product of the others (resolution VI)."""
ROW = {cell: i for i, cell in enumerate(CELLS)}
PRIMARY = PAIRS[:5]
MARGIN = 0.02
IMAGES = 1000
SPLIT = NOISE = 0.01
SHARED_DIFFICULTY = 0.7
LATER = frozenset("ef")
"""Tricks of a later stage, where a world shares first stages."""


@dataclass(frozen=True)
class World:
    """What is true, and how results scatter.

    Args:
        name: In words.
        effect: Of each trick alone, fractions; on the scale of log-odds where `in_log_odds`.
        interaction: Of pairs.
        base: Accuracy of the baseline.
        noise: How much noisier each trick makes training.
        varying: Deviation of each trick's gain between blocks.
        start: Deviation of a first stage, which cells share that differ in `LATER` tricks only; 0: nothing is shared.
        lost: Chance that a run in the lowest quarter of its cell's noise diverges, where it has one of the tricks a, b.
        in_log_odds: Whether effects add up in log-odds instead of accuracy.
        fixed_val: Whether val holds the same images in every block.
        three: Size of every interaction of three tricks; signs alternate.
        cells: Which cells are trained.
    """

    name: str
    effect: tuple[float, ...] = (0.0,) * 6
    interaction: dict[tuple[str, str], float] = field(default_factory=dict)
    base: float = 0.60
    noise: tuple[float, ...] = (1.0,) * 6
    varying: float = 0.0
    start: float = 0.0
    lost: float = 0.0
    in_log_odds: bool = False
    fixed_val: bool = False
    three: float = 0.0
    cells: tuple[tuple[str, ...], ...] = CELLS

    def truth(self, cells: Sequence[tuple[str, ...]] = CELLS) -> np.ndarray:
        """Mean of each cell over new seeds, splits and images; by default those of the pairs design."""
        alone = dict(zip(TRICKS, self.effect, strict=True))
        sums = np.array([sum(alone[t] for t in cell) for cell in cells])
        if self.in_log_odds:
            return special.expit(special.logit(self.base) + sums)
        pairs = [sum(self.interaction.get(pair, 0.0) for pair in combinations(cell, 2)) for cell in cells]
        signs = (-1) ** np.arange(len(TRIPLES))
        three = [
            sum(sign * self.three for sign, triple in zip(signs, TRIPLES, strict=True) if set(triple) <= set(cell))
            for cell in cells
        ]
        return np.asarray(self.base + sums + np.array(pairs) + np.array(three))


MIXED = (0.03, 0.01, -0.02, 0.0, 0.05, -0.04)
WORLDS = (
    World("helpful", (0.02, 0.03, 0.01, 0.04, 0.02, 0.03)),
    World("useless"),
    World("mildly harmful", (-0.005,) * 6),
    World("strongly harmful", (-0.06,) * 6),
    World("mixed", MIXED),
    World("mixed, two tricks 3 x noisier", MIXED, noise=(3, 1, 1, 1, 3, 1)),
    World("mixed, one trick 3 x noisier", MIXED, noise=(1, 3, 1, 1, 1, 1)),
    World("harmful, one trick 3 x noisier", (-0.06,) * 6, noise=(1, 3, 1, 1, 1, 1)),
    World("mixed, gains vary by split", MIXED, varying=0.015),
    World("mixed, first stages shared", MIXED, start=0.01),
    World("harmful, first stages shared", (-0.06,) * 6, start=0.01),
    World("mixed, runs lost not at random", MIXED, lost=0.6),
    World("harmful, runs lost not at random", (-0.06,) * 6, lost=0.6),
    World("harmful in log-odds, near 95 %", (-0.5,) * 6, base=0.95, in_log_odds=True),
    World("helpful in log-odds, near 90 %", (0.4,) * 6, base=0.90, in_log_odds=True),
    World("mixed, fixed val", MIXED, fixed_val=True),
    World("mixed, interactions of three", MIXED, three=0.01),
)
EXPLORATORY = (
    World("mixed: a factorial", MIXED, cells=HALF_FRACTION),
    World("interactions of three: a factorial", MIXED, three=0.01, cells=HALF_FRACTION),
)
SPENDING = (WORLDS[1], WORLDS[2], WORLDS[4], World("a loss of the margin", (-MARGIN,) * 6))
SURVIVOR_EFFECTS = (0.02, 0.015, 0.01, -0.01, 0.015, -0.005)
SURVIVOR_EARLY = (1.0, -1.0, 1.5, 2.0, -1.0, -2.0)
"""Share of a trick's effect at half the length."""


def simulate(world: World, blocks: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Accuracies (cells, blocks), NaN where a run diverged; per-image correctness where val is fixed."""
    truth, shape = world.truth(world.cells)[:, None], (len(world.cells), blocks)
    factor = np.array([max([1.0, *(world.noise[TRICKS.index(t)] for t in cell)]) for cell in world.cells])[:, None]
    scale = 4 * truth * (1 - truth) if world.in_log_odds else 1.0
    noise = rng.normal(0, NOISE, shape)
    gain = rng.normal(0, world.varying, (len(TRICKS), blocks)) if world.varying else np.zeros((len(TRICKS), blocks))
    p = truth + scale * (rng.normal(0, SPLIT, blocks) + factor * noise)
    p = p + np.array([gain[[TRICKS.index(t) for t in cell]].sum(0) for cell in world.cells])
    if world.start:
        starts = {first_stage(cell, 0): rng.normal(0, world.start, blocks) for cell in world.cells}
        p = p + np.array([starts[first_stage(cell, 0)] for cell in world.cells])
    p = np.clip(p, 0.005, 0.995)
    correct = None
    if world.fixed_val:
        size = (*shape, IMAGES)
        hard = rng.standard_normal((1, 1, IMAGES)) * math.sqrt(SHARED_DIFFICULTY)
        own = rng.standard_normal((shape[0], 1, IMAGES)) * math.sqrt((1 - SHARED_DIFFICULTY) / 2)
        rest = rng.standard_normal(size) * math.sqrt((1 - SHARED_DIFFICULTY) / 2)
        correct = hard + own + rest < special.ndtri(p)[:, :, None]
        y = correct.mean(2)
    else:
        deviation = np.sqrt(p * (1 - p) / IMAGES)
        shared = rng.normal(0, math.sqrt(SHARED_DIFFICULTY), blocks)
        y = np.clip(p + deviation * (shared + rng.normal(0, math.sqrt(1 - SHARED_DIFFICULTY), shape)), 0, 1)
    if world.lost:
        risky = np.array([bool({"a", "b"} & set(cell)) for cell in world.cells])[:, None]
        y = np.where(risky & (noise < -0.67 * NOISE) & (rng.random(shape) < world.lost), np.nan, y)
    return y, correct


def first_stage(cell: Sequence[str], block: int) -> str:
    """Name of the first stage where cells that differ in later tricks share one."""
    return f"{block}:{''.join(t for t in cell if t not in LATER)}"


def frame(world: World, y: np.ndarray, correct: np.ndarray | None = None) -> pd.DataFrame:
    """The table of trials that a search would hand over."""
    rows = [
        {
            "arm": "design",
            "context": "" if world.cells is CELLS else "factorial",
            "seed": s,
            "first_stage": first_stage(cell, s) if world.start else f"{i}-{s}",
            "tricks": cell,
            "outcome": "finished" if np.isfinite(y[i, s]) else "diverged",
            "final/accuracy": y[i, s],
            **({"correct": correct[i, s]} if correct is not None else {}),
        }
        for i, cell in enumerate(world.cells)
        for s in range(y.shape[1])
    ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ other estimators


def contrast_values(y: np.ndarray) -> dict[str, np.ndarray]:
    """Block values of every contrast, (pairs, blocks)."""
    four = [np.array([y[ROW[tuple(t for t in cell if t)]] for cell in cells]) for cells in zip(*_four(), strict=True)]
    found = {name: sum(w * four[k] for k, w in enumerate(weights)) for name, weights in CONTRASTS.items()}
    odds = [log_odds(part) for part in four]
    found[LOG_ODDS] = odds[0] - odds[1] - odds[2] + odds[3]
    return found  # type: ignore[return-value]


def _four() -> list[tuple[tuple[str, ...], ...]]:
    return [((), (a,), (b,), (a, b)) for a, b in PAIRS]


def plain_t(y: np.ndarray) -> list[dict[str, Estimate]]:
    """A paired t test for each contrast."""
    return _by_variance(y, lambda s2, df: (s2, df))


def limma(y: np.ndarray) -> list[dict[str, Estimate]]:
    """Moderation as limma's squeezeVar does it."""

    def squeezed(s2: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prior = fit_prior(s2, df)
        if math.isinf(prior.df):
            return np.full(len(s2), prior.scale), np.full(len(s2), df.sum())
        return (prior.df * prior.scale + df * s2) / (prior.df + df), np.minimum(prior.df + df, df.sum())

    return _by_variance(y, squeezed)


def _by_variance(y: np.ndarray, lend: Callable[..., tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Estimate]]:
    found: list[dict[str, Estimate]] = [{} for _ in PAIRS]
    for name, values in contrast_values(y).items():
        blocks = y.shape[1]
        s2, df = lend(np.maximum(values.var(1, ddof=1), 1e-6), np.full(len(PAIRS), blocks - 1.0))
        for i in range(len(PAIRS)):
            found[i][name] = Estimate(float(values[i].mean()), math.sqrt(s2[i] / blocks), float(df[i]), 0.0, blocks)
    return found


def least_squares(y: np.ndarray) -> list[dict[str, Estimate]]:
    """Cells and blocks as fixed effects, one variance."""
    blocks = y.shape[1]
    found: list[dict[str, Estimate]] = [{} for _ in PAIRS]
    for odds in (False, True):
        scale = log_odds(y) if odds else y
        rest = scale - scale.mean(1, keepdims=True) - scale.mean(0) + scale.mean()
        df = (len(CELLS) - 1) * (blocks - 1)
        sigma2 = float((rest**2).sum()) / df
        for name, values in contrast_values(y).items():
            if (name == LOG_ODDS) is odds:
                weights = CONTRASTS["interaction" if odds else name]
                error = math.sqrt(sigma2 * sum(w * w for w in weights) / blocks)
                for i in range(len(PAIRS)):
                    found[i][name] = Estimate(float(values[i].mean()), error, float(df), 0.0, blocks)
    return found


OTHERS = {"paired t": plain_t, "least squares": least_squares, "limma": limma}


def judge(views: Sequence[dict[str, Estimate]]) -> pd.DataFrame:
    """The same rules on other estimates."""
    pairs = [
        Pair(a, b, [view], primary=(a, b) in PRIMARY) for (a, b), view in zip(PAIRS, views, strict=True)
    ]  # fmt: skip
    for pair in pairs:
        pair.test()
    adjust(pairs)
    rows = []
    for pair in pairs:
        rule = rule_for(pair.primary, MARGIN, 0.95, 0.10, None)
        row = {"a": pair.a, "b": pair.b, "primary": pair.primary, "verdict": pair.verdict(rule)}
        for name in DIRECTIONS:
            row[f"{name}_verdict"] = pair.direction(name, rule)
        for name in CONTRASTS:
            found = pair.estimate(name)
            row |= {name: found.value, **dict(zip((f"{name}_low", f"{name}_high"), found.interval(0.95), strict=True))}
        rows.append(row)
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- counting


@dataclass
class Count:
    """What went wrong, over the searches."""

    searches: int = 0
    conflict_declared: int = 0
    conflict_discoveries: float = 0.0
    any_declared: int = 0
    any_discoveries: float = 0.0
    losses: int = 0
    losses_missed: int = 0
    covered: dict[str, list[int]] = field(default_factory=dict)
    settled: int = 0
    directions: int = 0

    def add(self, table: pd.DataFrame, truth: np.ndarray) -> None:
        self.searches += 1
        true = true_contrasts(tuple(truth))
        false: dict[str, dict[bool, list[bool]]] = {"conflict": {True: [], False: []}, "any": {True: [], False: []}}
        for row in table.to_dict("records"):
            t = true[row["a"], row["b"]]
            verdict, primary = row["verdict"], bool(row["primary"])
            overlap = t["interaction"] < -1e-12 and t[LOG_ODDS] < -1e-12
            harm = min(t[name] for name in DIRECTIONS) < -1e-12
            if verdict == "conflict":
                false["conflict"][primary].append(not (harm and overlap))
            for name in DIRECTIONS:
                word = row[f"{name}_verdict"]
                self.directions += word != "unknown"
                if word in (HELPS, HURTS):
                    false["any"][primary].append((t[name] <= 1e-12) if word == HELPS else (t[name] >= -1e-12))
                if t[name] <= -MARGIN:
                    self.losses += 1
                    self.losses_missed += word == NO_LOSS
            if verdict in ("conflict", "redundant"):
                false["any"][primary].append(not overlap or (verdict == "conflict" and not harm))
            if verdict == "synergy":
                false["any"][primary].append(t["interaction"] <= 1e-12)
            self.settled += verdict != "unresolved"
            for name in CONTRASTS:
                if name != "both" and np.isfinite(row.get(f"{name}_low", np.nan)):
                    inside = row[f"{name}_low"] <= t[name] <= row[f"{name}_high"]
                    self.covered.setdefault(name, []).append(inside)
        self.conflict_declared += any(false["conflict"][True])
        self.any_declared += any(false["any"][True])
        self.conflict_discoveries += float(np.mean(false["conflict"][False])) if false["conflict"][False] else 0.0
        self.any_discoveries += float(np.mean(false["any"][False])) if false["any"][False] else 0.0

    def words(self) -> str:
        n = max(self.searches, 1)
        coverage = [100 * float(np.mean(inside)) for inside in self.covered.values()]
        missed = f"{100 * self.losses_missed / self.losses:5.1f}" if self.losses else "    -"
        return (
            f"{100 * self.conflict_declared / n:5.1f} {100 * self.conflict_discoveries / n:5.1f} | "
            f"{100 * self.any_declared / n:5.1f} {100 * self.any_discoveries / n:5.1f} | {missed} | "
            f"{min(coverage):5.1f} {max(coverage):5.1f} | "
            f"{self.directions / n:4.1f} {self.settled / n:4.1f}"
        )


@functools.lru_cache
def true_contrasts(truth: tuple[float, ...]) -> dict[tuple[str, str], dict[str, float]]:
    """Every contrast of every pair, from the truth of `CELLS`."""
    found = {}
    for a, b in PAIRS:
        four = np.array([truth[ROW[cell]] for cell in ((), (a,), (b,), (a, b))])
        values = {name: float(np.dot(weights, four)) for name, weights in CONTRASTS.items()}
        values[LOG_ODDS] = float(np.dot(CONTRASTS["interaction"], log_odds(four)))
        found[a, b] = {name: 0.0 if abs(value) < 1e-12 else value for name, value in values.items()}
    return found


HEAD = (
    f"{'':34} {'':6} | {'conflict':11} | {'any claim':11} | {'':5} | {'coverage':11} | settled\n"
    f"{'world':34} blocks | {'decl.':5} {'matr.':5} | {'decl.':5} {'matr.':5} | {'loss':5} | {'low':5} {'high':5} | "
    "directions of 30, pairs of 15"
)


def generator(world: World, blocks: int) -> np.random.Generator:
    """The random numbers of a world: a line is the same whichever others are printed."""
    return np.random.default_rng([zlib.crc32(world.name.encode()), blocks])


def worlds(searches: int, blocks: Sequence[int], chosen: Sequence[World] = WORLDS) -> dict[tuple[str, int], Count]:
    """False claims and coverage of the table, world by world."""
    print(HEAD, flush=True)
    found = {}
    for world in chosen:
        for size in blocks:
            count = found[world.name, size] = Count()
            rng = generator(world, size)
            for _ in range(searches):
                y, correct = simulate(world, size, rng)
                count.add(pairwise(frame(world, y, correct), margin=MARGIN, primary=PRIMARY), world.truth())
            print(f"{world.name:34} {size:6} | {count.words()}", flush=True)
    return found


def others(searches: int, blocks: Sequence[int], chosen: Sequence[World] = WORLDS) -> None:
    """The same worlds by other estimators, under the same rules."""
    print(HEAD, flush=True)
    for world in chosen:
        if world.lost or world.fixed_val:
            continue
        for size in blocks:
            counts = {name: Count() for name in OTHERS}
            rng = generator(world, size)
            for _ in range(searches):
                y, _ = simulate(world, size, rng)
                for name, estimate in OTHERS.items():
                    counts[name].add(judge(estimate(y)), world.truth())
            for name, count in counts.items():
                print(f"{f'{world.name}: {name}':48} {size:6} | {count.words()}", flush=True)


def planted(searches: int, blocks: Sequence[int]) -> None:
    """Three conflicts among fifteen pairs: both tricks gain 2 points alone and lose together."""
    print(f"{'harm, points':>12} {'noise':8} {'blocks':>6} | found declared, matrix | false discoveries", flush=True)
    for noise, name in (((1.0,) * 6, "even"), ((1, 3, 1, 1, 1, 1), "b 3 x")):
        for size in blocks:
            for harm in (0.02, 0.03, 0.04, 0.06):
                conflicts = dict.fromkeys((("a", "b"), ("b", "e"), ("c", "d")), -0.02 - harm)
                world = World("planted", (0.02,) * 6, conflicts, noise=noise)
                rng = np.random.default_rng([searches, size, round(1000 * harm)])
                shown: dict[bool, list[bool]] = {True: [], False: []}
                wrong = 0.0
                for _ in range(searches):
                    table = pairwise(frame(world, simulate(world, size, rng)[0]), margin=MARGIN, primary=PRIMARY)
                    called = {(r.a, r.b): r.verdict == "conflict" for r in table.itertuples()}
                    for pair in conflicts:
                        shown[pair in PRIMARY].append(called[pair])
                    false = [pair for pair, is_called in called.items() if is_called and pair not in conflicts]
                    wrong += len(false) / max(sum(called.values()), 1)
                print(
                    f"{100 * harm:12.1f} {name:8} {size:6} | {100 * np.mean(shown[True]):6.1f} "
                    f"{100 * np.mean(shown[False]):6.1f} | {100 * wrong / searches:6.1f}",
                    flush=True,
                )


def looks(searches: int) -> None:
    """A false conflict at some look, where three blocks are added twice; what a look has shown stays in the table."""
    print("looks at 5, 8, 11 blocks: false conflicts at some look, declared | matrix", flush=True)
    for world in (WORLDS[3], WORLDS[2], WORLDS[1]):
        for declared in (PRIMARY, ()):
            rng = generator(world, 11)
            wrong = {True: 0, False: 0}
            for _ in range(searches):
                trials = frame(world, simulate(world, 11, rng)[0])
                table = at_looks(trials, margin=MARGIN, primary=declared, firsts=(5, 8))
                false = table[table.verdict == "conflict"]
                for primary in wrong:
                    wrong[primary] += bool((false.primary == primary).any())
            name = f"{world.name}, {'five pairs declared' if declared else 'none declared'}"
            print(f"{name:40} {100 * wrong[True] / searches:5.1f} | {100 * wrong[False] / searches:5.1f}", flush=True)


def spent(searches: int, chosen: Sequence[World] = SPENDING) -> None:
    """False claims about the declared pairs after three looks, of which two are chosen by the ones before.

    Every look is paid for with a number of trials, all of the same cost. Blocks are drawn for all cells and shown for
    those that the search would have trained. "no loss" is wrong of a direction that loses the margin or more.
    """
    print(
        f"{'':48} | {'any false claim':17} | {'wrong no loss':19} | known directions\n"
        f"{'world and further blocks':48} | {'conflict':>8} {'any':>8} | {'at the end':>10} {'ever':>8} | of 10",
        flush=True,
    )
    for world in chosen:
        lines = {"none": None, "3 of all cells, twice": 0, "for 20 trials, twice": 20, "for 60 trials, twice": 60}
        counts = {name: (Count(), Count()) for name in lines}
        truth, rng = world.truth(), generator(world, 5 + 2 * MOST)
        for _ in range(searches):
            trials = frame(world, simulate(world, 5 + 2 * MOST, rng)[0])
            first = pairwise(trials[trials["seed"] < 5], margin=MARGIN, primary=PRIMARY, look=1)
            for name, saved in lines.items():
                tables = [first] if saved is None else [first, *_further_looks(trials, first, saved)]
                tables = [table[table["primary"]] for table in tables]
                ever = tables[-1].copy()
                for verdict in (f"{direction}_verdict" for direction in DIRECTIONS):
                    said = np.any([(table[verdict] == NO_LOSS).to_numpy() for table in tables], axis=0)
                    ever.loc[said, verdict] = NO_LOSS
                for count, table in zip(counts[name], (tables[-1], ever), strict=True):
                    count.add(table, truth)
        for name, (end, ever) in counts.items():
            missed = [f"{100 * one.losses_missed / one.losses:.1f}" if one.losses else "-" for one in (end, ever)]
            print(
                f"{f'{world.name}: {name}':48} | {100 * end.conflict_declared / searches:8.1f} "
                f"{100 * end.any_declared / searches:8.1f} | {missed[0]:>10} {missed[1]:>8} | "
                f"{end.directions / searches:.1f}",
                flush=True,
            )


def _further_looks(trials: pd.DataFrame, first: pd.DataFrame, saved: int) -> Iterator[pd.DataFrame]:
    """The table at each of two further looks.

    Args:
        trials: Every cell on every block.
        first: The table at the first look, of five blocks.
        saved: Trials that each of two early ends pays for; 0 for three blocks of all cells.
    """
    number, seed = trials["tricks"].map(ROW).to_numpy(), trials["seed"].to_numpy()
    seen, block, table = seed < 5, 5, first
    for look in (2, 3):
        more = dict.fromkeys(range(len(CELLS)), 3)
        if saved:
            more, _ = choose(
                open_directions(table).to_dict("records"),
                lambda row: [ROW[row["base"],], ROW[tuple(sorted((row["base"], row["added"])))]],
                lambda blocks: sum(blocks.values()),
                saved,
            )  # fmt: skip
        if not more:
            return
        for cell, blocks in more.items():
            seen |= (number == cell) & (seed >= block) & (seed < block + blocks)
        block += max(more.values())
        table = pairwise(trials[seen], margin=MARGIN, primary=PRIMARY, look=look, earlier=table)
        yield table


# ------------------------------------------------------------------------------------------------- survivors


def survivor_trials(rng: np.random.Generator, trials: int = 300) -> pd.DataFrame:
    """An adaptive arm on an additive world: TPE proposes, successive halving stops; columns tricks, outcome, value.

    Tricks act at different times: what ends well may look bad at half the length, so that a trial with such a trick
    goes on only beside one that is early, or with a lucky seed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    effect = dict(zip(TRICKS, SURVIVOR_EFFECTS, strict=True))
    early = dict(zip(TRICKS, SURVIVOR_EARLY, strict=True))  # share of the effect at half the length
    sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), n_startup_trials=trials // 3)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    rows = []
    for _ in range(trials):
        trial = study.ask()
        on = tuple(t for t in TRICKS if trial.suggest_categorical(t, [False, True]))
        noise, outcome, value = rng.normal(0, 0.01), "finished", 0.0
        for step, share in ((1, 0.4), (2, 0.5), (4, 1.0)):
            here = {t: early[t] + (1 - early[t]) * max(0.0, 2 * share - 1) for t in on}
            value = World.base * (0.7 + 0.3 * share) + sum(effect[t] * here[t] for t in on) + noise
            trial.report(value, step)
            if share < 1 and trial.should_prune():
                outcome = "stopped"
                break
        study.tell(trial, None if outcome == "stopped" else value, state=(
            optuna.trial.TrialState.PRUNED if outcome == "stopped" else optuna.trial.TrialState.COMPLETE
        ))  # fmt: skip
        rows.append({"tricks": on, "outcome": outcome, "final/accuracy": value})
    table = pd.DataFrame(rows)
    return table.assign(
        arm="adaptive", seed=range(10_000, 10_000 + trials), first_stage=[f"t{i}" for i in range(trials)]
    )


def naive_p_values(trials: pd.DataFrame) -> np.ndarray:
    """What a table of the completed trials says: p of every pair's interaction beside all main effects, by OLS."""
    done = trials[trials.outcome == "finished"]
    main = np.array([[1.0, *(t in cell for t in TRICKS)] for cell in done.tricks])
    y, found = done["final/accuracy"].to_numpy(), []
    for a, b in PAIRS:
        x = np.column_stack([main, main[:, 1 + TRICKS.index(a)] * main[:, 1 + TRICKS.index(b)]])
        df = len(y) - np.linalg.matrix_rank(x)
        if df < 1 or np.linalg.matrix_rank(x) < x.shape[1]:
            continue
        inverse = np.linalg.inv(x.T @ x)
        beta = inverse @ x.T @ y
        error = np.sqrt(((y - x @ beta) ** 2).sum() / df * inverse[-1, -1])
        found.append(2 * stats.t.sf(abs(beta[-1] / error), df))
    return np.array(found)


def survivors(searches: int) -> None:
    """What a naive table makes of the trials that an adaptive search lets live, and what this one does."""
    world = World("additive", SURVIVOR_EFFECTS)
    rng = generator(world, 5)
    count = max(searches // 10, 1)  # TPE is slow
    p_values, discovered, conflicts = [], 0, 0
    for _ in range(count):
        adaptive = survivor_trials(rng)
        p = naive_p_values(adaptive)
        p_values.append(p)
        discovered += bool((benjamini_hochberg(p) <= 0.05).any())
        trials = pd.concat([frame(world, simulate(world, 5, rng)[0]), adaptive], ignore_index=True)
        conflicts += bool((pairwise(trials, margin=0.01).verdict == "conflict").any())
    print(f"{count} searches of 300 adaptive trials, additive truth")
    print(
        f"naive, completed trials: pairs with p <= 0.05: {100 * float(np.mean(np.concatenate(p_values) <= 0.05)):.1f}"
    )
    print(f"naive: searches with a Benjamini-Hochberg 5 % discovery: {100 * discovered / count:.1f}")
    print(f"the conflict table on both arms: searches with a conflict: {100 * conflicts / count:.1f}", flush=True)


def main() -> None:
    """Prints the sections asked for."""
    parser = argparse.ArgumentParser(description="How often the conflict table is wrong, over simulated searches.")
    parser.add_argument("--searches", type=int, default=1000, help="simulated searches a line (default: 1000)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 5, 10], help="seed blocks (default: 3 5 10)")
    parser.add_argument(
        "--only",
        choices=["worlds", "factorial", "others", "planted", "looks", "spent", "survivors"],
        help="one section (default: all)",
    )
    parser.add_argument("--world", default="", help="worlds whose name contains this text (default: all)")
    options = parser.parse_args()
    chosen = [world for world in WORLDS if options.world in world.name]
    spending = [world for world in SPENDING if options.world in world.name]
    if not chosen and not spending:
        names = dict.fromkeys(world.name for world in (*WORLDS, *SPENDING))
        parser.error(f"--world: no name contains {options.world!r}; they are {', '.join(names)}")
    sections: dict[str, Callable[[], object]] = {
        "worlds": lambda: worlds(options.searches, options.blocks, chosen),
        "factorial": lambda: worlds(options.searches, options.blocks, EXPLORATORY),
        "others": lambda: others(options.searches, options.blocks, chosen),
        "planted": lambda: planted(options.searches, options.blocks),
        "looks": lambda: looks(options.searches),
        "spent": lambda: spent(options.searches, spending),
        "survivors": lambda: survivors(options.searches),
    }
    for name, section in sections.items():
        if options.only in (None, name):
            print(f"\n{name}, {options.searches} searches a line; shares in %", flush=True)
            section()


if __name__ == "__main__":
    main()
