"""Records after a passage through JSON, and intervals of fractions."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.files import to_json
from analysis.records.intervals import (
    bounded_interval,
    difference_interval,
    effective_images,
    interval,
    prediction_interval,
)
from analysis.records.reader import frame, mean_interval, ranking
from analysis.records.schema import Point, Record

pytestmark = pytest.mark.smoke

WHOLE = Record(
    search="demo", trial="t0", arm="design", recipe="r0", title="baseline", seed=0, split_seed=0, first_stage="fs0",
    tricks=(), context="", outcome="finished", choices={}, plan={}, data="digits-lt", model="resnet8", imbalance=50.0,
    fingerprint="f", counts=(9, 2), val_counts=(7, 0), class_names=("ant", "bee"), epochs=2.0, epochs_trained=2.0,
    images=204, steps=4, seconds=1.5, seconds_saved=0.0, reused=(), recalls=(1.0, math.nan),
    metrics={"final/accuracy": 1.0, "final/accuracy_error": 0.1, "final/loss": math.nan},
    per_class={"logits_magnitude": [1.0, math.nan]}, curve=(Point("s", 0, 2, 1.0, {"loss": math.nan}),),
)  # fmt: skip

fractions = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def test_unknown_numbers_are_null_in_json_and_unknown_after_it() -> None:
    text = to_json(dataclasses.replace(WHOLE, imbalance=math.nan).to_dict())
    assert "NaN" not in text
    again = Record.from_dict(json.loads(text))
    assert again.recalls[0] == 1 and again.class_names == ("ant", "bee")
    unknown = (
        again.recalls[1], again.metrics["final/loss"], again.per_class["logits_magnitude"][1],
        again.curve[0].metrics["loss"], again.imbalance,
    )  # fmt: skip
    assert all(map(math.isnan, unknown))
    older = {key: value for key, value in WHOLE.to_dict().items() if key != "class_names"}
    assert Record.from_dict(older).class_names == ()


@given(fractions, st.sampled_from([0.0, 1.0, 7.0, 1e4]), st.booleans())
def test_intervals_of_fractions_lie_in_their_range(values: list[float], images: float, same: bool) -> None:
    mean, low, high = bounded_interval(values, images=images, same_images=same)
    if not math.isnan(low):
        assert 0 <= low <= mean <= high <= 1 and low < high
    assert 0 <= prediction_interval(values)[0] <= prediction_interval(values)[1] <= 1
    assert -1 <= difference_interval(values)[1] <= difference_interval(values)[2] <= 1


def test_for_little_scatter_it_is_the_plain_interval() -> None:
    values = [0.6, 0.601, 0.602]
    assert bounded_interval(values) == pytest.approx(interval(values), abs=2e-5)


def test_agreement_is_not_certainty() -> None:
    """Seven images that all seeds get right."""
    mean, low, high = bounded_interval([1.0, 1.0], images=7)
    # Wilson 1927 with 14 of 14: 14 / (14 + 1.96²)
    assert (mean, high) == (1.0, 1.0) and low == pytest.approx(14 / (14 + 1.959964**2), abs=1e-6)
    _, same, _ = bounded_interval([1.0, 1.0], images=7, same_images=True)
    assert same == pytest.approx(7 / (7 + 1.959964**2), abs=1e-6)
    assert all(map(math.isnan, bounded_interval([1.0, 1.0])[1:]))  # nothing is known of the images
    assert bounded_interval([0.9, 0.95], images=1e9) == pytest.approx(bounded_interval([0.9, 0.95]))


@pytest.mark.parametrize("truth", [0.6, 0.9, 0.97])
def test_the_interval_holds_the_truth(truth: float) -> None:
    """Five seeds, each on its own twenty images of two classes, some scatter of training: 95 % of 2,000 draws."""
    from trainables.metrics import mean_recall_error

    draw, held = np.random.default_rng(3), 0
    logit = math.log(truth / (1 - truth))
    expected = float(np.mean(1 / (1 + np.exp(-(logit + 0.3 * draw.normal(size=100_000))))))
    for _ in range(2000):
        right = draw.binomial(10, 1 / (1 + np.exp(-(logit + 0.3 * draw.normal(size=(5, 1))))), size=(5, 2))
        values = (right / 10).mean(axis=1)
        errors = [mean_recall_error(row, [10, 10]) for row in right]
        images = effective_images(float(values.mean()), float(np.mean(np.square(errors)) ** 0.5))
        _, low, high = bounded_interval(values.tolist(), images=images)
        held += low <= expected <= high
    assert 0.94 <= held / 2000 <= 0.995


def test_a_prediction_knows_how_few_images_there_are() -> None:
    assert prediction_interval([0.9, 0.9]) == (0.9, 0.9)
    low, high = prediction_interval([0.9, 0.9], error=0.02)
    assert low == pytest.approx(0.9 - 1.959964 * 0.02 * math.sqrt(1.5)) and high == pytest.approx(1.8 - low)
    assert prediction_interval([0.6, 0.9], error=0.02) == prediction_interval([0.6, 0.9], error=math.nan)


def test_a_table_of_trials_gives_the_interval_by_its_errors() -> None:
    rows = frame(dataclasses.replace(WHOLE, trial=f"t{seed}", seed=seed) for seed in range(2))
    images = effective_images(1.0, 0.1)
    assert mean_interval(rows, "final/accuracy") == bounded_interval([1.0, 1.0], images=images)
    row = ranking(rows).iloc[0]
    assert 0.6 < row["low"] < 0.9 and row["high"] == row["mean"] == 1
    given_val = rows.assign(correct=[(1, 1)] * 2)
    assert mean_interval(given_val, "final/accuracy")[1] < row["low"]
