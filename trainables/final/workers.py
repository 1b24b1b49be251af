"""One seed trained by several processes or machines, through Ray Train: each trains on its part of every batch.

The first worker keeps what is trained in the folder of the unfinished training, which all machines must see at the
same place (a shared folder); the others need nothing but the data. It is also the first worker that takes a training
up again, and hands its state to the others.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from safetensors.torch import load_file, save

from analysis.files import write
from trainables.data import LongTailed, load
from trainables.final.artifacts import TrainedSeed
from trainables.final.errors import TrainError
from trainables.final.setup import CheckpointPolicy, TrainingSetup
from trainables.final.training import Show, TrainingStopped, UnfinishedRun, pipeline_of
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan
from trainables.registry import discover
from trainables.training.stage_run import Diverged

_PROGRESS, _STOP, _STATE, _OUTCOME = "progress.jsonl", "stop", "state.safetensors", "outcome.json"

POLL_SECONDS = 0.2
"""Seconds between two looks at the progress of the workers."""


def train_with_workers(
    recipe: Mapping[str, Any],
    plan: Plan,
    seed: int,
    data: LongTailed,
    root: str | None,
    setup: TrainingSetup,
    folder: UnfinishedRun,
    policy: CheckpointPolicy,
    stop: Callable[[], bool],
    show: Show,
    threads: int,
    address: str | None = None,
) -> TrainedSeed:
    """Trains one seed to its end.

    Args:
        recipe: The recipe.
        plan: Its plan, at full length.
        seed: Seed of the training.
        data: The data in this process; each worker loads them again.
        root: Folder of the data.
        setup: Precision, parts of a batch and number of workers.
        folder: Where the unfinished training is kept.
        policy: How often an unfinished stage is saved.
        stop: Whether to stop after the epoch.
        show: Called after every epoch with the progress.
        threads: Threads of each worker on a CPU.
        address: Address of a Ray cluster (default: a local one is started).

    Raises:
        TrainError: There is no such cluster, it is too small, or a worker failed.
        TrainingStopped: It was asked to stop; what is trained is saved.
        Diverged: The loss is no longer finite.
    """
    place = folder.path / f"seed{seed}"
    place.mkdir(exist_ok=True)
    for stale in (_PROGRESS, _STOP, _OUTCOME):
        (place / stale).unlink(missing_ok=True)
    config = {
        "recipe": json.loads(json.dumps(recipe)), "plan": plan.to_dict(), "seed": seed, "root": root,
        "setup": asdict(setup), "out": str(folder.path.parent.resolve()), "policy": asdict(policy), "threads": threads,
        "fingerprint": data.fingerprint, "fold_val": not len(data.val_labels),
    }  # fmt: skip
    failed: list[BaseException] = []
    own_ray = not ray.is_initialized()
    gpus = _start_ray(setup.workers, threads, address)
    try:
        # beside the main thread, so that Ray leaves Ctrl-C to this command
        fitting = threading.Thread(target=_fit, args=(config, setup.workers, gpus, threads, place, failed), daemon=True)
        fitting.start()
        shown = 0
        while fitting.is_alive():
            fitting.join(POLL_SECONDS)
            if stop():
                (place / _STOP).touch()
            shown = _show_new(place / _PROGRESS, shown, show)
        _show_new(place / _PROGRESS, shown, show)
    finally:
        if own_ray:
            ray.shutdown()
    outcome = _read(place / _OUTCOME)
    if failed or not outcome:
        lines = (str(failed[0]).strip().splitlines() if failed else []) or ["it left no result"]
        raise TrainError(f"a worker failed: {lines[-1].strip()}")
    if outcome["outcome"] == "stopped":
        raise TrainingStopped
    if outcome["outcome"] == "diverged":
        raise Diverged(outcome["reason"])
    pipeline = pipeline_of(recipe, plan, seed, data, TrainingSetup(setup.device, setup.precision), None, policy)
    tensors = {name: tensor.to(pipeline.context.device) for name, tensor in load_file(place / _STATE).items()}
    pipeline.load_state(tensors, outcome["state"])
    return TrainedSeed(seed, pipeline, pipeline.cost.seconds + pipeline.cost.seconds_saved)


def _start_ray(workers: int, threads: int, address: str | None) -> bool:
    """Connects to Ray; whether the workers have GPUs.

    Raises:
        TrainError: No cluster there, or one that is too small.
    """
    if not ray.is_initialized():
        try:
            ray.init(
                address=address or "local",  # not whatever runs on the machine
                include_dashboard=False if address is None else None,
                # of a local one; nobody else on the network needs to reach it
                _node_ip_address="127.0.0.1" if address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError) as error:
            if address is None:
                raise
            raise TrainError(
                f"--address {address}: no Ray cluster answers there ({str(error).splitlines()[0]}); `ray start --head` "
                "starts one and prints its address"
            ) from error
    there = ray.cluster_resources()
    gpus = bool(there.get("GPU", 0) > 0)
    kind, each = ("GPU", 1) if gpus else ("CPU", threads)
    if there.get(kind, 0) < workers * each:
        asked = f"--workers {workers}" + (f" with --threads {threads}" if each > 1 else "")
        raise TrainError(f"{asked}: needs {workers * each} {kind}s, Ray has {there.get(kind, 0):g}; lower it")
    return gpus


def _fit(
    config: dict[str, Any], workers: int, gpus: bool, threads: int, place: Path, failed: list[BaseException]
) -> None:
    """Runs Ray Train to its end."""
    try:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus, resources_per_worker={"GPU": 1} if gpus else {"CPU": threads}
            ),
            run_config=RunConfig(
                name="ray", storage_path=str(place.resolve()), logging_config=LoggingConfig(log_level="ERROR")
            ),
        )
        trainer.fit()
    except BaseException as error:
        failed.append(error)


def train_worker(config: dict[str, Any]) -> None:
    """Trains in one worker."""
    if not torch.cuda.is_available():
        torch.set_num_threads(config["threads"])
    rank, recipe = ray.train.get_context().get_world_rank(), config["recipe"]
    discover(*recipe["provenance"]["tricks"])
    own = recipe["data"]
    setup, policy = TrainingSetup(**config["setup"]), CheckpointPolicy(**config["policy"])
    data = load(
        own["name"], root=config["root"], imbalance=own["imbalance"], split_seed=config["seed"],
        fold_val=config["fold_val"],
    )  # fmt: skip
    if data.fingerprint != config["fingerprint"]:
        raise TrainError(f"worker {rank} finds other data than the command did under {config['root'] or own['name']}")
    folder = UnfinishedRun(Path(config["out"]))
    place = folder.path / f"seed{config['seed']}"
    store = folder.store if rank == 0 else None
    plan = Plan.from_dict(config["plan"])
    pipeline = pipeline_of(recipe, plan, config["seed"], data, setup, store, policy, rank=rank)
    if rank == 0:
        pipeline.executor.resume()
    _broadcast_state(pipeline, rank)
    outcome: dict[str, Any] = {"outcome": "finished"}
    try:
        while not pipeline.finished:
            pipeline.advance()
            if rank == 0:
                stage, epoch, loss = pipeline.executor.now
                with (place / _PROGRESS).open("a", encoding="utf-8") as progress:
                    progress.write(json.dumps([pipeline.progress, stage, epoch, loss]) + "\n")
                if policy.epochs and epoch and epoch % policy.epochs == 0:
                    pipeline.executor.save_unfinished()
            # all must stop after the same epoch
            asked = torch.tensor([int(rank == 0 and (place / _STOP).exists())], device=pipeline.context.device)
            torch.distributed.broadcast(asked, 0)
            if int(asked) and not pipeline.finished:
                pipeline.executor.save_unfinished()
                outcome = {"outcome": "stopped"}
                break
    except Diverged as error:  # in all of them: they have the same weights
        outcome = {"outcome": "diverged", "reason": str(error)}
    if rank == 0:
        if pipeline.finished:
            tensors, outcome["state"] = pipeline.state()
            write(place / _STATE, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
        write(place / _OUTCOME, json.dumps(outcome))


def _broadcast_state(pipeline: Pipeline, rank: int) -> None:
    """Sends the state of the first worker to the others."""
    content: list[Any] = [None]
    if rank == 0:
        tensors, rest = pipeline.state()
        content = [({name: tensor.cpu() for name, tensor in tensors.items()}, rest)]
    torch.distributed.broadcast_object_list(content, 0)
    if rank != 0:
        tensors, rest = content[0]
        pipeline.load_state(tensors, rest)


def _show_new(file: Path, shown: int, show: Show) -> int:
    """Shows the epochs that are new in the file, each once; returns how many bytes of it have been shown."""
    if not file.exists():
        return shown
    with file.open("rb") as stream:
        stream.seek(shown)
        new = stream.read()
    whole = new[: new.rfind(b"\n") + 1]  # a line may be half written
    for line in whole.splitlines():
        show(*json.loads(line))
    return shown + len(whole)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
