"""The one adapter to Ray Tune: orchestrator and early stopping as its searcher, scheduler and callback.

All three live in the driver and share one orchestrator: the searcher asks it for the next trial, the scheduler judges
the adaptive arm, the callback turns what a trial reported into its record.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ray.tune import Callback, CheckpointConfig, CLIReporter, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from analysis.records.schema import FIELDS, Decisions, Point, Record
from search.context import SearchContext
from search.execution import cluster
from search.execution.failures import FailureCount, describe_error
from search.execution.gpu_shares import ResourceAllocator
from search.execution.interrupts import Interrupts, seconds_to_finish
from search.scheduling.early_stopping import CohortASHA, Decision, stages_of
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.trial_request import TrialRequest
from trainables.trial import Trial

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is MLflow's
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal is what is resumed from
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Of this process, before Ray is imported."""

FOLDER = "ray"
"""What Tune needs on the disk lies in this folder of the workspace, and is removed at the end."""

UNMEASURED: Mapping[str, Any] = MappingProxyType(
    {
        "first_stage": "", "imbalance": float("nan"), "fingerprint": "", "counts": (), "val_counts": (), "epochs": 0,
        "epochs_trained": 0, "images": 0, "steps": 0, "seconds": 0.0, "seconds_saved": 0.0, "reused": (), "metrics": {},
    }
)  # fmt: skip
"""Fields of the record of a trial that has reported nothing."""

LOST_PROCESS = "{} is gone (killed, or the machine has run out of memory), and no trial can be trained without it."
"""Why a search ends whose Ray has lost a process."""


def execute(
    orchestrator: Orchestrator,
    context: SearchContext,
    callback: TuneCallback,
    scheduler: TuneScheduler,
    shares: ResourceAllocator,
    slots: int,
    interrupts: Interrupts,
    own_ray: bool,
) -> None:
    """Runs trials until the orchestrator has none left, a person interrupts, or Ray is lost.

    Raises:
        Exception: What a record could not be taken for, e.g. a journal that cannot be written.
    """
    tuner = Tuner(
        Trial,
        tune_config=TuneConfig(
            search_alg=TuneSearcher(orchestrator, context.spec, shares),
            scheduler=scheduler,
            metric="score",
            mode="max",
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=str(context.settings.folder.resolve()),
            callbacks=[callback],
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            progress_reporter=CLIReporter(),  # silent; the one of notebooks clears the output of the cell
            verbose=0,
        ),
    )
    with interrupts.between_events(callback.interrupt, callback.finish_epochs):
        try:
            lost = cluster.run_watched(tuner.fit, lambda: callback.interrupted, callback.interrupt, own_ray)
        except (KeyboardInterrupt, Interrupted):
            return
    # a batch system may send a signal to all processes of a job, Ray's among them
    if lost and not interrupts.received:
        orchestrator.stop(LOST_PROCESS.format(lost))
        orchestrator.note_interruption()


class Interrupted(Exception):
    """Ctrl-C as an error, after which Tune ends its processes in a Ray that goes on; that takes seconds."""


class _DriverOnly:
    """Ray pickles what it is given, to restore it some day; we resume from the journal, and leave nothing there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Failure(_DriverOnly):
    """Takes the error that Ray tells a trial, as it is: Ray would pickle it into a file, and read that back."""

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self.error: BaseException | None = None

    def __call__(self, exc: BaseException | None = None) -> None:
        """What Ray's trial does with an error, without the files."""
        self.error = exc
        self._trial.run_metadata.num_failures += 1


class TuneSearcher(_DriverOnly, Searcher):  # type: ignore[misc]
    """Ray's searcher: hands the orchestrator's trials out as configurations.

    Args:
        orchestrator: Decides what runs.
        spec_of: Request -> the JSON-serialisable `TrialSpec` of its trial.
        shares: Share of the machine of each trial.
    """

    def __init__(
        self, orchestrator: Orchestrator, spec_of: Callable[[TrialRequest], dict[str, Any]], shares: ResourceAllocator
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._orchestrator, self._spec_of, self._shares = orchestrator, spec_of, shares

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, `None` to be asked again, or `FINISHED`."""
        if self._shares.waiting & self._orchestrator.running.keys():
            # processes that are used again never give their share back, so a larger one would never be free
            return None
        request = self._orchestrator.next()
        if request is not None:
            # one string: Ray flattens, formats and copies every key of a configuration
            share = self._shares.share_of(request.id)
            spec = json.dumps(self._spec_of(request))
            return {"task": request.id, "spec": spec, "cpus": share.cpus, "gpus": share.gpus}
        return Searcher.FINISHED if self._orchestrator.finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears of it with more detail."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class TuneScheduler(_DriverOnly, FIFOScheduler):  # type: ignore[misc]
    """Ray's scheduler: stops trials of the adaptive arm as `CohortASHA` decides, and no others."""

    def __init__(self, orchestrator: Orchestrator, halving: CohortASHA, shares: ResourceAllocator, slots: int) -> None:
        super().__init__()
        self._orchestrator, self._halving, self._shares, self._slots = orchestrator, halving, shares, slots
        self.decisions: dict[str, Decision] = {}
        self._usual: Any = None  # resources of a trial with the usual share
        self._kept = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Before anything of a trial is begun."""
        trial.handle_error = Failure(trial)
        self._usual = self._usual or trial.placement_group_factory

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        request = self._orchestrator.state.requests[trial.config["task"]]
        kinds = stages_of(request.recipe.plan)
        if request.arm == "adaptive" and (result["outcome"] != "running" or not request.may_stop):
            # what may not be stopped, or has come to its end, shows all the same what can be reached
            self._halving.recall(request.id, kinds, result["points"])
        if not request.may_stop or result["outcome"] != "running":
            return str(TrialScheduler.CONTINUE)
        peers = self._orchestrator.proposer.peers(request.id)
        decision = self._halving.judge(request.id, kinds, result["points"], peers)
        if decision is None:
            return str(TrialScheduler.CONTINUE)
        self.decisions[request.id] = decision
        return str(TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The newest trial that waits; one whose larger share never comes is ended.

        A new process takes seconds to start. Where trials are shorter, the first one that waits would be given
        to a process that has become free, its own process called off, and so on for ever: one slot would do
        all the work. The newest has no process on its way.
        """
        self._keep_processes(tune_controller)
        waiting = (trial for trial in reversed(tune_controller.get_trials()) if trial.status == "PENDING")
        newest = next(waiting, None)
        starved = self._shares.starved(self._orchestrator.running)
        if newest is not None and starved and newest.config["task"] in starved:
            # the recorder hears of its end, and sees that it never began
            tune_controller.stop_trial(newest)
            return None
        return newest

    def _keep_processes(self, tune_controller: Any) -> None:
        """Keeps the processes of idle slots for later trials, unless a trial waits for a larger share.

        Tune keeps as many idle processes as trials wait for one, and otherwise a single one. So wherever slots have
        to wait for a result, at the end of each phase at the latest, it would end their processes and start others,
        which takes many times as long as a short trial. Tune has no option for that: its count of waiting trials is
        raised by the number of slots. Where a version of Tune has no such count, the search is only slower.
        """
        wanted = 0 if self._shares.waiting & self._orchestrator.running.keys() else self._slots
        controller = getattr(tune_controller.stop_trial, "__self__", None)
        cache = getattr(controller, "_actor_cache", None)
        if cache is not None and self._usual is not None and wanted != self._kept:
            cache.increase_max(self._usual, wanted - self._kept)
            self._kept = wanted


class TuneCallback(_DriverOnly, Callback):  # type: ignore[misc]
    """Ray's callback: reports become records, which go to the orchestrator and to the listeners.

    Args:
        orchestrator: Takes records.
        scheduler: Knows why a trial was stopped.
        context: The search.
        shares: Share of the machine of each trial, and whether one that failed is tried again.
        listeners: Called with every record.
        note: Called with what a trial warns of, each text once.
        tick: Called between two events of Tune, several times a second.
        interrupt_with: What ends the loop of Tune after `interrupt`.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        scheduler: TuneScheduler,
        context: SearchContext,
        shares: ResourceAllocator,
        listeners: Sequence[Callable[[Record], object]] = (),
        note: Callable[[str], object] = log.warning,
        tick: Callable[[Mapping[str, float]], object] = lambda progress: None,
        interrupt_with: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        self._orchestrator, self._scheduler, self._context, self._shares = orchestrator, scheduler, context, shares
        self._listeners, self._note, self._tick, self._interrupt_with = listeners, note, tick, interrupt_with
        self._points: dict[str, list[dict[str, Any]]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._started: dict[str, float] = {}
        self.progress: dict[str, float] = {}
        """Fraction of its plan that each running trial has behind it."""
        self.interrupted = False
        self._unfinished: set[str] | None = None  # trials that are to end an epoch before the search ends
        self._finish_by = 0.0
        self._problem: Exception | None = None
        self._noted: set[str] = set()
        self._failures = FailureCount()

    def interrupt(self) -> None:
        """Ends the search at the next event."""
        self._orchestrator.stop()
        self.interrupted = True

    def finish_epochs(self) -> None:
        """Ends the search when every running trial has ended its epoch, after which it is kept, or time is up."""
        self._orchestrator.stop()
        self._unfinished, self._finish_by = set(self.progress), time.monotonic() + seconds_to_finish()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Between two events of the search: the place to end it, with nothing half done."""
        if self._problem is not None:
            # Tune only logs what goes wrong while a trial ends
            raise self._problem
        if self._unfinished is not None and not self.interrupted:
            self.note_once("SIGUSR1: the running trials end their epochs, then the search ends")
            left = self._unfinished & self.progress.keys()
            self.interrupted = not left or time.monotonic() > self._finish_by
        if self.interrupted:
            raise self._interrupt_with
        self._tick(self.progress)

    def note_once(self, text: str, about: str = "") -> None:
        """Shows a note, unless one about the same was shown before.

        Args:
            text: The note.
            about: What it is about; the text itself where absent.
        """
        if (about or text) not in self._noted:
            self._noted.add(about or text)
            self._note(text)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a slot."""
        name = trial.config["task"]
        self._shares.started(name)
        self._orchestrator.started(name)
        self._started[name] = time.time()
        self.progress[name] = 0.0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        name = trial.config["task"]
        for note in result["notes"]:
            self.note_once(f"{name}: {note}", note)
        if self._unfinished is not None:
            self._unfinished.discard(name)
        if result["outcome"] == "failed":
            # its process ends by itself, and nothing else is trained in it
            self._last.setdefault(name, {"payload": {}})["failure"] = result["failure"]
            return
        self._points.setdefault(name, []).extend(result["points"])
        self._last[name] = {"payload": result["payload"], "outcome": result["outcome"]}
        self.progress[name] = result["progress"]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has finished, diverged or been stopped, or has waited too long for a larger share."""
        name = trial.config["task"]
        if name in self._shares.waiting:
            self._shares.waiting.discard(name)
            self._record(name, "failed", self._shares.why_starved(name))
            return
        decision = self._scheduler.decisions.get(name)
        outcome = self._last[name]["outcome"] if decision is None else "stopped"
        self._record(name, outcome, str(decision or ""), {} if decision is None else decision.to_dict())

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has raised, or its process is gone."""
        if self.interrupted:
            return  # with Ray, or for it: not its own doing, and begun again when the search is resumed
        name = trial.config["task"]
        said = self._last.get(name, {}).get("failure")
        reason, lost = describe_error(trial.handle_error.error) if said is None else (said, False)
        share = self._shares.share_of(name)
        again = self._shares.retry(name, reason, lost) if name in self._orchestrator.running else ""
        if again:
            log.info("%s: %s (%s)", name, again, reason)
            self._forget(name)
            self._orchestrator.requeue(name, f"{again} ({reason})", share.gpus)
            return
        self._record(name, "failed", self._shares.why_failed(name, reason))

    def on_trial_returned(self, trial: Any, reason: str) -> None:
        """A worker has given a trial back because it has to end itself."""
        name = trial.config["task"]
        self._forget(name)
        if name in self._orchestrator.running:
            self._orchestrator.requeue(name, reason, self._shares.share_of(name).gpus)

    def _forget(self, name: str) -> None:
        for kept in (self._points, self._last, self.progress):
            kept.pop(name, None)

    def _record(self, name: str, outcome: str, reason: str, stop: Mapping[str, Any] = MappingProxyType({})) -> None:
        if self._problem is not None or name not in self._orchestrator.running:
            return  # Tune reports a trial again, as failed, after an error in here
        request = self._orchestrator.state.requests[name]
        payload = self._last.pop(name, {}).get("payload", {})
        points = payload.get("curve") or self._points.get(name, [])
        self._points.pop(name, None)
        self.progress.pop(name, None)
        measured = {name: tuple(value) if isinstance(value, list) else value for name, value in payload.items()}
        record = Record(
            **{
                **UNMEASURED, **{name: value for name, value in measured.items() if name in FIELDS},
                "search": self._context.settings.name, "data": self._context.settings.data,
                "model": self._context.model, "trial": request.id, "arm": request.arm,
                "recipe": request.recipe.plan.id, "title": request.title or request.recipe.title,
                "seed": request.seed, "split_seed": request.seed, "tricks": request.tricks,
                "context": request.context, "setting": request.setting, "outcome": outcome,
                "choices": request.recipe.choices, "plan": request.recipe.plan.to_dict(),
                "families": request.recipe.families, "curve": tuple(Point(**point) for point in points),
                "decisions": Decisions.from_dict(payload.get("decisions", {})),
                "reason": reason or payload.get("reason", ""), "stop": dict(stop),
                "gpus": self._shares.share_of(name).gpus, "started": self._started.pop(name, time.time()),
            }
        )  # fmt: skip
        try:
            self._orchestrator.record(record)
        except Exception as error:
            self._problem = error
            raise
        why = self._failures.count(record)
        if why and not self._orchestrator.stopped_because:
            self._orchestrator.stop(why)
        for listen in self._listeners:
            try:
                listen(record)
            except Exception:
                # the record is in the journal: nobody who only looks at it may end the search
                log.exception("%s could not be shown or tracked", record.trial)
