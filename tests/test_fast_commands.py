"""Help, and commands that only read MLflow, import nothing that trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]

REFUSING = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in BARRED:
            raise AssertionError(f"{fullname} was imported")

BARRED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Refuse())
"""

RUN = (
    REFUSING
    + """
import runpy
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__")
"""
)

TRAINING = "torch,torchvision,ray,optuna"


def run(place: Path, script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=place, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("run_search", "--help"), "--dry-run"),
        (("search.cli", "--help"), "describe"),
        *((("search.cli", command, "--help"), f"longtail-tune {command}") for command in COMMANDS),
    ],
)
def test_help_without_torch_ray_optuna_and_mlflow(tmp_path, arguments, shown):
    assert shown in run(tmp_path, RUN, f"{TRAINING},mlflow", *arguments)


STORE = (
    REFUSING
    + """
from pathlib import Path
from analysis.records.schema import Record
from contextlib import closing
from search.mlflow_tracker import Tracker

with closing(Tracker(f"sqlite:///{Path.cwd()}/mlflow.db", "demo", "digits-lt")) as tracker:
    tracker.start({"margin": 0.02}, {})
    for trick in (0, 1):
        for seed in (0, 1):
            tracker.log(Record(
                search="demo", trial=f"{trick}-{seed}", arm="design", recipe=f"recipe{trick}",
                title=["baseline", "a/cost_sensitive"][trick], seed=seed, split_seed=seed, first_stage=f"{trick}{seed}",
                tricks=((), ("a/cost_sensitive",))[trick], context="", outcome="finished", choices={},
                plan={"stages": []}, data="digits-lt", model="resnet8", imbalance=50.0, fingerprint="f",
                counts=(9, 3), val_counts=(5, 5),
                epochs=2, epochs_trained=2, images=24, steps=2, seconds=1.0, seconds_saved=0.0, reused=(),
                metrics={"final/accuracy": 0.5 + 0.1 * trick + 0.01 * seed}, started=1_700_000_000.0,
            ))

from analysis.report import page as report
from search import export, list

assert list.main([]) == 0
assert report.main(["--out", "report.html"]) == 0
BARRED -= {"torch", "torchvision"}  # by which the data are compared with those of the search
assert export.main(["--out", "best.yaml"]) == 0
"""
)


def test_list_and_report_without_torch_ray_and_optuna_and_export_without_the_last_two(tmp_path):
    said = run(tmp_path, STORE, TRAINING)
    assert "demo" in said and "cost_sensitive" in said
    assert "cost_sensitive" in (tmp_path / "best.yaml").read_text()
    assert "demo" in (tmp_path / "report.html").read_text()
