"""Keeps processes that train trials of a search, and a driver where the search has none."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch

from analysis.text import command, echo, sentence
from search.execution.cpus import WORKER_ENVIRONMENT, allowed_cpus, machine_share, slurm_gpus
from search.execution.interrupts import Interrupts
from search.settings import Settings, SettingsError
from search.workers import queue
from search.workers.queue import Silence, WorkerQueue
from search.workspace.lock import running
from trainables.pipeline.leases import Lock

LOOK_SECONDS = 0.5
"""Time between two looks at the processes and at the driver."""

WAIT_SECONDS = 600.0
"""Time for which a worker waits for a search that does not exist yet and that it cannot start."""

QUICK_SECONDS, MOST_QUICK = 60.0, 5
"""A process that ends within this time has ended quickly; after so many in a row, something is wrong with all."""

ROOT = Path(__file__).resolve().parents[2]


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
                complete = worker.wait()
            finally:
                worker.end()
    return 0 if complete else interrupts.exit_code


def places(settings: Settings, cpus: int, gpus: Sequence[str], most: int | None = None) -> list[dict[str, str]]:
    """The environment of each process: with GPUs, the ones that its trials use.

    Args:
        settings: Of the search.
        cpus: CPUs that the worker may use.
        gpus: Names of the GPUs that it may use.
        most: Processes at most.

    >>> half = Settings(name="a", space="s", data="digits-lt", gpus_per_trial=0.5)
    >>> [place["CUDA_VISIBLE_DEVICES"] for place in places(half, 3, ["2", "5"])]
    ['2', '2', '5']

    Raises:
        SettingsError: There is not enough for one trial.
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
        processes: Trials at a time; as many as fit if absent.
        start: Options of `longtail-tune search` with which the search is started if it does not exist.
        prog: Name of the command, for messages.
    """

    def __init__(self, output: Path, name: str, processes: int | None, start: Sequence[str], prog: str) -> None:
        self._output, self._name, self._asked, self._start, self._prog = output, name, processes, list(start), prog
        self._folder = output / name
        self._queue = WorkerQueue(self._folder)
        self._candidate = Lock(output / f".{name}.driver.lock")
        self._driver: subprocess.Popen[bytes] | None = None
        self._places: list[dict[str, str]] | None = None
        self._processes: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._quick = self._deaths = 0
        self._silence = Silence()
        self._began = time.monotonic()
        driver = self._queue.driver
        self._earlier = None if driver is None else driver["session"]
        self._checked = ""

    # --- a look at everything -----------------------------------------------------------------------------

    def look(self) -> int | None:
        """Starts what has to run; the exit code of the command if it has to end."""
        if self._driver is not None:
            code = self._driver.poll()
            if code is not None:
                return self._driver_ended(code)
        elif (ended := self._ended()) is not None:
            return ended
        elif self._needs_driver():
            self._drive()
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

    def _ended(self) -> int | None:
        """The exit code if the search has ended since this worker has begun, or was complete before."""
        driver = self._queue.driver
        if driver is None or driver["ended"] in ("", queue.LEFT):
            return None
        if driver["ended"] == queue.COMPLETE:
            _say(f"{self._prog}: the search {sentence(self._name)} is complete")
            return 0
        if driver["session"] == self._earlier:
            return None
        _say(f"{self._prog}: the search {sentence(self._name)} was ended before it was complete", file=sys.stderr)
        return 1

    # --- the driver ---------------------------------------------------------------------------------------

    def _needs_driver(self) -> bool:
        if not self._exists:
            return bool(self._start)
        driver = self._queue.driver
        if driver is None:
            return running(self._folder) is not True
        if not driver["ended"]:
            # a lock that is free proves nothing on a shared folder whose locks do not reach other machines
            silent = self._silence.seconds("driver", (driver["session"], driver["beat"]))
            return silent > queue.SILENCE_SECONDS and running(self._folder) is not True
        return running(self._folder) is not True

    def _drive(self) -> None:
        """Starts a driver, unless another worker does."""
        self._output.mkdir(parents=True, exist_ok=True)
        if not self._candidate.acquire():
            return
        if not self._needs_driver():
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
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "search", *words], env=_environment({}), start_new_session=True
        )

    def _driver_ended(self, code: int) -> int | None:
        """What the end of the own driver means for this worker; `None` to continue."""
        self._driver = None
        self._candidate.release(remove=True)
        driver = self._queue.driver
        ended = "" if driver is None or driver["session"] == self._earlier else driver["ended"]
        refused = code > 0 and not ended and running(self._folder) is not True
        if code == 0 or refused or ended in (queue.COMPLETE, queue.STOPPED):
            return code
        if ended != queue.LEFT and code != 2:
            _say(f"{self._prog}: the driver ended with {code}; a worker starts it again", file=sys.stderr)
            self._deaths += 1
        return 1 if self._deaths == MOST_QUICK else None

    def _check_driver(self) -> None:
        """Refuses a driver with other code, or that sees the folder at another place.

        Raises:
            SettingsError: It is so.
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
        if self._places is None:
            settings = Settings.stored(self._output, self._name, self._prog)
            visible = torch.cuda.device_count() if settings.gpus_per_trial else 0
            names = os.environ.get("CUDA_VISIBLE_DEVICES") or slurm_gpus(visible) or ",".join(map(str, range(visible)))
            gpus = names.split(",")[:visible]
            self._places = places(settings, allowed_cpus(), gpus, self._asked)
            share = machine_share(len(gpus) if settings.gpus_per_trial else None)
            _say(f"{self._prog}: {len(self._places)} at a time: {share}")
        return self._places

    def _keep_processes(self) -> int | None:
        """Starts processes in the place of those that have ended; 1 if they do so again and again."""
        for number, place in enumerate(self._fitting()):
            process, began = self._processes.get(number, (None, 0.0))
            if process is not None:
                ended = process.poll()
                if ended is None:
                    continue
                driver = self._queue.driver
                if ended == 0 and driver is not None and driver["ended"]:
                    continue  # the search has ended; a driver that resumes it will need a process again
                self._forget(process)
                quick = ended not in (0, queue.FRESH) and time.monotonic() - began < QUICK_SECONDS
                self._quick = self._quick + 1 if quick else 0
                if self._quick == MOST_QUICK:
                    _say(f"{self._prog}: its processes end at once, the last one with {ended}", file=sys.stderr)
                    return 1
            line = [sys.executable, "-m", "search.workers.process", str(self._folder)]
            process = subprocess.Popen(line, env=_environment(place), start_new_session=True)
            self._processes[number] = process, time.monotonic()
        return None

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        """Tells the driver that a process has ended, which it could not do itself."""
        for beat in (self._folder / queue.FOLDER / queue.WORKERS).glob(f"{socket.gethostname()}-{process.pid}-*.json"):
            with suppress(OSError):
                beat.unlink()

    # --- the end ------------------------------------------------------------------------------------------

    def forward(self, number: int) -> None:
        """Passes a signal on to the driver; the processes give their trials back when an epoch has ended."""
        if self._driver is not None:
            self._driver.send_signal(number)
        for process, _ in self._processes.values():
            process.terminate()

    def wait(self) -> bool:
        """Waits for everything that was told to end; whether the search is complete."""
        for process, _ in self._processes.values():
            process.wait()
        if self._driver is not None:
            self._driver.wait()
        driver = self._queue.driver
        return driver is not None and driver["ended"] == queue.COMPLETE

    def end(self) -> None:
        """Ends everything that still runs."""
        processes = [process for process, _ in self._processes.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(queue.SILENCE_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
                process.wait()
            self._forget(process)
        if self._driver is not None:
            self._driver.terminate()
            self._driver.wait()
        self._candidate.release(remove=True)


def _say(text: str, file: TextIO | None = None) -> None:
    """Prints a line at once: the output of a job is a file, which people read while the job runs."""
    echo(text, file=file)
    (file or sys.stdout).flush()


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path, **more}
