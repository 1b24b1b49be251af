"""Records to MLflow: search run › recipe run › trial run, written by the driver alone.

One background thread does the writing, so that `Tracker.log` returns at once; what goes wrong there is warned
about, tried once more, and told on `close`. It never ends a search.

Everything is looked up by tags, so that resuming a search continues the same runs, and logging a trial twice
leaves one run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from analysis import load
from analysis.files import to_json
from analysis.record import BASELINE, Record, bounded_interval

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

RECALL_LIMIT = 200
"""Classes up to which every class's recall is a metric; `record.json` has them all."""

STATUS = {"finished": "FINISHED", "diverged": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Outcome of a trial to status of its run: a trial that diverged did end, and says so in its outcome."""

_RESERVED = {"best", "conflict", "cost", "final", "recall", "test", "val"}
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
    uri = load.default_uri()
    check(uri)
    return uri


def check(uri: str) -> None:
    """Refuse at once, without importing MLflow, a store that cannot be written.

    Raises:
        TrackingError: The file or its folder is missing or read-only.
    """
    file = load.database(uri)
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
    try:
        load.connect(uri, create=True)
    except load.LoadError as error:
        raise TrackingError(f"{error}; choose another store with --tracking-uri") from error


def where_to_look(uri: str) -> str:
    """The command that shows the store, for the last lines of a search.

    >>> where_to_look("sqlite:////data/mlflow.db")
    'mlflow ui --backend-store-uri sqlite:////data/mlflow.db -w 1'
    """
    if uri.startswith(("http://", "https://")):
        return uri
    return "mlflow ui" if uri == load.default_uri() else f"mlflow ui --backend-store-uri {uri} -w 1"


# ------------------------------------------------------------------------------------------ the tracker


@dataclass
class _Recipe:
    """What the recipe run of one plan is computed from."""

    run_id: str
    plain: bool = False
    tricks: frozenset[str] = frozenset()
    arms: set[str] = field(default_factory=set)
    trials: int = 0
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    test: dict[int, float] = field(default_factory=dict)


@dataclass
class _Job:
    what: str
    do: Callable[[], None]


class Tracker:
    """Writes one search into MLflow.

    Creating the store starts in the background at once; `start` waits for it.

    Args:
        uri: Address of the store, e.g. `default_uri()`.
        search: Name of the search, without slashes and quotes.
        data: Name of the data set; the experiment is "longtail/<data>".

    Raises:
        TrackingError: The name cannot be one, or the store cannot be written.
    """

    def __init__(self, uri: str, search: str, data: str) -> None:
        if not search or _BARRED.search(search):
            raise TrackingError(f"name of the search: no slash, quote, percent sign or line end, got {search!r}")
        check(uri)
        self.uri = uri
        self.search = search
        self.data = data
        self.errors: list[str] = []
        """What went wrong and could not be mended; complete after `close`."""
        self.run_id = ""
        self.before = ""
        """Status of the search run as it was found, "" of a new one; set by `start`."""
        self._client: Any = None
        self._experiment = ""
        self._recipes: dict[str, _Recipe] = {}
        self._trials: dict[str, str] = {}
        self._outcomes: dict[str, str] = {}
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._failed: list[_Job] = []
        self._changed: set[str] = set()
        self._warned: set[str] = set()
        self._refreshed = 0.0
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

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str], *, resume: bool = True) -> str:
        """Create the search run, or continue it with every recipe and trial run that it has.

        Args:
            params: What the search was started with. MLflow never changes a parameter, so one that differs on
                resuming keeps its first value there and is noted in the tag "resumed".
            tags: Further tags of the search run.
            resume: Whether a search of this name may be there already.

        Returns:
            Id of the search run.

        Raises:
            TrackingError: The store cannot be opened, or the name is taken and `resume` is False.
        """
        self._preparing.join()
        if self._problem is not None:
            raise self._problem
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        self._experiment = self._find_experiment()
        found = load.pages(self._client, [self._experiment], f"tags.search = '{self.search}' and tags.level = 'search'")
        if found and not resume:
            raise TrackingError(
                f"the MLflow store at {self.uri} already holds a search {self.search!r} on {self.data}; choose another "
                f"--name, or go on with it by --resume {self.search}"
            )
        own = {"search": self.search, "level": "search", "data": self.data} | {k: str(v) for k, v in tags.items()}
        own = {_key(key): _clip(value) for key, value in own.items()}
        texts = {_key(name): _text(value) for name, value in params.items()}
        if found:
            self.run_id, self.before = found[0].info.run_id, str(found[0].info.status)
            before = dict(found[0].data.params)
            changed = {name: value for name, value in texts.items() if before.get(name, value) != value}
            if changed:
                own["resumed"] = _clip(json.dumps(changed))
            texts = {name: value for name, value in texts.items() if name not in before}
            self._client.update_run(self.run_id, status="RUNNING")
            self._recall_runs()
        else:
            own["mlflow.runName"] = self.search
            self.run_id = self._client.create_run(self._experiment, tags=own, run_name=self.search).info.run_id
        self._batch(self.run_id, params=texts, tags=own)
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()
        return self.run_id

    def _find_experiment(self) -> str:
        # a folder may be called anything, an experiment not
        name = load.EXPERIMENTS + _BARRED.sub("_", self.data)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # Beside the database and not in whatever directory the search was started from.
            file = load.database(self.uri)
            place = None if file is None else (file.parent / "mlruns" / name.replace("/", "-")).as_uri()
            # training runs, and no traces of language models; MLflow's page still opens in the mode it had last
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment {name!r} was deleted in the store at {self.uri}; restore it (`mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}`) or choose another store with "
                "--tracking-uri"
            )
        return str(experiment.experiment_id)

    def _recall_runs(self) -> None:
        """Learn from the store which runs a search that is continued has."""
        for run in self._tagged("recipe"):
            tags = run.data.tags
            on = frozenset(json.loads(tags.get("tricks", "[]")))
            self._recipes[tags["recipe"]] = _Recipe(run.info.run_id, tags.get("baseline") == "true", on)
        for run in self._tagged("trial"):
            tags, metrics = run.data.tags, run.data.metrics
            self._trials[tags["trial"]] = run.info.run_id
            if run.info.status == "RUNNING" or tags["recipe"] not in self._recipes:
                continue  # Cut off while it was written: it is written again when it comes.
            self._outcomes[tags["trial"]] = tags["outcome"]
            self._count(tags["recipe"], tags["arm"], int(tags["seed"]), tags["outcome"], metrics)

    def _tagged(self, level: str) -> list[Any]:
        return load.pages(self._client, [self._experiment], f"tags.search = '{self.search}' and tags.level = '{level}'")

    def log(self, record: Record) -> None:
        """Hand one finished, stopped, diverged or failed trial to the writer; returns at once."""
        self._put(_Job(f"trial {record.trial}", lambda: self._write_trial(record)))

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
        values, texts = dict(metrics or {}), {_key(name): _clip(str(text)) for name, text in (tags or {}).items()}
        self._put(_Job("the search's summary", lambda: self._write_summary(values, texts, artifacts, tuple(anew))))

    def mark(self, table: pd.DataFrame) -> None:
        """Put the verdicts of a table of pairs onto the recipe runs that have both tricks on; returns at once.

        The tags are those of the search run, `conflict/<a>--<b>`, so that one query finds the recipes as well.
        """
        pairs = [
            (frozenset((row["a"], row["b"])), _key(f"conflict/{row['a']}--{row['b']}"), str(row["verdict"]))
            for row in table.to_dict("records")
            if row["verdict"] != "not applicable"
        ]
        self._put(_Job("the verdicts on recipes", lambda: self._write_marks(pairs)))

    def flush(self) -> None:
        """Wait until everything handed in is written; what failed is tried once more."""
        if self._thread is None:
            return
        self._queue.join()
        again, self._failed = self._failed, []
        for job in again:
            self._queue.put(job)
        self._queue.join()

    def close(self, status: str = "FINISHED") -> list[str]:
        """Write the rest and end the search run.

        Args:
            status: FINISHED, or KILLED for a search that was cut off and may be resumed.

        Returns:
            What could not be written, empty as a rule; it is also warned about.
        """
        if self._closed:
            return self.errors
        self._closed = True
        if self._thread is None:
            return self.errors
        self.flush()
        self._queue.put(_Job("the means over seeds", self._refresh))
        self._queue.put(_Job("the end of the search", lambda: self._client.set_terminated(self.run_id, status)))
        self._queue.join()
        self._queue.put(None)
        self._thread.join()
        self.errors += [job.what for job in self._failed]
        if self.errors:
            _logger.warning(
                "MLflow misses %s of search %s (store %s); `--resume %s` writes trials again",
                ", ".join(self.errors), self.search, self.uri, self.search,
            )  # fmt: skip
        return self.errors

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
                job.do()
                if self._queue.empty() or time.monotonic() - self._refreshed > 5:
                    job = _Job("the means over seeds", self._refresh)
                    job.do()
            except Exception as error:
                self._failed.append(job)
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                if reason not in self._warned:
                    self._warned.add(reason)
                    _logger.warning("MLflow did not take %s (%s); it will be tried once more", job.what, reason)
            finally:
                self._queue.task_done()

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
        outcomes = list(self._outcomes.values())
        metrics = {"trials": float(len(outcomes)), "trials_finished": float(outcomes.count("finished"))}
        best = self._leader()
        if best is not None:
            metrics["best/accuracy"] = best
        self._batch(self.run_id, metrics=[(name, value, len(outcomes)) for name, value in metrics.items()])

    def _leader(self) -> float | None:
        """Mean of the recipe that leads, by the same order as `analysis.load.ranking`."""
        places = [(load.place(r.values, plain=r.plain), r) for r in self._recipes.values()
                  if load.estimate(r.values)[1]]  # fmt: skip
        if not places:
            return None
        _, leader = max(places, key=lambda place: place[0])
        _, values = load.estimate(leader.values)
        return sum(values.values()) / len(values)

    def _write_trial(self, record: Record) -> None:
        if self._outcomes.get(record.trial) == record.outcome:
            return
        recipe = self._recipe(record)
        begun = round(record.started * 1000) or _now()
        tags = _trial_tags(record) | {"search": self.search}
        run_id, folder = self._trials.get(record.trial), ""
        if run_id is None:
            tags["mlflow.parentRunId"] = recipe.run_id
            created = self._client.create_run(
                self._experiment, start_time=begun, tags=tags, run_name=f"seed {record.seed} ({record.arm})"
            )
            run_id = self._trials[record.trial] = created.info.run_id
            folder = created.info.artifact_uri
            tags = {}
        params = _recipe_params(record) | {"seed": str(record.seed)}
        self._batch(run_id, metrics=_trial_metrics(record), params=params, tags=tags, timestamp=begun)
        self._text(run_id, folder, "record.json", to_json(record.to_dict()))
        # Last, because a run that is not RUNNING counts as completely written.
        self._client.set_terminated(run_id, STATUS[record.outcome], end_time=begun + round(record.seconds * 1000))
        self._count(record.recipe, record.arm, record.seed, record.outcome, record.metrics)
        self._changed.add(record.recipe)
        self._outcomes[record.trial] = record.outcome

    def _recipe(self, record: Record) -> _Recipe:
        known = self._recipes.get(record.recipe)
        if known is not None:
            return known
        tags = {
            "search": self.search,
            "level": "recipe",
            "recipe": record.recipe,
            "arm": record.arm,
            "title": record.title,
            "tricks": json.dumps(list(record.tricks)),
            "context": record.context,
            "baseline": str(record.title == BASELINE).lower(),
            "mlflow.parentRunId": self.run_id,
        }
        tags = {key: _clip(value) for key, value in tags.items()}
        run = self._client.create_run(
            self._experiment, start_time=round(record.started * 1000) or _now(), tags=tags, run_name=record.title[:200]
        )
        recipe = self._recipes[record.recipe] = _Recipe(
            run.info.run_id, record.title == BASELINE, frozenset(record.tricks)
        )
        self._batch(recipe.run_id, params=_recipe_params(record))
        self._text(recipe.run_id, run.info.artifact_uri, "plan.json", json.dumps(record.plan, indent=1))
        self._client.set_terminated(recipe.run_id, "FINISHED")
        return recipe

    def _count(self, name: str, arm: str, seed: int, outcome: str, metrics: Mapping[str, float]) -> None:
        recipe = self._recipes[name]
        recipe.arms.add(arm)
        recipe.trials += 1
        if outcome != "finished":
            return
        accuracy = metrics.get("final/accuracy", math.nan)
        if not math.isnan(accuracy):
            recipe.values.setdefault(arm, {})[seed] = accuracy
        if not math.isnan(metrics.get("test/accuracy", math.nan)):
            recipe.test[seed] = metrics["test/accuracy"]

    def _write_recipe(self, name: str) -> None:
        recipe = self._recipes[name]
        arm, values = load.estimate(recipe.values)
        if not arm and recipe.values:
            # what was run to tune, to check or around a winner is shown as well, though it stands in no ranking
            arm, values = next(iter(recipe.values.items()))
        metrics: dict[str, float] = {"seeds": float(len(values))}
        for prefix, numbers in (("final", values), ("test", recipe.test)):
            if numbers:
                mean, low, high = bounded_interval(list(numbers.values()))
                found = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
                metrics |= {f"{prefix}/{key}": value for key, value in found.items() if not math.isnan(value)}
        tags = {"arm": ",".join(sorted(recipe.arms)), "arm_counted": arm}
        self._batch(recipe.run_id, metrics=[(key, value, recipe.trials) for key, value in metrics.items()], tags=tags)

    def _write_summary(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Path | Mapping[str, str | bytes] | None,
        anew: tuple[str, ...],
    ) -> None:
        values = [(_key(name), float(value), 0) for name, value in metrics.items()]
        self._batch(self.run_id, metrics=values, tags=tags)
        if anew:
            there = self._client.get_run(self.run_id).data.tags
            for name in there:
                if name.startswith(anew) and name not in tags:
                    self._client.delete_tag(self.run_id, name)
        if isinstance(artifacts, Path):
            self._client.log_artifacts(self.run_id, str(artifacts))
        else:
            for name, content in (artifacts or {}).items():
                if isinstance(content, str):
                    self._client.log_text(self.run_id, content, name)
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / name
                    file.write_bytes(content)
                    self._client.log_artifact(self.run_id, str(file))

    def _write_marks(self, pairs: list[tuple[frozenset[str], str, str]]) -> None:
        for recipe in self._recipes.values():
            tags = {key: verdict for both, key, verdict in pairs if both <= recipe.tricks}
            # at another learning rate the pair may fare otherwise: that is what the check arm asks
            if tags and recipe.arms != {"check"}:
                self._batch(recipe.run_id, tags=tags)

    def _text(self, run_id: str, folder: str, name: str, text: str) -> None:
        """An artifact; into a local folder without MLflow's way over a query and a temporary file (5 ms each)."""
        if not folder.startswith("file://"):
            self._client.log_text(run_id, text, name)
            return
        path = Path(url2pathname(urlparse(folder).path)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _batch(
        self,
        run_id: str,
        metrics: list[tuple[str, float, int]] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Log within MLflow's limits: 100 parameters, 100 tags, 1000 entities a request."""
        from mlflow.entities import Metric, Param, RunTag

        now = _now() if timestamp is None else timestamp
        numbers = [
            Metric(key, value if math.isfinite(value) else math.nan, now, step) for key, value, step in metrics or []
        ]
        words = [Param(key, value) for key, value in (params or {}).items()]
        notes = [RunTag(key, value) for key, value in (tags or {}).items()]
        while numbers or words or notes:
            self._client.log_batch(run_id, metrics=numbers[:800], params=words[:100], tags=notes[:100])
            numbers, words, notes = numbers[800:], words[100:], notes[100:]


# ------------------------------------------------------------------------------------------ what is written


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
        key = _key(f"conflict/{row['a']}--{row['b']}")
        tags[key] = str(row["verdict"])
        harms = [float(row[name]) for name in ("b_given_a", "a_given_b")]
        if all(math.isfinite(harm) for harm in harms):
            metrics[key] = min(harms)
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


def _recipe_params(record: Record) -> dict[str, str]:
    fixed = {"data": record.data, "model": record.model, "imbalance": record.imbalance, "epochs": record.epochs}
    return {_key(name): _text(value) for name, value in (dict(record.choices) | fixed).items()}


def _trial_metrics(record: Record) -> list[tuple[str, float, int]]:
    """(key, value, step) of everything a trial measured; curves have the epoch as their step."""
    end = max((point.epoch for point in record.curve), default=0)
    metrics = [(_key(name), float(value), end) for name, value in record.metrics.items()]
    if len(record.recalls) <= RECALL_LIMIT:
        metrics += [(f"recall/{index}", float(value), end) for index, value in enumerate(record.recalls)]
    metrics += [(f"cost/{name}", float(getattr(record, name)), end) for name in (*load.COSTS, "gpus", "memory")]
    stages = list(dict.fromkeys(point.stage for point in record.curve))
    for name in dict.fromkeys(name for point in record.curve for name in point.metrics):
        metrics += [(_key(f"val/{name}"), value, epoch) for epoch, value in load.curve(record, name)]
        for stage in stages:
            prefix = f"stage_{stage}" if stage in _RESERVED else stage
            metrics += [(_key(f"{prefix}/{name}"), value, epoch) for epoch, value in load.curve(record, name, stage)]
    return metrics


def _key(name: str) -> str:
    """A name that MLflow takes on every platform: letters, digits, `_ . / -` and space.

    >>> _key("conflict/deferred/class_balanced--late(8)/mixup")
    'conflict/deferred/class_balanced--late_8_/mixup'
    """
    clean = re.sub(r"[^A-Za-z0-9_./\- ]", "_", name)
    return "/".join(part for part in clean.split("/") if part not in ("", ".", ".."))[:250]


def _text(value: Any) -> str:
    """A parameter as people read it; `analysis.load.parsed` is the inverse."""
    if value is None:
        return "none"
    return _clip(value if isinstance(value, str) else json.dumps(value, default=str))


def _clip(text: str, limit: int = 5000) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _now() -> int:
    return round(time.time() * 1000)
