"""Records to MLflow: search run › recipe run › trial run, written by the driver alone.

The journal of the search is the truth and MLflow an index of it. For each run there is one state that it must have;
what the store holds of the search is looked up by tags, and only what differs is written. So a writer that is killed
between any two of its calls is mended by the next one that is given the same records (`--resume`, `search.sync`), and
writing twice changes nothing. What is no longer right goes to MLflow's deleted runs, never away.

One background thread does the writing, so that `Tracker.log` returns at once. While a store does not answer, the thread
waits for it; what goes wrong there is warned about and told on `close`, which waits for a bounded time. It never ends a
search.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from analysis import files
from analysis.records import mlflow_store
from analysis.records import reader as load
from analysis.records.mlflow_store import NOWHERE, StoreError, key, pair_name
from analysis.records.schema import BASELINE, Record, bounded_interval
from analysis.text import command

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

RECALL_LIMIT = 200
"""Classes up to which every class's recall is a metric; `record.json` has them all."""

STATUS = {"finished": "FINISHED", "diverged": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Outcome of a trial to status of its run: a trial that diverged did end, and says so in its outcome."""

PATIENCE = 60.0
"""Seconds, in all, for which a search that is over waits for its record keeper."""

FINDINGS = ("conflict/", "nominated/", "removal/")
"""How tags begin that speak of what a search has found: those that are no longer true go away."""

INDEX = "mlflow.json"
"""File beside the journal: what the search's own run in MLflow must hold."""

_RESERVED = {"best_trial", "conflict", "cost", "final", "recall", "test", "val"}
_BARRED = re.compile(r"[/\\'\"`%\x00-\x1f]")


class TrackingError(ValueError):
    """A store that cannot be written, or a search that must not be written there."""


# ------------------------------------------------------------------------------------------ the store


def default_uri() -> str:
    """The store in this directory that a bare `mlflow ui` opens.

    Raises:
        TrackingError: `mlflow ui` would open something else, or the store cannot be written.
    """
    for meta in sorted(Path("mlruns").glob("*/meta.yaml")):
        if meta.parent.name.isdigit():
            raise TrackingError(
                f"{meta} is left from an old MLflow store of files: `mlflow ui` would open that one and not this "
                "search; move ./mlruns away (or convert it with `mlflow migrate-filestore`), or choose another store "
                "with --tracking-uri"
            )
    uri = mlflow_store.default_uri()
    check(uri)
    return uri


def choose(given: str | None = None) -> tuple[str, str]:
    """The store of a search: the one given, else that of the environment, else the one in this directory.

    Returns:
        Its address without a password, and where it comes from, in words that follow it.

    Raises:
        TrackingError: The store cannot be written.
    """
    words = mlflow_store.source(given)
    if given or words:
        uri = mlflow_store.address(given)
        check(uri)
        return uri, words
    return default_uri(), words


def check(uri: str) -> None:
    """Refuse at once, without importing MLflow, a store that cannot be written.

    Raises:
        TrackingError: The address is none, or the file or its folder is missing or read-only.
    """
    if uri == NOWHERE:
        return
    try:
        mlflow_store.refuse(uri)
    except StoreError as error:
        raise TrackingError(str(error)) from error
    file = mlflow_store.database(uri)
    if file is None:
        return
    problem = ""
    if not file.parent.is_dir():
        problem = f"there is no folder {file.parent}"
    elif file.is_dir():
        problem = f"{file} is a folder"
    elif file.exists() and not os.access(file, os.W_OK):
        problem = f"{file} is read-only"
    elif not os.access(file.parent, os.W_OK):
        problem = f"the folder {file.parent} is read-only"
    elif any(sign in str(file) for sign in "?#%"):
        problem = f"the path {file} holds one of ? # %, which a store's address cannot"
    if problem:
        raise TrackingError(
            f"the MLflow store cannot be written: {problem}; "
            "choose another with --tracking-uri, e.g. --tracking-uri sqlite:////tmp/mlflow.db"
        )


def prepare(uri: str) -> None:
    """Create the store where it does not exist yet. Takes seconds; the second call does nothing.

    Raises:
        TrackingError: The store cannot be written or opened.
    """
    check(uri)
    if uri == NOWHERE:
        return
    try:
        mlflow_store.connect(uri, create=True)
    except StoreError as error:
        raise TrackingError(f"{error}; or choose another store with --tracking-uri") from error


def where_to_look(uri: str, search: str = "NAME") -> str:
    """The command that shows the store, for the last lines of a search.

    >>> where_to_look("sqlite:////data/mlflow.db")
    'mlflow ui --backend-store-uri sqlite:////data/mlflow.db -w 1'
    """
    if uri == NOWHERE:
        return (
            f"not in MLflow; written there by: {command('python', '-m', 'search.sync', search, '--tracking-uri')} URI"
        )
    if uri.startswith(("http://", "https://")):
        return uri
    if uri == mlflow_store.default_uri():
        return "mlflow ui"
    return command("mlflow", "ui", "--backend-store-uri", uri, "-w", "1")


# ------------------------------------------------------------------------------------------ what runs must hold


@dataclass
class SearchRun:
    """What the search's own run holds; its trials and recipes follow from the journal.

    Kept beside the journal, so that the run can be written again at any time, without data or Ray.

    Args:
        data: Name of the data set.
        started: Unix time in milliseconds.
        params: What the search was started with; of what changed on resuming, the first values.
        tags: Further tags.
        changed: What it was resumed with and not started with.
        choices: Names of all choices of the space.
        metrics: Results.
        findings: Tags of what was found.
        concluded: When metrics and findings were worked out, Unix time in milliseconds.
        pairs: (label, label, verdict), for the recipes that have both.
        artifacts: Names of files in the search's folder.
        status: Of the run; RUNNING while a driver writes it.
    """

    data: str
    started: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    concluded: int = 0
    pairs: list[list[str]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    status: str = "RUNNING"

    @staticmethod
    def read(folder: Path | None) -> SearchRun | None:
        """What was kept in a search's folder; `None` where there is nothing that can be read."""
        if folder is None:
            return None
        try:
            return SearchRun(**json.loads((folder / INDEX).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _logger.warning("%s cannot be read (%s); it is written again", folder / INDEX, error)
            return None

    def save(self, folder: Path | None) -> None:
        """Keeps it in the search's folder, if that is still there."""
        if folder is not None and folder.is_dir():
            files.write(folder / INDEX, files.to_json(asdict(self), indent=1) + "\n")


@dataclass(frozen=True)
class _Wanted:
    """What a run must hold.

    Args:
        name: Of the run.
        start: Unix time in milliseconds.
        end: The same; of the status.
        status: When it is whole.
        tags: Without the parent's.
        params: All of them.
        metrics: (key, value, step).
        texts: Artifacts, name to text.
    """

    name: str
    start: int
    end: int | None
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[tuple[str, float, int]]
    texts: dict[str, str]

    @property
    def digest(self) -> str:
        """Tells a run that was written of this from one of an earlier attempt."""
        content = [self.status, self.tags, self.params, self.metrics, self.texts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def held(self, run: Any) -> bool:
        """Whether a run that the store has is this one, and whole."""
        latest: dict[str, tuple[int, float]] = {}
        for name, value, step in self.metrics:
            latest[name] = max(latest.get(name, (step, value)), (step, value))
        metrics = run.data.metrics
        return (
            str(run.info.status) == self.status
            and self.begun(run)
            and all(run.data.tags.get(name) == value for name, value in self.tags.items())
            and all(run.data.params.get(name) == value for name, value in self.params.items())
            and all(name in metrics and _alike(metrics[name], value) for name, (_, value) in latest.items())
        )

    def begun(self, run: Any) -> bool:
        """Whether a run was created for this content: it can be completed, where its writer was cut off."""
        return run.data.tags.get("digest") == self.digest and self.start in (0, run.info.start_time)


@dataclass
class _Recipe:
    """What the recipe run of one plan is computed from, and what the store has of it."""

    first: Record
    arms: set[str] = field(default_factory=set)
    trials: set[str] = field(default_factory=set)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    test: dict[int, float] = field(default_factory=dict)
    length: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, float, int, int]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    run: Any = None

    @property
    def plain(self) -> bool:
        return self.first.title == BASELINE


@dataclass
class _Job:
    what: str
    do: Callable[[], None]


# ------------------------------------------------------------------------------------------ the tracker


class Tracker:
    """Writes one search into MLflow.

    Creating the store starts in the background at once; `start` waits for it. The tracker knows of a search what it is
    given: one that is resumed gives it all earlier records again (`replay`).

    Args:
        uri: Address of the store, e.g. `default_uri()`; `NOWHERE` writes only what `search.sync` needs later.
        search: Name of the search, without slashes and quotes.
        data: Name of the data set; the experiment is "longtail/<data>".
        folder: Of the search's results, where what its own run must hold is kept.

    Raises:
        TrackingError: The name cannot be one, or the store cannot be written.
    """

    def __init__(self, uri: str, search: str, data: str, folder: Path | None = None) -> None:
        if not search or _BARRED.search(search):
            raise TrackingError(f"name of the search: no slash, quote, percent sign or line end, got {search!r}")
        self.uri = uri if uri == NOWHERE else mlflow_store.address(uri)
        check(self.uri)
        self.search = search
        self.data = data
        self.errors: list[str] = []
        """What went wrong and could not be mended; complete after `close`."""
        self.run_id = ""
        self.before = ""
        """Status of the search as it was found, "" of a new one; set by `start`."""
        self.written: Counter[str] = Counter()
        """How many trial and recipe runs were written, replaced or removed."""
        self._folder = folder
        self._kept = SearchRun(data, _now())
        self._client: Any = None
        self._experiment = ""
        self._found: dict[str, dict[str, list[Any]]] = {}
        self._own: Any = None
        self._thorough = False
        self._recipes: dict[str, _Recipe] = {}
        self._records: dict[str, tuple[str, str]] = {}
        self._done: dict[str, str] = {}
        self._points: list[tuple[str, float, int, int]] = []
        self._latest: dict[str, float] = {}
        self._changed: set[str] = set()
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._failed: list[_Job] = []
        self._current: _Job | None = None
        self._warned: set[str] = set()
        self._reason = ""
        self._gone = ""
        self._inode: tuple[int, int] | None = None
        self._refreshed = 0.0
        self._ending = threading.Event()
        self._deadline = math.inf
        self._closed = False
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self._preparing = threading.Thread(target=self._prepare, name="mlflow-prepare", daemon=True)
        self._preparing.start()

    def _prepare(self) -> None:
        try:
            prepare(self.uri)
        except Exception as error:
            self._problem = error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("FINISHED" if kind is None else "KILLED")

    # ------------------------------------------------------------------------------ start and end

    def start(
        self, params: Mapping[str, Any], tags: Mapping[str, str], *, choices: Iterable[str] = (), resume: bool = True
    ) -> str:
        """Create the search run, or continue it.

        Args:
            params: What the search was started with. MLflow never changes a parameter, so one that differs on
                resuming keeps its first value there and is noted in the tag "resumed".
            tags: Further tags of the search run.
            choices: Names of all choices of the space: a recipe that does without one has it as "none", because
                MLflow's parallel coordinates and groups leave out a run that lacks a parameter.
            resume: Whether a search of this name may be there already.

        Returns:
            Id of the search run, "" where nothing is tracked.

        Raises:
            TrackingError: The store cannot be opened, or the name is taken and `resume` is False.
        """
        given = {key(name): _text(value) for name, value in params.items()}
        kept = SearchRun.read(self._folder) if resume else None
        if kept is not None:
            self._kept = kept
            self.before = kept.status
        self._kept.data = self.data
        self._kept.choices = sorted({*self._kept.choices, *choices})
        self._kept.tags |= {key(name): _clip(str(value)) for name, value in tags.items()}
        return self._start(given, resume)

    def restore(self) -> str:
        """The same as `start`, for a search whose driver has ended: with what is kept in its folder.

        Every artifact is looked for as well, and runs that no record speaks of are removed by `close`.

        Raises:
            TrackingError: The store cannot be opened, or nothing is kept.
        """
        kept = SearchRun.read(self._folder)
        if kept is None:
            raise TrackingError(f"there is no {INDEX} in {self._folder}: nothing is known of the search's own run")
        self._kept, self._thorough = kept, True
        return self._start(kept.params, resume=True)

    def _start(self, params: dict[str, str], resume: bool) -> str:
        self._preparing.join()
        if self._problem is not None:
            raise self._problem
        try:
            if not resume:
                self._begin(params)  # known before anything is written: a kill from here on can be mended
            if self.uri != NOWHERE:
                self._open(resume)
            self._begin(params)
            if self.uri != NOWHERE:
                self._write_search()
        except StoreError as error:
            raise TrackingError(str(error)) from error
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()
        return self.run_id

    def _begin(self, params: dict[str, str]) -> None:
        kept = self._kept
        first = kept.params or (dict(self._own.data.params) if self._own is not None else {})
        changed = {name: value for name, value in params.items() if first.get(name, value) != value}
        kept.params = params | first
        kept.changed = changed or kept.changed
        if not self._thorough:
            kept.status = "RUNNING"
            kept.save(self._folder)

    def _open(self, resume: bool) -> None:
        self._client = mlflow_store.Client(self.uri)
        file = mlflow_store.database(self.uri)
        if file is not None:
            self._inode = _inode(file)
        self._experiment = self._find_experiment()
        self._found = {"search": {}, "recipe": {}, "trial": {}}
        for run in load.pages(self._client, [self._experiment], f"tags.search = '{self.search}'"):
            level = run.data.tags.get("level", "")
            if level in self._found:
                self._found[level].setdefault(run.data.tags.get(level, ""), []).append(run)
        runs = self._found["search"].get(self.search, [])
        if runs and not resume:
            if self._found["recipe"] or self._found["trial"]:
                raise TrackingError(
                    f"the MLflow store at {self.uri} already holds a search {self.search!r} on {self.data}; choose "
                    f"another --name, or go on with it by --resume {self.search}"
                )
            # a start that failed before its first trial does not keep the name
            self._remove(runs)
        self._own = runs[0] if runs else None
        self._remove(runs[1:])
        if self._own is not None:
            self.before = self.before or str(self._own.info.status)

    def _write_search(self) -> None:
        tags = {"search": self.search, "level": "search", "data": self.data} | self._kept.tags
        if self._kept.changed:
            tags["resumed"] = _clip(json.dumps(self._kept.changed))
        if self._own is None:
            self._own = self._client.create_run(
                self._experiment, start_time=self._kept.started, tags=tags, run_name=self.search
            )
        else:
            self._client.update_run(self._own.info.run_id, status="RUNNING")
        self.run_id = self._own.info.run_id
        there = self._own.data
        params = {name: value for name, value in self._kept.params.items() if name not in there.params}
        self._batch(self.run_id, params=params, tags=_differing(tags, there.tags))

    def _find_experiment(self) -> str:
        # a folder may be called anything, an experiment not
        name = load.EXPERIMENTS + _BARRED.sub("_", self.data)
        file = mlflow_store.database(self.uri)
        # Beside the database and not in whatever directory the search was started from.
        place = None if file is None else (file.parent / "mlruns" / name.replace("/", "-")).as_uri()
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # training runs, and no traces of language models; MLflow's page still opens in the mode it had last
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
            except StoreError:
                # another search has created it since
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            restore = command("mlflow", "experiments", "restore", "--experiment-id", experiment.experiment_id)
            raise TrackingError(
                f"the MLflow experiment {name!r} was deleted in the store at {self.uri}; restore it "
                f"(`{command(f'{mlflow_store.VARIABLE}={self.uri}')} {restore}`) or choose another store with "
                "--tracking-uri"
            )
        return str(experiment.experiment_id)

    def log(self, record: Record) -> None:
        """Hand one finished, stopped, diverged or failed trial to the writer; returns at once."""
        self.replay([record])

    def replay(self, records: Iterable[Record]) -> None:
        """Hand in what a journal holds, in its order; of a trial with several records, the last one counts."""
        records = list(records)
        last = {record.trial: number for number, record in enumerate(records)}
        for number, record in enumerate(records):
            self._put(_Job("", lambda record=record: self._count(record)))  # type: ignore[misc]
            if last[record.trial] == number:
                self._put(_Job(f"trial {record.trial}", lambda record=record: self._write_trial(record)))  # type: ignore[misc]

    def summary(
        self,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Path | Mapping[str, str | bytes] | None = None,
        anew: Sequence[str] = (),
    ) -> None:
        """Put results onto the search run; returns at once.

        Args:
            metrics: E.g. those of `conflict_summary`.
            tags: The same.
            artifacts: A folder, whose files are copied, or file names with their text, or bytes of a picture.
            anew: Beginnings of tags of which only those given now may stay: what a former winner needed is no longer
                true of the search.
        """
        kept = self._kept
        kept.concluded = _now()
        kept.metrics |= {key(name): float(value) for name, value in (metrics or {}).items()}
        stay = {name: text for name, text in kept.findings.items() if not name.startswith(tuple(anew))}
        kept.findings = stay | {key(name): _clip(str(text)) for name, text in (tags or {}).items()}
        if isinstance(artifacts, Path):
            artifacts = {file.name: file.read_bytes() for file in sorted(artifacts.iterdir()) if file.is_file()}
        contents = dict(artifacts or {})
        kept.artifacts = sorted({*kept.artifacts, *contents})
        kept.save(self._folder)
        self._put(_Job("the search's summary", lambda: self._write_summary(contents, tuple(anew))))

    def mark(self, table: pd.DataFrame) -> None:
        """Put the verdicts of a table of pairs onto the recipe runs that have both tricks on; returns at once.

        The tags are those of the search run, `conflict/<a>--<b>`, so that one query finds the recipes as well.
        """
        rows = table.to_dict("records")
        pairs = {(str(a), str(b)): str(verdict) for a, b, verdict in self._kept.pairs}
        pairs |= {(str(row["a"]), str(row["b"])): str(row["verdict"]) for row in rows}
        self._kept.pairs = [[*pair, verdict] for pair, verdict in pairs.items()]
        self._kept.save(self._folder)
        self._put(_Job("the verdicts on recipes", self._write_marks))

    def write_kept(self) -> None:
        """Hand in again what `summary` and `mark` have kept in the search's folder; returns at once."""
        folder = self._folder or Path()
        contents = {name: (folder / name).read_bytes() for name in self._kept.artifacts if (folder / name).is_file()}
        if self._kept.concluded:
            self._put(_Job("the search's summary", lambda: self._write_summary(contents, FINDINGS)))
        self._put(_Job("the verdicts on recipes", self._write_marks))

    def flush(self) -> None:
        """Wait until everything handed in is written; what failed is tried once more."""
        if self._thread is None:
            return
        self._queue.put(_Job("", self._again))
        self._queue.join()

    def close(
        self, status: str = "FINISHED", patience: float = PATIENCE, tell: Callable[[str], None] = _logger.info
    ) -> list[str]:
        """Write the rest and end the search run.

        Args:
            status: FINISHED, or KILLED for a search that was cut off and may be resumed.
            patience: Seconds for which the store is waited for, over all calls. Ctrl-C ends the wait.
            tell: Takes a sentence for people, where it takes longer than a moment.

        Returns:
            What could not be written, empty as a rule; `missing` says it in a sentence.
        """
        if self._closed or self._thread is None:
            self._closed = True
            return self.errors
        self._kept.status = status
        self._kept.save(self._folder)
        self._deadline = time.monotonic() + patience
        self._ending.set()
        self._queue.put(_Job("", self._again))
        if self._thorough:
            self._queue.put(_Job("the removal of runs that the journal does not know", self._remove_unknown))
        self._queue.put(_Job("the means over seeds", self._refresh))
        self._queue.put(_Job("the end of the search", lambda: self._end(status)))
        self._queue.put(None)
        with suppress(KeyboardInterrupt):
            self._thread.join(2.0)
            if self._thread.is_alive():
                tell(f"Writing to MLflow, for at most {patience:.0f} s (Ctrl-C leaves the rest for later) …")
                self._thread.join(self._deadline - time.monotonic())
        self._closed = True
        jobs = list(self._failed)
        if self._thread.is_alive():
            if self._client is not None:
                self._client.close()  # nothing is written behind the back of whoever syncs from now on
            jobs += [job for job in (self._current, *self._queue.queue) if job is not None]
        self.errors = list(dict.fromkeys(job.what for job in jobs if job.what))
        return self.errors

    def discard(self) -> None:
        """Ends a search of which nothing was recorded, and deletes its run, so that its name stays free."""
        self.close("KILLED")
        if self.run_id and not self.before and self.uri != NOWHERE:
            try:
                mlflow_store.Client(self.uri).delete_run(self.run_id)
            except StoreError as error:
                _logger.warning("MLflow keeps the empty run of search %s (%s)", self.search, error)

    @property
    def missing(self) -> str:
        """What MLflow lacks after `close`, why, and the command that writes it; empty where it lacks nothing."""
        if not self.errors:
            return ""
        trials = [what for what in self.errors if what.startswith("trial ")]
        others = [what for what in self.errors if not what.startswith("trial ")]
        if len(trials) > 3:
            trials = [f"{len(trials)} trials"]
        output = (
            [] if self._folder is None or self._folder.parent == Path("results") else ["--output", self._folder.parent]
        )
        why = self._reason or f"the store at {self.uri} has not answered in time"
        return (
            f"MLflow lacks {', '.join([*trials, *others])}: {why}. The journal has everything; write it later with: "
            f"{command('python', '-m', 'search.sync', self.search, *output)}"
        )

    # ------------------------------------------------------------------------------ the writer's thread

    def _put(self, job: _Job) -> None:
        if self._thread is None or self._closed:
            raise TrackingError(
                f"search {self.search!r} is not open in MLflow: call start() before, and not after close()"
            )
        self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self.uri != NOWHERE:
                    self._do(job)
                    if self._queue.empty() or time.monotonic() - self._refreshed > 5:
                        self._do(_Job("the means over seeds", self._refresh))
            finally:
                self._queue.task_done()

    def _do(self, job: _Job) -> None:
        """Does one job; waits while the store does not answer, until the search is over and its patience as well."""
        self._current = job
        pause = 0.5
        while True:
            try:
                self._still_there()
                job.do()
                break
            except Exception as error:
                reason = mlflow_store.hide(str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
                if not isinstance(error, StoreError):
                    reason = f"{type(error).__name__}: {reason}"
                if not self._is_out():
                    self._warn(f"MLflow did not take {job.what} ({reason}); it is tried once more at the end")
                    self._failed.append(job)
                    break
                self._warn(f"{self._gone or reason}; the search goes on, and the journal keeps everything")
                if self._gone or time.monotonic() > self._deadline:
                    self._failed.append(job)
                    break
            if self._ending.is_set():
                time.sleep(min(pause, 2.0))
            else:
                self._ending.wait(pause)
            pause = min(2 * pause, 20.0)
        self._current = None

    def _warn(self, text: str) -> None:
        self._reason = text.partition("; the search goes on")[0]
        if text not in self._warned:
            self._warned.add(text)
            _logger.warning("%s", text)

    def _again(self) -> None:
        again, self._failed = self._failed, []
        for job in again:
            self._do(job)

    def _still_there(self) -> None:
        """Notices a database that was deleted or replaced: SQLite would go on to write into the file without a name."""
        file = mlflow_store.database(self.uri)
        if file is None or self._inode is None or self._gone:
            if self._gone:
                raise StoreError(self._gone)
            return
        if _inode(file) != self._inode:
            self._gone = f"the MLflow store {file} was deleted or replaced while the search ran"
            raise StoreError(self._gone)

    def _is_out(self) -> bool:
        """Whether the store as a whole does not answer; else it is this one job that it does not take."""
        try:
            self._still_there()
            self._client.search_experiments(max_results=1)
        except StoreError:
            file = mlflow_store.database(self.uri)
            state = "" if file is None or self._gone else mlflow_store.condition(file)
            if state not in ("", "locked"):
                self._gone = f"the MLflow store {file} is unusable ({state})"
            return True
        return False

    # ------------------------------------------------------------------------------ what is known

    def _count(self, record: Record) -> None:
        """Takes a record into the means and counts; nothing is written yet."""
        mark = hashlib.sha256(json.dumps(record.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
        if self._records.get(record.trial, ("", ""))[0] == mark:
            return
        self._records[record.trial] = (mark, record.outcome)
        recipe = self._recipes.setdefault(record.recipe, _Recipe(record))
        recipe.arms.add(record.arm)
        recipe.trials.add(record.trial)
        if record.outcome != "failed" and not recipe.length:
            # a trial that failed early does not know them
            recipe.length = {name: _text(getattr(record, name)) for name in ("imbalance", "epochs")}
        end = _end_of(record)
        accuracy = _number(record.metrics.get("final/accuracy"))
        points: dict[str, float] = {}
        if record.outcome == "finished":
            if not math.isnan(accuracy):
                recipe.values.setdefault(record.arm, {})[record.seed] = accuracy
                if record.arm in load.ESTIMATES:
                    best = f"best_trial/{record.arm}"
                    points[best] = max(accuracy, self._latest.get(best, accuracy))
            test = _number(record.metrics.get("test/accuracy"))
            if not math.isnan(test):
                recipe.test[record.seed] = test
        outcomes = [outcome for _, outcome in self._records.values()]
        points |= {"trials": float(len(outcomes)), "trials_finished": float(outcomes.count("finished"))}
        self._points += [
            (name, value, len(outcomes), end) for name, value in points.items() if self._latest.get(name) != value
        ]
        self._latest |= points
        means = _means(recipe)
        recipe.points += [
            (name, value, len(recipe.trials), end)
            for name, value in means.items()
            if name not in recipe.metrics or not _alike(recipe.metrics[name], value)
        ]
        recipe.metrics |= means
        self._changed.add(record.recipe)

    def _leader(self) -> dict[str, str]:
        """The recipe that leads, by the same order as `reader.ranking`: its mean, the arm it is from, its id."""
        places = [(load.place(r.values, plain=r.plain), name) for name, r in self._recipes.items()
                  if load.estimate(r.values)[1]]  # fmt: skip
        if not places:
            return {}
        name = max(places, key=lambda place: (place[0], place[1]))[1]
        arm, values = load.estimate(self._recipes[name].values)
        mean = sum(values.values()) / len(values)
        return {"best_accuracy": f"{mean:.6g}", "best_arm": arm, "best_recipe": name}

    # ------------------------------------------------------------------------------ what is written

    def _refresh(self) -> None:
        """Bring the means on the changed recipe runs and the counts on the search run up to date.

        Not after every trial where trials come faster than they are written.
        """
        self._refreshed = time.monotonic()
        while self._changed:
            name = self._changed.pop()
            try:
                self._write_recipe(name)
            except Exception:
                self._changed.add(name)
                raise
        tags = _differing(self._leader(), self._own.data.tags)
        if tags or not _holds(self._own.data.metrics, self._latest):
            self._batch(self.run_id, metrics=self._points, tags=tags)
        self._own.data.tags.update(tags)
        self._own.data.metrics.update(self._latest)
        self._points = []

    def _write_trial(self, record: Record) -> None:
        wanted = self._trial(record)
        if self._done.get(record.trial) == wanted.digest:
            return
        parent = self._recipe_run(record.recipe).info.run_id
        runs = self._found["trial"].setdefault(record.trial, [])
        run = self._put_run(wanted, runs, parent, json_of="record.json")
        if run.data.tags.get("mlflow.parentRunId") != parent:
            self._client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        self._done[record.trial] = wanted.digest

    def _trial(self, record: Record) -> _Wanted:
        begun = round(record.started * 1000)
        return _Wanted(
            name=f"seed {record.seed} ({record.arm})",
            start=begun,
            end=_end_of(record),
            status=STATUS[record.outcome],
            tags=_trial_tags(record) | {"search": self.search},
            params=self._choices(record)
            | {name: _text(getattr(record, name)) for name in ("imbalance", "epochs", "seed")},
            metrics=_trial_metrics(record),
            texts={"record.json": files.to_json(record.to_dict())},
        )

    def _choices(self, record: Record) -> dict[str, str]:
        fixed = {"data": record.data, "model": record.model}
        choices: dict[str, Any] = dict.fromkeys(self._kept.choices)
        return {key(name): _text(value) for name, value in (choices | dict(record.choices) | fixed).items()}

    def _recipe_run(self, name: str) -> Any:
        """The run of a recipe, whole; created before its first trial."""
        recipe = self._recipes[name]
        if recipe.run is not None:
            return recipe.run
        record = recipe.first
        tags = {
            "search": self.search,
            "level": "recipe",
            "recipe": record.recipe,
            "title": record.title,
            "tricks": json.dumps(list(record.tricks)),
            "context": record.context,
            "baseline": str(recipe.plain).lower(),
        }
        wanted = _Wanted(
            name=record.title[:200],
            start=round(record.started * 1000),
            end=None,
            status="FINISHED",
            tags={name: _clip(value) for name, value in tags.items()},
            params=self._choices(record),
            metrics=[],
            texts={"plan.json": json.dumps(record.plan, indent=1)},
        )
        run = self._put_run(wanted, self._found["recipe"].setdefault(name, []), self.run_id, json_of="plan.json")
        if run.data.tags.get("mlflow.parentRunId") != self.run_id:
            self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self.run_id)
        recipe.run = run
        return run

    def _put_run(self, wanted: _Wanted, runs: list[Any], parent: str, json_of: str) -> Any:
        """The one run of `runs` that holds what is wanted: found, completed or created; the others are removed."""
        whole = next((run for run in runs if wanted.held(run) and self._has(run, json_of)), None)
        cut = (run for run in runs if str(run.info.status) == "RUNNING" and wanted.begun(run))
        kept = whole or next(cut, None)
        self._remove([run for run in runs if run is not kept])
        if whole is not None:
            return whole
        if kept is None:
            tags = wanted.tags | {"digest": wanted.digest, "mlflow.parentRunId": parent}
            kept = self._client.create_run(
                self._experiment, start_time=wanted.start or _now(), tags=tags, run_name=wanted.name
            )
            runs.append(kept)
        run_id = kept.info.run_id
        metrics = [(name, value, step, wanted.start) for name, value, step in wanted.metrics]
        self._batch(run_id, metrics=metrics, params=wanted.params)
        for name, text in wanted.texts.items():
            self._artifact(kept, name, text)
        # Last, because a run that is not RUNNING counts as completely written.
        self._client.set_terminated(run_id, wanted.status, end_time=wanted.end)
        self.written["written"] += 1
        return kept

    def _remove(self, runs: Sequence[Any]) -> None:
        """Moves runs to MLflow's deleted ones."""
        for run in list(runs):
            self._client.delete_run(run.info.run_id)
            self.written["removed"] += 1
            for named in self._found.values():
                for each in named.values():
                    each[:] = [other for other in each if other is not run]

    def _remove_unknown(self) -> None:
        """Runs of the search that no record speaks of."""
        for level, known in (("trial", self._records), ("recipe", self._recipes)):
            for name, runs in self._found[level].items():
                if name not in known:
                    self._remove(runs)

    def _write_recipe(self, name: str) -> None:
        recipe = self._recipes[name]
        there = self._recipe_run(name).data
        arm, _ = load.estimate(recipe.values)
        if not arm and recipe.values:
            # what was run to tune, to check or around a winner is shown as well, though it stands in no ranking
            arm = next(iter(recipe.values))
        tags = _differing({"arm": ",".join(sorted(recipe.arms)), "arm_counted": arm}, there.tags)
        params = {name: value for name, value in recipe.length.items() if name not in there.params}
        if tags or params or not _holds(there.metrics, recipe.metrics):
            self._batch(recipe.run.info.run_id, metrics=recipe.points, params=params, tags=tags)
        there.tags.update(tags)
        there.params.update(params)
        there.metrics.update(recipe.metrics)
        recipe.points = []

    def _write_summary(self, artifacts: Mapping[str, str | bytes], anew: tuple[str, ...]) -> None:
        kept = self._kept
        metrics = [(name, _number(value), 0, kept.concluded) for name, value in kept.metrics.items()]
        self._batch(self.run_id, metrics=metrics, tags=kept.findings)
        if anew:
            there = self._client.get_run(self.run_id).data.tags
            for name in there:
                if name.startswith(anew) and name not in kept.findings:
                    self._client.delete_tag(self.run_id, name)
        for name, content in artifacts.items():
            self._artifact(self._own, name, content)

    def _write_marks(self) -> None:
        pairs = [(frozenset((a, b)), key(pair_name(a, b)), verdict) for a, b, verdict in self._kept.pairs
                 if verdict != "not applicable"]  # fmt: skip
        for name, recipe in self._recipes.items():
            # at another learning rate the pair may fare otherwise: that is what the check arm asks
            on = frozenset() if recipe.arms == {"check"} else frozenset(recipe.first.tricks)
            wanted = {tag: verdict for both, tag, verdict in pairs if both <= on}
            run = self._recipe_run(name)
            self._batch(run.info.run_id, tags=_differing(wanted, run.data.tags))
            run.data.tags.update(wanted)
            for tag in [tag for tag in run.data.tags if tag.startswith("conflict/") and tag not in wanted]:
                self._client.delete_tag(run.info.run_id, tag)
                del run.data.tags[tag]

    def _end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)

    def _artifact(self, run: Any, name: str, content: str | bytes) -> None:
        """An artifact; into a local folder without MLflow's way over a query and a temporary file (5 ms each)."""
        folder = load.local_folder(self.uri, str(run.info.artifact_uri))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            files.write(folder / name, content)
            return
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / name
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            self._client.log_artifact(run.info.run_id, str(file))

    def _has(self, run: Any, name: str) -> bool:
        """Whether an artifact is there; of a store elsewhere only asked where everything is looked at."""
        folder = load.local_folder(self.uri, str(run.info.artifact_uri))
        if folder is not None:
            return (folder / name).is_file()
        return not self._thorough or any(file.path == name for file in self._client.list_artifacts(run.info.run_id))

    def _batch(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log within MLflow's limits: 100 parameters, 100 tags, 1000 entities a request.

        Points that the store has already are not doubled there.
        """
        from mlflow.entities import Metric, Param, RunTag

        numbers = [
            Metric(key, value if math.isfinite(value) else math.nan, stamp, step) for key, value, step, stamp in metrics
        ]
        words = [Param(key, value) for key, value in (params or {}).items()]
        notes = [RunTag(key, value) for key, value in (tags or {}).items()]
        while numbers or words or notes:
            self._client.log_batch(run_id, metrics=numbers[:800], params=words[:100], tags=notes[:100])
            numbers, words, notes = numbers[800:], words[100:], notes[100:]


# ------------------------------------------------------------------------------------------ the content of runs


def conflict_summary(table: pd.DataFrame) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the search run for a table of pairs, for `Tracker.summary`.

    Each pair is a tag "conflict/<a>--<b>" with its verdict, and a metric of the same name: the smaller of its two
    harms, a fraction (absent where a harm is unknown).

    Args:
        table: What `analysis.conflicts.pairwise` gives.
    """
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    for row in table.to_dict("records"):
        name = pair_name(str(row["a"]), str(row["b"]))
        tags[name] = str(row["verdict"])
        harms = [float(row[harm]) for harm in ("b_given_a", "a_given_b")]
        if all(math.isfinite(harm) for harm in harms):
            metrics[name] = min(harms)
    return metrics, tags


def _trial_tags(record: Record) -> dict[str, str]:
    tags = {
        "search": record.search,
        "level": "trial",
        "trial": record.trial,
        "arm": record.arm,
        "recipe": record.recipe,
        "title": record.title,
        "seed": str(record.seed),
        "split_seed": str(record.split_seed),
        "outcome": record.outcome,
        "first_stage": record.first_stage,
        "tricks": json.dumps(list(record.tricks)),
        "context": record.context,
        "fingerprint": record.fingerprint,
        "reused": json.dumps(list(record.reused)),
        "reason": record.reason,
        "schema": str(record.schema),
        "setting": record.setting,
        "correct": str(len(record.correct) or ""),
    }
    for name in ("counts", "val_counts", "class_names"):
        text = json.dumps(getattr(record, name))
        tags[name] = text if len(text) < 5000 else load.ELSEWHERE
    families = json.dumps(dict(record.families))
    if len(families) < 5000:
        tags["families"] = families
    tags |= {f"stop/{name}": _text(value) for name, value in record.stop.items()}
    if record.reason:
        # MLflow shows the note as the run's description
        tags["mlflow.note.content"] = record.reason
    return {key: _clip(value) for key, value in tags.items()}


def _trial_metrics(record: Record) -> list[tuple[str, float, int]]:
    """(key, value, step) of everything a trial measured; curves have the epoch as their step."""
    end = max((point.epoch for point in record.curve), default=0)
    metrics = [(key(name), _measured(value), end) for name, value in record.metrics.items()]
    if len(record.recalls) <= RECALL_LIMIT:
        metrics += [(f"recall/{index}", _measured(value), end) for index, value in enumerate(record.recalls)]
    metrics += [(f"cost/{name}", _measured(getattr(record, name)), end) for name in (*load.COSTS, "gpus", "memory")]
    stages = list(dict.fromkeys(point.stage for point in record.curve))
    for name in dict.fromkeys(name for point in record.curve for name in point.metrics):
        metrics += [(key(f"val/{name}"), value, epoch) for epoch, value in load.curve(record, name)]
        for stage in stages:
            prefix = f"stage_{stage}" if stage in _RESERVED or stage.startswith("stage_") else stage
            metrics += [(key(f"{prefix}/{name}"), value, epoch) for epoch, value in load.curve(record, name, stage)]
    return metrics


def _means(recipe: _Recipe) -> dict[str, float]:
    """What is shown of a recipe: means over seeds with their intervals; NaN for what is no longer known."""
    arm, values = load.estimate(recipe.values)
    if not arm and recipe.values:
        values = next(iter(recipe.values.values()))
    means: dict[str, float] = dict.fromkeys(recipe.metrics, math.nan) | {"seeds": float(len(values))}
    for prefix, numbers in (("final", values), ("test", recipe.test)):
        if numbers:
            mean, low, high = bounded_interval(list(numbers.values()))
            found = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
            means |= {f"{prefix}/{name}": value for name, value in found.items() if not math.isnan(value)}
    return means


def _differing(wanted: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in wanted.items() if there.get(name) != text}


def _holds(there: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(name in there and _alike(there[name], value) for name, value in wanted.items())


def _alike(one: float, other: float) -> bool:
    """Equal as MLflow keeps numbers: NaN for everything that is not finite."""
    if not math.isfinite(other):
        return not math.isfinite(one)
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-300)


def _measured(value: Any) -> float:
    """A number; JSON without NaN has null for one that is not finite."""
    return math.nan if value is None else float(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _end_of(record: Record) -> int:
    return round(record.started * 1000) + round(record.seconds * 1000)


def _text(value: Any) -> str:
    """A parameter as people read it; `analysis.records.reader.parsed` is the inverse."""
    if value is None:
        return "none"
    return _clip(value if isinstance(value, str) else json.dumps(value, default=str))


def _clip(text: str, limit: int = 5000) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _now() -> int:
    return round(time.time() * 1000)
