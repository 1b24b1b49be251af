"""Metrics against numbers worked by hand, scikit-learn, SciPy, and plain loops."""

import math
import statistics

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import recall_score

from trainables.metrics import (
    calibration_error,
    logits_magnitude,
    mean_recall_error,
    recalls,
    regularized_std,
    smoothed_recalls,
    summarise,
)

pytestmark = pytest.mark.smoke

# --- recalls ----------------------------------------------------------------------------------------------


def test_recalls_by_hand() -> None:
    got = recalls(torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 1, 2, 2]), classes=4)
    assert got.dtype == torch.float64
    assert got[:3].tolist() == pytest.approx([2 / 3, 0, 1])
    assert math.isnan(got[3])


def test_recalls_equal_sklearns() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, 300), rng.integers(0, 7, 300)
    expected = recall_score(labels, predictions, labels=range(7), average=None)
    for form in (torch.from_numpy, np.asarray, list):
        np.testing.assert_allclose(recalls(form(predictions), form(labels), 7).numpy(), expected, rtol=1e-12)


def test_recalls_of_no_images_are_unknown() -> None:
    assert recalls([], [], classes=2).isnan().all()


def test_recalls_errors() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(2,\) and \(3,\)"):
        recalls([0, 1], [0, 1, 1], classes=2)
    with pytest.raises(ValueError, match=r"labels must lie in 0 … 1, got 0 … 2"):
        recalls([0, 1], [0, 2], classes=2)


def test_smoothed_recalls_by_hand() -> None:
    got = smoothed_recalls(torch.tensor([0, 1, 3, 0]), torch.tensor([1, 1, 4, 0]))
    assert got[:3].tolist() == [0.25, 0.75, 0.7]
    assert math.isnan(got[3])
    with pytest.raises(ValueError, match="0 ≤ correct ≤ totals"):
        smoothed_recalls([2], [1])


def test_error_of_the_mean_recall_by_hand() -> None:
    # one image, right: s = 3/4, s (1 − s) / 1 = 3/16; three of four: s = 7/10, 0.21 / 4; the third has no images
    assert mean_recall_error([1, 3, 0], [1, 4, 0]) == pytest.approx(math.sqrt(3 / 16 + 0.21 / 4) / 2)
    assert math.isnan(mean_recall_error([0], [0]))


def test_error_of_the_mean_recall_is_its_spread_over_samples() -> None:
    """Many images of the head, few of the tail: an error by the number of all images would be less than half of it."""
    rng = np.random.default_rng(0)
    totals, recall = np.array([500, 50, 12]), np.array([0.9, 0.6, 0.5])
    correct = rng.binomial(totals, recall, size=(4000, 3))
    spread = (correct / totals).mean(axis=1).std()
    errors = [mean_recall_error(row, totals) for row in correct[:500]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)
    of_all = math.sqrt(recall.mean() * (1 - recall.mean()) / totals.sum())
    assert of_all < 0.5 * spread


# --- summary ----------------------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    got = summarise([0.8, 0.4, 0.2, 0.2], [101, 100, 20, 19])
    assert got == pytest.approx(
        {
            "accuracy": 0.4,
            "harmonic_mean": 4 / 13.75,  # 1.25 + 2.5 + 5 + 5
            "geometric_mean": 0.0128**0.25,
            "lowest_recall": 0.2,
            "many": 0.8,
            "medium": 0.3,
            "few": 0.2,
        }
    )


def test_zero_recall_counts_as_a_thousandth_in_two_means_only() -> None:
    got = summarise([1.0, 0.0], [200, 5])
    assert got["harmonic_mean"] == pytest.approx(2 / 1001)
    assert got["geometric_mean"] == pytest.approx(math.sqrt(0.001))
    assert (got["accuracy"], got["lowest_recall"], got["few"]) == (0.5, 0.0, 0.0)
    tiny = summarise([1.0, 0.0001], [200, 5])
    assert tiny["harmonic_mean"] == pytest.approx(2 / 10001)


def test_summary_equals_scipys_means() -> None:
    r = np.random.default_rng(1).uniform(0.01, 1, 50)
    got = summarise(torch.from_numpy(r), np.arange(1, 51) * 5)
    assert got["harmonic_mean"] == pytest.approx(stats.hmean(r), rel=1e-12)
    assert got["geometric_mean"] == pytest.approx(stats.gmean(r), rel=1e-12)
    assert got["many"] == pytest.approx(r[20:].mean(), rel=1e-12)
    assert all(type(value) is float for value in got.values())


def test_empty_groups_are_absent() -> None:
    assert "few" not in summarise([0.5, 0.5], [500, 50])
    assert set(summarise([0.5], [10])) == {"accuracy", "harmonic_mean", "geometric_mean", "lowest_recall", "few"}


def test_unknown_recalls_are_left_out() -> None:
    got = summarise([0.5, math.nan, 1.0], [500, 50, 500])
    assert got == summarise([0.5, 1.0], [500, 500]) | {"classes_judged": 2.0, "classes_in_worst": 2.0}
    few = summarise([0.5, 0.0, 1.0], [500, 50, 500], totals=[9, 4, 9])
    assert few["accuracy"] == 0.5 and few["lowest_recall"] == 0.5
    assert few["classes_in_worst"] == 2.0 and "classes_judged" not in few
    assert "medium" not in got


def test_classes_with_few_images_count_in_means_of_recalls_only() -> None:
    got = summarise([1.0, 0.5, 0.0], [500, 50, 5], totals=[24, 5, 4])
    assert got["accuracy"] == pytest.approx(0.5) and got["few"] == 0.0
    assert got["lowest_recall"] == 0.5
    assert got["harmonic_mean"] == pytest.approx(2 / (1 / 1 + 1 / 0.5))
    assert got["geometric_mean"] == pytest.approx(0.5**0.5)
    # where every class has few, there is nothing better
    assert summarise([1.0, 0.5], [500, 50], totals=[4, 4]) == summarise([1.0, 0.5], [500, 50])


def test_order_of_classes_does_not_matter() -> None:
    assert summarise([0.25, 0.5, 0.75], [5, 50, 500]) == pytest.approx(summarise([0.75, 0.25, 0.5], [500, 5, 50]))


@pytest.mark.parametrize(
    ("r", "n", "message"),
    [
        ([0.5, 0.5], [1], r"must both be \(C,\), got \(2,\) and \(1,\)"),
        ([math.nan], [1], "no class has a recall"),
        ([50.0], [1], r"fractions in \[0, 1\], got 50 … 50"),
        ([-0.1, 0.5], [1, 1], r"fractions in \[0, 1\], got -0.1 … 0.5"),
    ],
)
def test_summary_errors(r: list[float], n: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(r, n)


# --- calibration ------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    # Bins of 1/2: (0.5, 1] holds 0.9 right, 0.7 wrong, 0.8 right; [0, 0.5] holds 0.5 wrong.
    p = [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]
    assert calibration_error(p, [0, 1, 1, 1], bins=2) == pytest.approx(3 / 4 * abs(2 / 3 - 0.8) + 1 / 4 * 0.5)


def test_bins_are_closed_on_the_right() -> None:
    # 0.5 right (gap +0.5) and 0.75 wrong (gap −0.75) fall in different halves, else they would cancel to 1/8.
    assert calibration_error([[0.5, 0.25, 0.25], [0.75, 0.25, 0]], [0, 1], bins=2) == pytest.approx(0.625)
    # With quarters 0.25 is in the first bin and 0.5 in the second.
    p = [[0.25] * 4, [0.5, 0.5, 0, 0]]
    assert calibration_error(p, [0, 3], bins=4) == pytest.approx((0.75 + 0.5) / 2)


def test_confidence_zero_is_in_the_first_bin() -> None:
    # Two unnormalised rows: confidence 0 right (gap +1), confidence 0.05 wrong (gap −0.05).
    assert calibration_error([[0.0, 0.0], [0.05, 0.0]], [0, 1]) == pytest.approx(0.95 / 2)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_equals_a_loop(bins: int) -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet([0.4] * 6, 500)
    labels = rng.integers(0, 6, 500)
    expected = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i in range(500) if low < p[i].max() <= high]
        if inside:
            accuracy = statistics.fmean(float(p[i].argmax() == labels[i]) for i in inside)
            confidence = statistics.fmean(float(p[i].max()) for i in inside)
            expected += len(inside) / 500 * abs(accuracy - confidence)
    assert calibration_error(p, labels, bins=bins) == pytest.approx(expected, rel=1e-12)
    single = calibration_error(torch.from_numpy(p).float(), torch.from_numpy(labels), bins=bins)
    assert single == pytest.approx(expected, abs=1e-6)


def test_sure_and_right_is_calibrated() -> None:
    assert calibration_error(np.eye(3), [0, 1, 2]) == 0
    assert calibration_error(np.eye(3), [1, 2, 0]) == 1


def test_calibration_errors() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got -2 … 3; are these logits\?"):
        calibration_error([[3.0, -2.0]], [0])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got nan"):
        calibration_error([[math.nan, 0.5]], [0])
    with pytest.raises(ValueError, match=r"N ≥ 1, got \(1, 2\) and \(2,\)"):
        calibration_error([[0.5, 0.5]], [0, 1])
    with pytest.raises(ValueError, match="N ≥ 1"):
        calibration_error(torch.zeros(0, 3), [])
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        calibration_error([[0.5, 0.5]], [0], bins=0)


# --- logits -----------------------------------------------------------------------------------------------

LOGITS = [[4.0, 1.0, 1.0], [6.0, 2.0, 0.0], [1.0, 2.0, 3.0], [0.0, 3.0, 0.0]]
LABELS = [0, 0, 1, 1]
# Leads: 4 − 1 = 3, 6 − 1 = 5; 2 − 2 = 0, 3 − 0 = 3.


def test_logits_magnitude_by_hand() -> None:
    got = logits_magnitude(LOGITS, LABELS)
    assert got[:2].tolist() == [4.0, 1.5] and math.isnan(got[2])


def test_regularized_std_by_hand() -> None:
    got = regularized_std(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert got[:2].tolist() == pytest.approx([math.sqrt(2) / 4, math.sqrt(4.5) / 1.5])
    assert math.isnan(got[2])
    assert regularized_std(LOGITS[1:], LABELS[1:])[0].isnan()  # one image has no spread
    # margins 1, 2, 6 with mean 3: √((4 + 1 + 9) / (3 − 1)) / 3
    three = regularized_std([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]], [0, 0, 0])
    assert three[0].item() == pytest.approx(math.sqrt(7) / 3)


def test_logit_metrics_ignore_what_the_softmax_ignores() -> None:
    shifted = torch.tensor(LOGITS) + torch.tensor([[10.0], [-5.0], [2.0], [0.0]])
    torch.testing.assert_close(logits_magnitude(shifted, LABELS), logits_magnitude(LOGITS, LABELS), equal_nan=True)
    torch.testing.assert_close(regularized_std(shifted, LABELS), regularized_std(LOGITS, LABELS), equal_nan=True)
    scaled = 3 * torch.tensor(LOGITS)
    torch.testing.assert_close(logits_magnitude(scaled, LABELS), 3 * logits_magnitude(LOGITS, LABELS), equal_nan=True)
    torch.testing.assert_close(regularized_std(scaled, LABELS), regularized_std(LOGITS, LABELS), equal_nan=True)


def test_logit_metrics_errors() -> None:
    for metric in (logits_magnitude, regularized_std):
        with pytest.raises(ValueError, match=r"logits \(N, C\) with C ≥ 2 and labels \(N,\), got \(1, 1\) and \(1,\)"):
            metric([[1.0]], [0])
