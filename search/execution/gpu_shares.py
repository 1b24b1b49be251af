"""Resources of a search: the connection to Ray, the share of a GPU that each trial gets, and retries.

Ray only counts shares of a GPU and does not divide its memory. Each process limits itself
(`training.acceleration.memory`), so a trial that needs too much runs out of memory without harming the others, and is
retried once with twice the share. A trial whose process or machine died is retried from its last saved stage.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution import cluster
from search.execution.cpus import WORKER_ENVIRONMENT, cpu_limit, machine_share, slurm_gpus
from search.execution.uploaded_code import packed
from search.settings import Settings, SettingsError
from trainables.pipeline.footprint import Footprint
from trainables.plan import Plan
from trainables.trial import footprint_of

log = logging.getLogger(__name__)

LOST_TRIES = 3
"""Attempts after which the trial, rather than the machine, is blamed for a process that dies."""

WAIT_SECONDS = 600.0
"""How long a trial waits for a larger share while nothing else of the search runs: longer than a cluster takes to start
a machine. After that, another program holds the rest and may never release it."""

HEADROOM = 1.2
"""Factor between the measured memory and the proposed share: allocators fragment, and recipes differ."""

CROWD = 1.5
"""Trials on one GPU, times its utilisation by one trial, beyond which they only wait for each other."""


@dataclass(frozen=True)
class Share:
    """Share of a machine that a trial holds."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs" if self.gpus else f"{self.cpus:g} CPUs"


# ---------------------------------------- Ray


def check(settings: Settings) -> None:
    """Refuses GPUs that do not exist, and a limit of GPU hours without GPUs, before anything is started.

    Raises:
        SettingsError: This machine has no GPU although one is asked for, or GPU hours are limited without GPUs.
    """
    if settings.gpu_hours is not None and not settings.gpus_per_trial:
        raise SettingsError(
            f"--gpu-hours {settings.gpu_hours:g}: trials use no GPU, so this limit would never be reached; "
            "add --gpus-per-trial, or limit the time with --time-budget SECONDS"
        )
    if settings.workers:
        if settings.address is not None:
            raise SettingsError(
                f"--workers {settings.workers}: trials are trained by workers or on the Ray cluster at "
                f"{settings.address}: leave --address out, or give --workers 0"
            )
        if settings.gpus_auto:
            raise SettingsError(
                f"--workers {settings.workers}: --gpus-per-trial auto is measured by Ray, without which this search "
                "runs; give a number"
            )
        return
    if not settings.gpus_per_trial or settings.address is not None or ray.is_initialized():
        return
    if not torch.cuda.is_available():
        asked = "auto" if settings.gpus_auto else f"{settings.gpus_per_trial:g}"
        raise SettingsError(
            f"--gpus-per-trial {asked}: no GPU is visible on this machine; "
            "omit the option, or give the --address of a Ray cluster that has GPUs"
        )


def connect(settings: Settings) -> list[str]:
    """Starts Ray on this machine, or connects to the cluster and sends it this project's code.

    A Ray that this process is already connected to is used as it is.

    Returns:
        What trials may use of this machine, and where Ray's files are if that is not as asked, in sentences.

    Raises:
        SettingsError: Ray cannot be started, or no cluster answers at the address.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    # a trial's error is reported in one line, with its record
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return []
    environment: dict[str, Any] = {"env_vars": WORKER_ENVIRONMENT}
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": environment}
    if settings.address is None:
        gpus = torch.cuda.device_count() if settings.gpus_per_trial else None
        chosen = slurm_gpus(gpus) if gpus else ""
        note = cluster.start({"CUDA_VISIBLE_DEVICES": chosen} if chosen else {}, **options)
        return [machine_share(chosen.count(",") + 1 if chosen else gpus), *filter(None, [note])]
    environment["py_modules"] = packed(settings)
    try:
        cluster.connect(address=settings.address, **options)
    except (ConnectionError, ValueError) as error:
        raise SettingsError(
            f"--address {settings.address}: no Ray cluster answers there ({str(error).splitlines()[0]}); "
            "`ray start --head` starts one and prints its address"
        ) from error
    except ray.exceptions.AuthenticationError as error:
        raise SettingsError(
            f"--address {settings.address}: the Ray cluster there requires a token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to the output of `ray get-auth-token` on its head"
        ) from error
    return []


def concurrent_trials(settings: Settings) -> int:
    """Number of trials that can run at the same time on the connected Ray, or by workers.

    Raises:
        SettingsError: Its resources are too small for one trial.
    """
    if settings.workers:
        return min(settings.workers, settings.max_concurrent or settings.workers)
    resources = ray.cluster_resources()
    wanted = {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
    fit = [int(resources.get(kind, 0) / amount + 1e-9) for kind, amount in wanted.items() if amount]
    if min(fit) < 1:
        there = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise SettingsError(
            f"a trial asks for {settings.cpus_per_trial:g} CPUs and {settings.gpus_per_trial:g} GPUs, "
            f"but Ray has {there}{_cpu_limit_note(settings)}: lower --cpus-per-trial or --gpus-per-trial"
        )
    return min(min(fit), settings.max_concurrent or min(fit))


def _cpu_limit_note(settings: Settings) -> str:
    """Why Ray has fewer CPUs than the machine, in brackets; "" if it has all."""
    limit, whole = cpu_limit(), os.cpu_count() or 1
    if settings.address is not None or limit.cpus == whole:
        return ""
    return f" (this process may use {limit.cpus} of the machine's {whole} CPUs: {limit.source})"


def check_storage(settings: Settings) -> None:
    """Checks that every node of a cluster sees the folder of finished stages.

    Raises:
        SettingsError: A node does not; its trials could re-use no stage, and a lost one would start from scratch.
    """
    if settings.address is None or not settings.reuse or "://" in settings.store_place:
        return
    folder = Path(settings.store_place)
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".seen-{uuid.uuid4().hex}"
    token.write_text("", encoding="utf-8")
    try:
        asked = {}
        for node in (node for node in ray.nodes() if node["Alive"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            sees = ray.remote(num_cpus=0, scheduling_strategy=there)(os.path.exists)
            asked[f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"] = sees.remote(str(token))
        blind = [name for name, answer in asked.items() if not ray.get(answer)]
    finally:
        token.unlink(missing_ok=True)
    if blind:
        where = "--store" if settings.store is not None else "--output"
        raise SettingsError(
            f"{where}: {folder} is not visible on node {blind[0]} of the cluster; use a folder on storage that all "
            "nodes share under the same path (--store may also be a URL), or turn re-use off with --no-reuse"
        )


# ---------------------------------------- the share of a GPU


@dataclass(frozen=True)
class GpuShareEstimate:
    """A share of a GPU, and the reason in one sentence."""

    share: float
    reason: str


def propose_share(found: Footprint, cpus: float, cpus_per_trial: float) -> GpuShareEstimate:
    """The share of a GPU that a trial should get: 1 / n for n trials at the same time.

        n = min(⌊total / (HEADROOM · memory)⌋, ⌊CPUs of a GPU / CPUs of a trial⌋, ⌈CROWD / utilisation⌉), at least 1

    Args:
        found: Footprint of a trial.
        cpus: CPUs per GPU of the cluster.
        cpus_per_trial: CPUs of a trial.

    >>> from trainables.pipeline.footprint import Footprint
    >>> propose_share(Footprint(memory=3e9, total=24e9, seconds=100, busy=0.5), cpus=16, cpus_per_trial=1).share
    0.3333333333333333
    """
    by_memory = int(found.total / (HEADROOM * found.memory)) if found.memory else 1
    by_cpus = int(cpus / cpus_per_trial + 1e-9)
    limits = {"the memory": max(1, by_memory), "the CPUs": max(1, by_cpus)}
    if not math.isnan(found.busy):
        limits["the GPU's utilisation"] = max(1, math.ceil(CROWD / max(found.busy, 0.01)))
    bound = min(limits, key=lambda name: limits[name])
    count = limits[bound]
    use = "" if math.isnan(found.busy) else f" and keeps the GPU {found.busy:.0%} busy"
    peak = f"{found.memory / 1e9:.1f} of {found.total / 1e9:.1f} GB" if found.memory else "an unknown amount of memory"
    trials = "one trial" if count == 1 else f"{count} trials"
    return GpuShareEstimate(
        1 / count,
        f"--gpus-per-trial auto: a trial takes {peak}{use}, for about {found.seconds:.0f} s; "
        f"{trials} on each GPU, limited by {bound}",
    )


def most_demanding(plans: Iterable[Plan], most: int = 4) -> list[Plan]:
    """The plans that may need most memory: those with the largest batches times members, then with the most tricks."""

    def need(plan: Plan) -> tuple[int, int]:
        batch = max(stage.batch_size * max(1, stage.members) for stage in plan.stages)
        return batch, sum(len(stage.tricks) for stage in plan.stages)

    distinct = {plan.id: plan for plan in plans}
    return sorted(distinct.values(), key=need, reverse=True)[:most]


def measure_share(specs: Sequence[dict[str, Any]], cpus_per_trial: float) -> GpuShareEstimate:
    """Trains a few steps of some trials, each alone on a GPU, and proposes a share.

    Args:
        specs: JSON-serialisable `TrialSpec`s of the trials.
        cpus_per_trial: CPUs of a trial.

    Raises:
        SettingsError: Ray has no GPU, or a whole one is too small.
    """
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0)
    if not gpus:
        raise SettingsError(
            "--gpus-per-trial auto: Ray has no GPU; omit the option, or give the --address of a cluster with GPUs"
        )
    take = ray.remote(num_cpus=cpus_per_trial, num_gpus=1, max_calls=1, max_retries=0)(footprint_of)
    try:
        found = [ray.get(take.remote(spec)) for spec in specs]
    except ray.exceptions.RayTaskError as error:
        last = str(error).strip().splitlines()[-1]
        raise SettingsError(
            f"--gpus-per-trial auto: a trial cannot be measured on a whole GPU ({last}); "
            "use a smaller batch (batch_size= of a stage) or another --model"
        ) from error
    return propose_share(max(found, key=lambda one: one.memory), resources.get("CPU", 1) / gpus, cpus_per_trial)


# ---------------------------------------- retries


OUT_OF_MEMORY = re.compile(
    r"^(?:\w+\.)*(?:(?:OutOfMemoryError|MemoryError)\b|(?:RuntimeError|AcceleratorError): .*"
    r"(?:DefaultCPUAllocator|CUDA error: out of memory|CU(?:BLAS|SOLVER|SPARSE|DNN|FFT)_(?:STATUS_)?ALLOC_FAILED))"
)
"""Beginning of the failure reason of a trial that ran out of memory of the GPU or of the machine.

PyTorch has its own error class for the GPU's allocator only; the machine's memory, and what CUDA and its libraries use
besides tensors, are recognised by the text of other errors."""


class ResourceAllocator:
    """Allocates shares of machines to trials, and decides whether a failed trial is retried.

    Args:
        usual: Share of a trial.
        most: Largest share there is: that of the largest machine.
    """

    def __init__(self, usual: Share, most: Share) -> None:
        self._usual, self._most = usual, most
        self._larger: dict[str, Share] = {}
        self._lost: Counter[str] = Counter()
        self.waiting: set[str] = set()
        """Trials that wait for a larger share."""
        self._alone_since: float | None = None

    def share_of(self, trial: str) -> Share:
        """The share that a trial gets."""
        return self._larger.get(trial, self._usual)

    def started(self, trial: str) -> None:
        """Notes that a trial has received its share."""
        self.waiting.discard(trial)

    def starved(self, running: Collection[str]) -> set[str]:
        """Trials that have waited `WAIT_SECONDS` for a larger share while nothing else of the search ran.

        Args:
            running: All trials that were handed out and have not ended.
        """
        waiting = self.waiting.intersection(running)
        if not waiting or len(waiting) < len(running):
            self._alone_since = None
            return set()
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        return waiting if now - self._alone_since > WAIT_SECONDS else set()

    def retry(self, trial: str, reason: str, lost: bool) -> str:
        """Why a failed trial is retried, "" if it is not.

        Args:
            trial: Id of the trial.
            reason: Text of its error.
            lost: Whether its process has died.
        """
        if OUT_OF_MEMORY.match(reason):
            larger = self._double(self.share_of(trial))
            if trial in self._larger or larger == self._usual:
                return ""
            self._larger[trial] = larger
            self.waiting.add(trial)
            return f"out of memory with {self._usual}; retrying with {larger}"
        if lost:
            self._lost[trial] += 1
            if self._lost[trial] < LOST_TRIES:
                return "worker process died; retrying from the last saved stage"
        return ""

    def why_starved(self, trial: str) -> str:
        """The failure reason of a trial that never received its larger share."""
        return (
            f"out of memory with {self._usual}, and {self._larger[trial]} did not become free within "
            f"{WAIT_SECONDS:g} s although nothing else of the search ran: another program holds them"
        )

    def why_failed(self, trial: str, reason: str) -> str:
        """The failure reason of a trial that is not retried, with what was tried."""
        if trial in self._larger:
            return f"{reason} (with {self._larger[trial]}, after {self._usual} were not enough)"
        if self._lost[trial] > 1:
            return f"{reason} ({self._lost[trial]} times)"
        return reason

    def _double(self, share: Share) -> Share:
        """Twice the share of a GPU, at most one, or twice the CPUs, so that fewer trials share the machine's memory."""
        if share.gpus:
            return Share(share.cpus, max(share.gpus, min(1.0, 2 * share.gpus, self._most.gpus)))
        return Share(max(share.cpus, min(2 * share.cpus, self._most.cpus)), 0.0)


def resource_allocator(settings: Settings) -> ResourceAllocator:
    """The resource allocator of a search on the connected Ray; workers have no larger share than the usual one."""
    usual = Share(settings.cpus_per_trial, settings.gpus_per_trial)
    if settings.workers:
        return ResourceAllocator(usual, usual)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = Share(*(max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")))
    return ResourceAllocator(usual, most)
