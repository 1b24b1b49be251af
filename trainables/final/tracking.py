"""The run of a final training in MLflow, beside the searches of the same data."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records import mlflow_models, mlflow_runs, mlflow_store
from analysis.records.mlflow_models import DataSet
from analysis.records.mlflow_store import NOWHERE
from trainables.final.errors import TrainError

_logger = logging.getLogger(__name__)

WRITE_SECONDS = 2.0
"""Shortest time between two writes, each of which costs a database some milliseconds."""

AWAY_SECONDS = 30.0
"""Seconds to wait before a store that did not answer is tried again."""

BATCH = 500
"""Points of metrics per request."""


class MlflowRun:
    """The run of a final training in MLflow. Errors after its start are logged and never end a training.

    Args:
        uri: Address of the store (default: the environment's, else the one in this directory); `NOWHERE` records
            nothing.
        data: Name of the data set; the experiment is `longtail/<data>`.
        name: Name of the run.
        tags: Tags of the run.
        params: Parameters of the run.
        run_id: A run to continue.

    Raises:
        TrainError: The store cannot be opened.
    """

    def __init__(
        self,
        uri: str | None,
        data: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        self.run_id = run_id
        self._client: Any = None
        self._waiting: list[tuple[str, float, int, int]] = []
        self._written = 0.0
        self._away_until = 0.0
        self._told: set[str] = set()
        mlflow_store.quiet()  # MLflow is imported for the model that is served, too
        if uri == NOWHERE:
            return
        place = mlflow_store.address(uri)
        try:
            self._client = client = mlflow_store.connect(place, create=True)
            if run_id is not None:
                client.update_run(run_id, status="RUNNING")
                return
            experiment = mlflow_runs.experiment(client, data)
            self.run_id = run_id = str(client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)
            mlflow_runs.log(client, run_id, params={mlflow_store.key(key): str(value) for key, value in params.items()})
        except mlflow_store.StoreError as error:
            raise TrainError(
                f"{error}{mlflow_store.source(uri)}; or choose another store with --tracking-uri, or --tracking-uri "
                f"{NOWHERE}"
            ) from error

    def metrics(self, values: Mapping[str, float], step: int = 0, at: int | None = None) -> None:
        """Logs numbers, at a Unix time in milliseconds; they are written every few seconds, and at the end."""
        if self._client is not None:
            now = round(time.time() * 1000) if at is None else at
            self._waiting.extend((mlflow_store.key(key), value, now, step) for key, value in values.items())
            if time.monotonic() - self._written > WRITE_SECONDS:
                self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._written < self._away_until:
            return
        with self._forgiving() as client:
            while self._waiting:  # what the store did not take is kept
                mlflow_runs.log(client, str(self.run_id), metrics=self._waiting[:BATCH])
                del self._waiting[:BATCH]

    def files(self, out: Path, names: Sequence[str]) -> None:
        """Copies files and folders of `out` into the run."""
        if self._client is None:
            return
        with self._forgiving() as client:
            for name in names:
                if (out / name).is_dir():
                    client.log_artifacts(self.run_id, str(out / name), name)
                else:
                    client.log_artifact(self.run_id, str(out / name))

    def model(
        self, name: str, values: Mapping[str, float], data: DataSet, at: int, folder: Path | None, **tags: str
    ) -> None:
        """Writes a trained seed as a model of MLflow, with its numbers on its data, which become an input of the run.

        Args:
            name: Name of the model.
            values: Its numbers, which the run has as well.
            data: What it was trained and tested on, with the images of each split.
            at: Unix time in milliseconds of these numbers in the run.
            folder: What `mlflow models serve` takes; absent where MLflow has the numbers alone.
            tags: Further tags.
        """
        if self._client is None:
            return
        with self._forgiving() as client:
            run_id = str(self.run_id)
            run = client.get_run(run_id)
            used = ", ".join(split for split, images in data.about.items() if images)
            mlflow_models.log_data(client, run_id, [data], used)
            points = [(mlflow_store.key(key), value, at, 0) for key, value in values.items()]
            kept = {key: run.data.tags[key] for key in ("level", "recipe", "source_search") if key in run.data.tags}
            measurements = [mlflow_models.Measurement(run_id, points, data)]
            model = mlflow_models.Model(name, run_id, kept | tags, dict(run.data.params), measurements)
            mlflow_models.write_model(client, str(run.info.experiment_id), model, folder)

    def close(self, status: str) -> None:
        """Ends the run: FINISHED, KILLED or FAILED."""
        if self._client is None:
            return
        self._away_until = 0.0
        self._write()
        with self._forgiving() as client:
            client.set_terminated(self.run_id, status)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[Any]:
        try:
            yield self._client
        except Exception as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            why = mlflow_store.hide((str(error).strip().splitlines() or [type(error).__name__])[0])
            if why not in self._told:
                self._told.add(why)
                _logger.warning("MLflow does not take numbers of this training: %s", why)
