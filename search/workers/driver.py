"""Runs the trials of a search by workers that share its folder: the counterpart of `search.execution.ray_tune`.

Searcher, scheduler and callback are those of Ray Tune's loop, so the same code makes all decisions. A decision depends
on the numbers of trials and not on which of them ended first: a search has the same trials, early stops and winner
whichever worker trains them.
"""

from __future__ import annotations

import signal
import time
from types import SimpleNamespace
from typing import Any

from ray.exceptions import WorkerCrashedError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from analysis.text import command
from search.context import SearchContext
from search.execution.gpu_shares import ResourceAllocator
from search.execution.interrupts import Interrupts
from search.execution.ray_tune import Failure, Interrupted, TuneCallback, TuneScheduler, TuneSearcher
from search.scheduling.orchestrator import Orchestrator
from search.workers import queue
from search.workers.queue import DriverQueue, Event

NO_WORKER_SECONDS = 30.0
"""Time without a worker after which a driver prints how to start one."""


class QueuedTrial:
    """A trial in the queue, with the attributes of Ray Tune's `Trial` that searcher, scheduler and callback read."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.run_metadata = SimpleNamespace(num_failures=0)
        self.handle_error = Failure(self)


def execute(
    orchestrator: Orchestrator,
    context: SearchContext,
    callback: TuneCallback,
    scheduler: TuneScheduler,
    shares: ResourceAllocator,
    slots: int,
    interrupts: Interrupts,
) -> None:
    """Runs trials until the orchestrator has none left or the search is interrupted.

    Raises:
        Exception: A record could not be taken, e.g. because the journal cannot be written.
    """
    searcher = TuneSearcher(orchestrator, context.spec, shares)
    trial_queue = DriverQueue(context.settings.folder, queue.installation())
    how = queue.STOPPED
    try:
        with interrupts.between_events(callback.interrupt, callback.finish_epochs):
            _serve(orchestrator, context, callback, scheduler, searcher, trial_queue, slots)
            how = queue.COMPLETE if orchestrator.phase == "done" else queue.STOPPED
    except (KeyboardInterrupt, Interrupted):
        return
    finally:
        # Ctrl-C stops the search; the other signals only take this machine away
        taken_away = interrupts.received and interrupts.number != signal.SIGINT
        trial_queue.end(queue.HANDED_OVER if taken_away and how != queue.COMPLETE else how)


def _serve(
    orchestrator: Orchestrator, context: SearchContext, callback: TuneCallback, scheduler: TuneScheduler,
    searcher: TuneSearcher, trial_queue: DriverQueue, slots: int,
) -> None:  # fmt: skip
    trials: dict[str, QueuedTrial] = {}
    offered: set[str] = set()
    idle_since = time.monotonic()
    while True:
        callback.on_step_begin(0, [])
        while len(trials) < slots:
            config = searcher.suggest("")
            if config is None or config == Searcher.FINISHED:
                break
            job = trial_queue.offer(config)
            trials[job] = QueuedTrial(config)
            offered.add(job)
        if orchestrator.finished:
            for job in [job for job in offered if trial_queue.withdraw(job)]:
                offered.discard(job)
                del trials[job]
            if not trials:
                return
        happened = False
        for event in trial_queue.events():
            happened = True
            offered.discard(event.job)
            _handle(event, trials, callback, scheduler, trial_queue)
        if happened or len(offered) < len(trials):
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > NO_WORKER_SECONDS:
            name, output = context.settings.name, context.settings.output
            start = command("longtail-tune", "worker", name, "--output", output)
            callback.note_once(f"no worker takes a trial; start one on any machine that sees the folder: {start}")
        if not happened:
            time.sleep(queue.POLL_SECONDS)


def _handle(
    event: Event,
    trials: dict[str, QueuedTrial],
    callback: TuneCallback,
    scheduler: TuneScheduler,
    trial_queue: DriverQueue,
) -> None:
    trial = trials[event.job]
    if event.kind == "taken":
        callback.on_trial_start(0, [], trial)
        return
    if event.kind == "report":
        result = event.content
        verdict = scheduler.on_trial_result(None, trial, result)
        callback.on_trial_result(0, [], trial, result)
        if result["outcome"] != "failed" and verdict == TrialScheduler.CONTINUE and not result["done"]:
            if result["waits"]:
                trial_queue.answer(event.job, event.number, True)
            return
    del trials[event.job]
    if event.kind == "report" and event.content["outcome"] != "failed":
        if event.content["waits"]:
            trial_queue.answer(event.job, event.number, False)
        trial_queue.close(event.job)
        callback.on_trial_complete(0, [], trial)
        return
    trial_queue.close(event.job)
    if event.kind == "returned":
        callback.on_trial_returned(trial, event.content["returned"])
        return
    if event.kind == "lost":
        trial.handle_error(WorkerCrashedError())
    callback.on_trial_error(0, [], trial)
