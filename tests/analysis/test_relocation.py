"""A copied or moved MLflow database: real stores, read and written after they were moved."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.records import mlflow_runs, reader
from analysis.records.relocation import relocate
from analysis.records.schema import Record
from search.mlflow_tracker import Tracker

PLAN = {"stages": [{"name": "first"}]}


def record(seed: int) -> Record:
    return Record(
        search="demo", trial=f"design-{seed}", arm="design", recipe="r", title="baseline", seed=seed, split_seed=seed,
        first_stage="f", tricks=(), context="", outcome="finished", choices={}, plan=PLAN, data="digits-lt",
        model="resnet8", imbalance=50.0, fingerprint="f", counts=(9, 3), val_counts=(5, 5), epochs=2, epochs_trained=2,
        images=24, steps=2, seconds=1.0, seconds_saved=0.0, reused=(), metrics={"final/accuracy": 0.5},
        started=1_700_000_000.0 + seed,
    )  # fmt: skip


def log(folder: Path, *seeds: int) -> None:
    with closing(Tracker(f"sqlite:///{folder}/mlflow.db", "demo", "digits-lt")) as tracker:
        tracker.start({"margin": 0.02}, {})
        for seed in seeds:
            tracker.log(record(seed))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path, empty_store) -> Path:
    """A folder with a store that has a search, in a path that is written otherwise in a file's address."""
    folder = tmp_path / "a project ü"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    log(folder, 0)
    return folder


def test_a_copy_reads_and_writes_its_own_artifacts(project, tmp_path):
    before = tree(project)
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    log(copy, 1)
    assert tree(project) == before
    client = MlflowClient(f"sqlite:///{copy}/mlflow.db")
    runs = mlflow_runs.pages(client, ["1"], "tags.level = 'trial'")
    assert len(runs) == 2
    for run in runs:
        assert run.info.artifact_uri.startswith(f"file://{copy}/mlruns/longtail-digits-lt/")
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["record.json"]
    assert not relocate(copy / "mlflow.db") and not relocate(project / "mlflow.db")


def test_a_moved_store_is_read_where_it_is_and_the_old_place_stays_gone(project, tmp_path):
    project.rename(tmp_path / "moved")
    uri = f"sqlite:///{tmp_path}/moved/mlflow.db"
    assert reader.records(uri, "demo")[1]["plan"].item() == PLAN
    log(tmp_path / "moved", 1)
    assert not project.exists()


def test_a_database_whose_artifacts_are_gone_writes_beside_itself(project, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.move(project / "mlflow.db", tmp_path / "alone")
    shutil.rmtree(project)
    log(tmp_path / "alone", 1)
    assert not project.exists() and list((tmp_path / "alone" / "mlruns").rglob("record.json"))


def test_what_is_not_moved_or_not_a_store_stays(project, tmp_path):
    with sqlite3.connect(project / "mlflow.db") as connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (7, 'other', 's3://bucket/mlruns/other', 'active')"
        )
    connection.close()
    before = (project / "mlflow.db").read_bytes()
    assert not relocate(project / "mlflow.db") and (project / "mlflow.db").read_bytes() == before
    assert not relocate(tmp_path / "nothing.db")
    for content in (b"", b"garbage" * 1000):
        (tmp_path / "odd.db").write_bytes(content)
        assert not relocate(tmp_path / "odd.db") and (tmp_path / "odd.db").read_bytes() == content
