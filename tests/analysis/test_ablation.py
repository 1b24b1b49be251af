"""Around the winner: hand-worked losses, the way down, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.conflicts.contrasts import Sample, estimates
from analysis.recipes.ablation import best_step, is_step, missed_least, path, removals

WINNER = "w"


def table(cells: dict[tuple[str, ...], list[float]], **more) -> pd.DataFrame:
    """Rows of the arm "around": a value a block for each cell."""
    rows = [
        {"arm": "around", "context": f"around:{WINNER}", "outcome": "finished", "started": 0.0, "recipe": "+".join(on),
         "tricks": on, "seed": 6000 + block, "final/accuracy": value, **more}
        for on, values in cells.items() for block, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


CELLS = {
    ("a", "b", "numbers"): [0.80, 0.82, 0.81],
    ("a", "numbers"): [0.79, 0.82, 0.805],
    ("b", "numbers"): [0.70, 0.71, 0.72],
    ("numbers",): [0.60, 0.62, 0.61],
    (): [0.58, 0.60, 0.60],
}


def by_removed(*args, **options) -> dict[tuple[str, ...], dict]:
    return {row["removed"]: row for row in removals(*args, **options).to_dict("records")}


def test_losses_and_the_dependency_by_hand():
    gone = by_removed(table(CELLS))
    # b: (0.01 + 0 + 0.005) / 3; a: (0.10 + 0.11 + 0.09) / 3; both: 0.20 in every block
    assert gone["b",]["loss"] == pytest.approx(0.005)
    assert gone["a",]["loss"] == pytest.approx(0.1)
    assert gone["a", "b"]["loss"] == pytest.approx(0.2)
    # whole − without a − without b + neither: 0.2 of both in each of the blocks, less what each loses
    expected = np.mean([0.80 - 0.79 - 0.70 + 0.60, 0.82 - 0.82 - 0.71 + 0.62, 0.81 - 0.805 - 0.72 + 0.61])
    assert gone["a", "b"]["dependency"] == pytest.approx(expected)
    assert gone["a",]["word"] == "needed" and gone["b",]["word"] != "needed"
    assert list(gone)[:2] == [("b",), ("a",)] and {row["n_seeds"] for row in gone.values()} == {3}


@pytest.mark.parametrize(
    "alone, neither, word",
    [(0.60, 0.58, "worth more together"), (0.89, 0.60, "one stands in for the other"), (0.75, 0.60, "")],
)
def test_what_two_tricks_are_to_each_other(alone, neither, word):
    # whole − without a − without b + neither: 0.90 − 2 · alone + neither, by hand +0.28, −0.28 and 0
    noise = np.array([0.0, 0.004, -0.004])
    cells = {
        ("a", "b"): 0.9 + noise,
        ("a",): alone - noise,
        ("b",): alone + noise[::-1],
        (): neither + noise[[1, 2, 0]],
    }
    row = by_removed(table({on: list(values) for on, values in cells.items()}))["a", "b"]
    assert row["dependency"] == pytest.approx(0.9 - 2 * alone + neither) and row["depends"] == word


def test_with_two_samples_nothing_is_lent_and_the_interval_is_students():
    gone = by_removed(table(CELLS))
    differences = [0.10, 0.11, 0.09]
    interval = stats.t.interval(0.95, 2, loc=0.1, scale=stats.sem(differences))
    assert [gone["a",]["loss_low"], gone["a",]["loss_high"]] == pytest.approx(list(interval))
    p = stats.ttest_1samp(differences, 0).pvalue
    assert gone["a",]["p_value"] == pytest.approx(p)
    assert gone["a",]["adjusted_p"] == pytest.approx(2 * p)
    # a gain is no loss, however clear: nothing is "needed" by it
    better = by_removed(table(CELLS | {("b", "numbers"): [0.90, 0.93, 0.90]}))["a",]
    assert better["loss_high"] < 0 and better["p_value"] == 1 and better["word"] == "may be removed"


def test_a_loss_as_large_as_the_margin_is_excluded():
    cells = {
        ("a", "b"): [0.8, 0.81, 0.82],
        ("a",): [0.8, 0.811, 0.819],
        ("b",): [0.5, 0.52, 0.51],
        (): [0.4, 0.41, 0.4],
    }
    gone = by_removed(table(cells), margin=0.02)
    assert gone["b",]["word"] == "may be removed"
    assert by_removed(table(cells), margin=0.0005)["b",]["word"] == "unknown"


def test_the_path_goes_up_from_the_baseline():
    steps = path(table(CELLS))
    assert list(steps["added"]) == [(), ("numbers",), ("a",), ("b",)]
    assert list(steps["mean"]) == pytest.approx([0.5933333, 0.61, 0.805, 0.81])
    assert list(steps["gain"])[1:] == pytest.approx([0.05 / 3, 0.195, 0.005])
    assert steps["total"].iloc[-1] == pytest.approx(0.81 - 0.5933333)
    assert math.isnan(steps["gain"].iloc[0]) and steps["recipe"].iloc[-1] == "a+b+numbers"


def test_a_path_that_does_not_reach_the_baseline_is_none():
    cells = {on: values for on, values in CELLS.items() if on}
    assert path(table(cells)).empty and "step" in path(table(cells)).columns
    assert path(pd.DataFrame({"arm": ["design"], "outcome": ["finished"]})).empty
    assert removals(pd.DataFrame({"arm": ["design"], "outcome": ["finished"]})).empty


def test_a_stage_takes_its_tricks_along():
    whole, left = frozenset({"a", "s", "s/x"}), frozenset({"a"})
    assert is_step(whole, left) and is_step(whole, frozenset({"a", "s"}))
    assert not is_step(whole, frozenset({"s"})) and not is_step(left, whole)
    gone = removals(
        table({("a", "s", "s/x"): [0.8, 0.81], ("a",): [0.7, 0.72], ("s", "s/x"): [0.6, 0.6], (): [0.5, 0.5]})
    )
    assert set(gone["removed"]) == {("s",), ("a",), ("a", "s")}


def test_of_several_winners_the_one_that_is_asked_for():
    other = table({("z",): [0.9, 0.9], (): [0.1, 0.1]}, context="around:v", started=1.0)
    both = pd.concat([table(CELLS), other], ignore_index=True)
    assert set(removals(both)["removed"]) == {("z",)}, "the latest one"
    assert ("a",) in set(removals(both, winner=WINNER)["removed"])


def test_a_cell_that_never_finished_is_left_out():
    rows = table(CELLS)
    rows.loc[rows["tricks"] == ("b", "numbers"), "outcome"] = "diverged"
    assert set(removals(rows)["removed"]) == {("b",)}


def test_the_winner_s_numbers_are_no_trick_that_could_be_removed():
    assert removals(table({("numbers",): [0.8, 0.8], (): [0.5, 0.5]})).empty


def test_one_block_has_no_interval_and_no_word():
    gone = removals(table({("a", "b"): [0.8], ("a",): [0.5]}))
    assert gone["word"].item() == "unknown" and math.isnan(gone["loss_low"].item())


def test_the_test_split_is_refused():
    with pytest.raises(ValueError, match="is of the test split"):
        removals(table(CELLS), metric="test/accuracy")


def test_ties_are_broken_the_same_way():
    values = {frozenset("ab"): {0: 1.0}, frozenset("a"): {0: 0.5}, frozenset("b"): {0: 0.5}}
    assert best_step(values, frozenset("ab")) == frozenset("b")
    assert missed_least(values, frozenset("ab")) == {frozenset("a"): 0, frozenset("b"): 1}
    assert best_step(values, frozenset("a")) is None


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_intervals_cover_and_needless_tricks_are_not_called_needed(ratio):
    """Of ten tricks without effect, some cells `ratio` times as noisy as others: planted, over 400 winners."""
    generator = np.random.default_rng(1)
    noise = np.where(np.arange(10) % 2, 1.0, ratio)
    covered, false = [], 0
    for _ in range(400):
        samples = generator.normal(size=(10, 3)) * noise[:, None]
        found = estimates(
            Sample(("loss",), (i,), sample, 3, 3, 0.0, 0, 0.0, "") for i, sample in enumerate(samples)
        )  # fmt: skip
        for each in found:
            low, high = each.interval(0.95)
            covered.append(low <= 0 <= high)
        false += 10 * min(each.above() for each in found) <= 0.05
    assert 0.93 <= np.mean(covered) <= 0.98
    assert false / 400 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
