"""The agenda and the stopping rule, as Ray Tune's searcher, scheduler and callback.

All three live in the driver and share one agenda: the searcher asks it for the next trial, the scheduler
judges the adaptive arm, the callback turns what a trial reported into its record.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from analysis.records.schema import Record
from search.execution.gpu_shares import Shares
from search.scheduling.early_stopping import Decision, Halving, stages_of
from search.scheduling.orchestrator import Agenda, Task, points_of

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Ctrl-C as an error, after which Tune ends its processes in a Ray that goes on; that takes seconds."""


class _DriverOnly:
    """Ray pickles what it is given, to restore it some day; we resume from the journal, and leave nothing there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Failure(_DriverOnly):
    """Takes the error that Ray tells a trial, as it is: Ray would pickle it into a file, and read that back.

    Args:
        trial: Ray's.
    """

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self.error: BaseException | None = None

    def __call__(self, exc: BaseException | None = None) -> None:
        """What Ray's trial does with an error, without the files."""
        self.error = exc
        self._trial.run_metadata.num_failures += 1


class Conductor(_DriverOnly, Searcher):  # type: ignore[misc]
    """Ray's searcher: hands the agenda's tasks out as trial configurations.

    Args:
        agenda: What to run.
        spec_of: Task -> the JSON-able `TrialSpec` of its trial.
        shares: What each trial holds.
    """

    def __init__(self, agenda: Agenda, spec_of: Callable[[Task], dict[str, Any]], shares: Shares) -> None:
        super().__init__(metric="score", mode="max")
        self._agenda, self._spec_of, self._shares = agenda, spec_of, shares

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, `None` to be asked again, or `FINISHED`."""
        if self._shares.waiting & self._agenda.running.keys():
            # processes that are used again never give their share back, so a larger one would never be free
            return None
        task = self._agenda.next()
        if task is not None:
            # one string: Ray flattens, formats and copies every key of a configuration
            share = self._shares.of(task.id)
            spec = json.dumps(self._spec_of(task))
            return {"task": task.id, "spec": spec, "cpus": share.cpus, "gpus": share.gpus}
        return Searcher.FINISHED if self._agenda.finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears of it with more detail."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class StageScheduler(_DriverOnly, FIFOScheduler):  # type: ignore[misc]
    """Ray's scheduler: stops trials of the adaptive arm as `Halving` decides, and no others.

    Args:
        agenda: Knows the arm of a trial.
        halving: The rule.
        shares: Knows which trial waits for a larger share.
    """

    def __init__(self, agenda: Agenda, halving: Halving, shares: Shares) -> None:
        super().__init__()
        self._agenda, self._halving, self._shares = agenda, halving, shares
        self.decisions: dict[str, Decision] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Before anything of a trial is begun."""
        trial.handle_error = Failure(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        task = self._agenda.tasks[trial.config["task"]]
        kinds = stages_of(task.recipe.plan)
        if task.arm == "adaptive" and (result["outcome"] != "running" or not task.may_stop):
            # what may not be stopped, or has come to its end, shows all the same what can be reached
            self._halving.recall(task.id, kinds, result["points"])
        if not task.may_stop or result["outcome"] != "running":
            return str(TrialScheduler.CONTINUE)
        decision = self._halving.judge(task.id, kinds, result["points"], self._agenda.peers(task.id))
        if decision is None:
            return str(TrialScheduler.CONTINUE)
        self.decisions[task.id] = decision
        return str(TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The newest trial that waits; one whose larger share never comes is ended.

        A new process takes seconds to start. Where trials are shorter, the first one that waits would be given
        to a process that has become free, its own process called off, and so on for ever: one slot would do
        all the work. The newest has no process on its way.
        """
        waiting = (trial for trial in reversed(tune_controller.get_trials()) if trial.status == "PENDING")
        newest = next(waiting, None)
        hopeless = self._shares.hopeless(self._agenda.running)
        if newest is not None and hopeless and newest.config["task"] in hopeless:
            # the recorder hears of its end, and sees that it never began
            tune_controller.stop_trial(newest)
            return None
        return newest


class Recorder(_DriverOnly, Callback):  # type: ignore[misc]
    """Ray's callback: reports become records, records go to the agenda and to whoever listens.

    Args:
        agenda: Takes records.
        scheduler: Knows why a trial was stopped.
        search: Name of the search.
        data: Name of the data set.
        model: Name of the network.
        listeners: Called with every record.
        shares: What each trial holds, and which is begun again.
    """

    def __init__(
        self,
        agenda: Agenda,
        scheduler: StageScheduler,
        search: str,
        data: str,
        model: str,
        listeners: list[Callable[[Record], None]],
        shares: Shares,
    ) -> None:
        self._agenda, self._scheduler, self._listeners, self._shares = agenda, scheduler, listeners, shares
        self._search, self._data, self._model = search, data, model
        self._points: dict[str, list[dict[str, Any]]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._started: dict[str, float] = {}
        self.progress: dict[str, float] = {}
        self.interrupted = False
        self.interrupt_with: type[BaseException] = KeyboardInterrupt
        self.note: Callable[[str], object] = log.warning
        """Called with what a trial warns of, each text once."""
        self._problem: Exception | None = None
        self._noted: set[str] = set()
        self._alike: tuple[str, int] = "", 0
        self._ended_otherwise = False

    def interrupt(self) -> None:
        """Ends the search at the next event."""
        self._agenda.stop()
        self.interrupted = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Between two events of the search: the place to end it, with nothing half done."""
        if self._problem is not None:
            # Tune only logs what goes wrong while a trial ends
            raise self._problem
        if self.interrupted:
            raise self.interrupt_with

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a slot."""
        task = trial.config["task"]
        self._shares.started(task)
        self._agenda.started(task)
        self._started[task] = time.time()
        self.progress[task] = 0.0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        task = trial.config["task"]
        for note in result["notes"]:
            if note not in self._noted:
                self._noted.add(note)
                self.note(f"{task}: {note}")
        if result["outcome"] == "failed":
            # its process ends by itself, and nothing else is trained in it
            self._last.setdefault(task, {"payload": {}})["failure"] = result["failure"]
            return
        self._points.setdefault(task, []).extend(result["points"])
        self._last[task] = {"payload": result["payload"], "outcome": result["outcome"]}
        self.progress[task] = result["progress"]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has finished, diverged or been stopped, or has waited too long for a larger share."""
        task = trial.config["task"]
        if task in self._shares.waiting:
            self._shares.waiting.discard(task)
            self._record(task, "failed", self._shares.unmet(task))
            return
        decision = self._scheduler.decisions.get(task)
        outcome = self._last[task]["outcome"] if decision is None else "stopped"
        self._record(task, outcome, str(decision or ""), {} if decision is None else decision.to_dict())

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has raised, or its process is gone."""
        if self.interrupted:
            return  # with Ray, or for it: not its own doing, and begun again when the search is resumed
        task = trial.config["task"]
        said = self._last.get(task, {}).get("failure")
        reason, lost = _told(trial.handle_error.error) if said is None else (said, False)
        held = self._shares.of(task)
        again = self._shares.again(task, reason, lost) if task in self._agenda.running else ""
        if again:
            log.info("%s: %s (%s)", task, again, reason)
            for kept in (self._points, self._last, self.progress):
                kept.pop(task, None)
            self._agenda.again(task, f"{again} ({reason})", held.gpus)
            return
        self._record(task, "failed", self._shares.note(task, reason))

    def _record(self, name: str, outcome: str, reason: str, stop: Mapping[str, Any] = MappingProxyType({})) -> None:
        if self._problem is not None or name not in self._agenda.running:
            return  # Tune reports a trial again, as failed, after an error in here
        task = self._agenda.tasks[name]
        payload = self._last.pop(name, {}).get("payload", {})
        points = payload.get("curve") or self._points.get(name, [])
        self._points.pop(name, None)
        self.progress.pop(name, None)
        record = Record(
            search=self._search,
            data=self._data,
            model=self._model,
            trial=task.id,
            arm=task.arm,
            recipe=task.recipe.plan.id,
            title=task.title or task.recipe.title,
            seed=task.seed,
            split_seed=task.seed,
            first_stage=payload.get("first_stage", ""),
            tricks=task.tricks,
            context=task.context,
            setting=task.setting,
            outcome=outcome,
            choices=task.recipe.choices,
            plan=task.recipe.plan.to_dict(),
            families=task.recipe.families,
            imbalance=payload.get("imbalance", float("nan")),
            fingerprint=payload.get("fingerprint", ""),
            counts=tuple(payload.get("counts", ())),
            val_counts=tuple(payload.get("val_counts", ())),
            class_names=tuple(payload.get("class_names", ())),
            epochs=payload.get("epochs", 0),
            epochs_trained=payload.get("epochs_trained", 0),
            images=payload.get("images", 0),
            steps=payload.get("steps", 0),
            seconds=payload.get("seconds", 0.0),
            seconds_saved=payload.get("seconds_saved", 0.0),
            reused=tuple(payload.get("reused", ())),
            metrics=payload.get("metrics", {}),
            recalls=tuple(payload.get("recalls", ())),
            correct=tuple(payload.get("correct", ())),
            per_class=payload.get("per_class", {}),
            curve=points_of(points),
            reason=reason or payload.get("reason", ""),
            stop=dict(stop),
            gpus=self._shares.of(name).gpus,
            memory=payload.get("memory", 0.0),
            started=self._started.pop(name, time.time()),
        )
        try:
            self._agenda.take(record)
        except Exception as error:
            self._problem = error
            raise
        self._count_failures(record)
        for listen in self._listeners:
            try:
                listen(record)
            except Exception:
                # the record is in the journal: nobody who only looks at it may end the search
                log.exception("%s could not be shown or tracked", record.trial)

    def _count_failures(self, record: Record) -> None:
        """Ends a search in which every trial would fail for the same reason."""
        if record.outcome != "failed":
            self._alike, self._ended_otherwise = ("", 0), True
            return
        alike = NUMBER.sub("#", record.reason)
        self._alike = alike, self._alike[1] + 1 if alike == self._alike[0] else 1
        count = self._alike[1]
        if count >= (IN_A_ROW if self._ended_otherwise else FIRST) and not self._agenda.stopped_because:
            which = f"{count} trials in a row" if self._ended_otherwise else f"The first {count} trials"
            self._agenda.stopped_because = f"{which} failed for the same reason: {record.reason}"
            self._agenda.stop()


FIRST, IN_A_ROW = 3, 10
"""After how many failures alike a search ends: where nothing has ended otherwise, and where something has."""

NUMBER = re.compile(r"\d+")
"""What may differ between reasons that are alike: sizes, positions, process ids."""


def _told(error: Any) -> tuple[str, bool]:
    """What an error of Ray says, in one line, and whether the trial's process is gone."""
    # an error in the process's own start is told as its death
    if isinstance(error, LOST) and not getattr(error, "actor_init_failed", False):
        return f"{type(error).__name__}: its process is gone", True
    # what a trial raises it has told itself: what is left is a whole traceback of Ray's, which ends with the cause
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__), False


LOST = (RayActorError, WorkerCrashedError, NodeDiedError, RaySystemError, ObjectLostError, OutOfMemoryError)
"""Errors of Ray that say nothing about the trial: its process or its machine is gone."""
