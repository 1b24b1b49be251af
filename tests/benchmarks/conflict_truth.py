"""Planted truth: how often `analysis.conflicts.pairwise` is wrong, how much it finds, and whether its intervals cover.

Each simulated search screens six tricks (baseline, 6 singles, 15 pairs) over seed blocks. An image i of a block's own
validation split is classified correctly by cell c where √r·u(i) + √(1−r)·e(c,i) < Φ⁻¹(p), u and e standard normal
(r: how far all networks find the same images hard), with p = truth(c) + split(block) + seed(c, block). Hence the
population value of a cell, over new splits, new seeds and new images, is truth(c) exactly.

Where val is cut anew in every block, so are the images; where it is fixed, u and a part of e are the same in all.

Printed, over the simulated searches:

* additive worlds: the share with a false conflict among 5 declared primary pairs (family-wise, nominal 5 %), and among
  the 10 others (false discovery rate, nominal 10 %); false "redundant", and false harms where there are none; coverage
  of the two-sided 95 % intervals for the population value (new images). Balanced blocks, unequal blocks (three more for
  the baseline and the single tricks), a resolution-V fraction, shared first stages, and a fixed val with and without
  the images' share;
* planted conflicts (3 of 15 pairs): the share found, beside the best possible test (the same rules, told the true
  covariance of the cells), and the false discovery rate of the other 12;
* what `analysis.power.detectable` promises, against the share found;
* up to three looks, further blocks where they are asked for;
* survivors: Optuna's TPE and successive halving on an additive world: what a naive table of the completed trials calls
  an interaction, and what `pairwise` says that sees design and adaptive arm together;
* a lone pair with one noisy cell.

    OMP_NUM_THREADS=1 python tests/benchmarks/conflict_truth.py --searches 1000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
import optuna
import pandas as pd
from scipy import stats

from analysis import sequential
from analysis.conflicts import benjamini_hochberg, holm, pairwise
from analysis.power import detectable

TRICKS = tuple("abcdef")
PAIRS = tuple(combinations(TRICKS, 2))
CELLS = ((), *((trick,) for trick in TRICKS), *PAIRS)
PRIMARY = PAIRS[:5]
BASE = 0.60
IMAGES = 1000
SHARED_DIFFICULTY = 0.7
SPLIT_DEVIATION = 0.010
SEED_DEVIATION = 0.010
CELL_DIFFICULTY = 0.5  # of what is left, the part that a cell finds hard in every block
EXTRA_BLOCKS = 3
SURVIVOR_EFFECTS = (0.02, 0.015, 0.01, -0.01, 0.015, -0.005)
SURVIVOR_EARLY = (1.0, -1.0, 1.5, 2.0, -1.0, -2.0)
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
    """Accuracies (cells, blocks), val cut anew in every block."""
    split = rng.normal(0, SPLIT_DEVIATION, blocks)
    seed = rng.normal(0, 1, (len(CELLS), blocks)) * world.deviation()[:, None]
    p = np.clip(world.truth()[:, None] + split + seed, 0.01, 0.99)
    u = rng.standard_normal((1, blocks, IMAGES), dtype=np.float32) * np.float32(np.sqrt(SHARED_DIFFICULTY))
    e = rng.standard_normal((len(CELLS), blocks, IMAGES), dtype=np.float32) * np.float32(np.sqrt(1 - SHARED_DIFFICULTY))
    return (u + e < stats.norm.ppf(p)[:, :, None]).mean(2)


def simulate_fixed(world: World, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Correctness (cells, blocks, images) on the same images in every block; a part of e belongs to cell and image."""
    size = (len(CELLS), blocks, IMAGES)
    seed = rng.normal(0, 1, size[:2]) * world.deviation()[:, None]
    p = np.clip(world.truth()[:, None] + seed, 0.01, 0.99)
    left = (1 - SHARED_DIFFICULTY) * np.array([CELL_DIFFICULTY, 1 - CELL_DIFFICULTY])
    u = rng.standard_normal((1, 1, IMAGES), dtype=np.float32) * np.float32(np.sqrt(SHARED_DIFFICULTY))
    own = rng.standard_normal((len(CELLS), 1, IMAGES), dtype=np.float32) * np.float32(np.sqrt(left[0]))
    e = rng.standard_normal(size, dtype=np.float32) * np.float32(np.sqrt(left[1]))
    return u + own + e < stats.norm.ppf(p)[:, :, None]


def frame(scores: np.ndarray, cells: tuple[tuple[str, ...], ...] = CELLS) -> pd.DataFrame:
    """The table that a search would hand over; NaN: not run."""
    c, s = np.nonzero(np.isfinite(scores))
    return pd.DataFrame(
        {
            "arm": "design",
            "seed": s,
            "first_stage": [f"{i}-{j}" for i, j in zip(c, s, strict=True)],
            "tricks": [cells[i] for i in c],
            "final/accuracy": scores[c, s],
        }
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


def searches(
    world: World, blocks: int, count: int, seed: int, extra: int = 0
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    rng = np.random.default_rng([seed, blocks, *world.name.encode()])
    for _ in range(count):
        scores = simulate(world, blocks + extra, rng)
        scores[1 + len(TRICKS) :, blocks:] = np.nan
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


WORLDS = (
    World("helpful", (0.03,) * 6),
    World("useless", (0.0,) * 6),
    World("mildly harmful", (-0.01,) * 6),
    World("strongly harmful", (-0.06,) * 6),
    World("mixed", (0.04, 0.02, 0.0, -0.01, -0.03, -0.06)),
    World("mixed, two tricks 3× noisier", (0.04, 0.02, 0.0, -0.01, -0.03, -0.06), noise=(1, 3, 1, 1, 3, 1)),
)


def additive(count: int, seed: int, block_counts: tuple[int, ...], extra: int = 0) -> None:
    title = f", {extra} more blocks of the baseline and of each trick alone" if extra else ""
    print(
        f"\nAdditive worlds{title}, {count} searches each; shares in %, "
        f"standard error at 5 % is {100 * np.sqrt(0.05 * 0.95 / count):.1f}"
    )
    print(
        f"{'world':32s} blocks | conflict: primary  matrix | redundant: p.   m. | "
        "false harm: p.   m. | coverage: lowest mean"
    )
    for world in WORLDS:
        useless = {
            (a, b) for a, b in PAIRS if world.effect[TRICKS.index(a)] >= 0 and world.effect[TRICKS.index(b)] >= 0
        }
        for blocks in block_counts:
            tally, covered = np.zeros(6), np.zeros(len(CONTRASTS))
            for _, table in searches(world, blocks, count, seed, extra):
                primary = table.primary.to_numpy()
                innocent = np.array([pair in useless for pair in zip(table.a, table.b, strict=True)])
                harm = table.verdict.isin(["conflict", "harmful"]).to_numpy() & innocent
                for i, wrong in enumerate((table.verdict == "conflict", table.verdict == "redundant", harm)):
                    tally[2 * i : 2 * i + 2] += np.any(wrong[primary]), np.any(wrong[~primary])
                covered += coverage(world, table)
            t = 100 * tally / count
            c = 100 * covered / count
            print(
                f"{world.name:32s} {blocks:6d} | {t[0]:17.1f} {t[1]:7.1f} | {t[2]:13.1f} {t[3]:4.1f} | "
                f"{t[4]:14.1f} {t[5]:4.1f} | {c.min():16.1f} {c.mean():4.1f}",
                flush=True,
            )


def unequal(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    additive(count, seed, tuple(b for b in block_counts if b <= 5), EXTRA_BLOCKS)


def factorial(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    """Five tricks in 16 runs: the cells with an odd number of tricks (defining word abcde)."""
    tricks = TRICKS[:5]
    cells = tuple(cell for n in (1, 3, 5) for cell in combinations(tricks, n))
    print(f"\n16 runs of a resolution-V fraction of five tricks, {count} searches each; shares in %")
    print("world            blocks | conflict: 3 primary  matrix | coverage: lowest mean | planted 1.5 points: found")
    for world in WORLDS[:5]:
        for blocks in (b for b in block_counts if b <= 5):
            rng = np.random.default_rng([seed, blocks, *world.name.encode()])
            tally, covered = np.zeros(3), np.zeros(len(CONTRASTS))
            effect = dict(zip(tricks, world.effect, strict=False))
            truth = np.array([BASE + sum(effect[t] for t in cell) for cell in cells])
            harmful = truth + np.array([-(max(effect["d"], 0) + 0.015) * ({"d", "e"} <= set(cell)) for cell in cells])
            for _ in range(count):
                noise = rng.normal(0, SPLIT_DEVIATION, blocks) + rng.normal(0, SEED_DEVIATION, (len(cells), blocks))
                table = pairwise(frame(truth[:, None] + noise, cells), margin=0.01, primary=PAIRS[:3])
                wrong = (table.verdict == "conflict").to_numpy()
                tally[:2] += np.any(wrong[table.primary]), np.any(wrong[~table.primary])
                own = [[effect[p.a], effect[p.b], 0.0, effect[p.b], effect[p.a]] for p in table.itertuples()]
                covered += np.mean(
                    [
                        [
                            row[f"{c}_low"] <= value <= row[f"{c}_high"]
                            for c, value in zip(CONTRASTS, values, strict=True)
                        ]
                        for row, values in zip(table.to_dict("records"), own, strict=True)
                    ],
                    axis=0,
                )
                if world.name == "helpful":
                    table = pairwise(frame(harmful[:, None] + noise, cells), margin=0.01)
                    tally[2] += table.verdict.iloc[-1] == "conflict"
            t, c = 100 * tally / count, 100 * covered / count
            found = f"{t[2]:27.1f}" if world.name == "helpful" else ""
            print(
                f"{world.name:16s} {blocks:6d} | {t[0]:19.1f} {t[1]:7.1f} | {c.min():16.1f} {c.mean():4.1f} | {found}",
                flush=True,
            )


def fixed_val(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    """Coverage for new images where every block is validated on the same images."""
    print(f"\nThe same {IMAGES} val images in every block, {count} searches each; coverage for new images in %")
    print("blocks | with the images' share: lowest mean | without: lowest mean | images' part of the variance of I")
    world = WORLDS[4]
    for blocks in block_counts:
        rng = np.random.default_rng([seed, blocks, 7])
        with_share, without, share = np.zeros(len(CONTRASTS)), np.zeros(len(CONTRASTS)), 0.0
        for _ in range(count):
            correct = simulate_fixed(world, blocks, rng)
            trials = frame(correct.mean(2))
            without += coverage(world, pairwise(trials))
            images = [correct[c, s] for c in range(len(CELLS)) for s in range(blocks)]
            table = pairwise(trials.assign(correct=images))
            with_share += coverage(world, table)
            share += table.images_share.mean()
        w, o = 100 * with_share / count, 100 * without / count
        shown = f"{w.min():30.1f} {w.mean():4.1f} | {o.min():15.1f} {o.mean():4.1f}"
        print(f"{blocks:6d} | {shown} | {100 * share / count:.0f}", flush=True)


def looks(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    """Further blocks for primary pairs until they are settled, at most three looks."""
    print(f"\nUp to three looks at 5 primary pairs from 3 blocks on, {count} searches each; shares in %")
    print("shares of α        world              | false conflict: look 1  last | found: look 1  last | blocks added")
    worlds = (
        *WORLDS[:4],
        World("planted 2.5", (0.02,) * 6, {PRIMARY[0]: -0.045, PRIMARY[3]: -0.045}),
        World("planted 4", (0.02,) * 6, {PRIMARY[0]: -0.06, PRIMARY[3]: -0.06}),
    )
    usual = sequential.SHARES
    for shares in (usual, (1 / 3,) * 3, (0.8, 0.1, 0.1)):
        sequential.SHARES = shares
        for world in worlds:
            rng = np.random.default_rng([seed, 3, *world.name.encode()])
            false, found, added = np.zeros(2), np.zeros(2), 0.0
            many = count if shares == usual else max(count // 5, 1)
            for _ in range(many):
                first, last, blocks = settle(world, rng)
                for i, table in enumerate((first, last)):
                    conflict = [(p.a, p.b) for p in table.itertuples() if p.primary and p.verdict == "conflict"]
                    false[i] += any(pair not in world.interaction for pair in conflict)
                    found[i] += sum(pair in world.interaction for pair in conflict) / max(len(world.interaction), 1)
                added += blocks
            f, g = 100 * false / many, 100 * found / many
            power = f"{g[0]:13.1f} {g[1]:5.1f}" if world.interaction else " " * 19
            spent = " ".join(f"{share:.2f}" for share in shares)
            shown = f"{f[0]:22.1f} {f[1]:5.1f} | {power} | {added / many:.1f}"
            print(f"{spent:18s} {world.name:18s} | {shown}", flush=True)
    sequential.SHARES = usual


def settle(world: World, rng: np.random.Generator, budget: int = 30) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Tables of the first and of the last look, and the blocks in between."""
    scores = simulate(world, 3, rng)
    table = first = pairwise(frame(scores), margin=0.01, primary=PRIMARY, look=1)
    added = 0
    for look in (2, 3):
        asked = sequential.needs(table, budget - added)
        asked = asked[asked.blocks > 0]
        if asked.empty:
            break
        more = simulate(world, int(asked.blocks.max()), rng)
        wanted = np.zeros(more.shape, dtype=bool)
        for pair in asked.itertuples():
            for cell in ((), (pair.a,), (pair.b,), (pair.a, pair.b)):
                wanted[CELLS.index(cell), : pair.blocks] = True
        scores = np.hstack([scores, np.where(wanted, more, np.nan)])
        added += int(asked.blocks.sum())
        table = pairwise(frame(scores), margin=0.01, primary=PRIMARY, look=look, earlier=table)
    return first, table, added


def promised(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    """What `detectable` promises with 80 %: planted by shifting the estimates of a world without effects."""
    print(f"\nEffects that analysis.power promises to show with 80 %, {count} searches each; shares in %")
    print(
        "design           blocks extra family       | harm, points: shown | interaction: shown | compatible at: shown"
    )
    fraction = tuple(cell for n in (1, 3, 5) for cell in combinations(TRICKS[:5], n))
    for runs, blocks, extra in ((None, 3, 0), (None, 5, 0), (None, 3, EXTRA_BLOCKS), (16, 3, 0)):
        cells = fraction if runs else CELLS
        sizes = {True: 5, False: 10 if runs else 15}
        shown = {primary: np.zeros(3) for primary in sizes}
        promises = {
            primary: detectable(
                n_pairs=n, blocks=blocks, extra_blocks=extra, sd=0.01, n_labels=5 if runs else 6,
                factorial_runs=runs, primary=primary,
            )
            for primary, n in sizes.items()
        }  # fmt: skip
        rng = np.random.default_rng([seed, blocks, extra])
        for _ in range(count):
            scores = BASE + rng.normal(0, 0.01, (len(cells), blocks + extra)) + rng.normal(0, 0.02, blocks + extra)
            scores[[len(cell) == 2 for cell in cells], blocks:] = np.nan
            row = pairwise(frame(scores, cells)).iloc[0]
            for primary, (harm, interaction, margin) in promises.items():
                alpha = (0.05 if primary else 0.10) / sizes[primary]
                p_harm = stats.t.cdf((row.b_given_a - harm) / row.b_given_a_se, row.b_given_a_df)
                p_overlap = stats.t.cdf((row.interaction - interaction) / row.interaction_se, row.interaction_df)
                shown[primary] += 2 * p_harm <= alpha, p_overlap <= alpha, row.excluded_harm < margin
        for primary, promise in promises.items():
            s = 100 * shown[primary] / count
            design, family = (
                f"{runs} runs" if runs else "pairs of 6",
                f"{sizes[primary]} {'primary' if primary else 'matrix'}",
            )
            print(
                f"{design:16s} {blocks:6d} {extra:5d} {family:12s} | {100 * promise.harm:12.2f} {s[0]:6.1f} | "
                f"{100 * promise.interaction:11.2f} {s[1]:6.1f} | {100 * promise.compatible:13.2f} {s[2]:6.1f}",
                flush=True,
            )


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
            value = BASE * (0.7 + 0.3 * share) + sum(effect[t] * here[t] for t in on) + noise
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


def survivors(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng([seed, 99])
    world = World("additive", SURVIVOR_EFFECTS)
    count = max(count // 10, 1)  # TPE is slow
    naive, discovered, conflicts, n = 0.0, 0.0, 0.0, 0
    for _ in range(count):
        adaptive = survivor_trials(rng)
        p = naive_p_values(adaptive)
        naive, n = naive + (p <= 0.05).sum(), n + len(p)
        discovered += (benjamini_hochberg(p) <= 0.05).any()
        table = pairwise(pd.concat([frame(simulate(world, 5, rng)), adaptive], ignore_index=True), margin=0.01)
        conflicts += (table.verdict == "conflict").any()
    print(f"\nSurvivors of TPE and successive halving, additive truth, {count} searches of 300 adaptive trials; in %")
    print(f"naive, completed trials: pairs with p ≤ 0.05: {100 * naive / n:.1f}")
    print(f"naive: searches with a Benjamini-Hochberg 5 % discovery: {100 * discovered / count:.1f}")
    print(f"pairwise on both arms: searches with a conflict: {100 * conflicts / count:.1f}", flush=True)


def lone_pair(count: int, seed: int, block_counts: tuple[int, ...]) -> None:
    print(f"\nA table of one pair, {count} searches each; coverage of interaction and both harms in %")
    cells = ((), ("a",), ("b",), ("a", "b"))
    for noise, blocks in product(((1, 1, 1, 1), (1, 1, 1, 3), (3, 1, 1, 1)), block_counts):
        rng = np.random.default_rng([seed, blocks, *noise])
        inside = np.zeros(3)
        for _ in range(count):
            scores = BASE + rng.normal(0, 0.02, blocks) + rng.normal(0, 0.01, (4, blocks)) * np.array(noise)[:, None]
            row = pairwise(frame(scores, cells)).iloc[0]
            inside += [row[f"{name}_low"] <= 0 <= row[f"{name}_high"] for name in CONTRASTS[2:]]
        print(f"noise {noise} blocks {blocks:2d}: {' '.join(f'{100 * v / count:.1f}' for v in inside)}", flush=True)


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


SECTIONS = {
    "additive": additive,
    "unequal": unequal,
    "factorial": factorial,
    "shared": shared_first_stages,
    "fixed": fixed_val,
    "planted": planted,
    "promised": promised,
    "looks": looks,
    "survivors": survivors,
    "lone": lone_pair,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=1000, help="simulated searches per line of the table")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(SECTIONS), nargs="+")
    args = parser.parse_args()
    start = time.perf_counter()
    for name, section in SECTIONS.items():
        if args.only is None or name in args.only:
            section(args.searches, args.seed, tuple(args.blocks))
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
