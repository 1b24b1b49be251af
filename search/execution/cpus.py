"""The CPUs and GPUs that this process may use, and where that is said."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from analysis.formatting import counted

SCHEDULERS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NSLOTS", "LSB_DJOB_NUMPROC", "PBS_NUM_PPN")
"""Where batch systems say how many CPUs a job has on this machine."""

WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of the workers, set before they import torch: one thread per trial, one trial per core."""

SLURM_GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Where Slurm says which of a machine's GPUs a job has; it normally sets CUDA_VISIBLE_DEVICES as well."""


class Limit(NamedTuple):
    """A number of CPUs, and where it comes from in words; "" if it is the whole machine."""

    cpus: int
    source: str


def allowed_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use, at least 1; see `cpu_limit`."""
    return cpu_limit(proc, cgroups).cpus


def cpu_limit(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Limit:
    """CPUs that this process may use, at least 1, and what limits them.

    The smallest of: the machine's, those that it is bound to (taskset, Slurm, `docker --cpuset-cpus`), the quota of
    its control groups (`docker --cpus`, Kubernetes), and what a batch system has given to the job.

    Args:
        proc: Where Linux tells the control groups of a process.
        cgroups: Where their limits are.
    """
    counts = [(float(os.cpu_count() or 1), "")]
    if hasattr(os, "sched_getaffinity"):
        counts.append((len(os.sched_getaffinity(0)), "CPU affinity"))
    counts += [(quota, "the quota of its control group") for quota in _quotas(proc, cgroups)]
    jobs = {name: os.environ.get(name, "") for name in SCHEDULERS}
    counts += [(float(given), f"{name}={given}") for name, given in jobs.items() if given.isdecimal()]
    # where several say the same, the batch system is what a person has asked
    least = min(count for count, _ in counts)
    source = [said for count, said in counts if count == least][-1] if least < counts[0][0] else ""
    return Limit(max(1, int(least)), source)


def slurm_gpus(present: int) -> str:
    """The value of CUDA_VISIBLE_DEVICES that keeps to the GPUs of a Slurm job; "" where nothing has to be set.

    Args:
        present: GPUs that this process sees.

    >>> import os
    >>> os.environ["SLURM_JOB_GPUS"] = "2-3,6"
    >>> slurm_gpus(8), slurm_gpus(3)
    ('2,3,6', '')
    >>> del os.environ["SLURM_JOB_GPUS"]
    """
    given = next((os.environ[name] for name in SLURM_GPUS if os.environ.get(name)), "")
    if "CUDA_VISIBLE_DEVICES" in os.environ or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", given):
        return ""
    spans = [[int(end) for end in part.split("-")] for part in given.split(",")]
    chosen = [number for span in spans for number in range(span[0], span[-1] + 1)]
    # fewer are seen than the machine has: the job's control group hides the others and numbers its own from 0
    return ",".join(map(str, chosen)) if max(chosen) < present and len(chosen) < present else ""


def machine_share(gpus: int | None) -> str:
    """What trials may use of this machine, and where that is said, in a sentence.

    Args:
        gpus: GPUs that this process sees; `None` where trials use none.
    """
    limit, whole = cpu_limit(), os.cpu_count() or 1
    said = f"trials may use all {whole} CPUs of this machine"
    if limit.cpus < whole:
        said = f"trials may use {counted(limit.cpus, 'CPU')} of this machine's {whole} ({limit.source})"
    if gpus is None:
        return said
    named = ("CUDA_VISIBLE_DEVICES", *SLURM_GPUS)
    source = next((f"{name}={os.environ[name]}" for name in named if os.environ.get(name)), "all of this machine's")
    return f"{said} and {counted(gpus, 'GPU')} ({source})"


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """CPUs that each control group of this process may use, those around it included; both versions."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = Path(name.lstrip("/"))
        # in a container the group's own name may not be seen, and the root is the group
        for group in {place, *place.parents, Path()}:
            with suppress(OSError, ValueError):
                if controllers:
                    folder = next(path for path in (cgroups / controllers, cgroups / "cpu") if path.is_dir()) / group
                    quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
                    period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
                else:
                    quota, period = (cgroups / group / "cpu.max").read_text(encoding="ascii").split()
                if float(quota) > 0:  # -1 and "max" are none
                    yield float(quota) / float(period)
