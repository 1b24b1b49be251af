"""Nominations: a planted interaction is found, an additive world gives none, what was crossed is left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.conflicts.candidates import candidate_table, nominate
from analysis.records.schema import RecordError

LABELS = ("first/a", "first/b", "first/c", "last", "last/x")


def trials(interaction: float, seed: int = 0, number: int = 80) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        on = tuple(label for label in LABELS[:4] if generator.random() < 0.5)
        on += ("last/x",) * ("last" in on)
        value = 0.5 + 0.1 * ("first/a" in on) + 0.05 * ("first/b" in on) + 0.02 * generator.normal()
        value += interaction * ({"first/a", "first/b"} <= set(on))
        rows.append({"arm": "adaptive", "outcome": "finished", "tricks": on, "final/accuracy": value})
    return pd.DataFrame(rows)


def test_a_planted_pair_is_the_first():
    found = nominate(trials(-0.15))
    first = found.iloc[0]
    assert (first["a"], first["b"]) == ("first/a", "first/b") and first["ratio"] < -4
    assert first[["n_00", "n_10", "n_01", "n_11"]].sum() == 80


def test_an_additive_world_suggests_little():
    """Six pairs an experiment, each beyond one error by chance in 16 % of cases."""
    counts = [len(nominate(trials(0.0, seed))) for seed in range(30)]
    assert np.mean(counts) < 1.6
    assert min(min(nominate(trials(0.0, seed))["ratio"], default=0) for seed in range(30)) > -4


def test_what_was_crossed_is_not_nominated():
    found = nominate(trials(-0.15), {("first/a", "first/b")})
    assert ("first/a", "first/b") not in set(zip(found["a"], found["b"], strict=True))


def test_a_stage_and_its_only_trick_are_one_label():
    found = nominate(trials(-0.15))
    assert "last/x" not in set(found["a"]) | set(found["b"])


def test_too_little_suggests_nothing():
    few = nominate(trials(-0.15, number=11))
    assert few.empty and list(few.columns)[:2] == ["a", "b"]
    design = trials(-0.15).assign(arm="design")
    assert nominate(design).empty
    assert nominate(trials(-0.15).assign(tricks=[()] * 80)).empty


def cells(counts: tuple[int, ...], means: tuple[float, ...]) -> pd.DataFrame:
    """Trials of the four cells 00, 10, 01, 11 of the labels a and b, half a point around their means."""
    rows = [
        {"arm": "adaptive", "outcome": "finished", "tricks": on, "final/accuracy": mean + 0.005 * (-1) ** index}
        for on, count, mean in zip(((), ("a",), ("b",), ("a", "b")), counts, means, strict=True)
        for index in range(count)
    ]
    return pd.DataFrame(rows)


def test_the_suggestion_is_the_interaction_of_the_cells_by_hand():
    # what the additive model fits cancels: 0.57 − 0.62 − 0.66 + 0.50, with even counts the half points cancel too
    row = nominate(cells((4, 6, 8, 4), (0.50, 0.62, 0.66, 0.57))).iloc[0]
    assert row["suggested"] == pytest.approx(-0.21) and list(row[["n_00", "n_10", "n_01", "n_11"]]) == [4, 6, 8, 4]
    # error² = s² (1/4 + 1/6 + 1/8 + 1/4) with s² of the additive fit, 22 − 3 degrees of freedom
    residual = np.linalg.lstsq(*_additive(cells((4, 6, 8, 4), (0.50, 0.62, 0.66, 0.57))), rcond=None)[1][0]
    assert row["ratio"] == pytest.approx(-0.21 / np.sqrt(residual / 19 * (1 / 4 + 1 / 6 + 1 / 8 + 1 / 4)))
    assert nominate(cells((4, 6, 8, 4), (0.50, 0.62, 0.66, 0.99))).empty  # a synergy is no suspicion
    # three trials in a cell are just enough
    assert len(nominate(cells((3, 6, 8, 4), (0.50, 0.62, 0.66, 0.57)))) == 1
    assert nominate(cells((2, 6, 8, 4), (0.50, 0.62, 0.66, 0.57))).empty


def _additive(trials: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    matrix = [[1.0, "a" in on, "b" in on] for on in trials["tricks"]]
    return np.array(matrix, dtype=float), trials["final/accuracy"].to_numpy()


def test_every_cell_needs_three_trials():
    means = (0.50, 0.62, 0.66, 0.57)
    assert len(nominate(cells((4, 4, 4, 3), means))) == 1
    assert nominate(cells((4, 4, 5, 2), means)).empty


def test_nominated_pairs_are_one_family_of_tests():
    generator = np.random.default_rng(5)
    rows = [
        {"arm": "nominated", "context": f"nominated:{a}×{b}", "outcome": "finished", "seed": seed, "tricks": on,
         "first_stage": f"{a}{on}{seed}", "final/accuracy": 0.6 - harm * (len(on) == 2) + 0.01 * generator.normal()}
        for a, b, harm in (("a", "b", 0.05), ("a", "c", 0.0), ("d", "e", 0.0))
        for seed in range(4) for on in ((), (a,), (b,), (a, b))
    ]  # fmt: skip
    table = candidate_table(pd.DataFrame(rows), margin=0.02)
    assert list(zip(table.a, table.b, strict=True)) == [("a", "b"), ("a", "c"), ("d", "e")]
    # the smallest of three: Benjamini and Hochberg multiply it by three
    assert table.verdict[0] == "conflict"
    assert table.adjusted_p[0] == pytest.approx(3 * table.p_value[0])
    assert (
        candidate_table(pd.DataFrame(rows[:4])).empty and candidate_table(pd.DataFrame(rows).assign(arm="design")).empty
    )


def test_nothing_is_nominated_by_the_test_split():
    with pytest.raises(RecordError, match="metric 'test/accuracy' is of the test split"):
        nominate(trials(-0.2).assign(**{"test/accuracy": 0.5}), metric="test/accuracy")
