"""The CPUs that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SCHEDULERS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NSLOTS", "LSB_DJOB_NUMPROC", "PBS_NUM_PPN")
"""Where batch systems say how many CPUs a job has on this machine."""


def allowed_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use, at least 1.

    The smallest of: the machine's, those that it is bound to (taskset, Slurm, `docker --cpuset-cpus`), the quota of
    its control groups (`docker --cpus`, Kubernetes), and what a batch system has given to the job.

    Args:
        proc: Where Linux tells the control groups of a process.
        cgroups: Where their limits are.
    """
    counts = [float(os.cpu_count() or 1), *_quotas(proc, cgroups)]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    counts += [float(os.environ[name]) for name in SCHEDULERS if os.environ.get(name, "").isdecimal()]
    return max(1, int(min(counts)))


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
