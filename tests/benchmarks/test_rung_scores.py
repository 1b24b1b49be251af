"""The replay of recorded trials, by hand: what it spends, whom it stops, and what it loses."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def scores() -> ModuleType:
    file = Path(__file__).with_name("rung_scores.py")
    spec = importlib.util.spec_from_file_location("rung_scores", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rung_scores"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rung_scores"]


def line(final: float | None, early: float, short: float | None = None, kinds: str = "representation > finish") -> dict:
    """Ten epochs, judged at the fifth; shortened to half of that."""
    metrics = dict.fromkeys(("accuracy", "adjusted", "class_means"), early)
    where = {"stage": "representation", "epoch": 5, "progress": 0.5, "cost": 5.0, "metrics": metrics}
    end = where | {"stage": "finish", "epoch": 10, "progress": 1.0, "cost": 10.0}
    return {
        "kinds": kinds, "cost": 10, "final": final, "fresh": [final, final], "points": [where, end],
        "shortened": {"0.5": {"cost": 5, "score": short}},
    }  # fmt: skip


LINES = [line(0.5, 0.5, 0.5), line(0.6, 0.6, 0.6), line(0.7, 0.2, 0.7), line(0.8, 0.1, 0.4), line(0.9, 0.8, 0.8)]


def test_without_stopping_the_budget_is_whole_trials(scores):
    found = scores.simulate(LINES, range(5), scores.Rule(None), 20, slots=1)
    assert (found.begun, found.finished) == (2, 2) and found.regret == pytest.approx(0.3)  # 0.9 less 0.6
    # half a trial more is begun, and lost
    found = scores.simulate(LINES, range(5), scores.Rule(None), 25, slots=1)
    assert (found.begun, found.finished) == (3, 2)
    # two at a time share the epochs
    found = scores.simulate(LINES, range(5), scores.Rule(None), 20, slots=2)
    assert (found.begun, found.finished) == (2, 2)


def test_a_stopped_trial_costs_what_it_trained(scores):
    # three go on (a cohort of fewer than four), the fourth is stopped at half: 30 + 5 + 10 epochs
    rule = scores.Rule("accuracy", (0.5,), 2)
    assert scores.simulate(LINES, range(5), rule, 45, slots=1) == scores.Found(pytest.approx(0), pytest.approx(0), 5, 4)
    found = scores.simulate(LINES, range(5), rule, 44, slots=1)
    assert (found.begun, found.finished) == (5, 3) and found.regret == pytest.approx(0.2)


def test_a_shortened_plan_is_paid_on_top(scores):
    # three whole trials with their half before: 45; the fourth is stopped after its half: 50; the fifth: 65
    rule = scores.Rule("shortened", (0.5,), 2)
    found = scores.simulate(LINES, range(5), rule, 65, slots=1)
    assert (found.begun, found.finished, found.regret) == (5, 4, pytest.approx(0))
    assert scores.simulate(LINES, range(5), rule, 64, slots=1).finished == 3


def test_kinds_are_kept_apart(scores):
    mixed = [*LINES[:3], line(0.8, 0.1, kinds="representation > classifier"), LINES[4]]
    finished = {
        apart: scores.simulate(mixed, range(5), scores.Rule("accuracy", (0.5,), 2, apart), 100, slots=1).finished
        for apart in ("names", "kinds", "nothing")
    }
    assert finished == {"names": 5, "kinds": 5, "nothing": 4}


def test_a_trial_that_diverged_ends_and_wins_nothing(scores):
    lost = line(None, 0.9)
    found = scores.simulate([lost, LINES[0]], range(2), scores.Rule("shortened", (0.5,), 2), 100, slots=1)
    assert (found.begun, found.finished) == (2, 1)
    assert scores.simulate([lost, lost], range(2), scores.Rule(None), 100, slots=1).finished == 0


def test_tau(scores):
    # early against final: 0.5 0.6 0.2 0.1 0.8 against 0.5 0.6 0.7 0.8 0.9: of ten pairs five agree
    assert scores.tau(LINES, "accuracy", 0.5, within=False) == pytest.approx(0)
    # 0.5 0.6 0.7 0.4 0.8: seven agree, three do not
    assert scores.tau(LINES, "shortened", 0.5, within=True) == pytest.approx(0.4)


def test_tau_within_cohorts_is_over_pairs_that_the_rule_compares(scores):
    """At the rung all are in their first stage; one cohort goes on with all, the other with the weights."""
    kinds = ("finish", "deferred", "classifier", "smoothing")
    rows = zip(kinds, (0.1, 0.2, 0.05, 0.01), (0.1, 0.2, 0.9, 0.8), strict=True)
    mixed = [line(final, early, kinds=f"representation > {last}") for last, final, early in rows]
    # the two pairs within cohorts agree, the four across them do not
    assert scores.tau(mixed, "accuracy", 0.5, within=True) == pytest.approx(1)
    assert scores.tau(mixed, "accuracy", 0.5, within=False) == pytest.approx(-1 / 3)
