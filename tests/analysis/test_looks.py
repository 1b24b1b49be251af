"""The shares of the looks, who asks for further blocks, and that looking again invents nothing."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.conflicts import at_looks, further_blocks
from analysis.stats.alpha_spending import MATRIX_SHARES, PRIMARY_SHARES, share_at


def benchmark():
    """The script of planted truths, as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "conflict_truth.py"
    spec = importlib.util.spec_from_file_location("conflict_truth", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["conflict_truth"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_shares_of_declared_pairs_add_up_to_the_whole():
    assert sum(PRIMARY_SHARES) == pytest.approx(1)
    assert sum(share_at(look, True) for look in range(1, 9)) == pytest.approx(1)
    assert sum(share_at(look, False) for look in range(1, 9)) == pytest.approx(sum(MATRIX_SHARES))
    assert share_at(None, True) == share_at(None, False) == 1.0


def test_there_is_no_look_before_the_first():
    with pytest.raises(ValueError, match="look must be at least 1, or None where there is only one; got 0"):
        share_at(0, True)


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
    table = further_blocks(asks(7, 3, pd.NA, 100, 30, 5), budget=9)
    assert list(table.b) == ["q1", "q5", "q0", "q4", "q3", "q2"]
    assert list(table.blocks) == [3, 5, 0, 0, 0, 0]
    assert list(table.why[2:]) == [
        "would take 7 further blocks, and 1 of the budget are left",
        "would take 30 further blocks, more than 20",
        "would take at least 100 further blocks, more than 20",
        "cannot be judged: one checkpoint",
    ]
    assert list(further_blocks(asks(7, 3)).blocks) == [3, 7]
    # a budget, and the most for a pair, that are exactly enough
    assert list(further_blocks(asks(7, 3), budget=10).blocks) == [3, 7]
    assert list(further_blocks(asks(7, 3), budget=9).blocks) == [3, 0]
    assert list(further_blocks(asks(20, 21)).blocks) == [20, 0]


def test_only_unresolved_primary_pairs_ask():
    assert further_blocks(asks(3, primary=False)).empty
    assert further_blocks(asks(3).assign(verdict="conflict")).empty


@pytest.mark.parametrize("world", [2, 3, 4, 5, 7, 12, 13])
def test_the_table_is_rarely_wrong_in_simulated_worlds(world):
    """A few searches of the benchmark, within what chance allows of its nominal rates."""
    truth = benchmark()
    searches = 100
    ((_, count),) = truth.worlds(searches, (5,), (truth.WORLDS[world],)).items()
    assert count.conflict_declared <= stats.binom.isf(0.001, searches, 0.05)
    assert count.any_declared <= stats.binom.isf(0.001, searches, 0.05)
    assert count.conflict_discoveries <= stats.binom.isf(0.001, searches, 0.10)
    inside = np.concatenate([np.array(each, dtype=float) for each in count.covered.values()])
    assert 0.91 < inside.mean() < 0.99


def test_blocks_added_after_looking_invent_no_conflicts():
    truth = benchmark()
    rng = np.random.default_rng(0)
    searches, declared, matrix = 12, 0, 0
    for _ in range(searches):
        trials = truth.frame(truth.WORLDS[3], truth.simulate(truth.WORLDS[3], 11, rng)[0])
        tables = [
            at_looks(trials[trials.seed < 5 + 3 * len(firsts)], margin=0.02, primary=truth.PRIMARY, firsts=firsts)
            for firsts in ((), (5,), (5, 8))
        ]
        declared += any((table[table.primary].verdict == "conflict").any() for table in tables)
        matrix += any((table[~table.primary].verdict == "conflict").any() for table in tables)
    assert declared <= stats.binom.isf(0.001, searches, 0.05)
    assert matrix <= stats.binom.isf(0.001, searches, 0.14)


def test_survivors_mislead_a_naive_table_and_not_this_one():
    truth = benchmark()
    rng = np.random.default_rng(1)
    p, conflicts = [], 0
    world = truth.World("additive", truth.SURVIVOR_EFFECTS)
    for _ in range(12):
        adaptive = truth.survivor_trials(rng)
        p.append(truth.naive_p_values(adaptive))
        design = truth.frame(world, truth.simulate(world, 4, rng)[0])
        alone = truth.pairwise(design, margin=0.01)
        pd.testing.assert_frame_equal(alone, truth.pairwise(pd.concat([design, adaptive]), margin=0.01))
        conflicts += (alone.verdict == "conflict").any()
    found = np.concatenate(p)
    # of pairs without interaction 5 % may have p ≤ 0.05
    assert (found <= 0.05).sum() > stats.binom.isf(0.001, len(found), 0.05)
    assert conflicts <= 3
