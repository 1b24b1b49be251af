"""What a design can show: against its own least squares, against simulation, and its limits."""

import numpy as np
import pytest
from scipy import stats

from analysis.power import PowerError, _variances, detectable


@pytest.mark.parametrize(("blocks", "extra", "labels"), [(3, 0, 4), (3, 4, 4), (2, 3, 6)])
def test_variances_are_those_of_least_squares(blocks, extra, labels):
    cells = [(), *((i,) for i in range(labels)), *((i, j) for j in range(labels) for i in range(j))]
    runs = [(c, s) for c, cell in enumerate(cells) for s in range(blocks + extra * (len(cell) < 2))]
    x = np.zeros((len(runs), len(cells) + blocks + extra))
    for row, (c, s) in enumerate(runs):
        x[row, c] = x[row, len(cells) + s] = 1
    covariance = np.linalg.pinv(x.T @ x)

    def variance(weights):
        w = np.zeros(x.shape[1])
        for cell, value in weights.items():
            w[cells.index(cell)] = value
        return w @ covariance @ w

    harm, interaction, correlation = _variances(blocks, extra, labels, None)
    assert harm == pytest.approx(variance({(0, 1): 1, (0,): -1}))
    assert interaction == pytest.approx(variance({(0, 1): 1, (0,): -1, (1,): -1, (): 1}))
    difference = variance({(0,): -1, (1,): 1})  # of the two harms
    assert correlation == pytest.approx((2 * harm - difference) / (2 * harm))


def test_power_is_what_was_asked_for():
    rng = np.random.default_rng(0)
    promise = detectable(n_pairs=4, blocks=4, sd=0.01, n_labels=4, primary=True, power=0.8)
    df, error = 3 * 10, 0.01 * np.sqrt(2 / 4)
    spread = np.sqrt(stats.chi2.rvs(df, size=20000, random_state=rng) / df)
    common = rng.normal(size=20000)
    harms = np.sqrt(0.5) * (common + rng.normal(size=(2, 20000)))  # correlation 1/2
    shown = (harms[0] - promise.harm / error) / spread < stats.t.ppf(0.05 / 4 / 2, 22)  # 2·(8 + 3) of 30 df
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
    critical = stats.t.ppf(0.95, 22)
    both = ((harms + promise.compatible / error) / spread > critical).all(0)
    assert both.mean() == pytest.approx(0.8, abs=0.03)


def test_more_shows_more():
    def harm(**changed):
        given = {"n_pairs": 10, "blocks": 4, "sd": 0.01, "n_labels": 5} | changed
        return detectable(**given)

    usual = harm()
    assert all(many < few for many, few in zip(harm(blocks=8), usual, strict=True))
    assert all(more < few for more, few in zip(harm(extra_blocks=4), usual, strict=True))
    assert all(more < few for more, few in zip(harm(factorial_runs=16), usual, strict=True))
    assert harm(n_pairs=2).harm < usual.harm and harm(n_pairs=2).compatible == usual.compatible
    assert harm(sd=0.02) == pytest.approx([2 * value for value in usual])
    assert usual.interaction > usual.harm


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": 1}, "blocks must be at least 2, got 1"),
        ({"sd": 0.0}, "sd is the deviation of one trial within its block, a fraction above 0, got 0"),
        ({"factorial_runs": 24}, "factorial_runs must be a power of 2 from 8 on, got 24"),
        ({"power": 80}, r"power is a fraction in \(0.5, 1\), got 80"),
        ({"n_labels": 1}, "n_labels must be at least 2, got 1"),
    ],
)
def test_refusals(changed, message):
    with pytest.raises(PowerError, match=message):
        detectable(**({"n_pairs": 3, "blocks": 3, "sd": 0.01, "n_labels": 3} | changed))
