"""Experiments, runs and artifacts of an MLflow store, for everything that writes or reads runs."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from analysis import files
from analysis.records.mlflow_store import VARIABLE, Client, StoreError, api, database
from analysis.text import command

EXPERIMENTS = "longtail/"
"""Prefix of the names of our MLflow experiments; the data set's name follows."""

BARRED = re.compile(r"[/\\'\"`%\x00-\x1f]")
"""Characters that MLflow's names and queries do not take."""

PAGE = 1000
"""Runs per request; a store may hold more."""


# ---------------------------------------------------------------------------------------------- experiments


def experiments(client: Client) -> dict[str, str]:
    """The id of each of our experiments, with the name of its data set."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'", page_token=token)
        found.update({e.experiment_id: e.name.removeprefix(EXPERIMENTS) for e in page})
        token = page.token
        if not token:
            return found


def experiment(client: Client, data: str) -> str:
    """The id of the experiment of a data set, which is created if it does not exist.

    Raises:
        StoreError: The experiment was deleted, or the store does not answer.
    """
    name = EXPERIMENTS + BARRED.sub("_", data)
    found = client.get_experiment_by_name(name)
    if found is None:
        file = database(client.uri)
        # beside the database and not in whatever directory the command was started from
        artifacts = None if file is None else (file.parent / "mlruns" / name.replace("/", "-")).as_uri()
        # MLflow then lists training runs and no traces of language models
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
        except StoreError:
            found = client.get_experiment_by_name(name)  # another process may have created it since
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        restore = command("mlflow", "experiments", "restore", "--experiment-id", found.experiment_id)
        raise StoreError(
            f"the MLflow experiment {name!r} was deleted in the store at {client.uri}; restore it "
            f"(`{command(f'{VARIABLE}={client.uri}')} {restore}`) or choose another store with --tracking-uri"
        )
    return str(found.experiment_id)


# ---------------------------------------------------------------------------------------------- runs


def pages(client: Client, experiments: Sequence[str], query: str) -> list[Any]:
    """Every run that a query selects, oldest first, however many there are."""
    found: list[Any] = []
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments), query, max_results=PAGE, page_token=token, order_by=["attributes.start_time ASC"]
        )
        found.extend(page)
        token = page.token
        if not token:
            break
    return found


def finite(value: float) -> float:
    """The number as MLflow takes it: NaN for what is not finite."""
    return value if math.isfinite(value) else math.nan


def log(
    client: Client,
    run_id: str,
    metrics: Sequence[tuple[str, float, int, int]] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Logs to a run within MLflow's limits: 100 parameters, 100 tags, 1000 entities per request.

    A point of a metric that the store already has is not stored twice.

    Args:
        client: Client of the store.
        run_id: The run.
        metrics: (key, value, time in milliseconds, step); a value that is not finite is logged as NaN.
        params: Key to value.
        tags: Key to value.
    """
    mlflow = api()
    numbers = [mlflow.Metric(key, finite(value), *when) for key, value, *when in metrics]
    words = [mlflow.Param(key, value) for key, value in (params or {}).items()]
    notes = [mlflow.RunTag(key, value) for key, value in (tags or {}).items()]
    while numbers or words or notes:
        client.log_batch(run_id, metrics=numbers[:800], params=words[:100], tags=notes[:100])
        numbers, words, notes = numbers[800:], words[100:], notes[100:]


# ---------------------------------------------------------------------------------------------- artifacts


def local_folder(uri: str, artifacts: str) -> Path | None:
    """The folder of a run's artifacts on this machine; None if they are elsewhere.

    MLflow notes absolute paths. Ours lie beside the database, even after both were moved or copied.

    Args:
        uri: Address of the store.
        artifacts: The run's artifact URI, as MLflow has noted it.
    """
    if not artifacts.startswith(("file://", "/")):
        return None
    noted = Path(url2pathname(urlparse(artifacts).path))
    file = database(uri)
    ours = EXPERIMENTS.replace("/", "-")
    if file is not None and noted.parts[-4:-3] == ("mlruns",) and noted.parts[-3].startswith(ours):
        # mlruns/longtail-<data>/<run>/artifacts
        return file.parent.joinpath(*noted.parts[-4:])
    return noted


def write_artifact(client: Client, run: Any, name: str, content: str | bytes) -> None:
    """Writes an artifact of a run; directly into a local folder, as MLflow's own way takes 5 ms more."""
    folder = local_folder(client.uri, str(run.info.artifact_uri))
    if folder is not None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(folder / name, content)
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / Path(name).name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        inside = str(Path(name).parent)
        client.log_artifact(run.info.run_id, str(file), None if inside == "." else inside)


def has_artifact(client: Client, run: Any, name: str) -> bool:
    """Whether a run has an artifact of this name."""
    folder = local_folder(client.uri, str(run.info.artifact_uri))
    if folder is not None:
        return (folder / name).is_file()
    return any(file.path == name for file in client.list_artifacts(run.info.run_id))


def read_artifact(client: Client, run: Any, name: str) -> str:
    """The text of an artifact.

    Raises:
        StoreError: It cannot be read.
    """
    location = str(run.info.artifact_uri)
    folder = local_folder(client.uri, location)
    try:
        if folder is not None:
            return (folder / name).read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            return Path(client.download_artifacts(run.info.run_id, name, scratch)).read_text(encoding="utf-8")
    except Exception as error:
        raise StoreError(
            f"{name} of run {run.info.run_id} cannot be read from {location} ({error}); write the artifacts again "
            f"with: python -m search.sync {run.data.tags.get('search', '--all')}"
        ) from error
