"""An MLflow server in memory, as far as a search uses one: what the simulator tracks into.

`tests/search/test_simulation.py` holds it against MLflow itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from analysis.records import mlflow_models, mlflow_runs, mlflow_store
from analysis.records.mlflow_store import Client

URI = "http://memory.test"


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int
    model_id: str = ""
    run_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class Word(NamedTuple):
    key: str
    value: str


class Entity(SimpleNamespace):
    """What a client makes and the server keeps: a data set, an input, an output."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(values=values, **named)


class Page(list[Any]):
    token = None


class Refused(Exception):
    """What MLflow would refuse."""


@dataclass
class Run:
    run_id: str
    experiment: str
    name: str
    start: int
    tags: dict[str, str]
    status: str = "RUNNING"
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    points: dict[str, set[tuple[int, int, float]]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    inputs: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def seen(self) -> SimpleNamespace:
        """What a client is shown: MLflow's entity of a run, which later calls do not change."""
        latest = {name: max(points)[2] for name, points in self.points.items()}
        metrics = {name: math.nan if value == -math.inf else value for name, value in latest.items()}
        info = SimpleNamespace(
            run_id=self.run_id, experiment_id=self.experiment, run_name=self.name, status=self.status,
            start_time=self.start, artifact_uri=f"memory:/{self.run_id}",
        )  # fmt: skip
        data = SimpleNamespace(tags=dict(self.tags), params=dict(self.params), metrics=metrics)
        return SimpleNamespace(info=info, data=data)


class MemoryMlflow:
    """The server.

    Args:
        scratch: A folder for what is on its way.
        called: Called with the name of each method before it acts and, with True, after it; may raise.
    """

    def __init__(self, scratch: Path, called: Callable[[str, bool], None] = lambda name, done: None) -> None:
        self.scratch, self.called = scratch, called
        self.experiments: dict[str, SimpleNamespace] = {}
        self.runs: dict[str, Run] = {}
        self.models: dict[str, SimpleNamespace] = {}

    @contextmanager
    def serving(self) -> Iterator[MemoryMlflow]:
        """Every client that is made in here is one of this server."""
        module = SimpleNamespace(
            MlflowClient=lambda tracking_uri: MemoryClient(self), Metric=Metric, Param=Word, RunTag=Word,
            Dataset=Entity, InputTag=Entity, DatasetInput=Entity, LoggedModelOutput=Entity,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mlflow_store, "_answers", lambda uri: None)
            patch.setattr(mlflow_store, "api", lambda: module)
            patch.setattr(mlflow_runs, "api", lambda: module)
            patch.setattr(mlflow_models, "api", lambda: module)
            folders = SimpleNamespace(TemporaryDirectory=lambda: nullcontext(self.scratch))  # one is enough
            patch.setattr(mlflow_runs, "tempfile", folders)
            yield self


class MemoryClient:
    def __init__(self, server: MemoryMlflow) -> None:
        self._server = server
        self._called = server.called  # the one of now: what a dead process has left running stays dead

    def __getattribute__(self, name: str) -> Any:
        method = object.__getattribute__(self, name)
        if name.startswith("_"):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            self._called(name, False)
            result = method(*arguments, **named)
            self._called(name, True)
            return result

        return call

    def _run(self, run_id: str) -> Run:
        run = self._server.runs[run_id]
        if run.deleted:
            raise Refused(f"The run {run_id} must be in the 'active' state")
        return run

    def search_experiments(self, **_: Any) -> Page:
        return Page(self._server.experiments.values())

    def get_experiment_by_name(self, name: str) -> Any:
        return next((one for one in self._server.experiments.values() if one.name == name), None)

    def get_experiment(self, experiment: str) -> Any:
        found = self._server.experiments[experiment]
        return SimpleNamespace(**{**vars(found), "tags": dict(found.tags)})

    def create_experiment(self, name: str, artifact_location: str | None, tags: dict[str, str]) -> str:
        number = str(len(self._server.experiments) + 1)
        self._server.experiments[number] = SimpleNamespace(
            experiment_id=number, name=name, lifecycle_stage="active", tags=dict(tags)
        )
        return number

    def set_experiment_tag(self, experiment: str, name: str, value: str) -> None:
        self._server.experiments[experiment].tags[name] = value

    def delete_experiment_tag(self, experiment: str, name: str) -> None:
        del self._server.experiments[experiment].tags[name]

    def search_runs(self, experiments: Sequence[str], query: str, **_: Any) -> Page:
        tags = dict(re.fullmatch(r"tags\.(\w+) = '(.*)'", part).groups() for part in query.split(" and "))  # type: ignore[union-attr]
        found = [
            run
            for run in self._server.runs.values()
            if not run.deleted and run.experiment in experiments and tags.items() <= run.tags.items()
        ]
        return Page(run.seen() for run in sorted(found, key=lambda run: run.start))

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        run = Run(f"{len(self._server.runs):08d}", experiment, run_name, start_time, dict(tags))
        self._server.runs[run.run_id] = run
        return run.seen()

    def get_run(self, run_id: str) -> Any:
        return self._server.runs[run_id].seen()

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        run = self._run(run_id)
        run.status, run.name = status or run.status, name or run.name

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Word] = (), tags: Sequence[Word] = ()
    ) -> None:
        run = self._run(run_id)
        for name, value in params:
            if run.params.get(name, value) != value:
                raise Refused(f"Changing param values is not allowed. Param with key='{name}' was already logged")
        run.params.update(params)
        for key, value, timestamp, step, model, *_ in metrics:
            if model and model not in self._server.models:
                raise Refused(f"Logged model with ID '{model}' not found")
            # of points with one step and time MLflow shows the largest, and NaN last
            run.points.setdefault(key, set()).add((step, timestamp, -math.inf if math.isnan(value) else value))
        run.tags.update(tags)

    def log_inputs(self, run_id: str, datasets: Sequence[Any]) -> None:
        run = self._run(run_id)
        for one in datasets:
            run.inputs.setdefault(one.dataset.values[:2], one.tags)

    def log_outputs(self, run_id: str, models: Sequence[Any]) -> None:
        self._run(run_id)

    def create_logged_model(
        self, experiment: str, name: str, run_id: str, tags: dict[str, str], params: dict[str, str], kind: str
    ) -> Any:
        model_id = f"m-{len(self._server.models):06d}"
        model = SimpleNamespace(model_id=model_id, experiment=experiment, tags=dict(tags), status="PENDING")
        self._server.models[model_id] = model
        return SimpleNamespace(**vars(model))

    def finalize_logged_model(self, model_id: str, status: str) -> None:
        self._server.models[model_id].status = status

    def search_logged_models(self, experiments: Sequence[str], query: str) -> Page:
        tags = dict([re.fullmatch(r"tags\.(\w+) = '(.*)'", query).groups()])  # type: ignore[union-attr]
        return Page(
            SimpleNamespace(**vars(model))
            for model in self._server.models.values()
            if model.experiment in experiments and tags.items() <= model.tags.items() and model.status != "DELETED"
        )

    def delete_logged_model(self, model_id: str) -> None:
        self._server.models[model_id].status = "DELETED"

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self._run(run_id).tags[name] = value

    def delete_tag(self, run_id: str, name: str) -> None:
        del self._run(run_id).tags[name]

    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None:
        self._run(run_id).status = status

    def delete_run(self, run_id: str) -> None:
        self._run(run_id).deleted = True

    def log_artifact(self, run_id: str, file: str, folder: str | None = None) -> None:
        name = "/".join(filter(None, [folder, Path(file).name]))
        self._run(run_id).artifacts[name] = Path(file).read_bytes()

    def list_artifacts(self, run_id: str) -> list[Any]:
        return [SimpleNamespace(path=name) for name in self._run(run_id).artifacts]

    def download_artifacts(self, run_id: str, name: str, folder: str) -> str:
        file = Path(folder) / Path(name).name
        file.write_bytes(self._run(run_id).artifacts[name])
        return str(file)


def content(uri: str, search: str, artifacts: Sequence[str] = ("record.json", "plan.json", "records.jsonl")) -> Any:
    """What a store has of a search, without ids and times of its own: run to what it holds, each with its parent."""
    client = Client(uri)
    runs = mlflow_runs.pages(client, list(mlflow_runs.experiments(client)), f"tags.search = '{search}'")
    names = {run.info.run_id: _name(run) for run in runs}
    assert len(set(names.values())) == len(runs), "a run is there twice"
    found = {}
    for run in runs:
        tags = {
            name: text for name, text in run.data.tags.items()
            if name == "mlflow.note.content" or not name.startswith("mlflow.")
        }  # fmt: skip
        metrics = {name: repr(value) for name, value in sorted(run.data.metrics.items())}
        texts = {
            name: mlflow_runs.read_artifact(client, run, name)
            for name in artifacts
            if mlflow_runs.has_artifact(client, run, name)
        }
        parent = names.get(run.data.tags.get("mlflow.parentRunId", ""), "")
        found[_name(run)] = {
            "name": run.info.run_name, "status": str(run.info.status), "parent": parent, "tags": tags,
            "params": dict(run.data.params), "metrics": metrics, "artifacts": texts,
        }  # fmt: skip
    return json.loads(json.dumps(found, sort_keys=True))


def _name(run: Any) -> str:
    level = run.data.tags["level"]
    return f"{level} {run.data.tags[level]}"
