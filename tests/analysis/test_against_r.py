"""Numbers that R's limma, emmeans and lmerTest give for the same data, and NIST's certified ones."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.conflicts import pairwise
from analysis.conflicts.contrasts import CONTRASTS, Sample, estimates
from analysis.stats.moderation import fit_prior, moderate
from analysis.stats.multiplicity import benjamini_hochberg, holm

R = json.loads((Path(__file__).parents[1] / "reference/conflicts.json").read_text())
CONTRASTED = ("alone_a", "alone_b", "interaction", "b_given_a", "a_given_b")


def table():
    cells = {(): "y00", ("a",): "y10", ("b",): "y01", ("a", "b"): "y11"}
    trials = [
        {"arm": "design", "seed": s, "first_stage": f"{name}-{s}", "tricks": cell, "final/accuracy": y}
        for cell, name in cells.items()
        for s, y in enumerate(R["mixed"][name])
    ]
    return pairwise(pd.DataFrame(trials)).iloc[0]


@pytest.mark.parametrize("name", R["limma"])
def test_the_prior_is_limmas(name):
    found = R["limma"][name]
    prior = fit_prior(np.array(found["s2"]), np.array(found["df"], dtype=float))
    assert prior.scale == pytest.approx(found["scale"], rel=1e-10)
    expected = math.inf if found["prior_df"] == "Inf" else found["prior_df"]
    assert prior.df == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", R["limma"])
def test_moderated_variances_are_limmas_but_for_scale_and_bound(name):
    found = R["limma"][name]
    s2, df = np.array(found["s2"]), np.array(found["df"], dtype=float)
    prior = fit_prior(s2, df)
    if math.isfinite(prior.df):
        limma = (prior.df * prior.scale + df * s2) / (prior.df + df)
        assert limma == pytest.approx(found["posterior"], rel=1e-10)
    bound = min(prior.df, 8.0)
    ours, freedom = moderate(s2, df)
    assert ours == pytest.approx((bound * np.average(s2, weights=df) + df * s2) / (bound + df), rel=1e-12)
    assert freedom == pytest.approx(np.minimum(bound + df, df.sum()), rel=1e-12)


def test_contrasts_are_those_of_emmeans_and_of_paired_t_tests():
    row = table()
    for name in CONTRASTED:
        assert row[name] == pytest.approx(R["mixed"]["estimate"][name], abs=1e-12)
        expected = R["paired"][name]
        assert row[name] == pytest.approx(expected["estimate"], abs=1e-12)
    # a lone pair has two effects alone, two directions and one interaction: nothing is lent
    for name in CONTRASTED:
        expected = R["paired"][name]
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx([expected["low"], expected["high"]], abs=1e-9)
    for name in ("b_given_a", "a_given_b"):
        assert row[f"{name}_p"] == pytest.approx(R["paired"][name]["p"], rel=1e-8)


def test_evenly_noisy_contrasts_have_the_error_of_the_mixed_model():
    """With one variance for all contrasts, moderation gives the mixed model's standard errors and more freedom."""
    values = {name: np.array(R["mixed"][name]) for name in ("y00", "y10", "y01", "y11")}
    y = np.array(list(values.values()))
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    sigma = math.sqrt(float((rest**2).sum()) / 12)
    for name in CONTRASTED:
        weights = np.array(CONTRASTS[name], dtype=float)
        assert sigma * math.sqrt((weights**2).sum() / 5) == pytest.approx(R["mixed"]["se"][name], rel=1e-6)
    # three orthogonal contrasts of equal weight hold the same residuals
    thirds = [np.array(w) @ y for w in ([1, -1, -1, 1], [1, 1, -1, -1], [1, -1, 1, -1])]
    samples = [Sample(("one",), (i,), v, 5, 5, 0.0, 0, 0.0, "") for i, v in enumerate(thirds)]
    found = estimates(samples)
    pooled = np.mean([v.var(ddof=1) for v in thirds])
    assert math.sqrt(pooled / 5) == pytest.approx(R["mixed"]["se"]["interaction"], rel=1e-6)
    for each, v in zip(found, thirds, strict=True):
        low, high = sorted([pooled, v.var(ddof=1)])
        assert low <= each.error**2 * 5 <= high
        assert each.df == 12


def test_corrections_are_those_of_r():
    p = np.array(R["adjusted"]["p"])
    assert holm(p) == pytest.approx(R["adjusted"]["holm"])
    assert benjamini_hochberg(p) == pytest.approx(R["adjusted"]["bh"])


@pytest.mark.parametrize(("base", "tolerance"), [(0.0, 1e-12), (1e12, 2e-2)])
def test_nist_simon_lesage_3_and_9(base, tolerance):
    """Nine treatments of 2,001 observations, certified within mean square 0.01; behind 1e12 little is left of it.

    Source: NIST StRD, analysis of variance, SmLs03 and SmLs09.
    """
    observation = np.arange(2001)
    swing = np.where(observation == 0, 0.0, np.where(observation % 2 == 1, -0.1, 0.1))
    samples = [
        Sample((i,), (i,), base + mean + swing, 2001, 2001, 0.0, 0, 0.0, "")
        for i, mean in enumerate((1.4, 1.3, 1.5, 1.3, 1.5, 1.3, 1.5, 1.3, 1.5))
    ]
    found = estimates(samples)
    within = np.mean([each.error**2 * 2001 for each in found])
    means = np.array([each.value - base for each in found])
    assert within == pytest.approx(0.01, rel=tolerance)
    assert 2001 * means.var(ddof=1) / within == pytest.approx(2001.0, rel=tolerance)
