"""The published recipes against the baseline of the default search, over more seeds than its race has.

The race gives each published recipe 3 fresh seeds, whose intervals are wide. This trains the same recipes, exactly as
the default search has them on digits-lt, on seed blocks that no search uses by default, and prints the paired gains in
points of accuracy on val. Intervals are Student's over the blocks, 95 %, each for its own line.

    OMP_NUM_THREADS=1 python tests/benchmarks/published_recipes.py --seeds 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from search.commands.papers import estimate
from search.recipes.factory import RecipeFactory
from search.workspace.space_file import load_space
from trainables.data import load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan

DATA = "digits-lt"
SPACE = Path(__file__).resolve().parents[2] / "spaces" / "full_combo.py"
FIRST_SEED = 20_000
"""Of the blocks."""


def trial(task: tuple[Plan, int, str]) -> float:
    """Accuracy on val of a plan in one seed block."""
    plan, seed, store = task
    torch.set_num_threads(1)
    own = standard(DATA)
    data = load(DATA, imbalance=own.imbalance, split_seed=seed)
    trained = Pipeline(plan, data, own.model, seed, torch.device("cpu"), store=StageStore(store))
    trained.run()
    return float(trained.result()[0]["final/accuracy"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="seed blocks (default: 20)")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time (default: 2)")
    options = parser.parse_args()
    factory = RecipeFactory(load_space(SPACE), standard(DATA))
    plans = {"baseline": factory.baseline.plan}
    plans |= {factory.published.titles[recipe.plan.id]: recipe.plan for recipe in factory.published.recipes}
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as store,
        ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        tasks = [(plan, FIRST_SEED + block, store) for block in range(options.seeds) for plan in plans.values()]
        values = 100 * np.array(list(pool.map(trial, tasks))).reshape(options.seeds, len(plans))
    print(f"{DATA}, {options.seeds} seed blocks from {FIRST_SEED} on, {time.perf_counter() - began:.0f} s\n")
    print("| recipe | accuracy | gain over the baseline |\n|---|---|---|")
    for number, title in enumerate(plans):
        gain = estimate(values[:, number] - values[:, 0])
        low, high = gain.interval(0.95)
        shown = f"{gain.value:+.1f} ({low:+.1f} to {high:+.1f})" if number else "–"
        print(f"| {title} | {values[:, number].mean():.1f} | {shown} |")


if __name__ == "__main__":
    main()
