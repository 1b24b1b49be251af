"""A process that trains one trial after another from the queue of a search; `longtail-tune worker` starts it.

An error ends the process with `FRESH`, because what it leaves of a GPU's context is not for another trial.
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
from search.workers.queue import FRESH, Job, SessionOver, WorkerQueue
from trainables.trial import Trial


def work(offers: WorkerQueue, stopping: Callable[[], bool]) -> int:
    """Trains until the search has ended or the worker has to.

    Args:
        offers: The queue.
        stopping: Whether the worker has to end.

    Returns:
        The exit code: 0, or `FRESH`.
    """
    trial: Trial | None = None
    try:
        while not stopping():
            job = offers.take()
            if job is None:
                driver = offers.driver
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
                    return FRESH
            except SessionOver:
                continue
        return 0
    finally:
        if trial is not None:
            trial.stop()


def train(trial: Trial, job: Job, stopping: Callable[[], bool]) -> bool:
    """Trains a trial to its end, or until it is stopped; whether the process can train another one.

    Raises:
        SessionOver: The driver does not want it any more.
    """
    rungs = json.loads(job.config["spec"])["rungs"]
    number = 0
    while True:
        result = trial.step()
        # at its rungs a trial waits for the driver's decision, as in Ray; anywhere else the answer is known
        waits = bool(rungs and result["points"] and result["outcome"] == "running")
        job.report(number, {"done": False, **result, "waits": waits})
        if result["outcome"] == "failed":
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
            # it is kept as it was at the end of an epoch, at most some seconds before
            job.report(number, {"returned": "its worker had to end"})
            return True


def main(arguments: list[str]) -> int:
    """Works for the search whose folder is given, until a signal comes or the process that has started this one ends.

    Args:
        arguments: The folder of the search.
    """
    asked: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: asked.append(number))
    parent = os.getppid()
    offers = WorkerQueue(Path(arguments[0]))
    with offers.beating():
        return work(offers, lambda: bool(asked) or os.getppid() != parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
