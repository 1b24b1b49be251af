"""What a trial costs besides its training: `python tests/benchmarks/overhead.py [--trials 1000] [--plain 100]`.

    python tests/benchmarks/overhead.py --heads --trials 2000    # of the classifiers' whole space, on features
    python tests/benchmarks/overhead.py --driver --trials 2000   # its driver alone: results are drawn at random

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
HEADS = Path(__file__).parents[2] / "spaces" / "heads.py"

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


def make_features(folder: Path) -> str:
    """The same number of features of 16 numbers; the data set's name."""
    draws = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = draws.standard_normal((30, 16)).astype(np.float32)
        arrays[f"y_{split}"] = np.arange(30) % 3
    file = folder / "tiny.npz"
    np.savez(file, **arrays)
    return f"features:{file}"


def searched(
    folder: Path, space: Path, data: str, trials: int, **settings: Any
) -> tuple[list[float], list[float], float, float]:
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
    began = time.perf_counter()
    search.run(
        space, data=data, name="many", output=str(folder / "results"), seeds=1, trials=trials - 1, race=False,
        start_points=False, check_seeds=0, rungs=(), max_concurrent=SLOTS, tracking_uri=f"sqlite:///{folder}/mlflow.db",
        **settings,
    )  # fmt: skip
    took = time.perf_counter() - began
    lines = (folder / "results" / "many" / "journal.jsonl").read_text().splitlines()
    records = [event["record"] for event in map(json.loads, lines) if event["event"] == "record"]
    assert len(records) >= trials, f"{len(records)} of {trials} trials were run"
    return sorted(record["started"] for record in records), cpu, took, sum(record["seconds"] for record in records)


def driven(folder: Path, data: str, trials: int) -> list[float]:
    """The driver of a search of `spaces/heads.py` without Ray and training; its CPU seconds after each trial.

    Proposals, stage keys, locks, early stopping's scores, journal, study and MLflow are those of a search.
    """
    from analysis.records.schema import Point, Record
    from search.context import SearchContext
    from search.mlflow_tracker import Tracker
    from search.scheduling.journal import Journal
    from search.scheduling.orchestrator import Orchestrator
    from search.scheduling.sampler import Sampler
    from search.scheduling.stage_locks import StageLocks
    from search.settings import Settings
    from search.state import SearchState
    from search.workspace.space_file import load_space
    from trainables.pipeline.store import StageStore

    settings = Settings(
        name="many", space=str(HEADS), data=data, output=str(folder / "results"), seeds=1, trials=trials, race=False,
        start_points=False, check_seeds=0, lag=4, epochs_scale=0.03, imbalance=1.0,
    )  # fmt: skip
    context = SearchContext.make(load_space(HEADS), settings)
    settings.folder.mkdir(parents=True)
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", settings.name, data, settings.folder)
    tracker.start(context.params(), {}, resume=False)
    sampler = Sampler(context.space, context.standard, 0.03, settings.folder / "optuna.db", "many", 0)
    state = SearchState(context.factory, settings, context.standard.margin, 0)
    locks = StageLocks(context.keys, StageStore(folder / "stages"))
    orchestrator = Orchestrator(state, sampler, Journal(settings.folder / "journal.jsonl"), locks)
    halving, draws, cpu = context.early_stopping(), np.random.default_rng(0), []
    while (request := orchestrator.next()) is not None:
        accuracy = float(draws.uniform(0.3, 0.6))
        plan = request.recipe.plan
        points = [
            Point(stage.name, number, 1, (number + 1) / len(plan.stages), {"accuracy": accuracy, "loss": 1.0})
            for number, stage in enumerate(plan.stages)
        ]
        record = Record(
            search="many", trial=request.id, arm=request.arm, recipe=plan.id, title=request.title, seed=request.seed,
            split_seed=request.seed, setting=request.setting, first_stage=plan.id, tricks=request.tricks,
            context=request.context, outcome="finished", choices=request.recipe.choices, plan=plan.to_dict(), data=data,
            model="linear", imbalance=1.0, fingerprint="f", counts=(10,) * 3, val_counts=(10,) * 3, epochs=plan.epochs,
            epochs_trained=plan.epochs, images=30, steps=1, seconds=0.5, seconds_saved=0.0, reused=(),
            metrics={"final/accuracy": accuracy, "final/loss": 1.0}, curve=tuple(points),
        )  # fmt: skip
        halving.remember([record])
        orchestrator.record(record)
        tracker.log(record)
        cpu.append(time.process_time())
    tracker.close("FINISHED")
    return cpu


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
    parser.add_argument("--heads", action="store_true", help="trials of spaces/heads.py on features; part 1 alone")
    parser.add_argument("--driver", action="store_true", help="the driver of such a search alone")
    parser.add_argument("--plain", type=int, default=100, help="through plain Ray Tune; 0 leaves it out [100]")
    options = parser.parse_args()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        if options.driver:
            spent = driven(folder, make_features(folder), options.trials)
            print("| trials | CPU s per trial of the driver |\n|---|---|")
            for first in range(0, len(spent) - 100, 100):
                print(f"| {first + 1} to {first + 100} | {(spent[first + 100] - spent[first]) / 100:.3f} |")
            return
        if options.heads:
            # a stage of one epoch each
            found = searched(folder, HEADS, make_features(folder), options.trials, epochs_scale=0.03, imbalance=1.0)
            options.plain = 0
        else:
            space = folder / "tiny.py"
            space.write_text(SPACE)
            data = make_data(folder)
            found = searched(folder, space, data, options.trials)
        started, cpu, took, trained = found
        rows = [(f"this project's search, {options.trials} trials", pace(started))]
        if options.plain:
            chosen = specs(data, options.plain)
            rows.append(
                ("plain Ray Tune + MLflowLoggerCallback, actors re-used", pace(through_tune(folder, chosen, True)))
            )
            few = chosen[: max(10, options.plain // 10)]
            rows.append(("the same, an actor for each trial", pace(through_tune(folder, few, False))))
        alone = trained / len(started) if options.heads else bare(specs(data, 50))
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
    if options.heads:
        return
    print(f"| bare loop, one process | {alone:.3f} | | {alone:.3f} | |")


if __name__ == "__main__":
    main()
