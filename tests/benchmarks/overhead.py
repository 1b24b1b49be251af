"""What a trial costs besides its training: `python tests/benchmarks/overhead.py [--trials 1000] [--plain 100]`.

A trial here is one epoch of one small step on 30 images of 8 × 8 pixels, so that almost nothing is trained.

1. `--trials` of them in one search (Optuna, Ray, stage store, MLflow in SQLite), seconds per trial by hundred.
2. `--plain` of the same trials through plain Ray Tune with its own `MLflowLoggerCallback`, re-using actors, and a tenth
   as many without, as is Tune's default.
3. The same training bare: a loop over recipes in one process.

Overhead is what a slot spends on a trial less the bare training. Start-up (Ray, the store's creation, the first trial
of each process) and the final report are in the wall time, not in the seconds per trial.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

SLOTS = 2

SPACE = """
from spaces.domain import Space, Stage, log_uniform

SPACE = Space(stages=[Stage("only", epochs=1, lr=log_uniform(0.001, 0.1))])
"""


def make_data(folder: Path) -> str:
    """30 images for training in 3 classes, 30 for val and test each; the data set's name."""
    draws = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = draws.integers(0, 256, (30, 8, 8), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(30) % 3
    file = folder / "tiny.npz"
    np.savez(file, **arrays)
    return f"npz:{file}"


def searched(folder: Path, data: str, trials: int) -> tuple[list[float], list[float], float, float]:
    """Part 1: start times of all trials, the driver's CPU seconds at the end of each, wall time, time in training."""
    import search
    from search.scheduling.journal import Journal

    cpu: list[float] = []
    write = Journal.write

    def noting(journal: Journal, event: str, **content: Any) -> None:
        if event == "record":
            cpu.append(time.process_time())
        write(journal, event, **content)

    Journal.write = noting  # type: ignore[method-assign]
    space = folder / "tiny.py"
    space.write_text(SPACE)
    began = time.perf_counter()
    search.run(
        space, data=data, name="many", output=str(folder / "results"), seeds=1, trials=trials - 1, race=False,
        start_points=False, check_seeds=0, rungs=(), max_concurrent=SLOTS, tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )  # fmt: skip
    took = time.perf_counter() - began
    lines = (folder / "results" / "many" / "journal.jsonl").read_text().splitlines()
    records = [event["record"] for event in map(json.loads, lines) if event["event"] == "record"]
    assert len(records) == trials, f"{len(records)} of {trials} trials were run"
    return sorted(record["started"] for record in records), cpu, took, sum(record["seconds"] for record in records)


def specs(data: str, trials: int) -> list[dict[str, Any]]:
    """The same trials as configurations of the project's `Trial`, learning rates drawn at random."""
    from spaces.domain import Space, Stage
    from trainables.data import standard
    from trainables.plan import build, defaults
    from trainables.trial_spec import TrialSpec

    draws = np.random.default_rng(0)
    made = []
    for number in range(trials):
        space = Space(stages=[Stage("only", epochs=1, lr=float(10 ** draws.uniform(-3, -1)))])
        plan = build(space, defaults(), standard(data)).plan
        made.append(
            TrialSpec(plan.to_dict(), number, number, data, None, None, "resnet8", device="cpu").to_dict()
        )  # fmt: skip
    return made


def through_tune(folder: Path, chosen: list[dict[str, Any]], reuse: bool) -> list[float]:
    """Part 2: start times."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from search.execution.gpu_shares import WORKER_ENVIRONMENT
    from trainables.trial import Trial

    started: list[float] = []

    class Clock(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            started.append(time.time())

    ray.init(
        num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )  # fmt: skip
    tracked = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/plain.db", experiment_name="plain")
    tune.Tuner(
        Trial,
        param_space={"task": "", "spec": tune.grid_search([json.dumps(spec) for spec in chosen])},
        tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=SLOTS, reuse_actors=reuse),
        run_config=tune.RunConfig(
            name="plain", storage_path=str(folder / f"tune-{reuse}"), callbacks=[tracked, Clock()], verbose=0
        ),
    ).fit()
    ray.shutdown()
    return sorted(started)


def bare(chosen: list[dict[str, Any]]) -> float:
    """Part 3: seconds per trial."""
    import torch

    from trainables.trial import pipeline_of
    from trainables.trial_spec import TrialSpec

    torch.set_num_threads(1)
    taken = []
    for spec in chosen:
        began = time.perf_counter()
        pipeline = pipeline_of(TrialSpec(**spec))
        pipeline.run()
        pipeline.result()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def pace(started: list[float]) -> tuple[float, float, float]:
    """Seconds per trial between the first and the last start: mean, and the middle half of the gaps of ten."""
    skip = 2 * SLOTS  # the first trial of a process waits for the process
    starts = started[skip:] if len(started) > 4 * skip else started[SLOTS:]
    tens = [(later - earlier) / 10 for earlier, later in zip(starts[:-10:10], starts[10::10], strict=False)]
    quarters = statistics.quantiles(tens, n=4) if len(tens) > 3 else [float("nan")] * 3
    return (starts[-1] - starts[0]) / (len(starts) - 1), quarters[0], quarters[2]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="of the search [1000]")
    parser.add_argument("--plain", type=int, default=100, help="through plain Ray Tune; 0 leaves it out [100]")
    options = parser.parse_args()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        data = make_data(folder)
        started, cpu, took, trained = searched(folder, data, options.trials)
        rows = [(f"this project's search, {options.trials} trials", pace(started))]
        if options.plain:
            chosen = specs(data, options.plain)
            rows.append(
                ("plain Ray Tune + MLflowLoggerCallback, actors re-used", pace(through_tune(folder, chosen, True)))
            )
            few = chosen[: max(10, options.plain // 10)]
            rows.append(("the same, an actor for each trial", pace(through_tune(folder, few, False))))
        alone = bare(specs(data, 50))
    print(f"\n{options.trials} trials in {took:.0f} s from call to return; {trained:.0f} s of that in training\n")
    print("| trials | s per trial | CPU s per trial of the driver |\n|---|---|---|")
    for first in range(0, len(started) - 1, 100):
        last = min(first + 100, len(started) - 1)
        wall, own = ((clock[last] - clock[first]) / (last - first) for clock in (started, cpu))
        print(f"| {first + 1} to {last} | {wall:.3f} | {own:.3f} |")
    print(f"\n| {SLOTS} slots | s per trial, wall | middle half | s of a slot | of these not training |")
    print("|---|---|---|---|---|")
    for what, (mean, low, high) in rows:
        print(f"| {what} | {mean:.3f} | {low:.3f} to {high:.3f} | {SLOTS * mean:.3f} | {SLOTS * mean - alone:.3f} |")
    print(f"| bare loop, one process | {alone:.3f} | | {alone:.3f} | |")


if __name__ == "__main__":
    main()
