"""A process that trains one trial after another from the queue of a search; `longtail-tune worker` starts it.

A failed trial ends the process with `TRIAL_FAILED`, because it may have damaged the process's GPU context.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from search.execution.interrupts import SIGNALS
from search.workers import queue
from search.workers.queue import TRIAL_FAILED, Job, SessionOver, WorkerQueue
from trainables.trial import Trial


def work(trials: WorkerQueue, stopping: Callable[[], bool]) -> int:
    """Trains trials until the search has ended or the worker has to end.

    Args:
        trials: The queue.
        stopping: Whether the worker has to end.

    Returns:
        The exit code: 0, or `TRIAL_FAILED`.
    """
    trial: Trial | None = None
    try:
        while not stopping():
            job = trials.take()
            if job is None:
                driver = trials.driver
                if driver is not None and driver["ended"] in (queue.COMPLETE, queue.STOPPED):
                    return 0
                time.sleep(queue.POLL_SECONDS)
                continue
            if trial is None:
                trial = Trial(job.config)
            else:
                trial.reset_config(job.config)
            try:
                if not train(trial, job, stopping):
                    return TRIAL_FAILED
            except SessionOver:
                continue
        return 0
    finally:
        if trial is not None:
            trial.stop()


def train(trial: Trial, job: Job, stopping: Callable[[], bool]) -> bool:
    """Trains a trial until it ends or is stopped; whether the process can train another one.

    Raises:
        SessionOver: The driver has dropped the trial.
    """
    rungs = json.loads(job.config["spec"])["rungs"]
    number = 0
    while True:
        result = trial.step()
        # at its rungs a trial waits for the driver's decision, as in Ray; anywhere else the answer is known
        waits = bool(rungs and result["points"] and result["outcome"] == "running")
        failed = result["outcome"] == "failed"
        try:
            job.report(number, {"done": False, **result, "waits": waits})
        except SessionOver:
            if not failed:
                raise
        if failed:
            return False
        if result["done"]:
            return True
        while waits and not stopping():
            answer = job.answer(number)
            if answer is False:
                return True
            if answer:
                break
            time.sleep(queue.POLL_SECONDS)
        number += 1
        if stopping():
            # the stage store has it as it was at the end of an epoch, at most some seconds ago
            job.report(number, {"returned": "its worker had to end"})
            return True


def main(arguments: list[str]) -> int:
    """Trains trials of a search until a signal comes or the process that has started this one ends.

    Args:
        arguments: The folder of the search, the name of the worker, the number of the process that has started it.
    """
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    folder, worker, parent = arguments
    trials = WorkerQueue(Path(folder), worker)
    with trials.beating():
        return work(trials, lambda: bool(received) or os.getppid() != int(parent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
