"""Accuracies over a part of the classes: said where they stand, refused where nothing can be judged."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import run_search
from analysis.records import reader
from analysis.records.schema import Record
from search.commands.export import document
from search.console import summary
from search.console.display import Display
from search.run import SearchResult
from search.settings import Settings
from spaces.domain import Space, Stage, one_of
from tests.search.test_orchestrator import World
from trainables.data import standard
from trainables.plan import build, defaults

SPACE = Space(stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive")])])
PLAN = build(SPACE, defaults(()), standard("digits-lt")).plan
PART = "2 of 4 classes have no val image: [bold]cat, dog. Accuracy on val is the mean recall of the other 2"


def record(seed: int) -> Record:
    return Record(
        search="demo", trial=f"t{seed}", arm="design", recipe=PLAN.id, title="baseline", seed=seed, split_seed=seed,
        first_stage=f"fs{seed}", tricks=(), context="", outcome="finished", choices={}, plan=PLAN.to_dict(),
        data="folder:photos", model="resnet8", imbalance=40.0, fingerprint=f"data{seed}", counts=(26, 13, 1, 1),
        val_counts=(4, 3, 0, 0), class_names=("ant", "bee", "[bold]cat", "dog"), epochs=30, epochs_trained=30, images=1,
        steps=1, seconds=1.0, seconds_saved=0.0, reused=(), recalls=(1.0, 1.0, math.nan, math.nan),
        metrics={"final/accuracy": 1.0, "final/accuracy_error": 0.13, "final/classes_judged": 2.0},
        started=1_700_000_000.0 + seed,
    )  # fmt: skip


def test_the_screen_names_the_classes_beside_the_best_accuracy(tmp_path: Path) -> None:
    trials = reader.frame(record(seed) for seed in range(2))
    best = document(trials, {PLAN.id: PLAN.to_dict()}.__getitem__)
    assert best["measured"]["metric"].endswith(f"; {PART}")
    assert best["measured"]["prediction"]["low"] < 0.8  # seven images that all seeds get right are no promise
    health = summary.health(trials, 0.02, PLAN.id)  # what MLflow and findings.json say as well
    result = SearchResult("demo", tmp_path, True, trials, None, best, {}, (0.0, 0.0), health=health)
    settings = Settings(name="demo", space="s.py", data="folder:photos")
    console = Console(width=200, file=io.StringIO())
    summary.show(console, result, "sqlite:///mlflow.db", settings)
    said = console.file.getvalue().splitlines()
    (at,) = (number for number, line in enumerate(said) if line.startswith("  accuracy on val 100.0 % ("))
    low = float(said[at].partition("(")[2].split(" to ")[0])
    assert 70 < low < 85 and " to 100.0)" in said[at]
    assert f"Before you believe it: {PART}." in said


def test_the_running_search_says_that_its_best_is_over_a_part(tmp_path: Path) -> None:
    orchestrator = World(tmp_path, seeds=1, trials=0, race=False).orchestrator
    orchestrator.state.records["t0"] = record(0)
    said = Display(Console(file=io.StringIO()), orchestrator, 1)._line()
    assert "best 100.0% (mean over the 2 of 4 classes that have val images) in a single trial: baseline" in said
    orchestrator.state.records["t0"] = dataclasses.replace(record(0), val_counts=(4, 3, 2, 2))
    said = Display(Console(file=io.StringIO()), orchestrator, 1)._line()
    assert "best 100.0% in a single trial: baseline" in said


def test_a_val_of_one_class_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in {"ant": 30, "bee": 4, "cat": 4}.items():
        for number in range(count):
            file = tmp_path / "photos" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(ord(name[0]) + 100 * number).randint(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    (tmp_path / "space.py").write_text(f"from spaces.domain import *\n\nSPACE = {SPACE!r}\n")
    arguments = ["--space", "space.py", "--data", "folder:photos", "--name", "x", "--seeds", "1", "--trials", "0"]
    assert run_search.main([*arguments, "--no-race"]) == 2
    said = capsys.readouterr().err
    assert "val has images of ant alone, because no other class has the 5 images" in said and said.count("\n") == 1
    assert not (tmp_path / "results").exists()
