"""Two searches that share one store at the same time: no stage is trained twice, none waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis.records.schema import Record
from search.recipes.factory import RecipeFactory
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from spaces.domain import Space, Stage, one_of
from trainables.data import standard
from trainables.pipeline.keys import stage_keys
from trainables.pipeline.leases import Leases
from trainables.pipeline.store import StageStore

ROOT = Path(__file__).parents[2]

SPACE = Space(
    stages=[
        Stage("first", epochs=2, choose=[one_of(None, "class_balanced")]),
        one_of(Stage("finish", epochs=1, carry="all", keep=True), Stage("other", epochs=1, carry="all")),
    ],
    screen=["first/class_balanced", "other"],
)


def keys(request: TrialRequest) -> list[list[str]]:
    return stage_keys(request.recipe.plan, {"seed": request.seed})


def orchestrator_of(folder: Path, store: StageStore, limit: int | None = None) -> Orchestrator:
    folder.mkdir()
    sampler = Sampler(SPACE, standard("digits-lt"), 1.0, folder / "optuna.db", "x", 0)
    assert store.shared_folder is not None
    leases = Leases(store.shared_folder / "leases")
    settings = Settings(name="x", space="s", data="d", seeds=1, trials=0, race=False, start_points=False, check_seeds=0)
    state = SearchState(RecipeFactory(SPACE, standard("digits-lt")), settings, 0.02)
    return Orchestrator(state, sampler, Journal(folder / "journal.jsonl"), StageLocks(keys, store, leases, limit))


def train(store: StageStore, task: TrialRequest) -> int:
    """Stands for a trial: writes what is not there; how many stages that were."""
    missing = [key for stage in keys(task) for key in stage if not store.has(key)]
    for key in dict.fromkeys(missing):
        store.put(key, {"x": torch.zeros(1)}, {"seconds": 1.0})
    return len(set(missing))


def record_of(task: TrialRequest) -> Record:
    return Record(
        search="x", trial=task.id, arm=task.arm, recipe=task.recipe.plan.id, title="", seed=task.seed,
        split_seed=task.seed, first_stage="", tricks=task.tricks, context=task.context, outcome="finished", choices={},
        plan={}, data="", model="", imbalance=1.0, fingerprint="", counts=(), val_counts=(), epochs=1, epochs_trained=1,
        images=0, steps=0, seconds=0, seconds_saved=0, reused=(), metrics={"final/accuracy": 0.5},
    )  # fmt: skip


def test_two_orchestrators_train_every_stage_once(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages")
    one, other = orchestrator_of(tmp_path / "one", store), orchestrator_of(tmp_path / "other", store)
    everything = {key for task in one.state.requests.values() for stage in keys(task) for key in stage}
    trained, waited = 0, 0
    running: list[tuple[Orchestrator, TrialRequest]] = []
    for _ in range(200):
        for driver in (one, other):
            task = driver.next()
            if task is not None:
                running.append((driver, task))
            elif not driver.finished:
                waited += 1
        held = [key for _, task in running for stage in keys(task) for key in set(stage)]
        unfinished = [key for key in held if not store.has(key)]
        assert len(unfinished) == len(set(unfinished)), "two running trials need the same unfinished stage"
        if running:
            driver, task = running.pop(0)
            trained += train(store, task)
            driver.record(record_of(task))
        if one.finished and other.finished:
            break
    assert one.finished and other.finished and not running
    assert trained == len(everything)
    assert waited > 0, "the other search had something to wait for"
    assert list((tmp_path / "stages" / "leases").iterdir()) == []


def test_a_search_that_waits_for_another_says_for_whom_and_goes_on_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StageStore(tmp_path / "stages")
    assert store.shared_folder is not None
    other = Leases(store.shared_folder / "leases")
    one = orchestrator_of(tmp_path / "one", store)
    assert other.acquire({key for task in one.state.requests.values() for stage in keys(task) for key in stage})
    assert [one.next() for _ in range(3)] == [None] * 3 and not one.finished
    (said,) = [entry.getMessage() for entry in caplog.records]
    assert said.startswith(f"waiting for a stage that another search is training: process {os.getpid()} on ")
    other.close()
    assert one.next() is not None


def test_a_bounded_store_stays_bounded_and_the_search_ends(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages")
    store.put("ff00", {"x": torch.zeros(1)}, {"seconds": 1.0})
    room = 2 * store.entries()[0].bytes
    driver = orchestrator_of(tmp_path / "one", store, room)
    while (task := driver.next()) is not None:
        train(store, task)
        driver.record(record_of(task))
        assert sum(found.bytes for found in store.entries()) <= room
    assert driver.finished and len(driver.state.records) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_searches_train_every_stage_once(tmp_path: Path) -> None:
    space = ROOT / "spaces" / "papers" / "label_over_smoothing.py"
    shared = ["--seeds", "2", "--trials", "0", "--no-race", "--epochs-scale", "0.2", "--max-concurrent", "1"]
    searches = [
        subprocess.Popen(
            [
                sys.executable, str(ROOT / "run_search.py"), "--space", str(space), *shared, "--name", name,
                "--output", str(tmp_path / name), "--store", str(tmp_path / "stages"),
                "--tracking-uri", f"sqlite:///{tmp_path}/{name}.db",
            ],
            cwd=tmp_path, stdout=subprocess.DEVNULL,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    try:
        assert [search.wait() for search in searches] == [0, 0]
    finally:
        for search in searches:
            search.kill()
            search.wait()
    journals = [Journal(tmp_path / name / name / "journal.jsonl").records() for name in ("one", "other")]
    metrics = [{trial: record.metrics for trial, record in records.items()} for records in journals]
    assert metrics[0] == metrics[1]
    trained = sum(record.epochs_trained for records in journals for record in records.values())
    distinct = sum(found.epochs for found in StageStore(tmp_path / "stages").entries())
    assert trained == distinct
