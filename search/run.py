"""Runs a search: design arm, adaptive arm, race; Ray schedules, Optuna proposes, MLflow keeps the record."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from analysis.text import printable
from search import cluster, resources
from search.resources import WORKER_ENVIRONMENT
from search.settings import Settings, SettingsError, gpus
from spaces.domain import Space

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from search.agenda import Agenda, Task
    from search.ground import Ground
    from search.summary import Extras
    from search.tasks import Limits
    from trainables.data import LongTailed
    from trainables.deployment import Deployment
    from trainables.leases import Leases
    from trainables.plan import Plan
    from trainables.trial import TrialSpec

__all__ = ["WORKER_ENVIRONMENT", "Search", "SearchResult", "run"]

log = logging.getLogger(__name__)

BUNDLED = "digits-lt"
"""The data that come with the libraries."""

SEEDS_APART = 10_000
"""Between the seed blocks of two `--seed`s: more than there are blocks in a search."""

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
        trials: Table of trials (`analysis.load.frame`).
        conflicts: Table of pairs; `None` where the design arm has too little.
        best: The exported document; `None` where nothing has finished.
        phase_seconds: Wall time of each phase.
        saved: Epochs and seconds of training that re-use saved.
        extras: Nominated pairs, and what surrounds the winner.
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


def _kept_list(kind: str) -> str:
    """Name of the copy of a design's list beside the results.

    >>> _kept_list("list:plans/cells.yaml")
    'design.yaml'
    """
    return f"design{Path(kind).suffix}"


SPACE_HEAD = "from spaces.domain import Forbidden, Integer, LogUniform, OneOf, SomeOf, Space, Stage, Trick, Uniform\n"
"""Above a space that was made in Python and is kept as a file."""


def run(
    space: Space | str | Path,
    *,
    data: str | None = None,
    name: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> SearchResult:
    """Searches a space; the same as `run_search.py`.

    Args:
        space: A `Space`, or the path of a space file.
        data: Name of the data set; the space's own, or digits-lt, where absent.
        name: Of the search; made of the space's name and the time where absent.
        resume: Whether to go on with the search of that name, whose space and settings must be the same.
        **settings: Fields of `search.settings.Settings`; `gpus_per_trial` may be "auto".

    Returns:
        Tables and files of the search.

    Raises:
        ValueError: Anything that cannot be started as asked, in one sentence.
    """
    from rich.console import Console

    from search.space_file import load_space

    path = None if isinstance(space, Space) else Path(space)
    loaded = load_space(path) if path is not None else space
    assert isinstance(loaded, Space)
    if "gpus_per_trial" in settings:
        settings |= gpus(settings["gpus_per_trial"])
    if resume:
        given = settings if data is None else {**settings, "data": data}
        stored = Settings.stored(str(settings.get("output", "results")), name or "")
        changed = stored.changed({"time_budget": None, **given})
        return Search(loaded, changed, path, Console(), resume=True).run()
    stem = path.stem if path is not None else "space"
    chosen = Settings(
        name=name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        space=str(path or "<python>"),
        data=data or loaded.data or "digits-lt",
        **settings,
    )
    return Search(loaded, chosen, path, Console()).run()


class Search:
    """One search, from settings to results.

    Args:
        space: What may vary.
        settings: Everything else.
        file: The space's file, kept beside the results; `None` for a space made in Python.
        console: Where a person reads.
        resume: Whether the search goes on with what its folder holds.
        settle: Further blocks that unresolved primary pairs may get, in all; `None` for a search that goes on as
            planned.
    """

    def __init__(
        self,
        space: Space,
        settings: Settings,
        file: Path | None,
        console: Console,
        resume: bool = False,
        settle: int | None = None,
    ) -> None:
        from search.design import make_design
        from search.scheduler import Halving
        from trainables import data
        from trainables.deployment import Deployment
        from trainables.models import ModelError, check, settled
        from trainables.plan import check_space
        from trainables.registry import discover

        # as a name and a place that mean the same in another process, in MLflow and in the exported recipe
        fed = settings.data if settings.feed == "auto" else data.fed(settings.data, settings.feed)
        name, root = data.rooted(fed, settings.data_root)
        settings = dataclasses.replace(settings, data=name, data_root=root)
        self.space, self.settings, self.console, self.resume = space, settings, console, resume
        self.settle = settle
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
        except ModelError as error:
            raise SettingsError(f"--model: {error}") from error
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
        self._sent = False
        self._text = file.read_text(encoding="utf-8") if file is not None else f"{SPACE_HEAD}\nSPACE = {space!r}\n"

    def _design_kind(self) -> str | None:
        """The kind of design; once a list is kept beside the results, that copy is what counts."""
        kind = self.settings.design
        if kind is None or not kind.startswith("list:"):
            return kind
        kept = self.settings.folder / _kept_list(kind)
        return f"list:{kept}" if kept.is_file() else kind

    def _deployment(self) -> Deployment:
        """How results are weighed; of a search that goes on as it was read when it began."""
        from trainables.deployment import Deployment, read

        settings = self.settings
        kept = settings.folder / "deployment.json"
        if self.resume:
            return Deployment.from_dict(json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None)
        return read(settings.prior, settings.cost, self._data(settings.seed * SEEDS_APART).class_names)

    # --- before anything is trained -----------------------------------------------------------------------

    def open_folder(self) -> None:
        """Makes the results folder, or checks that it holds the search to go on with.

        Raises:
            SettingsError: It cannot be written, holds another search, or the space has changed.
        """
        folder = self.settings.folder
        kept = folder / "space.py"
        if self.resume:
            from search.space_file import load_space

            same = kept.is_file() and kept.read_text(encoding="utf-8") == self._text
            if not same and load_space(kept) != self.space:
                raise SettingsError(
                    f"--resume {self.settings.name}: the space has changed since the search was started; leave --space "
                    f"out to go on with {kept}, or start a new search"
                )
            return
        if self.settings.store is not None and self.settings.reuse and "://" not in self.settings.store_place:
            try:
                self.settings.store_folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"--store {self.settings.store}: cannot write there ({error.strerror}); choose another folder"
                ) from error
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise SettingsError(
                f"--name {self.settings.name}: {folder} exists; choose another name, or --resume {self.settings.name}"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"--output {self.settings.output}: cannot write there ({error.strerror}); choose another folder"
            ) from error
        kept.write_text(self._text, encoding="utf-8")
        kind = self.settings.design
        if kind is not None and self.design.kind == "list":
            shutil.copyfile(kind.partition(":")[2], folder / _kept_list(kind))
        if self.deployment:
            (folder / "deployment.json").write_text(json.dumps(self.deployment.to_dict()), encoding="utf-8")
        self.settings.save()

    def run(self) -> SearchResult:
        """Runs to the end, the budget, or Ctrl-C; then looks at what there is."""
        from search import tracking

        uri = self.settings.tracking_uri or tracking.default_uri()
        tracking.check(uri)
        # a search that goes on from another directory still writes where it did
        settings = self.settings = dataclasses.replace(self.settings, tracking_uri=uri)
        resources.check(settings)
        self.deployment = self._deployment()
        self.check_objective()
        self._check_model()
        self.open_folder()
        # MLflow makes its database in seconds that Ray needs as well
        tracker = tracking.Tracker(uri, settings.name, settings.data)
        try:
            agenda, display, complete = self._search(tracker)
            return self._conclude(agenda, display, tracker, uri, complete)
        except BaseException as error:
            tracker.close("KILLED")
            self._abandon(error)
            raise

    def _check_model(self) -> None:
        """Refuses weights of another architecture, and an own network that cannot be run, before there is a folder."""
        from trainables.models import MODELS, check_on

        if self.model not in MODELS:
            data = self._data(self.settings.seed * SEEDS_APART)
            channels, height, width = data.train_images.shape[1:]
            check_on(self.model, classes=data.classes, shape=(int(channels), int(height), int(width)))

    def _abandon(self, error: BaseException) -> None:
        """Leaves nothing of a search in which nothing ran, and says how to go on with another."""
        from search import summary

        if (self.settings.folder / "journal.jsonl").exists():
            if not isinstance(error, ValueError):
                how = summary.how_to_resume(self.settings, self.settle is not None)
                self.console.print(how, style="bold yellow", highlight=False, soft_wrap=True)
        elif not self.resume:
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
                cluster.stop()
            for scratch in ("ray", "code"):
                shutil.rmtree(self.settings.folder / scratch, ignore_errors=True)

    def _run_in_ray(self, tracker: Any, own: bool) -> tuple[Agenda, Any, bool]:
        for key, value in DRIVER_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

        from search import explain
        from search.conductor import Conductor, Interrupted, Recorder, StageScheduler
        from search.display import Display
        from trainables.trial import Trial

        self._join()
        settings = self.settings
        shares = resources.shares(settings)
        agenda = self._agenda()
        if self.resume and agenda.catch_up():
            return self._nothing_left(agenda, tracker)
        if self.resume and agenda.used_up:
            raise SettingsError(
                f"--resume {settings.name}: what it may use is used up; with as much again it goes on: {agenda.used_up}"
            )
        slots = resources.slots(settings)
        scheduler = StageScheduler(agenda, self.halving, shares)
        self._replay(agenda)
        tracker.start(self._params(), {"space": settings.space}, resume=self.resume)
        if self.resume:
            # not before everything stands: asked again after a refusal, `--trials +50` must not add twice
            settings.keep_changes()
        for record in agenda.records.values():
            tracker.log(record)
        recorder = Recorder(agenda, scheduler, settings.name, settings.data, self.model, [tracker.log], shares)
        if not own:
            recorder.interrupt_with = Interrupted
        display = Display(self.console, agenda, recorder.progress, slots)
        recorder._listeners.append(display.record)
        recorder.note = lambda text: self.console.print(Text(printable(text), style="yellow"), soft_wrap=True)
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
        complete = True
        with display, _interruptible(agenda, recorder):
            try:
                lost = cluster.run_watched(tuner.fit, lambda: recorder.interrupted, recorder.interrupt, own)
                if lost:
                    agenda.stopped_because = LOST.format(lost)
                    agenda.cut()
            except (KeyboardInterrupt, Interrupted):
                complete, self.interrupted = False, True
                agenda.cut()
            except Exception as error:
                agenda.stopped_because = cannot_write(error)
                if not agenda.stopped_because:
                    raise
        if agenda.stopped_because:
            complete, self.failed = False, True
            why = agenda.stopped_because
            self.console.print(Text(printable(why[:1].upper() + why[1:]), style="bold red"), soft_wrap=True)
        if self.interrupted:
            self.console.print("\nInterrupted; looking at what there is.")
        return agenda, display, complete and agenda.phase == "done" and self._was_whole(tracker)

    def _nothing_left(self, agenda: Agenda, tracker: Any) -> tuple[Agenda, Any, bool]:
        """Says that a search is finished; its tables are written anew."""
        from search import summary
        from search.display import Display

        why = agenda.not_settled() if self.settle is not None else None
        self.console.print(summary.finished(self.settings, why), highlight=False, soft_wrap=True)
        tracker.start(self._params(), {"space": self.settings.space}, resume=True)
        self.settings.keep_changes()
        for record in agenda.records.values():
            tracker.log(record)
        return agenda, Display(self.console, agenda, {}, 1), self._was_whole(tracker)

    def _was_whole(self, tracker: Any) -> bool:
        """Settling runs further blocks and nothing else: a search that was cut before is not at its end after it."""
        return self.settle is None or tracker.before == "FINISHED"

    @property
    def ground(self) -> Ground:
        """Baseline, design and published recipes."""
        from search.ground import Ground

        settings = self.settings
        return Ground(
            self.space, self.standard, settings.epochs_scale, kind=self._design_kind(), primary=settings.primary
        )  # fmt: skip

    @property
    def limits(self) -> Limits:
        """How much the settings let run."""
        from search.tasks import Limits

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
        )

    def _agenda(self) -> Agenda:
        from search.agenda import Agenda, Journal
        from search.objective import PARTS
        from search.sampler import Sampler
        from trainables.leases import Leases
        from trainables.stage_store import StageStore

        settings = self.settings
        store = StageStore(settings.store_place) if settings.reuse else None
        if store is not None and store.shared_folder is not None:
            self._leases = Leases(store.shared_folder / "leases")
        database = settings.folder.resolve() / "optuna.db"
        sampler = Sampler(
            self.space,
            self.standard,
            settings.epochs_scale,
            f"sqlite:///{database}",
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
        from trainables.company import fused_stages

        images = self._data(self.settings.seed * SEEDS_APART).train_images
        pixels = int(images.shape[-2] * images.shape[-1])
        return bool(fused_stages(plan, self.settings.numerics, self._device, pixels))

    def _keys(self, plan: Plan, seed: int, company: tuple[int, ...] = ()) -> list[list[str]]:
        """Stage keys as the trial will have them; equal prefixes are what the agenda keeps apart."""
        import torch

        from search.phases import ADAPTIVE_SEED, RACE_SEED
        from search.scheduler import SHORTENED
        from trainables.pipeline import trial_context
        from trainables.stage_store import features_key, stage_keys

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
            [features_key(keys[index - 1][-1], stage)]
            for each, keys in zip(plans, stages, strict=True)
            for index, stage in enumerate(each.stages)
            if stage.views and index
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
        from search.objective import check_objective

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

    def _fingerprint(self, split_seed: int) -> str:
        return self._data(split_seed).fingerprint

    def _spec(self, task: Task) -> dict[str, Any]:
        from search.scheduler import SHORTENED

        return dataclasses.replace(
            self._trial(task.recipe.plan, task.seed),
            rungs=self.settings.rungs if task.may_stop else (),
            shortened=task.may_stop and self.settings.rung_score == SHORTENED,
            read_test=task.read_test,
            company=task.company,
        ).to_dict()

    def _trial(self, plan: Plan, seed: int) -> TrialSpec:
        from search.objective import PARTS
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

    def _replay(self, agenda: Agenda) -> None:
        """After a resume the rungs hold what they held."""
        from search.scheduler import kinds_to_come

        # by what was recorded: phases that come after this one have not planned their tasks anew yet
        for name, record in agenda.records.items():
            if record.arm == "adaptive":
                kinds = kinds_to_come([(stage["name"], stage["carry"]) for stage in record.plan["stages"]])
                points = [dataclasses.asdict(point) for point in record.curve]
                self.halving.recall(name, kinds, points, record.stop.get("rung", 1.0))

    # --- resources ----------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Starts or joins Ray, and finds the share of a GPU where it is to be measured."""
        import ray

        self._sent = self.settings.address is not None and not ray.is_initialized()
        note = resources.join(self.settings)
        if note:
            self.console.print(note, soft_wrap=True, highlight=False, markup=False)
        resources.check_storage(self.settings)
        if not self.settings.gpus_auto:
            return
        plans = resources.neediest(cell.recipe.plan for cell in self.design.cells)
        seed = self.settings.seed * SEEDS_APART
        specs = [dataclasses.replace(self._trial(plan, seed), store=None).to_dict() for plan in plans]
        found = resources.measured(specs, self.settings.cpus_per_trial)
        self.console.print(found.reason, soft_wrap=True, highlight=False)
        share: dict[str, Any] = {"gpus_per_trial": found.share, "gpus_auto": False, "gpus_reason": found.reason}
        self.settings = dataclasses.replace(self.settings, **share)
        # and nothing that a resumed search was given for this run alone
        dataclasses.replace(Settings.stored(self.settings.output, self.settings.name), **share).save()

    # --- afterwards ---------------------------------------------------------------------------------------

    def _params(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self.settings) | {"model": self.model, "margin": self.standard.margin}
        fields["imbalance"] = self.settings.imbalance or self.standard.imbalance
        fields |= {"design": self.design.kind, "primary": ",".join(self.settings.primary)}
        fields["val_images_per_class"] = self._val_images
        # what was held out or left out, and which classes starve: of the first block, in others the numbers are alike
        fields["data_notes"] = "; ".join(self._data(self.settings.seed * SEEDS_APART).notes)
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
            self.console.print(
                Text(printable(f"Not written, {what}: {error.strerror}"), style="yellow"), soft_wrap=True
            )

    def _conclude(self, agenda: Agenda, display: Any, tracker: Any, uri: str, complete: bool) -> SearchResult:
        from analysis import load
        from analysis.record import RecordError
        from search import export, pace, summary, tracking

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
                conflicts.to_csv(folder / "conflicts.csv", index=False)
        try:
            plans = {record.recipe: record.plan for record in records}
            pick = {"accuracy": None, "both": "knee"}.get(self.settings.objective, self.settings.objective)
            best = export.document(trials, plans.__getitem__, pick=pick, conflicts=conflicts, settings=self._params())
            with self._if_there_is_room("best.yaml"):
                export.write(best, folder / "best.yaml")
        except (export.ExportError, RecordError) as error:
            self.console.print(f"[yellow]{error}[/yellow]")
        try:
            with self._if_there_is_room("report.html"):
                summary.write_report(folder / "report.html", records, trials, conflicts, self._params())
        except Exception as error:
            # what was found out must reach the screen and MLflow all the same
            log.exception("the report could not be written")
            self.console.print(f"[yellow]report.html could not be written: {error}[/yellow]", markup=True)
        # by which analysis.report judges each look at its own share
        told = extras.tags | {"looks": str(list(agenda.known.further))}
        tracker.summary({}, told, anew=("nominated/", "removal/"))
        # what fresh seeds have shown of a nominated pair is found by the same query as what the design has shown
        for table in (conflicts, extras.nominated):
            if table is not None and len(table):
                metrics, tags = tracking.conflict_summary(table)
                tracker.summary(metrics, tags)
                tracker.mark(table)
        artifacts = {
            file.name: file.read_bytes() if file.suffix == ".png" else file.read_text(encoding="utf-8")
            for file in sorted(folder.iterdir())
            if file.name in ("best.yaml", "conflicts.csv", "conflicts.png", "report.html", "space.py", "search.json")
            or file.name in ("nominated.csv", "removals.csv", "path.csv")
        }
        seconds = pace.of_records(records)
        if seconds is not None:
            pace.keep(self.settings, self.model, pace.Pace(seconds, f"median of search {self.settings.name}"))
        saved = {
            "reuse/epochs_saved": sum(record.epochs - record.epochs_trained for record in records),
            "reuse/seconds_saved": sum(record.seconds_saved for record in records),
        }
        # MLflow shows the note as the run's description
        tracker.summary(
            saved, {"mlflow.note.content": summary.answer(trials, conflicts, self.standard.margin)}, artifacts
        )
        for problem in tracker.close("FINISHED" if complete else "KILLED"):
            self.console.print(f"[yellow]MLflow: {problem}[/yellow]")
        result = SearchResult(
            self.settings.name, folder, complete, trials, conflicts, best, display.phase_seconds, display.saved, extras
        )
        settling = self.settle is not None and agenda.phase != "done"
        summary.show(self.console, result, uri, self.settings, settling, agenda.used_up)
        return result


@contextmanager
def _interruptible(agenda: Agenda, recorder: Any) -> Iterator[None]:
    """Ctrl-C: the first one ends the search between two events, the second one at once.

    Raised wherever the driver happens to be, an interrupt may be swallowed by a native call of Ray or leave a
    journal entry or an Optuna trial half written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: Any) -> None:
        agenda.stop()
        if recorder.interrupted:
            raise KeyboardInterrupt
        recorder.interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
