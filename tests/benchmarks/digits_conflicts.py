"""Conflicts on digits-lt as the design arm measures them: how long they last, and whether nothing is found in nothing.

`length`: `cost_sensitive` × `class_balanced` in one stage at 30 epochs and at longer schedules, on the same blocks.

`neutral`: a trick that does nothing (`tests/benchmarks/tricks/neutral.py`: weight 1 with its own random draws) against
real ones. Every table has as many seed blocks of its own, and a pair counts where its verdict is a conflict. There are
many tables, so the rate has an interval (Wilson, 95 %).

    OMP_NUM_THREADS=1 python tests/benchmarks/digits_conflicts.py length
    OMP_NUM_THREADS=1 python tests/benchmarks/digits_conflicts.py neutral
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch

from analysis.conflicts import pairwise
from analysis.stats.intervals import wilson_interval
from spaces.domain import Space, Stage
from trainables.data import load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import build, defaults
from trainables.registry import discover

DATA, IMBALANCE = "digits-lt", 50
SHORT = replace(standard(DATA), epochs=30)
"""A third of the standard run, so that the network is under-trained: here the known conflict is large."""
TRICKS = Path(__file__).parent / "tricks"
PAIR = ("class_balanced", "cost_sensitive")
REAL = ("class_balanced", "cost_sensitive", "input_mixup", "balanced_softmax", "label_smoothing", "cutout")
Cell = tuple[str, ...]


def trial(task: tuple[Cell, int, int]) -> float:
    """Accuracy on `val` of one stage with these tricks, in one seed block."""
    tricks, epochs, seed = task
    torch.set_num_threads(1)
    discover(TRICKS)
    plan = build(Space(stages=[Stage("train", epochs=epochs, choose=list(tricks))]), defaults(), SHORT).plan
    data = load(DATA, imbalance=IMBALANCE, split_seed=seed)
    trained = Pipeline(plan, data, standard(DATA).model, seed, torch.device("cpu"))
    trained.run()
    return trained.result()[0]["final/accuracy"]


def measured(cells: Sequence[Cell], epochs: int, seeds: Iterable[int], processes: int) -> pd.DataFrame:
    """The trials of a design as `pairwise` reads them."""
    tasks = [(cell, epochs, seed) for seed in seeds for cell in cells]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        values = list(pool.map(trial, tasks))
    return rows_of(tasks, values)


def rows_of(tasks: Iterable[tuple[Cell, int, int]], values: Iterable[float]) -> pd.DataFrame:
    """Finished trials as rows of the design arm."""
    rows = [
        {
            "arm": "design",
            "seed": seed,
            "first_stage": f"{'+'.join(cell)} {seed}",
            "tricks": cell,
            "final/accuracy": value,
        }
        for (cell, _, seed), value in zip(tasks, values, strict=True)
    ]
    return pd.DataFrame(rows)


def length(epochs: Sequence[int], blocks: int, processes: int) -> None:
    """The pair at several lengths."""
    print(f"{' × '.join(PAIR)} in one stage of {DATA}, {blocks} seed blocks; points of accuracy, 95 % intervals;")
    print("second added: class_balanced to cost_sensitive\n")
    print("| epochs | neither | cost_sensitive | class_balanced | both | interaction | second added | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for each in epochs:
        trials = measured([(), PAIR[:1], PAIR[1:], PAIR], each, range(blocks), processes)
        row = pairwise(trials, margin=standard(DATA).margin).iloc[0]
        means = " | ".join(f"{100 * row[name]:.1f}" for name in ("mean_00", "mean_01", "mean_10", "mean_11"))
        flip = ", sign flip" if row["sign_flip"] else ""
        print(
            f"| {each} | {means} | {_span(row, 'interaction')} | {_span(row, 'a_given_b')} | {row['verdict']}{flip} |",
            flush=True,
        )


def neutral(tables: int, blocks: int, processes: int) -> None:
    """Verdicts of a trick that does nothing beside real ones."""
    cells: list[Cell] = [(), ("neutral",)]
    cells += [cell for name in REAL for cell in ((name,), tuple(sorted((name, "neutral"))))]
    trials = measured(cells, SHORT.epochs, range(tables * blocks), processes)
    verdicts: Counter[str] = Counter()
    for table in range(tables):
        own = trials[trials["seed"] // blocks == table]
        found = pairwise(own, margin=standard(DATA).margin)
        known = set(map(frozenset, combinations(REAL, 2)))
        for row in found.to_dict("records"):
            if frozenset((row["a"], row["b"])) not in known:
                verdicts[str(row["verdict"])] += 1
    total = verdicts.total()
    low, high = wilson_interval(verdicts["conflict"], total)
    print(f"neutral × {', '.join(REAL)}: {tables} tables of {blocks} seed blocks, {DATA}, {SHORT.epochs} epochs")
    print("verdicts: " + ", ".join(f"{name} {count}" for name, count in verdicts.most_common()))
    print(f"conflict: {verdicts['conflict']} of {total}, {low:.1%} to {high:.1%}")


def _span(row: pd.Series, name: str) -> str:
    return f"{100 * row[name]:+.1f} ({100 * row[f'{name}_low']:+.1f} to {100 * row[f'{name}_high']:+.1f})"


def main() -> None:
    """The command."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("what", choices=("length", "neutral"))
    it.add_argument("--epochs", type=int, nargs="+", default=[30, 90])
    it.add_argument("--blocks", type=int, help="seed blocks of a table [10, neutral: 5]")
    it.add_argument("--tables", type=int, default=8)
    it.add_argument("--processes", type=int, default=os.cpu_count())
    given = it.parse_args()
    began = time.monotonic()
    if given.what == "length":
        length(given.epochs, given.blocks or 10, given.processes)
    else:
        neutral(given.tables, given.blocks or 5, given.processes)
    print(f"\n{time.monotonic() - began:.0f} s on {given.processes} processes")


if __name__ == "__main__":
    main()
