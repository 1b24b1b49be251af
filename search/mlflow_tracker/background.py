"""A thread that writes to MLflow while the search goes on, and waits while the store does not answer.

What goes wrong is logged as a warning and returned by `close`, which waits as long as the store answers. It never ends
a search.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from analysis.formatting import counted
from analysis.records import mlflow_store
from analysis.records.mlflow_store import Client, StoreError
from search.mlflow_tracker.run_writer import RunWriter

_logger = logging.getLogger(__name__)

SHOW_SECONDS = 10.0
"""Seconds between two sentences about what is still to be written, after a search has ended."""

REFRESH_SECONDS = 5.0
"""The idle job is done at least this often, however many jobs wait."""


class BackgroundCall:
    """Calls a function in a thread."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._call, name="mlflow-prepare", daemon=True)
        self._thread.start()

    def _call(self) -> None:
        try:
            self._function()
        except Exception as error:
            self._error = error

    def wait(self) -> None:
        """Waits for its end, and raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class Job:
    """Something to write.

    Args:
        description: What is missing in MLflow if it fails; empty for a job that writes nothing itself.
        write: Writes it.
    """

    description: str
    write: Callable[[RunWriter], None]


class StoreWatch:
    """Tells an outage of the store from a failure of one job."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._file = mlflow_store.database(client.uri)
        self._inode = None if self._file is None else _inode(self._file)
        self.lost = ""
        """Why the store will not come back by itself; empty otherwise."""

    def check(self) -> None:
        """Notices a database that was deleted or replaced: SQLite would continue to write into the nameless file.

        Raises:
            StoreError: It was.
        """
        if not self.lost and self._file is not None and self._inode is not None and _inode(self._file) != self._inode:
            self.lost = f"the MLflow store {self._file} was deleted or replaced while the search ran"
        if self.lost:
            raise StoreError(self.lost)

    def is_out(self) -> bool:
        """Whether the store as a whole does not answer."""
        try:
            self.check()
            self._client.search_experiments(max_results=1)
        except StoreError:
            state = "" if self._file is None or self.lost else mlflow_store.condition(self._file)
            if state not in ("", "locked"):
                self.lost = f"the MLflow store {self._file} is unusable ({state})"
            return True
        return False


class BackgroundWriter:
    """Does jobs one after the other in a thread.

    Args:
        runs: What jobs write with; None if nothing is tracked, and jobs are dropped.
        idle: Done whenever no other job waits.
    """

    def __init__(self, runs: RunWriter | None, idle: Job) -> None:
        self.reason = ""
        """Why the last job failed."""
        self._runs, self._idle = runs, idle
        self._watch = None if runs is None else StoreWatch(runs.client)
        self._idle_since = 0.0
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._done, self._seconds = 0, 0.0
        self._failed: list[Job] = []
        self._current: Job | None = None
        self._warned: set[str] = set()
        self._ending = threading.Event()
        self._ended_at, self._patience = math.inf, math.inf
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Hands in a job; returns at once."""
        self._queue.put(job)

    @property
    def waiting(self) -> int:
        """Jobs that were handed in and are not done."""
        return self._queue.qsize()

    @property
    def seconds_per_job(self) -> float:
        """Mean over the jobs that were done."""
        return self._seconds / self._done if self._done else 0.0

    def flush(self) -> None:
        """Waits until everything handed in is written; what failed is tried once more."""
        self.put(Job("", lambda runs: self._retry()))
        self._queue.join()

    def close(self, last: Iterable[Job], patience: float, tell: Callable[[str], None]) -> list[str]:
        """Does the remaining jobs and the last ones, tries once more what failed, and ends the thread.

        Args:
            last: Jobs to end with.
            patience: Seconds without an answer of the store after which it is given up; however long the writing
                takes, it continues while the store answers. Ctrl-C ends the wait.
            tell: Takes sentences for people about what is still to be written, if that takes longer than a moment.

        Returns:
            Descriptions of the jobs that were not done.
        """
        self._ended_at, self._patience = time.monotonic(), patience
        self._ending.set()
        again = Job("", lambda runs: self._retry())
        for job in (again, *last, again):
            self.put(job)
        self._queue.put(None)
        with suppress(KeyboardInterrupt):
            self._thread.join(2.0)
            shown = -math.inf
            while self._thread.is_alive() and self._silence() < patience:
                if time.monotonic() - shown > SHOW_SECONDS:
                    shown = time.monotonic()
                    tell(f"Writing to MLflow, {self._progress()} (Ctrl-C leaves the rest for later) …")
                self._thread.join(0.5)
        left = list(self._failed)
        if self._thread.is_alive():
            if self._runs is not None:
                self._runs.client.close()  # nothing is written behind the back of whoever syncs from now on
            left += [job for job in (self._current, *self._queue.queue) if job is not None]
        return list(dict.fromkeys(job.description for job in left if job.description))

    def join(self) -> None:
        """Waits for the end of the thread."""
        self._thread.join()

    def _silence(self) -> float:
        """Seconds since the store answered last, or since the search has ended."""
        answered = -math.inf if self._runs is None else self._runs.client.answered
        return time.monotonic() - max(self._ended_at, answered)

    def _progress(self) -> str:
        waiting = [job for job in (self._current, *self._queue.queue) if job is not None and job.description]
        answers = 0 if self._runs is None else self._runs.client.answers
        return f"{counted(answers, 'request')} answered, {counted(len(waiting), 'part')} left"

    def _work(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Waits for a job and does it; whether there may be another."""
        job = self._queue.get()
        if job is None:
            return False
        try:
            began = time.monotonic()
            self._do(job)
            self._done, self._seconds = self._done + 1, self._seconds + time.monotonic() - began
            if self._queue.empty() or time.monotonic() - self._idle_since > REFRESH_SECONDS:
                self._idle_since = time.monotonic()
                self._do(self._idle)
        finally:
            self._queue.task_done()
        return True

    def _do(self, job: Job) -> None:
        """Does one job; while the store does not answer, waits until the search has ended and its patience as well."""
        runs, watch = self._runs, self._watch
        if runs is None or watch is None:
            return
        self._current = job
        pause = 0.5
        while True:
            try:
                watch.check()
                job.write(runs)
                break
            except Exception as error:
                reason = mlflow_store.hide(str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
                if not isinstance(error, StoreError):
                    reason = f"{type(error).__name__}: {reason}"
                if not watch.is_out():
                    self._warn(f"MLflow did not take {job.description} ({reason})", "it is tried once more at the end")
                    self._failed.append(job)
                    break
                self._warn(watch.lost or reason, "the search continues, and the journal has everything")
                if watch.lost or self._silence() > self._patience:
                    self._failed.append(job)
                    break
            if self._ending.is_set():
                time.sleep(min(pause, 2.0))
            else:
                self._ending.wait(pause)
            pause = min(2 * pause, 20.0)
        self._current = None

    def _retry(self) -> None:
        for _ in range(len(self._failed)):  # one at a time: those that are still to be tried are not written either
            self._do(self._failed.pop(0))

    def _warn(self, reason: str, consequence: str) -> None:
        self.reason = reason
        if reason not in self._warned:
            self._warned.add(reason)
            _logger.warning("%s; %s", reason, consequence)


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
