"""Planted truth: how often `analysis.conflicts.pairwise` is wrong, how much it finds, and whether its intervals cover.

Each simulated search screens six tricks (baseline, 6 singles, 15 pairs) over seed blocks. An image i of a block's own
validation split is classified correctly by cell c where √r·u(i) + √(1−r)·e(c,i) < Φ⁻¹(p), u and e standard normal
(r: how far all networks find the same images hard), with p = truth(c) + split(block) + seed(c, block). Hence the
population value of a cell, over new splits, new seeds and new images, is truth(c) exactly.

Printed, over the simulated searches:

* additive worlds: the share with a false conflict among 5 declared primary pairs (family-wise, nominal 5 %), and among
  the 10 others (false discovery rate, nominal 10 %); false "redundant", and false harms where there are none;
* planted conflicts (3 of 15 pairs): the share found, beside the best possible test (the same rules, told the true
  covariance of the cells), and the false discovery rate of the other 12;
* coverage of the two-sided 95 % intervals for the population value (new images);
* both again where cells share their first stages.

    OMP_NUM_THREADS=1 python tests/benchmarks/conflict_truth.py --searches 1000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.conflicts import benjamini_hochberg, holm, pairwise

TRICKS = tuple("abcdef")
PAIRS = tuple(combinations(TRICKS, 2))
CELLS = ((), *((trick,) for trick in TRICKS), *PAIRS)
PRIMARY = PAIRS[:5]
BASE = 0.60
IMAGES = 1000
SHARED_DIFFICULTY = 0.7
SPLIT_DEVIATION = 0.010
SEED_DEVIATION = 0.010
CONTRASTS = ("alone_a", "alone_b", "interaction", "b_given_a", "a_given_b")


@dataclass(frozen=True)
class World:
    """Effects of the tricks alone, interactions of pairs, and how much noisier each trick makes training."""

    name: str
    effect: tuple[float, ...]
    interaction: dict[tuple[str, str], float] = field(default_factory=dict)
    noise: tuple[float, ...] = (1, 1, 1, 1, 1, 1)

    def truth(self) -> np.ndarray:
        alone = dict(zip(TRICKS, self.effect, strict=True))
        return np.array([BASE + sum(alone[t] for t in cell) + self.interaction.get(cell, 0.0) for cell in CELLS])

    def deviation(self) -> np.ndarray:
        factor = dict(zip(TRICKS, self.noise, strict=True))
        return SEED_DEVIATION * np.array([max([1.0, *(factor[t] for t in cell)]) for cell in CELLS])


def simulate(world: World, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Accuracies (cells, blocks)."""
    split = rng.normal(0, SPLIT_DEVIATION, blocks)
    seed = rng.normal(0, 1, (len(CELLS), blocks)) * world.deviation()[:, None]
    p = np.clip(world.truth()[:, None] + split + seed, 0.01, 0.99)
    u = rng.standard_normal((1, blocks, IMAGES), dtype=np.float32) * np.float32(np.sqrt(SHARED_DIFFICULTY))
    e = rng.standard_normal((len(CELLS), blocks, IMAGES), dtype=np.float32) * np.float32(np.sqrt(1 - SHARED_DIFFICULTY))
    return (u + e < stats.norm.ppf(p)[:, :, None]).mean(2)


def frame(scores: np.ndarray) -> pd.DataFrame:
    """The table that a search would hand over."""
    return pd.DataFrame(
        [
            {"arm": "design", "seed": s, "first_stage": f"{c}-{s}", "tricks": CELLS[c], "final/accuracy": scores[c, s]}
            for c in range(len(CELLS))
            for s in range(scores.shape[1])
        ]
    )


def best_possible(scores: np.ndarray, covariance: np.ndarray, primary: tuple[tuple[str, str], ...]) -> np.ndarray:
    """Conflicts (pairs,) found by the same rules with the true covariance and the normal distribution."""
    row = {cell: i for i, cell in enumerate(CELLS)}
    means, blocks = scores.mean(1), scores.shape[1]

    def below(weights: dict[tuple[str, ...], float]) -> float:
        w = np.zeros(len(CELLS))
        for cell, value in weights.items():
            w[row[cell]] = value
        return float(stats.norm.cdf(w @ means / np.sqrt(w @ covariance @ w / blocks)))

    p = []
    for a, b in PAIRS:
        overlap = below({(a, b): 1, (a,): -1, (b,): -1, (): 1})
        harm = 2 * min(below({(a, b): 1, (a,): -1}), below({(a, b): 1, (b,): -1}))
        p.append(max(overlap, harm))
    p_values = np.array(p)
    declared = np.array([pair in primary for pair in PAIRS])
    found = np.zeros(len(PAIRS), dtype=bool)
    found[declared] = holm(p_values[declared]) <= 0.05
    found[~declared] = (benjamini_hochberg(p_values[~declared]) <= 0.10) & (p_values[~declared] <= 0.05)
    return found


def searches(world: World, blocks: int, count: int, seed: int) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    rng = np.random.default_rng([seed, blocks, *world.name.encode()])
    for _ in range(count):
        scores = simulate(world, blocks, rng)
        yield scores, pairwise(frame(scores), margin=0.01, primary=PRIMARY if not world.interaction else ())


def coverage(world: World, table: pd.DataFrame) -> np.ndarray:
    """Share of intervals (contrasts,) that hold the population value."""
    truth = dict(zip(CELLS, world.truth(), strict=True))
    inside = []
    for pair in table.itertuples():
        m00, m10, m01, m11 = truth[()], truth[(pair.a,)], truth[(pair.b,)], truth[(pair.a, pair.b)]
        values = (m10 - m00, m01 - m00, m11 - m10 - m01 + m00, m11 - m10, m11 - m01)
        inside.append(
            [
                getattr(pair, f"{c}_low") <= v <= getattr(pair, f"{c}_high")
                for c, v in zip(CONTRASTS, values, strict=True)
            ]
        )
    return np.mean(inside, axis=0)


def additive(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    worlds = (
        World("helpful", (0.03,) * 6),
        World("useless", (0.0,) * 6),
        World("mildly harmful", (-0.01,) * 6),
        World("strongly harmful", (-0.06,) * 6),
        World("mixed", (0.04, 0.02, 0.0, -0.01, -0.03, -0.06)),
        World("strongly harmful, two tricks 3× noisier", (-0.06,) * 6, noise=(3, 3, 1, 1, 1, 1)),
        World("mixed, two tricks 3× noisier", (0.04, 0.02, 0.0, -0.01, -0.03, -0.06), noise=(1, 3, 1, 1, 3, 1)),
    )
    print(
        f"\nAdditive worlds, {count} searches each; shares in %, "
        f"standard error at 5 % is {100 * np.sqrt(0.05 * 0.95 / count):.1f}"
    )
    print(
        f"{'world':42s} blocks | conflict: primary  matrix | redundant: p.   m. | "
        "false harm: p.   m. | coverage: lowest mean"
    )
    for world in worlds:
        useless = {
            (a, b) for a, b in PAIRS if world.effect[TRICKS.index(a)] >= 0 and world.effect[TRICKS.index(b)] >= 0
        }
        for blocks in block_counts:
            tally, covered = np.zeros(6), np.zeros(len(CONTRASTS))
            for _, table in searches(world, blocks, count, seed):
                primary = table.primary.to_numpy()
                innocent = np.array([pair in useless for pair in zip(table.a, table.b, strict=True)])
                harm = table.verdict.isin(["conflict", "harmful"]).to_numpy() & innocent
                for i, wrong in enumerate((table.verdict == "conflict", table.verdict == "redundant", harm)):
                    tally[2 * i : 2 * i + 2] += np.any(wrong[primary]), np.any(wrong[~primary])
                covered += coverage(world, table)
            t = 100 * tally / count
            c = 100 * covered / count
            print(
                f"{world.name:42s} {blocks:6d} | {t[0]:17.1f} {t[1]:7.1f} | {t[2]:13.1f} {t[3]:4.1f} | "
                f"{t[4]:14.1f} {t[5]:4.1f} | {c.min():16.1f} {c.mean():4.1f}",
                flush=True,
            )


def planted(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    pairs = (("a", "b"), ("c", "d"), ("e", "f"))
    print(f"\nThree planted conflicts among 15 exploratory pairs, {count} searches each; shares in %")
    print(f"{'harm, points':12s} noise blocks | found  best possible | false discovery rate | coverage: lowest mean")
    for noise in ((1, 1, 1, 1, 1, 1), (1, 3, 1, 1, 1, 1)):
        for blocks in block_counts:
            for size in (0.07, 0.09, 0.12):
                harm = size / np.sqrt(blocks)  # equally hard at every number of blocks
                world = World(f"planted {size}", (0.02,) * 6, dict.fromkeys(pairs, -0.02 - harm), noise)
                rng = np.random.default_rng([seed, 1])
                covariance = np.cov(np.hstack([simulate(world, 50, rng) for _ in range(40)]))
                found = best = false = 0.0
                covered = np.zeros(len(CONTRASTS))
                for scores, table in searches(world, blocks, count, seed):
                    conflict = (table.verdict == "conflict").to_numpy()
                    real = np.array([pair in pairs for pair in zip(table.a, table.b, strict=True)])
                    found += conflict[real].mean()
                    false += conflict[~real].sum() / max(conflict.sum(), 1)
                    best += best_possible(scores, covariance, ())[real].mean()
                    covered += coverage(world, table)
                c = 100 * covered / count
                kind = "even" if max(noise) == 1 else "b 3×"
                print(
                    f"{100 * harm:12.1f} {kind:5s} {blocks:6d} | {100 * found / count:5.1f} {100 * best / count:14.1f} "
                    f"| {100 * false / count:20.1f} | {c.min():16.1f} {c.mean():4.1f}",
                    flush=True,
                )


def shared_first_stages(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    """Tricks a to c act in the first stage, d to f later: cells with the same of a to c share their first stages."""
    world = World("strongly harmful", (-0.06,) * 6)
    kinds = ("later × later", "first × later", "first × first")
    print(f"\nShared first stages (σ 1.2 points, later 0.5), {count} searches each; shares in %")
    print(f"blocks | conflict: primary  matrix | coverage of the five contrasts, lowest mean: {', '.join(kinds)}")
    for blocks in block_counts:
        rng = np.random.default_rng([seed, blocks])
        tally, covered = np.zeros(2), {kind: np.zeros(len(CONTRASTS)) for kind in kinds}
        for _ in range(count):
            starts = [tuple(sorted(set(cell) & set("abc"))) for cell in CELLS]
            drawn = {start: rng.normal(0, 0.012, blocks) for start in dict.fromkeys(starts)}
            scores = world.truth()[:, None] + rng.normal(0, SPLIT_DEVIATION, blocks)
            scores = scores + np.array([drawn[start] for start in starts]) + rng.normal(0, 0.005, scores.shape)
            trials = frame(scores)
            trials["first_stage"] = [f"{start}-{s}" for start in starts for s in range(blocks)]
            table = pairwise(trials, margin=0.01, primary=PRIMARY)
            wrong = (table.verdict == "conflict").to_numpy()
            tally += np.any(wrong[table.primary]), np.any(wrong[~table.primary])
            kind = table.a.isin(list("abc")).to_numpy().astype(int) + table.b.isin(list("abc")).to_numpy()
            for k, name in enumerate(kinds):
                covered[name] += coverage(world, table[kind == k])
        t, c = 100 * tally / count, {name: 100 * values / count for name, values in covered.items()}
        shares = ",  ".join(f"{values.min():.1f} {values.mean():.1f}" for values in c.values())
        print(f"{blocks:6d} | {t[0]:17.1f} {t[1]:7.1f} | {shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=1000, help="simulated searches per line of the table")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["additive", "planted", "shared"])
    args = parser.parse_args()
    start = time.perf_counter()
    sections = {"additive": additive, "planted": planted, "shared": shared_first_stages}
    for name, section in sections.items():
        if args.only in (None, name):
            section(args.searches, args.seed, tuple(args.blocks))
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
