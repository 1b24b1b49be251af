"""Keeps processes that train trials of a search, and a driver where the search has none."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from analysis.text import command, echo, sentence
from search.execution.cpus import WORKER_ENVIRONMENT, allowed_cpus, machine_share, slurm_gpus
from search.execution.interrupts import Interrupts
from search.settings import Settings, SettingsError
from search.workers import queue
from search.workers.queue import HeartbeatMonitor, WorkerQueue
from search.workspace.lock import running
from trainables.pipeline.leases import Lock

LOOK_SECONDS = 0.5
"""Time between two looks at the processes and at the driver."""

WAIT_SECONDS = 600.0
"""Time for which a worker waits for a search that does not exist yet and that it cannot start."""

EARLY_EXIT_SECONDS, MAX_EARLY_EXITS = 60.0, 5
"""A process that ends within this time has ended early; after so many in a row, the worker gives up."""

ROOT = Path(__file__).resolve().parents[2]

WAIT: Literal["wait"] = "wait"
DRIVE: Literal["drive"] = "drive"
RETRY: Literal["retry"] = "retry"

Step = Literal["wait", "drive", "retry"] | int
"""What a worker does: wait for the driver, start one, count the death of its own and wait, or end with an exit code."""


def next_step(
    driver: dict[str, Any] | None, at_begin: str | None, at_start: str | None, code: int | None,
    silent: bool, locked: Callable[[], bool],
) -> Step:  # fmt: skip
    """What a worker of a search that exists does about its driver.

    Args:
        driver: Content of driver.json.
        at_begin: The session there when this worker began, if a person may have started it to continue that one.
        at_start: The session there when this worker started its own driver.
        code: Exit code of the worker's own driver if it has just ended.
        silent: Whether the driver's heartbeat has not changed for too long.
        locked: Whether a process holds the lock of the search.
    """
    session, ended = (None, queue.HANDED_OVER) if driver is None else (driver["session"], driver["ended"])
    if code is not None:
        # a driver that ends before it has made a session leaves the one before it in the file
        if session == at_start:
            ended = ""
        if code == 0 or ended in (queue.COMPLETE, queue.STOPPED) or (code > 0 and not ended and not locked()):
            return code
        # 2: another driver holds the lock
        return WAIT if ended == queue.HANDED_OVER or code == 2 else RETRY
    if ended == queue.COMPLETE:
        return 0
    if ended == queue.STOPPED and session != at_begin:
        return 1
    # a lock that is free proves nothing on a shared folder whose locks do not reach other machines
    return DRIVE if (ended or silent) and not locked() else WAIT


@dataclass(frozen=True)
class Process:
    """A process that trains trials.

    Args:
        popen: The process.
        worker: Its name in the queue.
        began: Time of its start, of `time.monotonic`.
    """

    popen: subprocess.Popen[bytes]
    worker: str
    began: float


def run(options: argparse.Namespace) -> int:
    """Works for a search until it has ended or a signal comes."""
    with Interrupts() as interrupts:
        worker = Worker(Path(options.output), options.search, options.processes, options.start, options.prog)
        with interrupts.deferred(lambda: worker.forward(interrupts.number)):
            try:
                while not interrupts.received:
                    code = worker.look()
                    if code is not None:
                        return code
                    time.sleep(LOOK_SECONDS)
                complete = worker.wait(interrupts.number)
            finally:
                worker.end()
    return 0 if complete else interrupts.exit_code


def process_environments(
    settings: Settings, cpus: int, gpus: Sequence[str], most: int | None = None
) -> list[dict[str, str]]:
    """The environment variables of each process: with GPUs, those of its trials.

    Args:
        settings: Settings of the search.
        cpus: CPUs that the worker may use.
        gpus: Names of the GPUs that it may use.
        most: Maximum number of processes.

    >>> half = Settings(name="a", space="s", data="digits-lt", gpus_per_trial=0.5)
    >>> [each["CUDA_VISIBLE_DEVICES"] for each in process_environments(half, 3, ["2", "5"])]
    ['2', '2', '5']

    Raises:
        SettingsError: A trial needs more than the worker has.
    """
    share = settings.gpus_per_trial
    fit = int(cpus / settings.cpus_per_trial + 1e-9)
    found: list[dict[str, str]] = [{}] * (fit if most is None else most)
    if share:
        whole = max(1, round(share))
        groups = [gpus[first : first + whole] for first in range(0, len(gpus) - whole + 1, whole)]
        several = max(1, int(1 / share + 1e-9))
        shared = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups for _ in range(several)]
        found = shared[: len(found)]
    if not found:
        raise SettingsError(
            f"a trial asks for {settings.cpus_per_trial:g} CPUs and {share:g} GPUs, but this worker may use {cpus} "
            f"CPUs and {len(gpus)} GPUs: ask for more, or resume the search with a smaller --cpus-per-trial"
        )
    return found


class Worker:
    """The processes of one `longtail-tune worker`.

    Args:
        output: Folder of results.
        name: Name of the search.
        processes: Trials to train at the same time; `None` for all that fit.
        start: Options of `longtail-tune search` that start the search if it does not exist. A worker without them may
            continue a search that was stopped before; one with them may be a job that starts late.
        prog: Name of the command, for messages.
    """

    def __init__(self, output: Path, name: str, processes: int | None, start: Sequence[str], prog: str) -> None:
        self._output, self._name, self._asked, self._start, self._prog = output, name, processes, list(start), prog
        self._folder = output / name
        self._queue = WorkerQueue(self._folder)
        self._candidate = Lock(output / f".{name}.driver.lock")
        self._driver: subprocess.Popen[bytes] | None = None
        self._environments: list[dict[str, str]] | None = None
        self._processes: dict[int, Process] = {}
        self._signalled: set[int] = set()
        self._early_exits = self._deaths = 0
        self._monitor = HeartbeatMonitor()
        self._began = time.monotonic()
        driver = self._queue.driver
        self._at_begin = driver["session"] if driver is not None and driver["ended"] and not start else None
        self._at_start: str | None = None
        self._checked = ""

    @property
    def _session(self) -> str | None:
        """The session of the last driver."""
        driver = self._queue.driver
        return None if driver is None else driver["session"]

    # --- one round ----------------------------------------------------------------------------------------

    def look(self) -> int | None:
        """Starts the processes and the driver that are missing; the exit code of the command if it has to end."""
        code = None if self._driver is None else self._driver.poll()
        if self._driver is None or code is not None:
            step = self._next_step(code)
            if code is not None:
                self._driver = None
                self._candidate.release(remove=True)
            if isinstance(step, int):
                if code is None:
                    self._print_end(complete=step == 0)
                return step
            if step == DRIVE:
                self._drive()
            elif step == RETRY:
                _say(f"{self._prog}: the driver ended with {code}; a worker starts it again", file=sys.stderr)
                self._deaths += 1
                if self._deaths == MAX_EARLY_EXITS:
                    return 1
        if self._exists:
            self._check_driver()
            return self._keep_processes()
        if not self._start and time.monotonic() - self._began > WAIT_SECONDS:
            raise SettingsError(
                f"{self._name}: there is no such search in {self._output}; start it with --workers, or give the "
                f"options to start it with behind --"
            )
        return None

    @property
    def _exists(self) -> bool:
        return (self._folder / "search.json").is_file()

    def _print_end(self, complete: bool) -> None:
        if complete:
            _say(f"{self._prog}: the search {sentence(self._name)} is complete")
            return
        resume = command("longtail-tune", "worker", self._name, "--output", self._output)
        _say(
            f"{self._prog}: the search {sentence(self._name)} was stopped before it was complete; to continue it: "
            f"{resume}", file=sys.stderr,
        )  # fmt: skip

    # --- the driver ---------------------------------------------------------------------------------------

    def _next_step(self, code: int | None = None) -> Step:
        if not self._exists and code is None:
            return DRIVE if self._start else WAIT
        driver = self._queue.driver
        silent = (
            driver is not None and not driver["ended"]
            and self._monitor.age("driver", (driver["session"], driver["heartbeat"])) > queue.HEARTBEAT_TIMEOUT
        )  # fmt: skip
        return next_step(driver, self._at_begin, self._at_start, code, silent, lambda: running(self._folder) is True)

    def _drive(self) -> None:
        """Starts a driver, unless another worker does."""
        self._output.mkdir(parents=True, exist_ok=True)
        if not self._candidate.acquire():
            return
        if self._next_step() != DRIVE:
            self._candidate.release(remove=True)
            return
        words = ["--output", str(self._output)]
        if self._exists:
            settings = Settings.stored(self._output, self._name, self._prog)
            many = settings.workers or len(self._fitting())
            words = ["--resume", self._name, *words, "--workers", str(many)]
        else:
            workers = [] if "--workers" in self._start else ["--workers", str(self._asked or allowed_cpus())]
            words = ["--name", self._name, *words, *self._start, *workers]
        _say(f"{self._prog}: no driver; starting it: {command('longtail-tune', 'search', *words)}")
        self._at_start = self._session
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "search", *words], env=_environment({}), start_new_session=True
        )

    def _check_driver(self) -> None:
        """Refuses a driver with other code, or that sees the folder under another path.

        Raises:
            SettingsError: The driver differs.
        """
        driver = self._queue.driver
        if driver is None or driver["ended"] or driver["session"] == self._checked:
            return
        if driver["code"] != queue.installation():
            raise SettingsError(
                f"{self._name}: its driver has {driver['code']}, this worker has {queue.installation()}: use the "
                "same installation"
            )
        there = Path(driver["folder"])
        if not there.is_dir() or not there.samefile(self._folder):
            raise SettingsError(
                f"{self._name}: its driver sees the folder at {there}, where this machine does not: mount it at the "
                "same path"
            )
        self._checked = driver["session"]

    # --- the processes ------------------------------------------------------------------------------------

    def _fitting(self) -> list[dict[str, str]]:
        """The environments of the processes that fit."""
        if self._environments is None:
            settings = Settings.stored(self._output, self._name, self._prog)
            visible = torch.cuda.device_count() if settings.gpus_per_trial else 0
            names = os.environ.get("CUDA_VISIBLE_DEVICES") or slurm_gpus(visible) or ",".join(map(str, range(visible)))
            gpus = names.split(",")[:visible]
            self._environments = process_environments(settings, allowed_cpus(), gpus, self._asked)
            share = machine_share(len(gpus) if settings.gpus_per_trial else None)
            _say(f"{self._prog}: {len(self._environments)} trials at the same time: {share}")
        return self._environments

    def _keep_processes(self) -> int | None:
        """Starts a process for each one that is missing; 1 if they end early again and again."""
        for number, environment in enumerate(self._fitting()):
            process = self._processes.get(number)
            if process is not None:
                code = process.popen.poll()
                if code is None:
                    continue
                driver = self._queue.driver
                if code == 0 and driver is not None and driver["ended"]:
                    continue  # the search has ended; a driver that resumes it will need a process again
                self._queue.remove(process.worker)
                early = code not in (0, queue.TRIAL_FAILED) and time.monotonic() - process.began < EARLY_EXIT_SECONDS
                self._early_exits = self._early_exits + 1 if early else 0
                if self._early_exits == MAX_EARLY_EXITS:
                    _say(f"{self._prog}: its processes end early, the last one with exit code {code}", file=sys.stderr)
                    return 1
            name = queue.new_worker()
            line = [sys.executable, "-m", "search.workers.process", str(self._folder), name, str(os.getpid())]
            popen = subprocess.Popen(line, env=_environment(environment), start_new_session=True)
            self._processes[number] = Process(popen, name, time.monotonic())
        return None

    # --- the end ------------------------------------------------------------------------------------------

    def forward(self, number: int) -> None:
        """Signals the driver, and asks the processes to return their trials after the epoch; each of them once."""
        drivers = [] if self._driver is None else [(self._driver, number)]
        for popen, each in [*drivers, *((process.popen, signal.SIGTERM) for process in self._processes.values())]:
            if popen.pid not in self._signalled:
                self._signalled.add(popen.pid)
                popen.send_signal(each)

    def wait(self, number: int) -> bool:
        """Waits for the driver and the processes to end; whether the search is complete.

        Args:
            number: The signal that ends this worker; one that was just being started when it came gets it now.
        """
        self.forward(number)
        for process in self._processes.values():
            process.popen.wait()
        if self._driver is not None:
            self._driver.wait()
        driver = self._queue.driver
        return driver is not None and driver["ended"] == queue.COMPLETE

    def end(self) -> None:
        """Ends all processes that still run."""
        for process in self._processes.values():
            process.popen.terminate()
        for process in self._processes.values():
            try:
                process.popen.wait(queue.HEARTBEAT_TIMEOUT)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.popen.kill()
                process.popen.wait()
            self._queue.remove(process.worker)
        if self._driver is not None:
            self._driver.terminate()
            self._driver.wait()
        self._candidate.release(remove=True)


def _say(text: str, file: TextIO | None = None) -> None:
    """Prints a line and flushes it, because the output of a job is a file that people read while the job runs."""
    echo(text, file=file)
    (file or sys.stdout).flush()


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path, **more}
