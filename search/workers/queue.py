"""The queue between the driver of a search and its workers: files in a folder that all of them share.

    queue/driver.json                        the driver's session, its heartbeat, and how it ended
    queue/workers/WORKER.json                the heartbeat of a worker
    queue/SESSION/offered/JOB.json           a trial that waits for a worker
    queue/SESSION/taken/JOB@WORKER.json      the same file, renamed by the worker that has taken it
    queue/SESSION/reports/JOB@WORKER.N.json  the reports of the trial, in order
    queue/SESSION/answers/JOB@WORKER.N.json  whether the trial continues, where that had to be decided

A file is written to a temporary file, then renamed. A trial is taken by renaming its file, which succeeds for one
worker only. A heartbeat is a counter: whoever watches it measures with its own clock how long it has not changed, so
the clocks of the machines need not agree.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis import files
from trainables.pipeline.keys import code_version

FOLDER = "queue"
"""Folder of the queue in that of the search."""

HEARTBEAT_SECONDS = 2.0
"""Time between two heartbeats."""

HEARTBEAT_TIMEOUT = 120.0
"""Seconds without a heartbeat after which a driver or a worker counts as lost: longer than a shared folder takes to
show what another machine has written."""

POLL_SECONDS = 0.1
"""Time between two reads of the folder."""

COMPLETE, STOPPED, HANDED_OVER = "complete", "stopped", "handed over"
"""How a driver ended: the search is complete; only a person continues it; another driver may continue it."""

DRIVER, WORKERS = "driver.json", "workers"

TRIAL_FAILED = 3
"""Exit code of a worker's process whose trial has failed: it must not train another one, whose GPU context may be
damaged."""

UNREADABLE = (OSError, ValueError)
"""Errors of a file that exists but cannot be read now, e.g. because a network file system has replaced it."""


def installation() -> str:
    """What a worker must have in common with the driver, so that all trials of a search stand on the same."""
    return f"training code {code_version()}, torch {version('torch')}"


class SessionOver(Exception):
    """The driver that gave out a trial has ended, or has given the trial to another worker."""


def read(path: Path) -> dict[str, Any] | None:
    """The content of a file; `None` if there is none.

    Raises:
        OSError: It exists but cannot be read.
        ValueError: It is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a temporary file and renames it.

    Raises:
        OSError: The folder does not exist or cannot be written.
    """
    files.write(path, json.dumps(content), sync=False)


def names(folder: Path) -> list[str]:
    """Names of the complete files in a folder, sorted, without their suffix."""
    with suppress(FileNotFoundError):
        return sorted(name.removesuffix(".json") for name in os.listdir(folder) if not name.startswith("."))
    return []


class Heartbeat:
    """A thread that writes a counter to a file every `HEARTBEAT_SECONDS`.

    Args:
        path: The file.
        **content: Further content of the file.
    """

    def __init__(self, path: Path, **content: Any) -> None:
        self._path, self._content, self._count = path, content, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._write()
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # what writes results says so where the disk is full
                self._write()

    def _write(self) -> None:
        self._count += 1
        write(self._path, {**self._content, "heartbeat": self._count})

    def end(self, **content: Any) -> None:
        """Stops and writes the content a last time; without content, removes the file."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            if content:
                write(self._path, {**self._content, **content, "heartbeat": self._count})
            else:
                self._path.unlink()


class HeartbeatMonitor:
    """How long heartbeats have not changed, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}

    def age(self, name: str, heartbeat: Any = None) -> float:
        """Seconds for which a heartbeat has not changed.

        Args:
            name: Whose heartbeat it is.
            heartbeat: Its value now; `None` if it could not be read, which counts as unchanged.
        """
        now = time.monotonic()
        before, since = self._seen.get(name, (heartbeat, now))
        if heartbeat is None:
            heartbeat = before
        if before != heartbeat:
            since = now
        self._seen[name] = heartbeat, since
        return now - since


# ---------------------------------------- the driver's side


@dataclass(frozen=True)
class Event:
    """An event of a trial.

    Args:
        kind: "taken", "report", "returned" by a worker that has to end, or "lost" with its worker.
        job: The trial's name in the queue.
        content: The report, or the reason for the return.
        number: Number of the report.
    """

    kind: str
    job: str
    content: dict[str, Any]
    number: int = 0


class DriverQueue:
    """The queue as the driver of a search sees it; the queue of an earlier driver is removed.

    Args:
        folder: The search's folder.
        code: Versions that workers must share with the driver.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path, code: str = "") -> None:
        self._root = folder.resolve() / FOLDER
        session = uuid.uuid4().hex[:12]
        self._place = self._root / session
        (self._root / WORKERS).mkdir(parents=True, exist_ok=True)
        for name in ("offered", "taken", "reports", "answers"):
            (self._place / name).mkdir(parents=True)
        self._heartbeat = Heartbeat(
            self._root / DRIVER, session=session, folder=str(self._root.parent), code=code, ended=""
        )
        # workers that still train for an earlier driver find its folder gone
        for old in self._root.iterdir():
            if old.is_dir() and old.name not in (WORKERS, session):
                shutil.rmtree(old, ignore_errors=True)
        _sweep(self._root)
        self._count = 0
        self._taken: dict[str, str] = {}  # job to worker
        self._next: dict[str, int] = {}  # job to the number of its next report
        self._missing: set[str] = set()
        self._monitor = HeartbeatMonitor()

    def offer(self, config: dict[str, Any]) -> str:
        """Offers a trial to all workers; returns its name in the queue."""
        self._count += 1
        job = f"{self._count:06d}"
        write(self._place / "offered" / f"{job}.json", config)
        return job

    def withdraw(self, job: str) -> bool:
        """Withdraws a trial; `False` if a worker has taken it."""
        try:
            (self._place / "offered" / f"{job}.json").unlink()
        except FileNotFoundError:
            # NFS answers so, too, if it repeats a removal that has succeeded: then no worker takes the trial for as
            # long as a shared folder may need to show that one has
            taken = any(name.startswith(f"{job}@") for name in names(self._place / "taken"))
            if taken or self._monitor.age(f"withdrawn {job}", True) <= HEARTBEAT_TIMEOUT:
                return False
        self._next[job] = 0  # `events` ignores it from now on
        return True

    def events(self) -> Iterator[Event]:
        """The events since the last call; close a trial that has ended before the next call."""
        for name in names(self._place / "taken"):
            job, _, worker = name.partition("@")
            if job not in self._taken and job not in self._next:
                self._taken[job], self._next[job] = worker, 0
                yield Event("taken", job, {})
        for job, worker in list(self._taken.items()):
            while job in self._taken:
                path = self._place / "reports" / f"{job}@{worker}.{self._next[job]}.json"
                try:
                    content = read(path)
                except UNREADABLE:
                    break
                if content is None:
                    break
                path.unlink(missing_ok=True)
                number, self._next[job] = self._next[job], self._next[job] + 1
                yield Event("returned" if "returned" in content else "report", job, content, number)
            if job in self._taken and self._lost(worker):
                yield Event("lost", job, {})

    def _lost(self, worker: str) -> bool:
        try:
            found = read(self._root / WORKERS / f"{worker}.json")
        except UNREADABLE:
            return self._monitor.age(worker) > HEARTBEAT_TIMEOUT
        if found is not None:
            self._missing.discard(worker)
            return self._monitor.age(worker, found["heartbeat"]) > HEARTBEAT_TIMEOUT
        # it may have reported after its reports were read: it is lost when the next call finds no report either
        known = worker in self._missing
        self._missing.add(worker)
        return known

    def answer(self, job: str, number: int, proceed: bool) -> None:
        """Answers a report after which the trial waits: whether it continues."""
        write(self._place / "answers" / f"{job}@{self._taken[job]}.{number}.json", {"continue": proceed})

    def close(self, job: str) -> None:
        """Drops a trial that has ended or is lost; a worker that still trains it gets `SessionOver`."""
        worker = self._taken.pop(job, None)
        if worker is not None:
            (self._place / "taken" / f"{job}@{worker}.json").unlink(missing_ok=True)

    def end(self, how: str) -> None:
        """Ends the session and removes its trials.

        Args:
            how: `COMPLETE`, `STOPPED` or `HANDED_OVER`.
        """
        self._heartbeat.end(ended=how)
        for folder in [self._place] + [self._root / WORKERS] * (how == COMPLETE):
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Removes what drivers, workers and machines that were killed have left."""
    for folder in (root, root / WORKERS):
        files.sweep(folder)
    for heartbeat in (root / WORKERS).glob("[!.]*.json"):
        with suppress(OSError):
            if time.time() - heartbeat.stat().st_mtime > files.ABANDONED_SECONDS:
                heartbeat.unlink()


# ---------------------------------------- the workers' side


@dataclass(frozen=True)
class Job:
    """A trial that a worker has taken.

    Args:
        place: Folder of the driver's session.
        name: JOB@WORKER.
        config: Configuration of the trial.
    """

    place: Path
    name: str
    config: dict[str, Any]

    def _check(self) -> None:
        if not (self.place / "taken" / f"{self.name}.json").exists():
            raise SessionOver

    def report(self, number: int, content: dict[str, Any]) -> None:
        """Reports to the driver.

        Raises:
            SessionOver: The driver has dropped this trial.
        """
        self._check()
        try:
            write(self.place / "reports" / f"{self.name}.{number}.json", content)
        except FileNotFoundError:
            raise SessionOver from None

    def answer(self, number: int) -> bool | None:
        """Whether the trial continues after a report; `None` if the driver has not answered yet.

        Raises:
            SessionOver: The driver has dropped this trial.
        """
        path = self.place / "answers" / f"{self.name}.{number}.json"
        try:
            found = read(path)
        except UNREADABLE:
            return None
        if found is None:
            # the driver may answer "stop" and drop the trial between the two reads: SessionOver ends the trial as well
            self._check()
            return None
        path.unlink(missing_ok=True)
        return bool(found["continue"])


class WorkerQueue:
    """The queue as a worker sees it.

    Args:
        folder: The search's folder.
        worker: Name of the worker, which no other one has (default: a new one).
    """

    def __init__(self, folder: Path, worker: str = "") -> None:
        self._root = folder.resolve() / FOLDER
        self.worker = worker or new_worker()
        self._driver: dict[str, Any] | None = None

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Writes the heartbeat of this worker meanwhile."""
        for folder in (self._root, self._root / WORKERS):
            folder.mkdir(exist_ok=True)  # not the search's own folder: a worker must not create that
        heartbeat = Heartbeat(self._root / WORKERS / f"{self.worker}.json")
        try:
            yield
        finally:
            heartbeat.end()

    @property
    def driver(self) -> dict[str, Any] | None:
        """Content of driver.json when it could last be read: "session", "heartbeat", "ended", "folder", "code"; `None`
        before the first driver."""
        with suppress(*UNREADABLE):
            self._driver = read(self._root / DRIVER)
        return self._driver

    def remove(self, worker: str) -> None:
        """Removes the heartbeat of a worker that has ended, so that the driver need not wait for the timeout."""
        with suppress(OSError):
            (self._root / WORKERS / f"{worker}.json").unlink()

    def take(self) -> Job | None:
        """Takes the first trial that waits; `None` if there is none.

        Raises:
            OSError: A trial was taken but cannot be read; this process must end, so that the driver offers it again.
        """
        driver = self.driver
        if driver is None or driver["ended"]:
            return None
        place = self._root / driver["session"]
        for job in names(place / "offered"):
            name = f"{job}@{self.worker}"
            taken = place / "taken" / f"{name}.json"
            # NFS reports a missing file, too, if it repeats a rename that has succeeded: `taken` tells
            with suppress(FileNotFoundError):
                os.rename(place / "offered" / f"{job}.json", taken)
            config = read(taken)
            if config is not None:
                return Job(place, name, config)
        return None


def new_worker() -> str:
    """A name for a worker that no other one has."""
    return f"{files.process_id()}-{uuid.uuid4().hex[:8]}"
