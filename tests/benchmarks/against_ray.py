"""The same space, data and length searched by this project and by plain Ray Tune (OptunaSearch, ASHAScheduler).

Each of `--searches` repetitions has seeds of its own. A search of this project ends with a recipe whose mean over 8
fresh seeds is known (its arm `confirm`). Its cost is every epoch that was trained, and every second, until that recipe
was chosen: design arm, adaptive arm and race; "without the design" leaves out the arm that only the conflict table
needs.

Plain Ray Tune uses nothing of this project but the training of one plan: TPE from OptunaSearch proposes, ASHA stops on
accuracy on val over the epochs of a trial, workers are re-used, finished stages are not, and all trials have one seed.
Whenever another trial leads, its recipe is trained on the same 8 fresh seeds, which is not counted, and the search ends
when such a mean is at least as high as that of this project's recipe, or after `--cap` times the seconds of this
project: then its ratios are lower bounds. A real user cannot stop there, because fresh seeds tell them nothing before
they are trained. Seconds count from the first trial.

    OMP_NUM_THREADS=1 python tests/benchmarks/against_ray.py --searches 10

Printed: for each search both costs and the ratio of plain Ray Tune's to this project's; then the median ratios with
95 % intervals by order statistics, which need at least six searches to be finite.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}

import optuna
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from scipy.stats import binom

import search
from search.workspace.space_file import load_space
from spaces.domain import Domain, Integer, LogUniform, Space, Uniform
from trainables.data import load, standard
from trainables.pipeline.pipeline import Diverged, Pipeline
from trainables.plan import Plan, build
from trainables.registry import PlanError

ROOT = Path(__file__).parents[2]
SLOTS = 2
CHOOSING = ("design", "adaptive", "race")
"""Arms whose trials choose the recipe; those after it confirm it and check the conflict table."""


@dataclass(frozen=True)
class Chosen:
    """The recipe of a search of this project.

    Args:
        epochs: Trained until it was chosen.
        without_design: The same without the design arm.
        seconds: Until it was chosen.
        accuracy: Its mean over the fresh seeds, a fraction.
        seeds: The fresh seeds.
    """

    epochs: float
    without_design: float
    seconds: float
    accuracy: float
    seeds: tuple[int, ...]


# ------------------------------------------------------------------------------------------------ this project


def search_here(options: argparse.Namespace, seed: int, folder: Path) -> Chosen:
    """One search of this project."""
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        trials = search.run(
            options.space, name=f"seed-{seed}", data=options.data, seed=seed, seeds=options.seeds,
            trials=options.trials, epochs_scale=options.epochs_scale, check_seeds=0, max_concurrent=SLOTS,
            output=str(folder / "results"), store=str(folder / f"stages-{seed}"), tracking_uri="none",
        ).trials  # fmt: skip
    choosing = trials[trials["arm"].isin(CHOOSING)]
    confirmed = trials[(trials["arm"] == "confirm") & (trials["title"] != "baseline")]
    return Chosen(
        choosing["epochs_trained"].sum(),
        choosing.loc[choosing["arm"] != "design", "epochs_trained"].sum(),
        (choosing["started"] + choosing["seconds"]).max() - choosing["started"].min(),
        confirmed["final/accuracy"].mean(),
        tuple(confirmed["seed"]),
    )


# ---------------------------------------------------------------------------------------------- plain Ray Tune


def suggest(trial: optuna.Trial, name: str, domain: Domain, default: Any) -> Any:
    """One choice of the space, as Optuna draws it."""
    name = name.replace("/", ".")  # Tune reads a slash as nesting
    if isinstance(domain, Uniform):
        return trial.suggest_float(name, domain.low, domain.nearest(domain.high), step=domain.step)
    if isinstance(domain, LogUniform):
        return domain.nearest(trial.suggest_float(name, domain.low, domain.high, log=True))
    if isinstance(domain, Integer):
        return trial.suggest_int(name, domain.low, domain.high)
    return trial.suggest_categorical(name, list(domain.options))


def propose(space: Space, data: str, scale: float, trial: optuna.Trial) -> dict[str, str]:
    """The plan of what Optuna draws, as JSON; "" where it cannot be trained."""
    try:
        recipe = build(space, partial(suggest, trial), standard(data), scale)
    except PlanError:
        return {"plan": ""}
    return {"plan": json.dumps(recipe.plan.to_dict())}


def training(plan: str, data: str, seed: int) -> Iterator[tuple[int, int, float, bool]]:
    """Trains a plan; after each evaluation its epoch, the epochs trained, the accuracy on val, and whether it ended."""
    torch.set_num_threads(1)
    images = load(data, imbalance=standard(data).imbalance, split_seed=seed)
    decoded = Plan.from_dict(json.loads(plan))
    pipeline = Pipeline(decoded, images, standard(data).model, seed, torch.device("cpu"))
    try:
        while not pipeline.finished:
            for point in pipeline.advance():
                yield point.epoch, pipeline.cost.epochs_trained, point.metrics.get("accuracy", 0.0), pipeline.finished
    except Diverged:
        return


class Training(tune.Trainable):  # type: ignore[misc]
    """One trial of plain Ray Tune: a step is the training up to the next evaluation."""

    def setup(self, config: dict[str, Any]) -> None:
        plan = config["plan"]
        self.points = training(plan, config["data"], config["data_seed"]) if plan else iter(())
        self.last = {"accuracy": 0.0, "epoch": 1, "spent": 0}

    def step(self) -> dict[str, Any]:
        for epoch, spent, accuracy, whole in self.points:
            self.last = {"accuracy": accuracy, "epoch": epoch, "spent": spent}
            return {**self.last, "whole": whole, "done": whole}
        return {**self.last, "accuracy": 0.0, "whole": False, "done": True}  # cannot be trained, or diverged

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # Tune saves when the search ends

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class Ledger(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """Counts the epochs of all trials, and ends the search at the cap or when the recipe that leads is good enough.

    Args:
        cap: Most seconds.
        aim: Accuracy that is good enough, a fraction.
        judge: Mean accuracy of a plan over fresh seeds; its time is not counted.
    """

    def __init__(self, cap: float, aim: float, judge: Callable[[str], float]) -> None:
        self.cap, self.aim, self._judge = cap, aim, judge
        self._began, self._best = math.inf, 0.0
        self.spent: dict[str, int] = {}
        self.mean = 0.0
        """Of the recipe that leads."""
        self.seconds = 0.0
        """From the first trial to the last result."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a search that is restored, which none is

    @property
    def reached(self) -> bool:
        return self.mean >= self.aim

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.reached or self.seconds >= self.cap

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._began = min(self._began, time.perf_counter())

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if self.stop_all():
            return
        now = time.perf_counter()
        self.seconds = now - self._began
        self.spent[trial.trial_id] = result["spent"]
        if result["whole"] and result["accuracy"] > self._best:
            self._best = result["accuracy"]
            self.mean = self._judge(trial.config["plan"])
            self._began += time.perf_counter() - now


def search_plainly(options: argparse.Namespace, seed: int, folder: Path, ledger: Ledger) -> None:
    """One search of plain Ray Tune."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ray.init(
        address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    length = round(standard(options.data).epochs * options.epochs_scale)
    space = partial(propose, load_space(options.space), options.data, options.epochs_scale)
    proposals = OptunaSearch(space, metric="accuracy", mode="max", seed=seed)
    tune.Tuner(
        Training,
        param_space={"data": options.data, "data_seed": seed},
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(proposals, SLOTS), num_samples=-1, reuse_actors=True,
            scheduler=ASHAScheduler("epoch", "accuracy", "max", max_t=10 * length, grace_period=max(length // 4, 1)),
        ),
        run_config=tune.RunConfig(
            name=f"plain-{seed}", storage_path=str(folder / "tune"), verbose=0, callbacks=[ledger], stop=ledger,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0),
        ),
    ).fit()  # fmt: skip
    ray.shutdown()


def final_accuracy(plan: str, data: str, seed: int) -> float:
    """Accuracy on val at the end of one training, a fraction; 0 where it diverges."""
    points = list(training(plan, data, seed))
    return points[-1][2] if points and points[-1][3] else 0.0


def fresh_mean(plan: str, data: str, seeds: tuple[int, ...], workers: Executor) -> float:
    """Mean of `final_accuracy` over seeds."""
    return fmean(workers.map(final_accuracy, [plan] * len(seeds), [data] * len(seeds), seeds))


# ------------------------------------------------------------------------------------------------- the command


def median_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of the median by order statistics; the whole line where there are too few values.

    >>> median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    (1.0, 6.0)
    >>> median_interval([1.0, 2.0])
    (-inf, inf)
    """
    ordered = [-math.inf, *sorted(values), math.inf]
    outside = 0
    while 2 * binom.cdf(outside, len(values), 0.5) <= 1 - level:
        outside += 1
    return ordered[outside], ordered[-1 - outside]


def main() -> None:
    """Runs the searches and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=10, help="repetitions (default: 10)")
    parser.add_argument("--space", default=str(ROOT / "spaces" / "full_combo.py"), help="(default: full_combo)")
    parser.add_argument("--data", default="digits-lt", help="(default: digits-lt)")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="(default: 1)")
    parser.add_argument("--trials", type=int, default=40, help="adaptive trials of this project (default: 40)")
    parser.add_argument("--seeds", type=int, default=5, help="seed blocks of its design arm (default: 5)")
    parser.add_argument("--cap", type=float, default=5.0, help="end it at this ratio of seconds (default: 5)")
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {"epochs": [], "epochs without the design": [], "seconds": []}
    bounds = 0
    print("search | here: epochs, of them design, seconds, mean | plain: trials, epochs, seconds, mean | ratios")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(SLOTS, get_context("spawn")) as workers:
        for number in range(options.searches):
            seed = 100_000 * (number + 1)
            here = search_here(options, seed, Path(name))
            judge = partial(fresh_mean, data=options.data, seeds=here.seeds, workers=workers)
            ledger = Ledger(options.cap * here.seconds, here.accuracy, judge)
            search_plainly(options, seed, Path(name), ledger)
            epochs = sum(ledger.spent.values())
            bounds += not ledger.reached
            for values, ratio in zip(
                ratios.values(),
                (epochs / here.epochs, epochs / here.without_design, ledger.seconds / here.seconds),
                strict=True,
            ):
                values.append(ratio)
            mark = "" if ledger.reached else "at least "
            print(
                f"{number} | {here.epochs:.0f}, {here.epochs - here.without_design:.0f}, {here.seconds:.0f} s, "
                f"{100 * here.accuracy:.1f} % | {len(ledger.spent)}, {mark}{epochs}, {ledger.seconds:.0f} s, "
                f"{100 * ledger.mean:.1f} % | {mark}{', '.join(f'{values[-1]:.2f}' for values in ratios.values())}",
                flush=True,
            )
    for what, values in ratios.items():
        low, high = median_interval(values)
        interval = f"95 % {low:.2f} to {high:.2f}" if math.isfinite(low) else "too few searches for an interval"
        print(f"median ratio of {what}: {median(values):.2f} ({interval})")
    print(f"{bounds} of {options.searches} plain searches did not get there: their ratios are lower bounds")


if __name__ == "__main__":
    main()
