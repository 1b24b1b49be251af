"""The Pareto front by hand: who is on it, its knee, and when it must not be used."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.recipes.pareto import ACCURACY, HARMONIC_MEAN, front, knee, non_dominated, too_few
from analysis.records.intervals import bounded_interval
from analysis.records.schema import RecordError

pytestmark = pytest.mark.smoke


def trials(rows: list[tuple[str, str, int, float, float]]) -> pd.DataFrame:
    """(recipe, arm, seed, accuracy, harmonic mean) each."""
    return pd.DataFrame(
        {
            "recipe": recipe, "title": f"title of {recipe}", "tricks": (), "arm": arm, "seed": seed,
            "outcome": "finished", "epochs": 1.0, "images": 1, "run_id": "", ACCURACY: accuracy, HARMONIC_MEAN: mean,
        }
        for recipe, arm, seed, accuracy, mean in rows
    )  # fmt: skip


ENDS = [("a", "race", 0, 0.90, 0.10), ("b", "race", 0, 0.80, 0.70), ("c", "race", 0, 0.10, 0.90)]


def test_what_another_one_beats_is_not_on_the_front():
    table = front(trials([*ENDS, ("d", "race", 0, 0.79, 0.70), ("e", "race", 0, 0.50, 0.20)])).set_index("recipe")
    assert table["on_front"].to_dict() == {"a": True, "b": True, "d": False, "e": False, "c": True}
    assert list(table.index) == ["a", "b", "d", "e", "c"]  # by falling accuracy
    # scaled to [0, 1]: a (1, 0), b (0.875, 0.75), c (0, 1); above the line from a to c lies b alone
    assert table.index[table["knee"]].tolist() == ["b"]


def test_means_and_intervals_are_over_seeds():
    rows = [("a", "race", seed, 0.6 + 0.1 * seed, 0.3 + 0.05 * seed) for seed in range(3)]
    row = front(trials(rows)).iloc[0]
    low, high = bounded_interval([0.6, 0.7, 0.8])[1:]
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx((0.7, low, high))
    assert (row["harmonic_mean"], row["seeds"], row["title"]) == (pytest.approx(0.35), 3, "title of a")
    single = front(trials([("a", "race", 0, 0.5, 0.5)])).iloc[0]
    assert math.isnan(single["accuracy_low"]) and math.isnan(single["harmonic_mean_high"])
    assert single["on_front"] and single["knee"]


def test_what_was_not_run_on_fresh_seeds_is_shown_and_not_compared():
    lucky = ("lucky", "adaptive", 1000, 0.99, 0.99)
    table = front(trials([*ENDS, lucky])).set_index("recipe")
    assert not table.loc["lucky", "on_front"] and table["on_front"].sum() == 3
    # where nothing has raced, all are compared
    alone = front(trials([(name, "adaptive", *rest) for name, _, *rest in (*ENDS, lucky)])).set_index("recipe")
    assert alone.index[alone["on_front"]].tolist() == ["lucky"] == alone.index[alone["knee"]].tolist()


def test_a_front_of_random_points_is_what_pairwise_comparison_says():
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    slow = [not any((q >= p).all() and (q > p).any() for q in points) for p in points]
    assert non_dominated(points).tolist() == slow and 1 < sum(slow) < 40


@pytest.mark.parametrize(
    "points, position",
    [
        ([[0.5, 0.5]], 0),
        ([[0.9, 0.1], [0.1, 0.9]], 0),  # no bulge: the first end
        ([[0.9, 0.1], [0.4, 0.4], [0.1, 0.9]], 0),  # the middle lies below the line
        ([[90.0, 0.1], [60.0, 0.8], [10.0, 0.9]], 1),  # scaled (0.625, 0.875)
        ([[0.9, 0.5], [0.9, 0.5]], 0),
    ],
)
def test_the_knee_is_farthest_above_the_line_between_the_ends(points, position):
    array = np.array(points)
    assert knee(array) == position
    # the distance from the line through the scaled ends, by the cross product
    low, width = array.min(axis=0), np.ptp(array, axis=0)
    if (width > 0).all():
        scaled = (array - low) / width
        distances = [(x + y - 1) / math.sqrt(2) for x, y in scaled]
        assert distances[position] == max(distances)


def test_nothing_finished_is_an_empty_front():
    empty = trials(ENDS)
    empty["outcome"] = "diverged"
    assert front(empty).empty


def test_trials_of_an_older_version_are_refused():
    with pytest.raises(RecordError, match="no trial has 'final/smoothed_harmonic_mean'"):
        front(trials(ENDS).drop(columns=HARMONIC_MEAN))


def test_a_class_with_fewer_than_fifty_images_is_named():
    assert too_few("--pick knee", "mine", [50, 60]) is None
    assert too_few("--objective both", "mine", [500, 49]) == (
        "--objective both needs at least 50 val images per class, because a few images decide a harmonic mean; "
        "mine has 49: use accuracy, or data with a larger val"
    )
