"""What a design can show: against simulation, and its limits."""

import numpy as np
import pytest
from scipy import stats

from analysis.stats.power import PowerError, detectable


def test_power_is_what_was_asked_for():
    rng = np.random.default_rng(0)
    promise = detectable(n_pairs=4, blocks=4, sd=0.01, primary=True, power=0.8)
    df, error = 11, 0.01 * np.sqrt(2 / 4)  # 8 + 3 degrees of freedom
    spread = np.sqrt(stats.chi2.rvs(df, size=20000, random_state=rng) / df)
    common = rng.normal(size=20000)
    harms = np.sqrt(0.5) * (common + rng.normal(size=(2, 20000)))  # correlation 1/2
    shown = (harms[0] - promise.harm / error) / spread < stats.t.ppf(0.05 / 8 / 2, df)  # Holm over 8 directions
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
    critical = stats.t.ppf(0.95, df)
    both = ((harms + promise.compatible / error) / spread > critical).all(0)
    assert both.mean() == pytest.approx(0.8, abs=0.03)


def test_more_shows_more():
    def harm(**changed):
        return detectable(**({"n_pairs": 10, "blocks": 4, "sd": 0.01} | changed))

    usual = harm()
    assert all(many < few for many, few in zip(harm(blocks=8), usual, strict=True))
    assert harm(n_pairs=5).harm < usual.harm and harm(n_pairs=5).compatible == usual.compatible
    assert harm(sd=0.02) == pytest.approx([2 * value for value in usual])
    assert usual.interaction > usual.harm
    assert harm(primary=True, look=1).harm > harm(primary=True).harm
    # a lone pair borrows nothing
    assert harm(n_pairs=1).compatible > usual.compatible


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": 1}, "blocks must be at least 2, got 1"),
        ({"sd": 0.0}, "sd is the deviation of one trial within its block, a fraction above 0, got 0"),
        ({"power": 80}, r"power is a fraction in \(0.5, 1\), got 80"),
        ({"n_pairs": 0}, "n_pairs must be at least 1, got 0"),
    ],
)
def test_refusals(changed, message):
    with pytest.raises(PowerError, match=message):
        detectable(**({"n_pairs": 3, "blocks": 3, "sd": 0.01} | changed))
