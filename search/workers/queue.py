"""The queue between the driver of a search and its workers: files in a folder that all of them share.

    queue/driver.json                        the driver's session, its beat, and how it ended
    queue/workers/WORKER.json                the beat of a worker
    queue/SESSION/offered/JOB.json           a trial that waits for a worker
    queue/SESSION/taken/JOB@WORKER.json      the same file, moved by the worker that has taken it
    queue/SESSION/reports/JOB@WORKER.N.json  what the trial has reported, in order
    queue/SESSION/answers/JOB@WORKER.N.json  whether the trial continues, where that had to be decided

A file is written beside its place and moved into it, so that nobody reads half of one. A trial is taken by moving its
file, which succeeds for one worker only. A beat is a number that grows: whoever watches it measures with its own clock
how long it has stood still, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.pipeline.keys import code_version

FOLDER = "queue"
"""Folder of the queue in that of the search."""

BEAT_SECONDS = 2.0
"""Time between two beats."""

SILENCE_SECONDS = 120.0
"""Time without a beat after which a driver or a worker counts as lost: longer than a shared folder takes to show what
another machine has written."""

POLL_SECONDS = 0.1
"""Time between two looks into the folder."""

COMPLETE, STOPPED, LEFT = "complete", "stopped", "left"
"""How a driver ended: the search is complete; it is not to continue by itself; another driver may continue it."""

DRIVER, WORKERS = "driver.json", "workers"

FRESH = 3
"""Exit code of a worker's process whose trial has failed and been reported: the next one needs another process."""


def installation() -> str:
    """What a worker must have in common with the driver, so that all trials of a search stand on the same."""
    return f"training code {code_version()}, torch {version('torch')}"


class SessionOver(Exception):
    """The driver that gave out a trial is gone, or has given the trial to another worker."""


def read(path: Path) -> dict[str, Any] | None:
    """The content of a file; `None` where it is not there, or is just being replaced."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a file beside its place and moves it there.

    Raises:
        OSError: The folder is gone or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text(json.dumps(content), encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def names(folder: Path) -> list[str]:
    """Names of the whole files in a folder, sorted, without their suffix."""
    with suppress(FileNotFoundError):
        return sorted(name.removesuffix(".json") for name in os.listdir(folder) if not name.startswith("."))
    return []


class Beat:
    """Writes a file again and again, with a number that grows, from a thread of its own.

    Args:
        path: The file.
        **content: What it holds besides.
    """

    def __init__(self, path: Path, **content: Any) -> None:
        self._path, self._content, self._count = path, content, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)
        self._write()
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):  # what writes results says so where the disk is full
                self._write()

    def _write(self) -> None:
        self._count += 1
        write(self._path, {**self._content, "beat": self._count})

    def end(self, **content: Any) -> None:
        """Stops; writes a last time what is given, or removes the file where nothing is."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            if content:
                write(self._path, {**self._content, **content, "beat": self._count})
            else:
                self._path.unlink()


class Silence:
    """How long beats have stood still, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}

    def seconds(self, name: str, beat: Any) -> float:
        """Time for which a beat has not changed.

        Args:
            name: Whose beat it is.
            beat: What it is now.
        """
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != beat:
            since = now
        self._seen[name] = beat, since
        return now - since


# ---------------------------------------- the driver's side


@dataclass(frozen=True)
class Event:
    """What has happened to a trial.

    Args:
        kind: "taken", "report", "returned" by a worker that has to end, or "lost" with its worker.
        job: The trial's name in the queue.
        content: The report, or why the trial was returned.
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
        code: What workers must have in common with the driver, in words.

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
        self._beat = Beat(self._root / DRIVER, session=session, folder=str(self._root.parent), code=code, ended="")
        # workers that still train for an earlier driver find its folder gone
        for old in self._root.iterdir():
            if old.is_dir() and old.name not in (WORKERS, session):
                shutil.rmtree(old, ignore_errors=True)
        self._count = 0
        self._taken: dict[str, str] = {}  # job to worker
        self._next: dict[str, int] = {}  # job to the number of its next report
        self._missing: set[str] = set()
        self._silence = Silence()

    def offer(self, config: dict[str, Any]) -> str:
        """Offers a trial to all workers; returns its name in the queue."""
        self._count += 1
        job = f"{self._count:06d}"
        write(self._place / "offered" / f"{job}.json", config)
        return job

    def withdraw(self, job: str) -> bool:
        """Takes an offer back; `False` where a worker has taken it."""
        try:
            (self._place / "offered" / f"{job}.json").unlink()
        except FileNotFoundError:
            return False
        return True

    def events(self) -> Iterator[Event]:
        """What has happened since the last call; a trial that has ended is to be closed before the next one."""
        for name in names(self._place / "taken"):
            job, _, worker = name.partition("@")
            if job not in self._taken and job not in self._next:
                self._taken[job], self._next[job] = worker, 0
                yield Event("taken", job, {})
        for job, worker in list(self._taken.items()):
            while job in self._taken:
                path = self._place / "reports" / f"{job}@{worker}.{self._next[job]}.json"
                content = read(path)
                if content is None:
                    break
                path.unlink(missing_ok=True)
                number, self._next[job] = self._next[job], self._next[job] + 1
                yield Event("returned" if "returned" in content else "report", job, content, number)
            if job in self._taken and self._lost(worker):
                yield Event("lost", job, {})

    def _lost(self, worker: str) -> bool:
        beat = read(self._root / WORKERS / f"{worker}.json")
        if beat is not None:
            self._missing.discard(worker)
            return self._silence.seconds(worker, beat["beat"]) > SILENCE_SECONDS
        # its last report may have come after we have looked for it: it has until the next time
        known = worker in self._missing
        self._missing.add(worker)
        return known

    def answer(self, job: str, number: int, go_on: bool) -> None:
        """Tells a trial that waits after a report whether it continues."""
        write(self._place / "answers" / f"{job}@{self._taken[job]}.{number}.json", {"continue": go_on})

    def close(self, job: str) -> None:
        """Forgets a trial that has ended, or that its worker is to give up."""
        worker = self._taken.pop(job, None)
        if worker is not None:
            (self._place / "taken" / f"{job}@{worker}.json").unlink(missing_ok=True)

    def end(self, how: str) -> None:
        """Ends the session: no worker trains for it any more.

        Args:
            how: `COMPLETE`, `STOPPED` or `LEFT`.
        """
        self._beat.end(ended=how)
        for folder in [self._place] + [self._root / WORKERS] * (how == COMPLETE):
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------- the workers' side


@dataclass(frozen=True)
class Job:
    """A trial that a worker has taken.

    Args:
        place: Folder of the driver's session.
        name: Its name there, with that of the worker.
        config: Its configuration.
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
            SessionOver: Nobody wants to know any more.
        """
        self._check()
        try:
            write(self.place / "reports" / f"{self.name}.{number}.json", content)
        except FileNotFoundError:
            raise SessionOver from None

    def answer(self, number: int) -> bool | None:
        """Whether the trial continues after a report; `None` where the driver has not answered yet.

        Raises:
            SessionOver: It never will.
        """
        path = self.place / "answers" / f"{self.name}.{number}.json"
        found = read(path)
        if found is None:
            # the driver forgets a trial only after it has answered
            self._check()
            return None
        path.unlink(missing_ok=True)
        return bool(found["continue"])


class WorkerQueue:
    """The queue as a worker sees it.

    Args:
        folder: The search's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve() / FOLDER
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Tells the driver that this worker is alive."""
        for folder in (self._root, self._root / WORKERS):
            folder.mkdir(exist_ok=True)  # and never the search's own, which its driver makes
        beat = Beat(self._root / WORKERS / f"{self.worker}.json")
        try:
            yield
        finally:
            beat.end()

    @property
    def driver(self) -> dict[str, Any] | None:
        """What is known of the driver: "session", "beat", "ended", "folder", "code"; `None` before there was one."""
        return read(self._root / DRIVER)

    def take(self) -> Job | None:
        """Takes the first trial that is offered; `None` where there is none."""
        driver = self.driver
        if driver is None or driver["ended"]:
            return None
        place = self._root / driver["session"]
        for job in names(place / "offered"):
            name = f"{job}@{self.worker}"
            there = place / "taken" / f"{name}.json"
            # over NFS, a move that has succeeded may be answered by an error
            with suppress(FileNotFoundError):
                os.rename(place / "offered" / f"{job}.json", there)
            config = read(there)
            if config is not None:
                return Job(place, name, config)
        return None
