"""Models and data sets in MLflow: which numbers are of which model, and on which data they were measured."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analysis.records.mlflow_runs import finite
from analysis.records.mlflow_store import Client, api

KIND = "image-classification"
"""Type of our models in MLflow."""

_BARRED = re.compile(r"[/:.%\"']")


@dataclass(frozen=True)
class DataSet:
    """A data set with its split, as MLflow shows it.

    Args:
        name: Its name.
        fingerprint: Identifies images, labels and split.
        about: JSON-serialisable, e.g. the images of each split.
    """

    name: str
    fingerprint: str
    about: dict[str, Any] = field(default_factory=dict)

    def entity(self) -> Any:
        """The same as MLflow's own."""
        about = json.dumps(self.about)
        source = json.dumps({"data": self.name})
        return api().Dataset(self.name, self.fingerprint, "longtail-tune", source, profile=about)


@dataclass(frozen=True)
class Measurement:
    """Numbers of a model.

    Args:
        run: Id of the run that measured them.
        metrics: (key, value, time in milliseconds, step).
        data: Data set they were measured on; `None` for a mean over several, e.g. over splits.
    """

    run: str
    metrics: list[tuple[str, float, int, int]]
    data: DataSet | None = None


@dataclass(frozen=True)
class Model:
    """A model as MLflow is to have it.

    Args:
        name: Its name.
        run: Id of the run that it is from.
        tags: Its tags.
        params: Its parameters.
        measurements: Its numbers.
    """

    name: str
    run: str
    tags: dict[str, str]
    params: dict[str, str]
    measurements: list[Measurement]

    @property
    def digest(self) -> str:
        """Distinguishes a model that was written from this content from another one."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def log_data(client: Client, run: str, data: Sequence[DataSet], context: str) -> None:
    """Notes data sets as the input of a run; those that the run has are not noted twice.

    Args:
        client: Client of the store.
        run: Id of the run.
        data: The data sets.
        context: What they were for, e.g. "train, val".
    """
    mlflow = api()
    tags = [mlflow.InputTag("mlflow.data.context", context)]
    client.log_inputs(run, datasets=[mlflow.DatasetInput(dataset=each.entity(), tags=tags) for each in data])


def write_model(
    client: Client, experiment: str, model: Model, folder: Path | None = None, begun: str | None = None
) -> str:
    """Writes a model; it is ready when all of it is there.

    Args:
        client: Client of the store.
        experiment: Id of the experiment.
        model: The model.
        folder: Its files, as `mlflow models serve` wants them; absent where MLflow has its numbers alone.
        begun: Id of the model in MLflow, where an earlier attempt was cut off.

    Returns:
        Its id in MLflow.
    """
    mlflow = api()
    model_id = begun
    if model_id is None:
        tags = model.tags | {"digest": model.digest}
        if folder is None:
            tags["mlflow.model.isExternal"] = "true"
        made = client.create_logged_model(
            experiment, _BARRED.sub("-", model.name)[:250], model.run, tags, model.params, KIND
        )
        model_id = str(made.model_id)
        client.log_outputs(model.run, [mlflow.LoggedModelOutput(model_id, 0)])
    if folder is not None:
        client.log_model_artifacts(model_id, str(folder))
    for each in model.measurements:
        data = {} if each.data is None else {"dataset_name": each.data.name, "dataset_digest": each.data.fingerprint}
        points = [
            mlflow.Metric(key, finite(value), *when, model_id=model_id, run_id=each.run, **data)
            for key, value, *when in each.metrics
        ]
        client.log_batch(each.run, metrics=points)
    client.finalize_logged_model(model_id, "READY")
    return model_id


def write_models(client: Client, experiment: str, search: str, models: Sequence[Model]) -> None:
    """Brings the models of a search to these: what is right stays, what is not any more is deleted.

    Args:
        client: Client of the store.
        experiment: Id of the experiment.
        search: Name of the search, which is a tag of its models.
        models: The models.
    """
    others = list(client.search_logged_models([experiment], f"tags.search = '{search}'"))
    for model in models:
        mine = next((one for one in others if one.tags.get("digest") == model.digest), None)
        if mine is not None:
            others.remove(mine)
        if mine is None or str(mine.status) != "READY":
            write_model(client, experiment, model, begun=None if mine is None else str(mine.model_id))
    for one in others:  # a second one of a digest: its creation was repeated because it was answered late
        client.delete_logged_model(one.model_id)
