"""The literature's conflict on real training, what becomes of it, and a trick that does nothing beside both."""

import importlib.util
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from analysis.conflicts import pairwise
from trainables.data import standard

MARGIN = standard("digits-lt").margin
PAIR = ("class_balanced", "cost_sensitive")
BLOCKS = 4


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = Path(__file__).with_name("digits_conflicts.py")
    spec = importlib.util.spec_from_file_location("digits_conflicts", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits_conflicts"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["digits_conflicts"]


def table(script: ModuleType, cells: list[tuple[str, ...]], epochs: int) -> pd.DataFrame:
    """The conflict table of real trials, the pair as index."""
    tasks = [(cell, epochs, seed) for seed in range(BLOCKS) for cell in cells]
    rows = script.rows_of(tasks, map(script.trial, tasks))
    return pairwise(rows, margin=MARGIN).set_index(["a", "b"])


@pytest.mark.timeout(900)  # 24 real trials; much else may run on the machine
def test_the_known_conflict_is_found_and_a_trick_that_does_nothing_has_none(script):
    cells = [(), *combinations((*PAIR, "neutral"), 1), PAIR, ("cost_sensitive", "neutral")]
    found = table(script, cells, 30)
    known, neutral = found.loc[PAIR], found.loc[("cost_sensitive", "neutral")]
    assert (known["verdict"], bool(known["sign_flip"])) == ("conflict", True)
    # each alone gains, and both together end below plain training
    assert known["alone_a_low"] > 0 and known["alone_b_low"] > 0 and known["mean_11"] < known["mean_00"]
    assert neutral["verdict"] in ("unresolved", "compatible")
    assert neutral["interaction_low"] < 0 < neutral["interaction_high"]


@pytest.mark.slow
def test_three_times_the_length_ends_the_conflict(script):
    cells = [(), *combinations(PAIR, 1), PAIR]
    short, long = (table(script, cells, epochs).loc[PAIR] for epochs in (30, 90))
    assert short["verdict"] == "conflict" and long["verdict"] != "conflict"
    # what is left of the interaction is shown to be smaller than what there was
    assert long["interaction_low"] > short["interaction_high"]
