"""The machines of a search: a local Ray or a cluster, the share of a GPU of each trial, and trials that were lost.

A GPU's memory is not divided by Ray, which only counts shares: each process caps itself (`training.memory`), so a
greedy trial runs out of memory alone. It is retried once with twice the share. A trial whose process or machine died is
retried from its last saved stage.
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
from search.execution.cpus import allowed_cpus
from search.execution.uploaded_code import packed
from search.settings import Settings, SettingsError
from trainables.pipeline.footprint import Footprint
from trainables.plan import Plan
from trainables.trial import footprint_of

log = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Set before torch is imported there: on a CPU one thread per trial, one trial per core."""

LOST_TRIES = 3
"""How often a trial is begun whose process is gone each time: then it is the trial, and not the machine."""

WAIT_SECONDS = 600.0
"""How long a trial waits for a larger share while nothing else of the search runs: longer than a cluster takes to start
a machine. Then whatever holds the rest is not ours, and may never end."""

HEADROOM = 1.2
"""A proposed share is so many times what was measured: allocators fragment, and recipes differ."""

CROWD = 1.5
"""More trials than so many times 1 / utilisation on one GPU only wait for each other."""


@dataclass(frozen=True)
class Share:
    """What of a machine a trial holds."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs" if self.gpus else f"{self.cpus:g} CPUs"


# ------------------------------------------------------------------------------------------ Ray


def check(settings: Settings) -> None:
    """Refuses GPUs that are not there, and GPU hours that nothing uses up, before anything is started.

    Raises:
        SettingsError: GPUs are asked for on a machine without; GPU hours are to end trials that hold no GPU.
    """
    if settings.gpu_hours is not None and not settings.gpus_per_trial:
        raise SettingsError(
            f"--gpu-hours {settings.gpu_hours:g}: trials hold no GPU, so that this would never end the search; give "
            "--gpus-per-trial as well, or bound the time: --time-budget SECONDS"
        )
    if not settings.gpus_per_trial or settings.address is not None or ray.is_initialized():
        return
    if not torch.cuda.is_available():
        asked = "auto" if settings.gpus_auto else f"{settings.gpus_per_trial:g}"
        raise SettingsError(
            f"--gpus-per-trial {asked}: no GPU is visible on this machine; "
            "leave the option out, or give the --address of a Ray cluster that has GPUs"
        )


def join(settings: Settings) -> str:
    """Starts Ray here, or joins the cluster, which is sent this project's code. A Ray that runs already stays.

    Returns:
        What a person should know of where it lies, "" where that is nothing.

    Raises:
        SettingsError: Ray cannot be started, or no cluster answers at the address.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    # a trial's error is told in one line, with its record
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return ""
    environment: dict[str, Any] = {"env_vars": WORKER_ENVIRONMENT}
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": environment}
    if settings.address is None:
        return cluster.start(**options)
    environment["py_modules"] = packed(settings)
    try:
        cluster.join(address=settings.address, **options)
    except (ConnectionError, ValueError) as error:
        raise SettingsError(
            f"--address {settings.address}: no Ray cluster answers there ({str(error).splitlines()[0]}); "
            "`ray start --head` starts one and prints its address"
        ) from error
    except ray.exceptions.AuthenticationError as error:
        raise SettingsError(
            f"--address {settings.address}: the Ray cluster there asks for a token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head"
        ) from error
    return ""


def slots(settings: Settings) -> int:
    """How many trials run at a time on the Ray that was joined.

    Raises:
        SettingsError: It has not enough for one.
    """
    resources = ray.cluster_resources()
    wanted = {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
    fit = [int(resources.get(kind, 0) / amount + 1e-9) for kind, amount in wanted.items() if amount]
    if min(fit) < 1:
        there = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise SettingsError(
            f"a trial asks for {settings.cpus_per_trial:g} CPUs and {settings.gpus_per_trial:g} GPUs, "
            f"but Ray has {there}{_bound(settings)}: lower --cpus-per-trial or --gpus-per-trial"
        )
    return min(min(fit), settings.max_concurrent or min(fit))


def _bound(settings: Settings) -> str:
    """Why Ray has fewer CPUs than the machine."""
    allowed, whole = allowed_cpus(), os.cpu_count() or 1
    if settings.address is not None or allowed == whole:
        return ""
    return f" (this process may use {allowed} of the machine's {whole} CPUs)"


def check_storage(settings: Settings) -> None:
    """Asks every node of a cluster whether it sees the folder of finished stages.

    Raises:
        SettingsError: One does not: its trials would share nothing, and a lost one would begin at its beginning.
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
            f"{where}: {folder} is not seen from node {blind[0]} of the cluster: give a folder on storage that all "
            "nodes share under the same path (--store may also be a URL), or do without by --no-reuse"
        )


# ------------------------------------------------------------------------------------------ the share of a GPU


@dataclass(frozen=True)
class GpuShareEstimate:
    """A share of a GPU, and why in one sentence."""

    share: float
    reason: str


def propose(found: Footprint, cpus: float, cpus_per_trial: float) -> GpuShareEstimate:
    """The share of a GPU that a trial should get: 1 / n, with n trials side by side.

        n = min(⌊total / (HEADROOM · memory)⌋, ⌊CPUs of a GPU / CPUs of a trial⌋, ⌈CROWD / utilisation⌉), at least 1

    Args:
        found: What a trial takes.
        cpus: CPUs for each GPU of the cluster.
        cpus_per_trial: That a trial holds.

    >>> from trainables.pipeline.footprint import Footprint
    >>> propose(Footprint(memory=3e9, total=24e9, seconds=100, busy=0.5), cpus=16, cpus_per_trial=1).share
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
        f"--gpus-per-trial auto: a trial takes {peak}{use}, about {found.seconds:.0f} s in all: "
        f"{trials} on each GPU, bound by {bound}",
    )


def neediest(plans: Iterable[Plan], most: int = 4) -> list[Plan]:
    """The plans of a design that may need most memory: by their largest batch times its views, then by their tricks."""

    def need(plan: Plan) -> tuple[int, int]:
        batch = max(stage.batch_size * max(1, stage.members) for stage in plan.stages)
        return batch, sum(len(stage.tricks) for stage in plan.stages)

    distinct = {plan.id: plan for plan in plans}
    return sorted(distinct.values(), key=need, reverse=True)[:most]


def measured(specs: Sequence[dict[str, Any]], cpus_per_trial: float) -> GpuShareEstimate:
    """Trains a few steps of some trials, one after the other on a GPU of their own, and proposes a share.

    Args:
        specs: Of the trials, JSON-able `TrialSpec`s.
        cpus_per_trial: That a trial holds.

    Raises:
        SettingsError: Ray has no GPU, or even a whole one is too small.
    """
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0)
    if not gpus:
        raise SettingsError(
            "--gpus-per-trial auto: Ray has no GPU; leave the option out, or give the --address of a cluster with GPUs"
        )
    take = ray.remote(num_cpus=cpus_per_trial, num_gpus=1, max_calls=1, max_retries=0)(footprint_of)
    try:
        found = [ray.get(take.remote(spec)) for spec in specs]
    except ray.exceptions.RayTaskError as error:
        last = str(error).strip().splitlines()[-1]
        raise SettingsError(
            f"--gpus-per-trial auto: a trial cannot be measured on a whole GPU ({last}); "
            "a smaller batch (batch_size= of a stage) or another --model needs less"
        ) from error
    return propose(max(found, key=lambda one: one.memory), resources.get("CPU", 1) / gpus, cpus_per_trial)


# ------------------------------------------------------------------------------------------ trials that were lost


OUT_OF_MEMORY = re.compile(
    r"^(?:\w+\.)*(?:(?:OutOfMemoryError|MemoryError)\b|(?:RuntimeError|AcceleratorError): .*"
    r"(?:DefaultCPUAllocator|CUDA error: out of memory|CU(?:BLAS|SOLVER|SPARSE|DNN|FFT)_(?:STATUS_)?ALLOC_FAILED))"
)
"""How the reason of a trial begins that ran out of memory: of the GPU, of the machine, or ended by Ray for that.

PyTorch has an error of its own for the GPU's allocator alone: memory of the machine, and what CUDA and its libraries
take beside the tensors, are told by the text of another one."""


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
        """Trials with a larger share that have not got it yet."""
        self._alone_since: float | None = None

    def of(self, trial: str) -> Share:
        """What a trial gets."""
        return self._larger.get(trial, self._usual)

    def started(self, trial: str) -> None:
        """A trial has got its share."""
        self.waiting.discard(trial)

    def hopeless(self, running: Collection[str]) -> set[str]:
        """Trials that have waited for their larger share for `WAIT_SECONDS` while nothing else of the search ran.

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
        """Why a failed trial is tried again, "" where it is not.

        Args:
            trial: Its id.
            reason: What its error says.
            lost: Whether its process is gone, whatever the reason.
        """
        if OUT_OF_MEMORY.match(reason):
            larger = self._double(self.of(trial))
            if trial in self._larger or larger == self._usual:
                return ""
            self._larger[trial] = larger
            self.waiting.add(trial)
            return f"out of memory with {self._usual}; once more with {larger}"
        if lost:
            self._lost[trial] += 1
            if self._lost[trial] < LOST_TRIES:
                return "worker process died; retrying from the last saved stage"
        return ""

    def unmet(self, trial: str) -> str:
        """The reason of a trial that never got its larger share."""
        return (
            f"out of memory with {self._usual}, and {self._larger[trial]} were not free within {WAIT_SECONDS:g} s "
            "although nothing else of the search ran: something else holds them"
        )

    def note(self, trial: str, reason: str) -> str:
        """The reason of a trial that failed for good, with what was tried."""
        if trial in self._larger:
            return f"{reason} (with {self._larger[trial]}, after {self._usual} were too little)"
        if self._lost[trial] > 1:
            return f"{reason} ({self._lost[trial]} times)"
        return reason

    def _double(self, share: Share) -> Share:
        """Twice the GPU, one at most, or on CPUs twice the CPUs, so that fewer trials share the machine's memory."""
        if share.gpus:
            return Share(share.cpus, max(share.gpus, min(1.0, 2 * share.gpus, self._most.gpus)))
        return Share(max(share.cpus, min(2 * share.cpus, self._most.cpus)), 0.0)


def shares(settings: Settings) -> ResourceAllocator:
    """The shares of a search on the Ray that was joined."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = Share(*(max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")))
    return ResourceAllocator(Share(settings.cpus_per_trial, settings.gpus_per_trial), most)
