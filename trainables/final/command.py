"""Runs a final training for the command line: data, checks, training of every seed, artifacts, and its MLflow run."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from analysis.console import Console, styled
from analysis.records.intervals import prediction_interval
from analysis.records.mlflow_models import DataSet
from analysis.text import command, sentence
from trainables.data import load
from trainables.deployment import read
from trainables.final import data_identity, serving
from trainables.final.artifacts import CARD, write_artifacts
from trainables.final.errors import TrainError
from trainables.final.model_card import named, part_of_classes, stages_of
from trainables.final.network import RECIPE
from trainables.final.recipe import lengthened, read_recipe, to_full_length
from trainables.final.reliability.sections import MEASURED, TABLE
from trainables.final.setup import CheckpointPolicy, TrainingSetup
from trainables.final.tracking import MlflowRun
from trainables.final.training import GracefulStop, TrainingStopped, UnfinishedRun, device_name, pipeline_of
from trainables.final.training import train as train_seed
from trainables.models import MODELS, build, check_on, identity
from trainables.pipeline.storage import FULL
from trainables.plan import Plan
from trainables.training.numerics import Numerics
from trainables.training.stage_run import Diverged

FRESH_SEED = 5_000
"""Seeds of final training; no arm of a search uses them."""


def train(options: argparse.Namespace) -> int:
    """Does what the command line asks for.

    Args:
        options: Those of `trainables.train`, with the words of the command line as `words`.

    Returns:
        0 done, 1 where `--as-searched` falls outside the prediction, 130 stopped.
    """
    # a training that is resumed must be asked for in the same words
    again = command(*options.words, *([] if options.resume else ["--resume"]))
    # MLflow reports its use, and looks for newer versions, also where nothing is recorded
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return _trained(options, again)
    except Diverged as error:
        raise TrainError(str(error)) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise TrainError(f"the disk of {options.out} is full; make room, then continue with: {again}") from error


def _trained(options: argparse.Namespace, again: str) -> int:
    console = Console()

    def tell(line: str) -> None:
        console.print(styled(sentence(line)), soft_wrap=True)

    recipe = read_recipe(options.recipe, tuple(options.tricks or ()), options.model, options.trust, tell)
    plan = Plan.from_dict(recipe["plan"])
    _check(options)
    root = recipe["provenance"].get("data_root")
    if options.data_root is not None:  # absolute: workers may run in another folder
        root = str(Path(options.data_root).expanduser().resolve())
        recipe["provenance"]["data_root"] = root
    recipe["data"] = _data_of(options, recipe, root)
    if recipe["data"].get("since_search"):
        tell(f"data: {recipe['data']['since_search']}")
    seeds = options.seeds if options.seeds is not None else (5 if options.as_searched else 1)
    if not options.as_searched:
        plan = lengthened(plan, options.epochs_scale * to_full_length(recipe, root))
    kind = "as searched, val kept" if options.as_searched else "no val held out"
    if _calibrates(options):
        kind = "val held out for the calibration"
    many = "1 seed" if seeds == 1 else f"{seeds} seeds"
    title = sentence(f"recipe {recipe['recipe']}: {recipe['title']}")
    console.print(styled(f"{title}\n{stages_of(plan)}\n{many}, {kind}"))
    numbers = [FRESH_SEED + number for number in range(seeds)]
    if options.as_searched:
        return _compare_with_search(console, recipe, _train_as_searched(console, options, recipe, plan, root, numbers))
    return _train_recipe(console, options, again, recipe, plan, root, numbers)


def _data_of(options: argparse.Namespace, recipe: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """The recipe's data with their identity; a resumed training must have the data that it started with."""
    if options.resume:
        own, folder = recipe["data"], UnfinishedRun(options.out)
        folder.settings()  # before the data are read
        return folder.check_data(data_identity.identity(own["name"], root, own["imbalance"]))
    return data_identity.check_data(
        options.recipe, recipe, root, new_data=options.new_data, repeats=options.as_searched
    )


def _check(options: argparse.Namespace) -> None:
    allowed: dict[str, tuple[bool, str]] = {
        "seeds": (options.seeds is None or options.seeds >= 1, "at least 1"),
        "epochs_scale": (0 < options.epochs_scale < math.inf, "a number above 0"),
        **{name: (getattr(options, name) >= 1, "at least 1") for name in ("threads", "accumulate", "workers")},
        "save_minutes": (0 <= options.save_minutes < math.inf, "a number of at least 0"),
        "save_epochs": (options.save_epochs >= 0, "at least 0"),
        "abstain": (options.abstain is None or 0 < options.abstain < 1, "a share between 0 and 1"),
    }
    for name, (holds, words) in allowed.items():
        if not holds:
            raise TrainError(f"--{name.replace('_', '-')} must be {words}, got {getattr(options, name)}")
    if not options.as_searched:
        return
    for given, words, flags in (
        (options.accumulate * options.workers > 1, "repeats the search, with whole batches", "--accumulate, --workers"),
        (options.precision is not None, "repeats the search, in its precision", "--precision"),
        (options.epochs_scale != 1, "repeats the search, at its length", "--epochs-scale"),
        (options.prior is not None or options.cost is not None, "compares accuracy alone", "--prior, --cost"),
        (options.new_data, "repeats the search, on its data", "--new-data"),
        (_calibrates(options), "compares the network as it is", "--calibrate, --abstain"),
        (options.resume, "keeps nothing that could be resumed", "--resume"),
    ):
        if given:
            raise TrainError(f"--as-searched {words}; leave {flags.replace(', ', ' and ')} out")


def _train_recipe(
    console: Any, options: argparse.Namespace, again: str, recipe: dict[str, Any], plan: Plan, root: str | None,
    seeds: list[int],
) -> int:  # fmt: skip
    """Trains every seed and writes the artifacts; 130 where it was stopped."""

    def tell(line: str) -> None:
        console.print(styled(sentence(line)), soft_wrap=True)

    _threads(options)
    setup = TrainingSetup(device_name(), options.precision or "fp32", options.accumulate, options.workers)
    policy = CheckpointPolicy(60 * options.save_minutes, options.save_epochs)
    # what cannot be loaded must not leave a folder
    fold_val = not _calibrates(options)
    fingerprints = [_load(recipe, root, seed, fold_val).fingerprint for seed in seeds[1:]]
    data = _load(recipe, root, seeds[0], fold_val)
    if not fold_val and not len(data.val_labels):
        raise TrainError(f"--calibrate: {recipe['data']['name']} has no val images to fit on; leave it out")
    fingerprints = [data.fingerprint, *fingerprints]
    cut = data_identity.left_out(recipe["data"], root, len(data.train_labels) + len(data.val_labels))
    if cut:
        recipe["data"]["left_out"] = cut
        tell(
            f"data: {cut} training images are left out by the imbalance of {recipe['data']['imbalance']:g} that the "
            "search asked for; --new-data trains on all"
        )
    deployment = read(options.prior, options.cost, data.class_names)
    shape = tuple(map(int, data.train_images.shape[1:]))
    check_on(recipe["model"], classes=data.classes, shape=shape)
    if options.program and recipe["model"] not in MODELS:
        network = build(recipe["model"], classes=data.classes, channels=shape[0], generator=torch.Generator())
        try:
            serving.check_exportable(network, shape)
        except serving.NotExported as error:
            raise TrainError(
                f"{recipe['model']}: {error}; mend that, or leave the program out with --no-program"
            ) from error
    settings: dict[str, Any] = {
        "recipe": recipe["recipe"], "plan": plan.to_dict(), "model": identity(recipe["model"]),
        "data": recipe["data"], "seeds": seeds, "calibrate": not fold_val, "fingerprints": fingerprints,
        **asdict(setup),
        # last: what is none of the above is the code, a library or a network's file
        "code": pipeline_of(recipe, plan, seeds[0], data, setup, None, policy).keys[-1][-1],
    }  # fmt: skip
    folder = UnfinishedRun(options.out)
    if options.resume:
        settings = folder.resume(settings)
    else:
        folder.start(settings)
    run = MlflowRun(
        options.tracking_uri,
        recipe["data"]["name"],
        f"final {recipe['title']}"[:200],
        {"level": "final", "recipe": recipe["recipe"], "source_search": str(recipe["provenance"].get("search", ""))},
        _params(recipe, plan, seeds, setup, data),
        settings.get("run"),
    )
    if run.run_id is not None:
        folder.write_settings({**settings, "run": run.run_id})
    finished = []
    status = "FAILED"
    try:
        with GracefulStop(tell) as stop, _bars(console) as progress:
            for number, seed in enumerate(seeds):
                data = data if number == 0 else _load(recipe, root, seed, fold_val)
                if data.fingerprint != fingerprints[number]:
                    raise TrainError(
                        "the data have changed while they were trained on; restore the old data, then continue with: "
                        + again
                    )
                bar = progress.add_task(f"seed {number + 1}/{len(seeds)}", total=1.0)
                show = _shower(progress, bar, f"seed {number + 1}/{len(seeds)}", run, seed, plan)
                if setup.workers == 1:
                    pipeline = pipeline_of(recipe, plan, seed, data, setup, folder.store, policy)
                    finished.append(train_seed(pipeline, seed, policy, lambda: stop.asked, show))
                else:
                    # the workers need Ray, which takes seconds to import
                    from trainables.final.workers import train_with_workers

                    finished.append(
                        train_with_workers(
                            recipe, plan, seed, data, root, setup, folder, policy, lambda: stop.asked, show,
                            options.threads, options.address,
                        )
                    )  # fmt: skip
                progress.remove_task(bar)
        measured, missing = write_artifacts(
            recipe, plan, finished, setup, options.out, deployment, options.program, not fold_val, options.abstain
        )
        programs = [] if missing else [serving.PROGRAM, serving.MLFLOW_MODEL]
        left = [*programs, RECIPE, TABLE, MEASURED, CARD]
        now = round(1000 * time.time())
        run.metrics(_summary(measured), at=now)
        run.files(options.out, [RECIPE, TABLE, MEASURED, CARD])
        for number, (one, split) in enumerate(zip(measured, fingerprints, strict=True)):
            own = DataSet(recipe["data"]["name"], split, _images(data))
            served = options.out / serving.MLFLOW_MODEL if number == 0 and not missing else None
            prefix = "" if len(seeds) == 1 else f"seed{one['seed']}/"  # without it: the mean over seeds
            numbers = {f"{prefix}{key}": value for key, value in _of_seed(one).items()}
            name = f"final {recipe['recipe']} seed {one['seed']}"
            run.model(name, numbers, own, now, served, seed=str(one["seed"]), title=recipe["title"])
        status = "FINISHED"
    except (TrainingStopped, KeyboardInterrupt):
        status = "KILLED"
        console.print(styled(f"stopped; continue with: {again}"), soft_wrap=True)
        return 130
    finally:
        run.close(status)
    folder.clear()
    for one in measured:
        accuracy = 100 * one["metrics"]["test/accuracy"]
        part = part_of_classes(data, sentence)
        over = f"{accuracy:.1f} %{f' {part}' if part else ''}"
        said = f"  seed {one['seed']}: accuracy on test {over}, {one['seconds']:.1f} s, "
        console.print(styled(said + sentence(options.out / one["file"])), soft_wrap=True)
    console.print(styled(sentence(f"written to {options.out}: weights, {', '.join(left)}")), soft_wrap=True)
    if options.program and missing:
        console.print(styled(sentence(f"there is no {serving.PROGRAM}: {missing}")), soft_wrap=True)
    return 0


def _train_as_searched(
    console: Any, options: argparse.Namespace, recipe: Mapping[str, Any], plan: Plan, root: str | None, seeds: list[int]
) -> list[Any]:
    """Trains every seed as the search did; nothing is kept."""
    _threads(options)
    numerics, policy = Numerics.of(recipe["numerics"]), CheckpointPolicy()
    finished = []
    with _bars(console) as progress:
        for number, seed in enumerate(seeds):
            bar = progress.add_task(f"seed {number + 1}/{len(seeds)}", total=1.0)
            data, setup = _load(recipe, root, seed, False), TrainingSetup(device_name(), numerics.precision)
            pipeline = pipeline_of(recipe, plan, seed, data, setup, None, policy, evaluate=True, numerics=numerics)
            finished.append(
                train_seed(
                    pipeline, seed, policy, lambda: False,
                    lambda done, *more, bar=bar: progress.update(bar, completed=done),
                )
            )  # fmt: skip
            progress.remove_task(bar)
    return finished


def _compare_with_search(console: Any, recipe: Mapping[str, Any], finished: Sequence[Any]) -> int:
    """Whether the mean of fresh runs falls in the search's prediction interval."""
    values = [one.pipeline.result()[0]["final/accuracy"] for one in finished]
    earlier = recipe["measured"]["values"]
    mean = sum(values) / len(values)
    for one, value in zip(finished, values, strict=True):
        console.print(f"  seed {one.seed}: accuracy on val {100 * value:.1f} %, {one.seconds:.1f} s", highlight=False)
    if len(earlier) < 2:
        console.print("The search has one run of this recipe: it predicts nothing. Export one that raced.")
        return 1
    low, high = prediction_interval(earlier, len(values))
    inside = low <= mean <= high
    console.print(
        f"mean of {len(values)} fresh seeds {100 * mean:.1f} %; predicted from the search's {len(earlier)} seeds: "
        f"{100 * low:.1f} to {100 * high:.1f} % (95 %): {'inside' if inside else 'OUTSIDE'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0 if inside else 1


def _calibrates(options: argparse.Namespace) -> bool:
    """Whether val is held out: thresholds are fitted on it as well."""
    return bool(options.calibrate or options.abstain is not None)


def _load(recipe: Mapping[str, Any], root: str | None, seed: int, fold_val: bool) -> Any:
    own = recipe["data"]
    return load(own["name"], root=root, imbalance=own["imbalance"], split_seed=seed, fold_val=fold_val)


def _threads(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        torch.set_num_threads(options.threads)


def _bars(console: Any) -> Any:
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*shown, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)


def _shower(progress: Any, bar: Any, title: str, run: Any, seed: int, plan: Plan) -> Any:
    def show(done: float, stage: str, epoch: int, loss: float) -> None:
        spoken = f"{title}  {sentence(stage)} epoch {epoch}" + (f"  loss {loss:.3f}" if math.isfinite(loss) else "")
        progress.update(bar, completed=done, description=spoken)
        if math.isfinite(loss):
            run.metrics({f"seed{seed}/train_loss": loss}, round(done * plan.epochs))

    return show


def _params(recipe: Mapping[str, Any], plan: Plan, seeds: Sequence[int], setup: Any, data: Any) -> dict[str, Any]:
    """Parameters of the run in MLflow."""
    params: dict[str, Any] = {
        "data": recipe["data"]["name"], "imbalance": data.imbalance, "model": named(recipe["model"]),
        "seeds": ", ".join(map(str, seeds)), "epochs": plan.epochs, **asdict(setup),
    }  # fmt: skip
    for stage in plan.stages:
        tricks = ", ".join(trick.name for trick in stage.tricks) or "plain"
        params |= {f"{stage.name}/tricks": tricks, f"{stage.name}/epochs": stage.epochs, f"{stage.name}/lr": stage.lr}
    return params


def _summary(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over seeds, and every seed's own."""
    own = [_of_seed(run) for run in measured]
    means = {key: sum(run[key] for run in own) / len(own) for key in own[0] if all(key in run for run in own)}
    for run, numbers in zip(measured, own, strict=True):
        means |= {f"seed{run['seed']}/{key}": value for key, value in numbers.items()}
    return means


def _of_seed(run: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a seed that are known: metrics on test, and those of its calibration."""
    found = dict(run["metrics"])
    if told := run.get("calibration"):
        found |= {f"calibration/{key}": told[key] for key in ("temperature", "exponent")}
        # at the frequencies of deployment, at which accuracy has another name
        names = {"accuracy": "prior_accuracy"} if "test/prior_accuracy" in found else {}
        found |= {f"test/{names.get(key, key)}_uncalibrated": value for key, value in told["test"]["before"].items()}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _images(data: Any) -> dict[str, int]:
    """Images of each split."""
    return {split: len(getattr(data, f"{split}_labels")) for split in ("train", "val", "test")}
