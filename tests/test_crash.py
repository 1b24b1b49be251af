"""Kill -9 at random moments: nothing finished is lost or repeated, and the results are those of no kill at all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.agenda import Journal
from trainables.stage_store import StageStore

ROOT = Path(__file__).parents[1]

TRAIN = """
import json, sys, torch
import trainables.pipeline as pipeline
from spaces.domain import Space, Stage
from trainables.data import load, standard
from trainables.plan import build, defaults
from trainables.stage_store import StageStore

torch.set_num_threads(1)
space = Space(stages=[
    Stage("representation", epochs=6, choose=["input_mixup", "ema"]),
    Stage("balanced", epochs=2, members=2, lr=0.01, carry="weights", choose=["few_shot", "average"]),
    Stage("classifier", epochs=3, views=2, carry="weights", choose=["classifier", "class_balanced"]),
])
plan = build(space, defaults(), standard("digits-lt")).plan
data, store = load("digits-lt", split_seed=7), StageStore(sys.argv[1])
# every epoch is kept, so that a kill may come in any write
it = pipeline.Pipeline(plan, data, "resnet8", 7, torch.device("cpu"), store, save_seconds=0.0)
print("started", flush=True)
trained = 0
while not it.finished:
    it.advance()
    trained += 1
    print("advanced", flush=True)
weights = {name: tensor.double().sum().item() for name, tensor in it.network().state_dict().items()}
points = [[point.epoch, point.metrics["accuracy"]] for point in it.points]
print(json.dumps({"weights": weights, "points": points, "metrics": it.result()[0], "steps": it.cost.steps}))
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def train(store: Path, lines: int | None = None, delay: float = 0.0) -> dict[str, object] | None:
    """Trains in a process of its own; kills it `delay` seconds after it has printed so many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(store)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    )
    assert process.stdout is not None
    with process.stdout as printed:
        for number, line in enumerate(printed, start=1):
            if line.startswith("{"):
                process.wait()
                return dict(json.loads(line))
            if lines is not None and number >= lines:
                time.sleep(delay)
                process.kill()
                break
    process.wait()
    return None


def test_killed_at_random_moments_training_ends_the_same(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    draws = random.Random(0)
    store = tmp_path / "killed"
    kills = 0
    result = None
    while result is None:
        assert kills < 20, "a trial that is killed again and again must still move on"
        # after its first steps, in a stage, between stages or in a write
        result = train(store, lines=draws.randint(2, 6), delay=draws.uniform(0, 0.15))
        kills += result is None
        assert StageStore(store).verify() == []
    assert kills >= 3, "too few kills to show anything"
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_moments_a_search_ends_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    subprocess.run(first_of(whole), cwd=whole, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    draws = random.Random(1)
    kills, line = 0, first_of(killed)
    while True:
        assert kills < 20
        # a session of its own: the kill takes the driver, and Ray's processes die with it
        process = subprocess.Popen(line, cwd=killed, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(timeout=draws.uniform(14, 30))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            if (killed / "results" / "crash" / "journal.jsonl").exists():
                line = command(killed, "--resume", "crash")
            continue
        assert code == 0
        break
    assert kills >= 1
    assert design_of(killed) == design_of(whole)
    assert StageStore(killed / "results" / "stages").verify() == []
    finished = [
        json.loads(text)["record"]["trial"]
        for text in (killed / "results" / "crash" / "journal.jsonl").read_text().splitlines()
        if text.startswith('{"event": "record"') and text.endswith("}")
    ]
    assert len(finished) == len(set(finished)), "a finished trial was repeated"
