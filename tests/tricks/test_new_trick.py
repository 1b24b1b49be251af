"""Adding a trick is one file: dropped into a folder, it is searched over with `--tricks DIR`."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from search import export

ROOT = Path(__file__).resolve().parents[2]
TRICK = '''
"""Rare classes weigh more."""

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.registry import in_range, trick


@trick(seam="weight", family="re-weighting", source="this test", space={"power": uniform(0.25, 1.0)})
@dataclass(frozen=True)
class RareWeights:
    """w_y = (n_min / n_y) ** power."""

    power: float = 0.5

    def __post_init__(self):
        in_range(self, "power", 0)

    def build(self, facts):
        table = (facts.counts.min() / facts.counts.double()) ** self.power
        return lambda labels: table[labels]
'''
SPACE = """
from spaces.domain import Space, Stage, one_of, trick, uniform

SPACE = Space(
    stages=[
        Stage("train", length=1.0, choose=[
            one_of(None, trick("rare_weights", power=uniform(0.25, 1.0))),
            one_of(None, "class_balanced"),
        ])
    ],
    screen=["train/rare_weights", "train/class_balanced"],
)
"""


@pytest.fixture
def command(tmp_path, tricks_folder, empty_store):
    """command(…): the search of the space in a process of its own, as a person starts it."""
    (tricks_folder / "rare_weights.py").write_text(TRICK, encoding="utf-8")
    (tmp_path / "space.py").write_text(SPACE, encoding="utf-8")
    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def run(*more):
        small = ["--seeds", "2", "--trials", "2", "--no-race", "--no-checks", "--epochs-scale", "0.1",
                 "--max-concurrent", "1"]  # fmt: skip
        line = [sys.executable, str(ROOT / "run_search.py"), "--space", "space.py", "--name", "small", *small, *more]
        return subprocess.run(
            line, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280
        )

    return run


def test_a_new_file_is_searched_over(command, tmp_path, tricks_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "mlflow.db"
    done = command("--tricks", str(tricks_folder))
    assert done.returncode == 0, done.stderr[-2000:]
    results = tmp_path / "results" / "small"
    with (results / "conflicts.csv").open(encoding="utf-8") as file:
        (pair,) = csv.DictReader(file)
    assert {pair["a"], pair["b"]} == {"train/rare_weights", "train/class_balanced"}
    assert int(pair["n_seeds"]) == 2
    assert "rare_weights" in done.stdout
    # a recipe that needs the trick says where it is and what it was; one that does not, says nothing of it
    needs = {}
    for rank in (1, 2, 3):
        assert export.main(["--rank", str(rank), "--out", "one.yaml", "--tracking-uri", f"sqlite:///{store}"]) == 0
        one = yaml.safe_load((tmp_path / "one.yaml").read_text(encoding="utf-8"))
        used = {trick["name"] for stage in one["plan"]["stages"] for trick in stage["tricks"]}
        needs["rare_weights" in used] = one["provenance"]
    assert (needs[True]["tricks"], list(needs[True]["code"])) == (["tricks"], ["rare_weights"])
    assert (needs[False]["tricks"], needs[False]["code"]) == ([], {})
    # nothing of it is written into the package
    assert not (ROOT / "trainables" / "tricks" / "rare_weights.py").exists()


def test_without_its_folder_the_trick_is_unknown(command, tmp_path):
    done = command()
    assert done.returncode == 2
    assert "unknown trick 'rare_weights'" in done.stderr
    assert not (tmp_path / "results").exists()
