"""What job scripts see of Slurm: `#SBATCH` lines, variables, CPU affinity, signals, `scontrol requeue`.

Nothing here is Slurm. A job is a process group that runs the script as `sbatch` would run it; `srun` runs its command
on this machine whatever node it names. There is no SIGKILL some time after SIGTERM (`KillWait`), no second host, and no
shared file system.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""

SCONTROL = """#!/bin/bash
case "$1" in
    requeue) echo "$2" >> "$FAKE_SLURM/requeued" ;;
    show) tr , '\\n' <<< "$3" ;;
    *) exit 1 ;;
esac
"""


class Job:
    """A job, which may run several times.

    Args:
        number: Its id.
        line: The script with its arguments.
        directives: Options of `sbatch`, those of the script's `#SBATCH` lines among them.
        environment: Of the script.
        place: Where it runs; its output is in `slurm-ID.out`.
    """

    def __init__(
        self, number: int, line: list[str], directives: dict[str, str], environment: dict[str, str], place: Path
    ) -> None:
        self.number, self._line, self.directives, self._place = number, line, directives, place
        self._environment = environment | {"SLURM_JOB_ID": str(number)}
        self._output = place / f"slurm-{number}.out"
        self.restarts = -1
        self.start()

    def start(self) -> None:
        """Begins, or begins again."""
        self.restarts += 1
        cpus = sorted(os.sched_getaffinity(0))[: int(self.directives["cpus-per-task"])]
        hours, minutes, seconds = map(int, self.directives["time"].split(":"))
        end = int(time.time()) + 3600 * hours + 60 * minutes + seconds
        varying = {"SLURM_RESTART_COUNT": str(self.restarts), "SLURM_JOB_END_TIME": str(end)}
        mode = "a" if self.directives.get("open-mode") == "append" else "w"
        with self._output.open(mode) as output:
            self._shell = subprocess.Popen(
                self._line, cwd=self._place, env=self._environment | varying, start_new_session=True,
                stdout=output, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            )  # fmt: skip

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return self._output.read_text()

    def _family(self) -> list[psutil.Process]:
        shell = psutil.Process(self._shell.pid)
        return [*shell.children(recursive=True), shell]

    def warn(self) -> None:
        """The job has little time left: the signal that its script asks for, to those that it asks for."""
        receiver, name, _ = re.fullmatch(r"(B:)?(\w+)@(\d+)", self.directives["signal"]).groups()
        number = signal.Signals[f"SIG{name}"]
        for process in self._family():
            if (process.pid == self._shell.pid) == (receiver == "B:"):
                process.send_signal(number)

    def cancel(self, number: int = signal.SIGTERM) -> None:
        """`scancel`, or a machine that fails: a signal to every process of the job."""
        for process in self._family():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def wait(self, seconds: float = 600) -> int:
        """The exit code of the script."""
        return self._shell.wait(seconds)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._shell.poll() is None

    @property
    def requeued(self) -> bool:
        """Whether it was put back into the queue since it began; the bare id of an array means all of its tasks."""
        file = Path(self._environment["FAKE_SLURM"]) / "requeued"
        names = {str(self.number)}
        if array := self._environment.get("SLURM_ARRAY_JOB_ID"):
            names |= {array, f"{array}_{self._environment['SLURM_ARRAY_TASK_ID']}"}
        ids = file.read_text().split() if file.exists() else []
        return sum(name in names for name in ids) == self.restarts + 1


class FakeSlurm:
    """A machine that takes jobs.

    Args:
        place: A folder of its own.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bin = place / "bin"
        self._bin.mkdir(parents=True)
        self._jobs: list[Job] = []
        self._number = 100
        tune = f'#!/bin/bash\nexec {sys.executable} -m search.cli "$@"\n'
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, "longtail-tune": tune}.items():
            self.install(name, text)

    def install(self, name: str, text: str) -> None:
        """Puts a program first on the path of the jobs."""
        file = self._bin / name
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def sbatch(self, script: Path, *arguments: str, options: dict[str, str], **environment: str) -> list[Job]:
        """Submits a script; its jobs run at once.

        Args:
            script: The job script.
            *arguments: Of the script.
            options: Options of `sbatch`, which come before those of the script.
            **environment: Further variables.

        Returns:
            A job, or one for each task of an array.
        """
        written = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE))
        directives = written | options
        path = [self._bin, Path(sys.executable).parent, os.environ["PATH"]]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMP_"))}
        shared = kept | environment | {
            "FAKE_SLURM": str(self._place), "PATH": os.pathsep.join(map(str, path)), "PYTHONPATH": str(ROOT),
            "SLURM_CPUS_PER_TASK": directives["cpus-per-task"],
            "SLURM_CPUS_ON_NODE": str(os.cpu_count()), "SLURM_JOB_NUM_NODES": directives["nodes"],
            "SLURM_SUBMIT_DIR": str(ROOT),
        }  # fmt: skip
        first, last = map(int, directives["array"].split("-")) if "array" in directives else (0, 0)
        made = []
        for task in range(first, last + 1):
            self._number += 1
            own = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": str(self._number - task)}
            line = ["bash", str(script), *arguments]
            made.append(
                Job(self._number, line, directives, shared | (own if "array" in directives else {}), self._place)
            )
        self._jobs += made
        return made

    def end(self) -> None:
        """Kills what still runs."""
        for job in self._jobs:
            if job.runs:
                job.cancel(signal.SIGKILL)
