"""Kill -9 at random moments: nothing finished is lost or repeated, and the results are those of no kill at all."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml

from search.scheduling.orchestrator import Journal
from trainables.pipeline.housekeeping import problems
from trainables.pipeline.store import StageStore

ROOT = Path(__file__).parents[1]

TRAIN = """
import json, os, sys, torch
from spaces.domain import Space, Stage
from trainables.data import load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import build, defaults
from trainables.pipeline.store import StageStore

torch.set_num_threads(1)
orders = open(0, "rb", buffering=0)  # what this process does not take is the child's
space = Space(stages=[
    Stage("representation", epochs=6, choose=["input_mixup", "ema"]),
    Stage("balanced", epochs=2, members=2, lr=0.01, carry="weights", choose=["few_shot", "average"]),
    Stage("classifier", epochs=3, views=2, carry="weights", choose=["classifier", "class_balanced"]),
])
plan, data = build(space, defaults(), standard("digits-lt")).plan, load("digits-lt", split_seed=7)

def train(store):
    print(os.getpid(), flush=True)
    # every epoch is kept, so that a kill may come between any two
    it = Pipeline(plan, data, "resnet8", 7, torch.device("cpu"), StageStore(store), save_seconds=0.0)
    print("started", flush=True)
    while not it.finished:
        orders.readline()  # one an epoch: however slow the machine, it is not ahead of whoever kills it
        it.advance()
        print("advanced", flush=True)
    weights = {name: tensor.double().sum().item() for name, tensor in it.network().state_dict().items()}
    points = [[point.epoch, point.metrics["accuracy"]] for point in it.points]
    result = {"weights": weights, "points": points, "metrics": it.result()[0], "steps": it.cost.steps}
    print(json.dumps(result), flush=True)

for store in orders:
    if store.strip():  # not an epoch that nobody trained any more
        child = os.fork()
        if child == 0:
            train(store.decode().strip())
            os._exit(0)
        os.waitpid(child, 0)
        print("ended", flush=True)
"""
"""Trains each store that it is told in a process of its own, all of which start where importing ends."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def trainer() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=ENVIRONMENT, cwd=ROOT,
    ) as process:  # fmt: skip
        yield process


def train(trainer: subprocess.Popen[str], store: Path, lines: int | None = None, delay: float = 0.0) -> object:
    """Trains; kills the training `delay` seconds into the epoch after so many lines, or behind it."""
    assert trainer.stdin is not None and trainer.stdout is not None
    trainer.stdin.write(f"{store}\n")
    pid, result = int(trainer.stdout.readline()), None
    for number, line in enumerate(iter(trainer.stdout.readline, "ended\n"), start=1):
        assert line, "the process that starts the others has died"
        if line.startswith("{"):
            result = json.loads(line)
        elif lines is None or number <= lines:
            trainer.stdin.write("\n")
        if number == lines:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):  # it has come to its end meanwhile
                os.kill(pid, signal.SIGKILL)
    return result


def test_killed_at_random_moments_training_ends_the_same(trainer: subprocess.Popen[str], tmp_path: Path) -> None:
    whole = train(trainer, tmp_path / "whole")
    draws = random.Random(0)
    store = tmp_path / "killed"
    kills = in_the_middle = 0
    result = None
    while result is None:
        assert kills < 20, "a trial that is killed again and again must still move on"
        # of 13 epochs no more than 4 between two kills: in a stage, between stages or in a write
        result = train(trainer, store, lines=draws.randint(2, 4), delay=draws.uniform(0, 0.15))
        kills += result is None
        in_the_middle += any((store / "partial").glob("*"))
        assert list(problems(StageStore(store))) == []
    assert kills >= 3, "too few kills to show anything"
    assert in_the_middle, "no stage was kept half-way"
    assert result == whole


SPACE = """
from spaces.domain import Space, Stage, one_of
SPACE = Space(
    stages=[
        Stage("representation", epochs=4, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
        one_of(Stage("finish", epochs=2, carry="all", keep=True),
               Stage("classifier", epochs=2, views=2, carry="weights", choose=["classifier", "class_balanced"])),
    ],
    screen=["representation/cost_sensitive", "representation/class_balanced", "classifier"],
)
"""


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_search.py"), *more, "--output", str(folder / "results")]


def first_of(folder: Path) -> list[str]:
    (folder / "space.py").write_text(SPACE)
    options = ["--seeds", "2", "--trials", "4", "--no-race", "--no-start-points", "--no-checks", "--name", "crash"]
    return command(folder, "--space", str(folder / "space.py"), *options)


def design_of(folder: Path) -> dict[str, dict[str, float]]:
    records = Journal(folder / "results" / "crash" / "journal.jsonl").records()
    return {name: record.metrics for name, record in sorted(records.items()) if record.arm == "design"}


def lines_of(folder: Path) -> int:
    """Lines in the journal of the search, the last one perhaps cut off."""
    file = folder / "results" / "crash" / "journal.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_killed_at_random_moments_a_search_ends_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(first_of(whole), cwd=whole, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    draws = random.Random(1)
    kills, line = 0, first_of(killed)
    while True:
        # a session of its own: the kill takes the driver, and Ray's processes die with it
        process = subprocess.Popen(line, cwd=killed, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL)
        # a moment after it has come so far, however slow the machine is
        wanted = lines_of(killed) + draws.randint(1, 8)
        while process.poll() is None and lines_of(killed) < wanted:
            time.sleep(0.05)
        try:
            code = process.wait(timeout=draws.uniform(0, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            line = command(killed, "--resume", "crash")
            continue
        assert code == 0
        break
    assert kills >= 2, "too few kills to show anything"
    assert design_of(killed) == design_of(whole)
    assert list(problems(StageStore(killed / "results" / "stages"))) == []
    events = Journal(killed / "results" / "crash" / "journal.jsonl").events()
    finished = [event["record"]["trial"] for event in events if event["event"] == "record"]
    assert len(finished) == len(set(finished)), "a finished trial was repeated"
    left = [path for path in (killed / "results").rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]
    assert left == []


TIMES = {"seconds", "seconds_saved", "started", "reused", "epochs_trained", "memory"}
"""What a record says of its time, and of what was there already."""


def outcome_of(folder: Path) -> dict[str, object]:
    """All that a search has decided: records, proposals, study, recipe; without times."""
    results = folder / "results" / "crash"
    events = [json.loads(line) for line in (results / "journal.jsonl").read_text().splitlines()]
    records = [event["record"] for event in events if event["event"] == "record"]
    storage = optuna.storages.RDBStorage("sqlite://", {"creator": lambda: sqlite3.connect(results / "optuna.db")})
    trials = optuna.load_study(study_name="crash", storage=storage).trials
    best = yaml.safe_load((results / "best.yaml").read_text())
    return {
        "trials": [record["trial"] for record in records],
        "records": [{key: value for key, value in record.items() if key not in TIMES} for record in records],
        "proposals": [(event["task"], event["drawn"]) for event in events if event["event"] == "task"],
        "study": [(t.number, t.state, t.values, t.params, t.intermediate_values, t.user_attrs) for t in trials],
        "best": {key: value for key, value in best.items() if key != "provenance"},
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_resumed_at_once_after_a_kill_it_decides_what_it_would_have_decided(tmp_path: Path) -> None:
    """One slot; the driver alone is killed, and resumed while Ray's processes of the dead one may still be there."""
    options = ["--trials", "10", "--max-concurrent", "1", "--rungs", "0.5", "--rung-score", "accuracy"]
    options += ["--reduction-factor", "2", "--seeds", "1", "--children-per-start", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    line = [*first_of(whole), *options]
    subprocess.run(line, cwd=whole, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    expected = outcome_of(whole)
    assert any(record["outcome"] == "stopped" for record in expected["records"])  # type: ignore[attr-defined]
    journal = killed / "results" / "crash" / "journal.jsonl"
    line = [*first_of(killed), *options]
    for lines in (5, 14, 19, None):
        process = subprocess.Popen(line, cwd=killed, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while lines is not None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            assert process.poll() is None, "the search has ended before its kill"
            time.sleep(0.02)
        if lines is not None:
            process.kill()
        assert process.wait() == (0 if lines is None else -signal.SIGKILL)
        line = command(killed, "--resume", "crash", "--max-concurrent", "1")
    assert outcome_of(killed) == expected
