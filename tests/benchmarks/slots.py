"""Trials per hour of a small search, and how it grows with slots: `python tests/benchmarks/slots.py [--quick]`.

The same design arm (baseline, two tricks alone and together on digits, nothing re-used, nothing raced) with one and
with two trials at a time, and the same trainings by two bare processes that take turns at the list: no Ray, no MLflow,
no store. Both are timed from their first trial's start to their last one's end: starting processes, which takes a
search of hours as long as one of a minute, is not counted in either. What a search reaches on two slots is to be at
least 1.8 times one slot, or 90 % of the bare processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import tempfile
import time
from typing import Any

import torch

import search
from search.design.labels import make_design
from spaces.domain import Space, Stage, one_of
from trainables.data import load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan

SPACE = Space(
    stages=[Stage("only", length=1.0, choose=[one_of(None, "input_mixup"), one_of(None, "cost_sensitive")])],
    screen=["only/input_mixup", "only/cost_sensitive"],
)


def searched(slots: int, seeds: int, scale: float) -> float:
    """Seconds of the design arm of a search, from its first trial's start to its last one's end."""
    with tempfile.TemporaryDirectory() as folder:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            result = search.run(
                SPACE, data="digits-lt", name="slots", output=folder, trials=0, seeds=seeds, race=False, reuse=False,
                start_points=False, check_seeds=0,
                epochs_scale=scale, max_concurrent=slots, tracking_uri=f"sqlite:///{folder}/mlflow.db",
            )  # fmt: skip
        if not result.complete:
            raise SystemExit(f"the search did not end well:\n{said.getvalue()}")
        trials = result.trials
        return float((trials["started"] + trials["seconds"]).max() - trials["started"].min())


def bare(processes: int, jobs: list[tuple[dict[str, Any], int]]) -> float:
    """Seconds of the same trainings by bare processes, their start not counted."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_train, jobs[:processes], chunksize=1)  # imports, data
        began = time.perf_counter()
        pool.map(_train, jobs, chunksize=1)
        return time.perf_counter() - began


def _train(job: tuple[dict[str, Any], int]) -> None:
    torch.set_num_threads(1)
    plan, seed = job
    data = load("digits-lt", split_seed=seed)
    Pipeline(Plan.from_dict(plan), data, "resnet8", seed, torch.device("cpu")).run()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds and epochs")
    options = parser.parse_args()
    seeds, scale = (2, 0.5) if options.quick else (6, 3.0)
    cells = make_design(SPACE, standard("digits-lt"), scale).cells
    jobs = [(cell.recipe.plan.to_dict(), seed) for seed in range(seeds) for cell in cells]
    print(f"{len(jobs)} trials of {cells[0].recipe.plan.epochs} epochs, digits, ResNet-8\n")
    print("| | s | trials per hour | times one slot |\n|---|---|---|---|")
    seconds = {}
    for name, work in (
        ("search, 1 slot", lambda: searched(1, seeds, scale)),
        ("search, 2 slots", lambda: searched(2, seeds, scale)),
        ("2 bare processes", lambda: bare(2, jobs)),
    ):
        seconds[name] = work()
        rate = 3600 * len(jobs) / seconds[name]
        print(
            f"| {name} | {seconds[name]:.1f} | {rate:,.0f} | {seconds['search, 1 slot'] / seconds[name]:.2f} |",
            flush=True,
        )
    share = seconds["2 bare processes"] / seconds["search, 2 slots"]
    print(f"\nTwo slots reach {100 * share:.0f} % of two bare processes")


if __name__ == "__main__":
    main()
