"""The shares of the looks, who asks for further blocks, and that looking again invents nothing."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis.sequential import SHARES, level_at, needs
from scipy import stats


def benchmark():
    """The script of planted truths, as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "conflict_truth.py"
    spec = importlib.util.spec_from_file_location("conflict_truth", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["conflict_truth"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_shares_add_up_to_the_whole():
    assert sum(SHARES) == pytest.approx(1)
    assert sum(1 - level_at(look, 0.9) for look in (1, 2, 3)) == pytest.approx(0.1)
    assert level_at(None, 0.9) == 0.9


@pytest.mark.parametrize("look", [0, 4])
def test_other_looks(look):
    with pytest.raises(ValueError, match=f"look must be 1 to 3, or None where there is only one; got {look}"):
        level_at(look)


def asks(*more, primary=True):
    return pd.DataFrame(
        {
            "a": "p",
            "b": [f"q{i}" for i in range(len(more))],
            "context": "",
            "primary": primary,
            "verdict": "unresolved",
            "more_seeds": pd.array(more, dtype="Int64"),
            "reason": "one checkpoint",
        }
    )


def test_the_cheapest_first_and_nothing_by_halves():
    table = needs(asks(7, 3, pd.NA, 100, 30, 5), budget=9)
    assert list(table.b) == ["q1", "q5", "q0", "q4", "q3", "q2"]
    assert list(table.blocks) == [3, 5, 0, 0, 0, 0]
    assert list(table.why[2:]) == [
        "asks for 7 further blocks, of the budget 1 are left",
        "asks for 30 further blocks, more than 20",
        "asks for at least 100 further blocks, more than 20",
        "cannot be judged: one checkpoint",
    ]
    assert list(needs(asks(7, 3)).blocks) == [3, 7]


def test_only_unresolved_primary_pairs_ask():
    assert needs(asks(3, primary=False)).empty
    assert needs(asks(3).assign(verdict="conflict")).empty


def test_settling_invents_no_conflicts_and_finds_more():
    truth = benchmark()
    rng = np.random.default_rng(0)
    additive = truth.World("mildly harmful", (-0.01,) * 6)
    searches, false = 15, 0
    for _ in range(searches):
        _, last, _ = truth.settle(additive, rng)
        false += (last[last.primary].verdict == "conflict").any()
    assert false <= stats.binom.isf(0.001, searches, 0.05)
    planted = truth.World("planted", (0.02,) * 6, dict.fromkeys(truth.PRIMARY[:2], -0.05))
    first, last, added = map(list, zip(*(truth.settle(planted, rng) for _ in range(5)), strict=True))
    found = [sum((table.verdict[table.primary] == "conflict").sum() for table in tables) for tables in (first, last)]
    assert found[1] > found[0] and sum(added) > 0


def test_survivors_mislead_a_naive_table_and_not_this_one():
    truth = benchmark()
    rng = np.random.default_rng(1)
    p, conflicts = [], 0
    world = truth.World("additive", truth.SURVIVOR_EFFECTS)
    for _ in range(5):
        adaptive = truth.survivor_trials(rng)
        p.append(truth.naive_p_values(adaptive))
        design = truth.frame(truth.simulate(world, 4, rng))
        alone = truth.pairwise(design, margin=0.01)
        pd.testing.assert_frame_equal(alone, truth.pairwise(pd.concat([design, adaptive]), margin=0.01))
        conflicts += (alone.verdict == "conflict").any()
    found = np.concatenate(p)
    # of pairs without interaction 5 % may have p ≤ 0.05
    assert (found <= 0.05).sum() > stats.binom.isf(0.001, len(found), 0.05)
    assert conflicts <= 2
