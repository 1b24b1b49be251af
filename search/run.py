"""Runs a search: design arm, adaptive arm, race; Ray schedules, Optuna proposes, MLflow keeps the record."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import files
from analysis.console import Console, styled
from analysis.report import findings
from analysis.text import csv_text, sentence
from search import workspace
from search.execution import cluster
from search.execution import gpu_shares as resources
from search.execution.gpu_shares import WORKER_ENVIRONMENT
from search.execution.interrupts import Interrupts, children_outlive_the_terminal
from search.settings import UNDO, Settings, SettingsError, checked, gpus
from search.workspace import SEEDS_APART, kept_list
from spaces.domain import Space
from trainables.pipeline.leases import NO_LOCKS, Lock

if TYPE_CHECKING:
    import pandas as pd

    from search.console.summary import Extras
    from search.recipes import Ground
    from search.scheduling.orchestrator import Agenda, Task
    from search.scheduling.tasks import Limits
    from trainables.data import LongTailed
    from trainables.evaluation.deployment import Deployment
    from trainables.pipeline.leases import Leases
    from trainables.plan.model import Plan
    from trainables.trial import TrialSpec

__all__ = ["WORKER_ENVIRONMENT", "Search", "SearchResult", "run"]

log = logging.getLogger(__name__)

BUNDLED = "digits-lt"
"""The data that come with the libraries."""

LAG = 4
"""Results of the last few proposals are not waited for, see `search.phases.adaptive`."""

DRIVER_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is MLflow's
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal is what is resumed from
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


LOST = "{} is gone (killed, or the machine has run out of memory), and no trial can be trained without it."
"""Why a search ends whose Ray has lost a process."""

UNWRITABLE = {
    errno.ENOSPC: "; make room", errno.EDQUOT: "; make room", errno.EFBIG: "; allow larger files (ulimit -f)",
    errno.EMFILE: "; allow more open files (ulimit -n)", errno.ENFILE: "", errno.EROFS: "", errno.EIO: "",
    errno.ESTALE: "",
}  # fmt: skip
"""Errors of a disk or a machine, and not of this program; with what helps."""


def cannot_write(error: BaseException | None) -> str:
    """What keeps a search from writing its results, in a sentence; "" for any other error.

    Args:
        error: With what it was raised from.

    >>> cannot_write(OSError(errno.ENOSPC, "No space left on device", "results/a/journal.jsonl"))
    'results/a/journal.jsonl cannot be written: No space left on device; make room'
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            return f"{error.filename or 'A file'} cannot be written: {error.strerror}{UNWRITABLE[error.errno]}"
        if isinstance(error, sqlite3.OperationalError) and re.search("full|readonly|disk I/O", str(error)):
            return f"A database of the search cannot be written: {error}; make room"
        error = error.__cause__ or error.__context__
    return ""


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves.

    Args:
        name: Of the search.
        folder: With `best.yaml`, `conflicts.csv`, `report.html`.
        complete: Whether it ran to its end.
        trials: Table of trials (`analysis.records.reader.frame`).
        conflicts: Table of pairs; `None` where the design arm has too little.
        best: The exported document; `None` where nothing has finished.
        phase_seconds: Wall time of each phase.
        saved: Epochs and seconds of training that re-use saved.
        extras: Nominated pairs, and what surrounds the winner.
        health: Reasons not to believe the search, whole sentences; empty where there are none.
    """

    name: str
    folder: Path
    complete: bool
    trials: pd.DataFrame
    conflicts: pd.DataFrame | None
    best: dict[str, Any] | None
    phase_seconds: dict[str, float]
    saved: tuple[float, float]
    extras: Extras
    health: tuple[str, ...] = ()


def run(
    space: Space | str | Path,
    *,
    data: str | None = None,
    name: str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    **settings: Any,
) -> SearchResult:
    """Searches a space; the same as `run_search.py`.

    Args:
        space: A `Space`, or the path of a space file.
        data: Name of the data set; the space's own, or digits-lt, where absent.
        name: Of the search; made of the space's name and the time where absent.
        resume: Whether to go on with the search of that name, whose space, data, code and settings must be the same.
        accept_changes: With `resume`: whether a search of which one has changed is followed by a new one with the same
            settings on fresh seed blocks.
        **settings: Fields of `search.settings.Settings`; `gpus_per_trial` may be "auto".

    Returns:
        Tables and files of the search.

    Raises:
        ValueError: Anything that cannot be started as asked, in one sentence.
    """
    from search.space_file import load_space

    loaded = space if isinstance(space, Space) else load_space(space)
    path = None if isinstance(space, Space) else Path(space)
    if "gpus_per_trial" in settings:
        settings |= gpus(settings["gpus_per_trial"])
    given = settings if data is None else {**settings, "data": data}
    if accept_changes and not resume:
        raise SettingsError("search.run: accept_changes needs an existing search: give its name and resume=True")
    if resume:
        stored = Settings.stored(str(settings.get("output", "results")), str(name or ""))
        changed = stored.changed({"time_budget": None, **given})
        return Search(loaded, changed, path, Console(), resume=True, accept_changes=accept_changes).run()
    stem = path.stem if path is not None else "space"
    chosen = checked(
        {
            "name": name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}",
            "space": str(path or "<python>"),
            "data": loaded.data or "digits-lt",
            **given,
        },
        "search.run: ",
    )
    return Search(loaded, chosen, path, Console()).run()


class Search:
    """One search, from settings to results.

    Args:
        space: What may vary.
        settings: Everything else.
        file: The space's file, kept beside the results; `None` for a space made in Python.
        console: Rich console for user-facing output.
        resume: Whether the search goes on with what its folder holds.
        settle: Further blocks that unresolved primary pairs may get, in all; `None` for a search that goes on as
            planned.
        accept_changes: Whether a search that goes on and whose ground has changed is followed by a new one.
    """

    def __init__(
        self,
        space: Space,
        settings: Settings,
        file: Path | None,
        console: Console,
        resume: bool = False,
        settle: int | None = None,
        accept_changes: bool = False,
    ) -> None:
        from search.design.labels import make_design
        from search.scheduling.early_stopping import Halving
        from trainables import data
        from trainables.evaluation.deployment import Deployment
        from trainables.models import ModelError, check, input_format, settled
        from trainables.plan.model import check_space, provided
        from trainables.registry import discover

        # as a name and a place that mean the same in another process, in MLflow and in the exported recipe
        fed = settings.data if settings.feed == "auto" else data.fed(settings.data, settings.feed)
        name, root = data.rooted(fed, settings.data_root)
        settings = dataclasses.replace(settings, data=name, data_root=root)
        self.space, self.settings, self.console, self.resume = space, settings, console, resume
        self.settle, self._accept_changes, self._file = settle, accept_changes, file
        for folder in settings.tricks:
            try:
                discover(folder)
            except Exception as error:
                why = str(error) if str(error).startswith("--tricks") else f"--tricks {folder}: {error}"
                raise SettingsError(why) from error
        discover()
        # the exported recipe must find them from anywhere
        settings = dataclasses.replace(
            settings, tricks=tuple(str(Path(folder).resolve()) for folder in settings.tricks)
        )
        if settings.objective == "both":
            # Optuna prunes nothing where there are two objectives
            settings = dataclasses.replace(settings, rungs=())
        self.settings = settings
        self.halving = Halving(settings.rungs, settings.reduction_factor, settings.rung_score)
        self.standard = data.standard(name, root)
        try:
            self.model = settled(settings.model or space.model or self.standard.model)
            check(self.model)
            expected = input_format(self.model)
        except ModelError as error:
            raise SettingsError(f"--model: {error}") from error
        if expected is not None:
            name = data.sized(name, expected.size, expected.interpolation)
            self.settings = settings = dataclasses.replace(settings, data=name)
        self.standard = dataclasses.replace(self.standard, provides=provided(name, self.model))
        if settings.model or space.model:
            # by absolute places, wherever it is resumed from
            self.settings = settings = dataclasses.replace(settings, model=self.model)
        check_space(space, self.standard)
        self.design = make_design(
            space, self.standard, settings.epochs_scale, kind=self._design_kind(), primary=settings.primary
        )
        self.interrupted = False
        self.failed = False
        """Whether it has ended early because it could not go on."""
        self.deployment = Deployment()
        self.explain = False
        """Whether to print why a trial is stopped, as it happens."""
        self._leases: Leases | None = None
        self._interrupts = Interrupts()
        self._sent = False
        self._started: Agenda | None = None
        self._fingerprints: dict[int, str] = {}
        """By seed of the split, as first seen: data that change while the search runs are found out."""

    def _design_kind(self) -> str | None:
        """The kind of design; once a list is kept beside the results, that copy is what counts."""
        kind = self.settings.design
        if kind is None or not kind.startswith("list:"):
            return kind
        kept = self.settings.folder / kept_list(kind)
        return f"list:{kept}" if kept.is_file() else kind

    def _deployment(self) -> Deployment:
        """How results are weighed; of a search that goes on as it was read when it began."""
        from trainables.evaluation.deployment import Deployment, read

        settings = self.settings
        kept = settings.folder / "deployment.json"
        if not self.resume:
            return read(settings.prior, settings.cost, self._data(settings.seed * SEEDS_APART).class_names)
        try:
            return Deployment.from_dict(json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(f"--resume {settings.name}: {kept} is damaged ({error!r}); {UNDO}") from error

    # --- before anything is trained -----------------------------------------------------------------------

    def open_folder(self) -> list[str]:
        """Makes the results folder, or checks that it holds the search to go on with.

        Returns:
            What has changed since the search was started; empty of a new one.

        Raises:
            SettingsError: It cannot be written, holds another search, or what the search stands on has changed.
        """
        settings, folder = self.settings, self.settings.folder
        first = self._data(settings.seed * SEEDS_APART)
        now = workspace.identify(self.space, settings, self.model, first, self.deployment)
        if not self.resume:
            kind, _, file = (settings.design or "").partition(":")
            workspace.create(settings, now, self._file, self.deployment, file if kind == "list" else None)
            return []
        before = workspace.Identity.read(folder)
        if before is None:
            if workspace.kept_space(settings)[0] != self.space:
                changed = [f"the space is not that of {folder / 'space.py'} any more"]
            else:
                changed = []
        else:
            now = dataclasses.replace(now, files=workspace.files_now(self._file, before, folder))
            changed = workspace.changes(before, now)
        if before is None or before.data["fingerprint"] == now.data["fingerprint"]:
            changed += workspace.block_changes(self._trained(), self._fingerprint)
        if changed and not self._accept_changes:
            name = workspace.successor(settings, ()).name
            again = f"starts {name} with the same settings on fresh seed blocks and leaves {settings.name} as it is"
            settle = " --settle" if self.settle is not None else ""
            raise SettingsError(workspace.refusal(f"--resume {settings.name}{settle}", changed, again))
        if before is None and not changed:
            dataclasses.replace(now, files=workspace.hashes(folder)).write(folder)
            said = (
                f"{folder} was made by an earlier version, which did not record what a search stands on: its space and "
                "the data of its trials are unchanged, its code and versions are assumed to be"
            )
            self.console.print(styled(sentence(said), "dim"), soft_wrap=True)
        return changed

    def _trained(self) -> dict[int, set[str]]:
        """Fingerprints of the data by seed of the split, as the trials of a search that goes on have recorded them."""
        from search.scheduling.orchestrator import Journal

        found: dict[int, set[str]] = {}
        for record in Journal(self.settings.folder / "journal.jsonl").records().values():
            found.setdefault(record.split_seed, set()).add(record.fingerprint)
        return found

    def run(self) -> SearchResult:
        """Runs to the end, the budget, or Ctrl-C; then looks at what there is.

        Raises:
            SettingsError: The search cannot run as asked, or another process is running it.
        """
        self._lock = Lock(self.settings.folder / "search.lock")
        with self._interrupts:
            try:
                if self.resume:
                    self._take_lock()
                return self._run()
            except SystemExit as error:
                # while Ray starts, SIGTERM is heard by Ray
                raise KeyboardInterrupt from error
            finally:
                # a search that runs in the place of this one hears its own signals
                self.interrupted = self.interrupted or self._interrupts.received
                self._lock.release(remove=True)

    def _take_lock(self) -> None:
        """Keeps every other driver out of the search, until this one ends.

        Raises:
            SettingsError: Another one is in it.
        """
        folder = self.settings.folder
        try:
            free = self._lock.acquire(seconds=3.0)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise SettingsError(f"{folder}: cannot write there ({error.strerror or error})") from error
            log.warning("%s cannot be locked: make sure that no other process runs this search", folder)
            return
        if not free:
            raise SettingsError(
                f"--resume {self.settings.name}: {folder} is in use by {self._lock.owner}; wait for that process to "
                "end, or stop it with Ctrl-C"
            )

    def _run(self) -> SearchResult:
        from search import mlflow_tracker as tracking
        from search.console import summary
        from trainables.trial import forget_data

        forget_data()

        uri, said = tracking.choose(self.settings.tracking_uri)
        if said:
            self.console.print(styled(sentence(f"MLflow: {uri}{said}")), soft_wrap=True)
        # a search that goes on from another directory still writes where it did; the password is kept nowhere
        settings = self.settings = dataclasses.replace(self.settings, tracking_uri=uri)
        resources.check(settings)
        self.deployment = self._deployment()
        self.check_objective()
        self._check_model()
        changed = self.open_folder()
        if changed:
            return self._run_successor(changed)
        self._take_lock()
        summary.show_notes(self.console, settings.data, self._notes)
        for note in self.ground.left_out if self.limits.starts else ():
            self.console.print(styled(note), soft_wrap=True)
        tracker = None
        try:
            # MLflow makes its database in seconds that Ray needs as well
            tracker = tracking.Tracker(uri, settings.name, settings.data, settings.folder)
            agenda, display, complete = self._search(tracker)
            return self._conclude(agenda, display, tracker, uri, complete)
        except BaseException as error:
            self._abandon(error, tracker)
            raise

    def _run_successor(self, changed: list[str]) -> SearchResult:
        """Runs a new search in the place of one whose ground has changed, which stays as it is."""
        stored = Settings.stored(self.settings.output, self.settings.name)
        budget = self.settings.time_budget or stored.time_budget
        settings = workspace.successor(dataclasses.replace(self.settings, time_budget=budget), changed)
        said = (
            f"{'; '.join(changed)}. {self.settings.name} stays as it is; {settings.name} starts with the same settings "
            "on fresh seed blocks."
        )
        self.console.print(styled(sentence(said), "bold yellow"), soft_wrap=True)
        search = Search(self.space, settings, self._file, self.console)
        search.explain = self.explain
        try:
            return search.run()
        finally:
            self.interrupted = search.interrupted

    def _close(self, tracker: Any, status: str) -> None:
        """Waits for MLflow, for a bounded time, and says what it lacks."""
        tracker.close(status, tell=lambda text: self.console.print(styled(sentence(text))))
        if tracker.missing:
            self.console.print(styled(sentence(tracker.missing), "yellow"), soft_wrap=True)

    def _check_model(self) -> None:
        """Refuses weights of another architecture, and an own network that cannot be run, before there is a folder."""
        from trainables.models import MODELS, check_on

        if self.model not in MODELS or (self.model == "linear") != (self.standard.model == "linear"):
            data = self._data(self.settings.seed * SEEDS_APART)
            check_on(self.model, classes=data.classes, shape=tuple(map(int, data.train_images.shape[1:])))

    def _abandon(self, error: BaseException, tracker: Any) -> None:
        """Leaves nothing of a search of which nothing was recorded, and says how to go on with another."""
        from search.console import summary

        recorded = self._started is not None and self._started.records
        if recorded or self.resume:
            if tracker is not None:
                tracker.close("KILLED")
            if recorded and not isinstance(error, ValueError):
                how = summary.how_to_resume(self.settings, self.settle is not None)
                self.console.print(styled(how, "bold yellow"), soft_wrap=True)
            return
        # the name is free again, in MLflow as well
        if tracker is not None:
            tracker.discard()
        shutil.rmtree(self.settings.folder, ignore_errors=True)

    # --- the search ---------------------------------------------------------------------------------------

    def _search(self, tracker: Any) -> tuple[Agenda, Any, bool]:
        import ray

        # a Ray that the caller has started stays
        own = not ray.is_initialized()
        try:
            return self._run_in_ray(tracker, own)
        finally:
            if self._leases is not None:
                self._leases.close()
            if own:
                with self._interrupts.noted():
                    cluster.stop()
            for scratch in ("ray", "code"):
                shutil.rmtree(self.settings.folder / scratch, ignore_errors=True)

    def _run_in_ray(self, tracker: Any, own: bool) -> tuple[Agenda, Any, bool]:
        for key, value in DRIVER_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

        from search import explain
        from search.console import summary
        from search.console.display import Display
        from search.execution.ray_tune import Conductor, Interrupted, Recorder, StageScheduler
        from search.scheduling.tasks import JournalError
        from trainables.trial import Trial

        with self._interrupts.noted(), children_outlive_the_terminal():
            self._join()
        self._interrupts.check()
        settings = self.settings
        shares = resources.shares(settings)
        if not settings.lag:
            # on a larger machine more trials run at the same time than this one has seen the results of
            lag: dict[str, Any] = {"lag": LAG if self.resume else max(LAG, resources.slots(settings))}
            settings = self.settings = dataclasses.replace(settings, **lag)
            dataclasses.replace(Settings.stored(settings.output, settings.name), **lag).save()
        workspace.keep_lag(settings)
        agenda = self._started = self._agenda()
        if self.resume and agenda.catch_up():
            return self._nothing_left(agenda, tracker)
        if self.resume and agenda.used_up:
            raise SettingsError(
                f"--resume {settings.name}: its budget is exhausted; to continue, grant as much again: {agenda.used_up}"
            )
        slots = resources.slots(settings)
        scheduler = StageScheduler(agenda, self.halving, shares)
        # by what was recorded: phases that come after this one have not planned their tasks again yet
        self.halving.remember(agenda.records.values())
        self._track(tracker, agenda)
        if self.resume:
            # not before everything stands: asked again after a refusal, `--trials +50` must not add twice
            settings.keep_changes()
        recorder = Recorder(agenda, scheduler, settings.name, settings.data, self.model, [tracker.log], shares)
        if not own:
            recorder.interrupt_with = Interrupted
        display = Display(self.console, agenda, recorder.progress, slots)
        recorder._listeners.append(display.record)
        recorder.note = lambda text: self.console.print(styled(sentence(text), "yellow"), soft_wrap=True)
        if self.explain:
            recorder._listeners.append(lambda record: explain.show_stop(self.console, record))
        tuner = Tuner(
            Trial,
            tune_config=TuneConfig(
                search_alg=Conductor(agenda, self._spec, shares),
                scheduler=scheduler,
                metric="score",
                mode="max",
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(settings.folder.resolve()),
                callbacks=[recorder],
                failure_config=FailureConfig(max_failures=0),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

        def interrupt() -> None:
            agenda.stop()
            recorder.interrupted = True

        with display, self._interrupts.between_events(interrupt):
            try:
                lost = cluster.run_watched(tuner.fit, lambda: recorder.interrupted, recorder.interrupt, own)
                if lost:
                    agenda.stopped_because = LOST.format(lost)
                    agenda.cut()
            except (KeyboardInterrupt, Interrupted):
                pass
            except Exception as error:
                if agenda.journal.problem is not None:
                    resuming = summary.how_to_resume(settings, self.settle is not None).splitlines()[-1].strip()
                    raise JournalError(f"{agenda.journal.problem}: {resuming}") from None
                agenda.stopped_because = cannot_write(error)
                if not agenda.stopped_because:
                    raise
        self.interrupted = self._interrupts.received
        if self.interrupted:
            agenda.cut()
        self._keep_study(agenda)
        if agenda.stopped_because:
            self.failed = True
            why = agenda.stopped_because
            self.console.print(styled(sentence(why[:1].upper() + why[1:]), "bold red"), soft_wrap=True)
        if self.interrupted:
            self.console.print("\nInterrupted; the results so far follow.")
        return agenda, display, agenda.phase == "done" and not self.failed and self._was_whole(tracker)

    def _keep_study(self, agenda: Agenda) -> None:
        """Brings the copy of the study up to date, or says why it is not."""
        problem = agenda.close()
        if problem:
            self.console.print(styled(problem, "yellow"), soft_wrap=True)

    def _nothing_left(self, agenda: Agenda, tracker: Any) -> tuple[Agenda, Any, bool]:
        """Says that a search is finished; its tables are written anew."""
        from search.console import summary
        from search.console.display import Display

        why = agenda.not_settled() if self.settle is not None else None
        self.console.print(styled(summary.finished(self.settings, why)), soft_wrap=True)
        self._track(tracker, agenda)
        self.settings.keep_changes()
        self._keep_study(agenda)
        return agenda, Display(self.console, agenda, {}, 1), self._was_whole(tracker)

    def _track(self, tracker: Any, agenda: Agenda) -> None:
        """Opens the search in MLflow, with everything that its journal has."""
        from search.sync import recorded
        from trainables.plan.model import choices_of

        choices = set(choices_of(self.space))
        if self.settings.start_points:
            choices |= {name for recipe in self.ground.published for name in recipe.choices}
        tracker.start(self._params(), {"space": self.settings.space}, choices=choices, resume=self.resume)
        tracker.replay(recorded(agenda.journal))

    def _was_whole(self, tracker: Any) -> bool:
        """Settling runs further blocks and nothing else: a search that was cut before is not at its end after it."""
        return self.settle is None or tracker.before == "FINISHED"

    @property
    def ground(self) -> Ground:
        """Baseline, design and published recipes."""
        from search.recipes import Ground

        settings = self.settings
        return Ground(
            self.space, self.standard, settings.epochs_scale, kind=self._design_kind(), primary=settings.primary
        )  # fmt: skip

    @property
    def limits(self) -> Limits:
        """How much the settings let run."""
        from search.scheduling.tasks import Limits

        settings = self.settings
        return Limits(
            seeds=settings.seeds,
            trials=settings.trials,
            children=settings.children_per_start,
            race=settings.race,
            seconds=settings.time_budget,
            gpu_seconds=None if settings.gpu_hours is None else 3600 * settings.gpu_hours,
            gpus=settings.gpus_per_trial,
            tune=settings.tune_baseline,
            starts=settings.start_points,
            check_seeds=settings.check_seeds,
            full_length=settings.check_full_length,
            settle=self.settle,
            margin=self.standard.margin,
            primary=settings.primary,
            objective=settings.objective,
            lag=settings.lag or LAG,
        )

    def _agenda(self) -> Agenda:
        from search.scheduling.objective import PARTS
        from search.scheduling.orchestrator import Agenda, Journal
        from search.scheduling.sampler import Sampler
        from trainables.pipeline.leases import Leases
        from trainables.pipeline.store import StageStore

        settings = self.settings
        store = StageStore(settings.store_place) if settings.reuse else None
        if store is not None and store.shared_folder is not None:
            self._leases = Leases(store.shared_folder / "leases")
        sampler = Sampler(
            self.space,
            self.standard,
            settings.epochs_scale,
            settings.folder.resolve() / "optuna.db",
            settings.name,
            settings.seed,
            [name.removeprefix("final/") for name in PARTS[settings.objective]],
        )
        return Agenda(
            self.ground,
            sampler,
            self.limits,
            Journal(settings.folder / "journal.jsonl"),
            self._keys,
            store,
            base_seed=settings.seed * SEEDS_APART,
            leases=self._leases,
            store_limit=settings.store_limit,
            fused=self._fused,
        )

    def _fused(self, plan: Plan) -> bool:
        """Whether trials of a plan train several seeds in one network."""
        from trainables.batch import pixels_of
        from trainables.training.joint_seeds import fused_stages

        images = self._data(self.settings.seed * SEEDS_APART).train_images
        return bool(fused_stages(plan, self.settings.numerics, self._device, pixels_of(images)))

    def _keys(self, plan: Plan, seed: int, company: tuple[int, ...] = ()) -> list[list[str]]:
        """Stage keys as the trial will have them; equal prefixes are what the agenda keeps apart."""
        import torch

        from search.phases.phases import ADAPTIVE_SEED, RACE_SEED
        from search.scheduling.early_stopping import SHORTENED
        from trainables.pipeline.pipeline import trial_context
        from trainables.pipeline.store import features_key, stage_keys, start_key

        cuda = self._device == "cuda" and torch.cuda.is_available()
        device, asked = torch.device("cuda" if cuda else "cpu"), self.settings.numerics
        marks = [(each, self._fingerprint(each)) for each in company]
        context = trial_context(self._fingerprint(seed), self.model, seed, device, asked, marks)
        # the workers', which train with one thread, and not this process's
        context["numerics"] |= {"device": self._device, "threads": 1}
        plans = [plan]
        # the seed blocks of the arms never meet, and only the adaptive one is judged on the way
        if self.settings.rung_score == SHORTENED and ADAPTIVE_SEED <= seed % SEEDS_APART < RACE_SEED:
            plans += [plan.shortened(rung) for rung in self.settings.rungs]
        stages = [stage_keys(each, context) for each in plans]
        # features of a start are work that two trials may share, like a stage
        features = [
            [features_key(keys[index - 1][-1] if index else start_key(context), stage)]
            for each, keys in zip(plans, stages, strict=True)
            for index, stage in enumerate(each.stages)
            if stage.views
        ]
        return [key for keys in stages for key in keys] + features

    @property
    def _device(self) -> str:
        return "cuda" if self.settings.gpus_per_trial else "cpu"

    def check_data(self) -> None:
        """Refuses, without training, what `run` refuses of an objective, and of options about the bundled data.

        Other data may not be here yet, and are not fetched to look at their options.

        Raises:
            ValueError: An option that does not fit the data.
        """
        settings = self.settings
        bundled = settings.data.partition("?")[0] == BUNDLED
        if bundled and (settings.prior is not None or settings.cost is not None):
            self._deployment()
        if bundled and (settings.imbalance is not None or settings.data != BUNDLED):
            self._data(settings.seed * SEEDS_APART)
        if settings.objective != "accuracy":
            self.check_objective()

    def check_objective(self) -> None:
        """Refuses an objective that val is too small for; loads the first split.

        Raises:
            SettingsError: Fewer than 50 val images in some class, for anything but accuracy.
        """
        from search.scheduling.objective import check_objective

        check_objective(self.settings.objective, self.settings.data, [self._val_images])

    @property
    def _val_images(self) -> int:
        """Of the class that has the fewest."""
        data = self._data(self.settings.seed * SEEDS_APART)
        return int(data.val_labels.bincount(minlength=data.classes).min())

    def _data(self, split_seed: int) -> LongTailed:
        from trainables.trial import cached_data

        settings = self.settings
        return cached_data(settings.data, settings.data_root, settings.imbalance, split_seed)

    @property
    def _notes(self) -> tuple[str, ...]:
        """What was held out, left out or assumed, in the first block; in others the numbers are alike."""
        return self._data(self.settings.seed * SEEDS_APART).notes

    def _fingerprint(self, split_seed: int) -> str:
        if split_seed not in self._fingerprints:
            self._fingerprints[split_seed] = self._data(split_seed).fingerprint
        return self._fingerprints[split_seed]

    def _spec(self, task: Task) -> dict[str, Any]:
        from search.scheduling.early_stopping import SHORTENED

        return dataclasses.replace(
            self._trial(task.recipe.plan, task.seed),
            rungs=self.settings.rungs if task.may_stop else (),
            shortened=task.may_stop and self.settings.rung_score == SHORTENED,
            read_test=task.read_test,
            company=task.company,
            fingerprint=self._fingerprint(task.seed),
        ).to_dict()

    def _trial(self, plan: Plan, seed: int) -> TrialSpec:
        from search.scheduling.objective import PARTS
        from trainables.trial import TrialSpec

        settings = self.settings
        return TrialSpec(
            plan=plan.to_dict(),
            seed=seed,
            split_seed=seed,
            data=settings.data,
            root=settings.data_root,
            imbalance=settings.imbalance,
            model=self.model,
            store=settings.store_place if settings.reuse else None,
            tricks=resources.tricks_for(settings, self._sent),
            target=PARTS[settings.objective],
            device=self._device,
            numerics=settings.numerics.to_dict(),
            deployment=self.deployment.to_dict() if self.deployment else None,
        )

    # --- resources ----------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Starts or joins Ray, and finds the share of a GPU where it is to be measured."""
        import ray

        self._sent = self.settings.address is not None and not ray.is_initialized()
        note = resources.join(self.settings)
        if note:
            self.console.print(styled(sentence(note)), soft_wrap=True)
        resources.check_storage(self.settings)
        if not self.settings.gpus_auto:
            return
        plans = resources.neediest(cell.recipe.plan for cell in self.design.cells)
        seed = self.settings.seed * SEEDS_APART
        specs = [dataclasses.replace(self._trial(plan, seed), store=None).to_dict() for plan in plans]
        found = resources.measured(specs, self.settings.cpus_per_trial)
        self.console.print(styled(found.reason), soft_wrap=True)
        share: dict[str, Any] = {"gpus_per_trial": found.share, "gpus_auto": False, "gpus_reason": found.reason}
        self.settings = dataclasses.replace(self.settings, **share)
        # and nothing that a resumed search was given for this run alone
        dataclasses.replace(Settings.stored(self.settings.output, self.settings.name), **share).save()

    # --- afterwards ---------------------------------------------------------------------------------------

    def _params(self) -> dict[str, Any]:
        from analysis.records import mlflow_store

        fields = dataclasses.asdict(self.settings) | {"model": self.model, "margin": self.standard.margin}
        fields["tracking_uri"] = mlflow_store.portable(self.settings.tracking_uri or "")
        fields["imbalance"] = self.settings.imbalance or self.standard.imbalance
        fields |= {"design": self.design.kind, "primary": ",".join(self.settings.primary)}
        fields["val_images_per_class"] = self._val_images
        fields["data_notes"] = "\n".join(map(sentence, self._notes))
        fields["final_share"] = round(self.ground.share, 4)
        return {key: value for key, value in fields.items() if value not in (None, (), "")}

    @contextmanager
    def _if_there_is_room(self, what: str) -> Iterator[None]:
        """Says what could not be written on a full disk, and goes on: what was found out must be shown."""
        try:
            yield
        except OSError as error:
            why = cannot_write(error)
            if not why:
                raise
            self.failed = True
            said = f"{what} could not be written: {error.strerror}"
            self.console.print(styled(sentence(said), "yellow"), soft_wrap=True)

    def _conclude(self, agenda: Agenda, display: Any, tracker: Any, uri: str, complete: bool) -> SearchResult:
        from analysis.records import reader as load
        from analysis.records.schema import RecordError
        from search import export
        from search import mlflow_tracker as tracking
        from search.console import summary
        from search.execution import epoch_time as pace

        records = list(agenda.records.values())
        folder = self.settings.folder
        trials = load.frame(records)
        conflicts = summary.conflict_table(
            self.console, trials, self.standard.margin, self.settings.primary, agenda.known.further
        )
        winner = agenda.known.winner
        extras = summary.extras(trials, self.standard.margin, None if winner is None else winner.plan.id)
        with self._if_there_is_room("tables"):
            extras.save(folder)
        best = None
        if conflicts is not None:
            with self._if_there_is_room("conflicts.csv"):
                files.write(folder / "conflicts.csv", csv_text(conflicts))
        try:
            plans = {record.recipe: record.plan for record in records}
            pick = {"accuracy": None, "both": "knee"}.get(self.settings.objective, self.settings.objective)
            best = export.document(trials, plans.__getitem__, pick=pick, conflicts=conflicts, settings=self._params())
            with self._if_there_is_room("best.yaml"):
                export.write(best, folder / "best.yaml")
        except (export.ExportError, RecordError) as error:
            self.console.print(styled(sentence(error), "yellow"), soft_wrap=True)
        health = summary.health(trials, self.standard.margin, None if winner is None else winner.plan.id)
        found = findings.document(
            trials, conflicts, best, health=health, complete=complete, margin=self.standard.margin,
            provenance=self._params(),
        )  # fmt: skip
        with self._if_there_is_room("findings.json"):
            files.write(folder / "findings.json", files.to_json(found, indent=2) + "\n")
        try:
            with self._if_there_is_room("report.html"):
                summary.write_report(folder / "report.html", records, trials, conflicts, self._params(), uri)
        except Exception as error:
            # what was found out must reach the screen and MLflow all the same
            log.exception("the report could not be written")
            said = f"report.html could not be written: {sentence(error)}"
            self.console.print(styled(said, "yellow"), soft_wrap=True)
        seconds = pace.of_records(records)
        if seconds is not None:
            pace.keep(self.settings, self.model, pace.Pace(seconds, f"median of search {self.settings.name}"))
        result = SearchResult(
            self.settings.name, folder, complete, trials, conflicts, best, display.phase_seconds, display.saved, extras,
            health,
        )  # fmt: skip
        settling = self.settle is not None and agenda.phase != "done"
        # before MLflow is waited for: a server that does not answer must not keep the results back
        summary.show(self.console, result, uri, self.settings, settling, agenda.used_up, self._notes)
        metrics = {
            "reuse/epochs_saved": sum(record.epochs - record.epochs_trained for record in records),
            "reuse/seconds_saved": sum(record.seconds_saved for record in records),
        }
        # by which analysis.report.page judges each look at its own share
        tags = extras.tags | {"looks": str(list(agenda.known.further)), "health": " ".join(health) or "no warnings"}
        # MLflow shows the note as the run's description
        tags["mlflow.note.content"] = summary.answer(trials, conflicts, self.standard.margin)
        # what fresh seeds have shown of a nominated pair is found by the same query as what the design has shown
        tables = [table for table in (conflicts, extras.nominated) if table is not None and len(table)]
        for table in tables:
            harms, verdicts = tracking.conflict_summary(table)
            metrics |= harms
            tags |= verdicts
        artifacts = {
            file.name: file.read_bytes() if file.suffix == ".png" else file.read_text(encoding="utf-8")
            for file in sorted(folder.iterdir())
            if file.name in ("best.yaml", "conflicts.csv", "conflicts.png", "report.html", "space.py", "search.json")
            or file.name in ("findings.json", "nominated.csv", "removals.csv", "path.csv", workspace.IDENTITY)
        }
        tracker.summary(metrics, tags, artifacts, anew=tracking.FINDINGS)
        for table in tables:
            tracker.mark(table)
        self._close(tracker, "FINISHED" if complete else "KILLED")
        return result
