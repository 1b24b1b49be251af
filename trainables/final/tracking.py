"""The run of a final training in MLflow, beside the searches of the same data."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.relocation import relocate
from trainables.final.errors import TrainError

_logger = logging.getLogger(__name__)

NOWHERE = "none"
"""A tracking URI that records nothing."""

WRITE_SECONDS = 2.0
"""Numbers are written at most this often: each time costs a database some milliseconds."""


class Run:
    """One run, written as training goes on. What goes wrong after its start is told and never ends a training.

    Args:
        uri: Address of the store; `NOWHERE` records nothing.
        data: Name of the data set; the experiment is `longtail/<data>`.
        name: Of the run.
        tags: Of the run.
        params: Of the run.
        run_id: A run to go on with.

    Raises:
        TrainError: The store cannot be opened.
    """

    def __init__(
        self,
        uri: str,
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
        if uri == NOWHERE:
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        try:
            if uri.startswith("sqlite:///"):
                relocate(Path(uri.removeprefix("sqlite:///")))
            self._client = client = MlflowClient(tracking_uri=uri)
            if run_id is not None:
                client.update_run(run_id, status="RUNNING")
                return
            experiment = _experiment(client, uri, f"longtail/{data}")
            self.run_id = client.create_run(experiment, tags={**tags, "mlflow.runName": name}).info.run_id
            for key, value in params.items():
                client.log_param(self.run_id, key, value)
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrainError(
                f"the MLflow store {uri} cannot be written: {why}; choose another with --tracking-uri, or "
                f"--tracking-uri {NOWHERE}"
            ) from error

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers; they are written every few seconds, and when the run is closed."""
        if self._client is not None:
            now = round(time.time() * 1000)
            self._waiting.extend((key, value, now, step) for key, value in values.items())
            if time.monotonic() - self._written > WRITE_SECONDS:
                self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        waiting, self._waiting = self._waiting, []
        with self._forgiving() as client:
            from mlflow.entities import Metric

            for first in range(0, len(waiting), 1000):  # as many as a server takes at once
                client.log_batch(self.run_id, metrics=[Metric(*one) for one in waiting[first : first + 1000]])

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

    def close(self, status: str) -> None:
        """Ends the run: FINISHED, KILLED or FAILED."""
        if self._client is None:
            return
        self._write()
        with self._forgiving() as client:
            client.set_terminated(self.run_id, status)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[Any]:
        try:
            yield self._client
        except Exception as error:
            _logger.warning("MLflow: %s", (str(error).strip().splitlines() or [type(error).__name__])[0])


def _experiment(client: Any, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):
        # beside the database and not in whatever directory the command was started from
        beside = Path(uri.removeprefix("sqlite:///")).absolute().parent
        place = (beside / "mlruns" / name.replace("/", "-")).as_uri()
    return str(client.create_experiment(name, artifact_location=place))
