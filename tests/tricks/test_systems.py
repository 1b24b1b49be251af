"""The survey's systems through the command, as a person starts it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spaces.recipes import published_systems
from trainables.data import standard
from trainables.plan import build, defaults

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(
    stages=[one_of(Stage("plain", length=1.0), Stage("sade", length=1.0, choose=["experts", "sade"]), name="system")],
    screen=["sade"],
)
"""


@pytest.mark.parametrize("system", published_systems(0.1), ids=lambda system: system.name)
def test_a_recipe_trains(system, pipeline):
    """Every stage of a published recipe, at a tiny length, through both of its stages where it has two."""
    own = standard("digits-lt")
    plan = build(system.space, defaults(system.labels), own, epochs_scale=2 / own.epochs).plan
    run = pipeline(plan)
    run.run()
    assert 0 <= run.result()[0]["final/accuracy"] <= 1
    assert not any(name.startswith("extra") for name in run.network().state_dict())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_over_a_system(tmp_path, empty_store):
    (tmp_path / "space.py").write_text(SPACE, encoding="utf-8")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    small = ["--seeds", "2", "--trials", "1", "--no-race", "--no-checks", "--no-start-points", "--epochs-scale", "0.1"]
    line = [sys.executable, str(ROOT / "run_search.py"), "--space", "space.py", "--name", "small", *small]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"Best recipe: (sade|baseline)", done.stdout), done.stdout[-2000:]
    line = [sys.executable, "-m", "trainables.train", "results/small/best.yaml", "--as-searched", "--seeds", "1"]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
