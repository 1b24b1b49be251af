"""Several searches together: against statsmodels, by hand, and what the words say."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.oneway import anova_generic

from analysis.conflicts import other_searches
from analysis.conflicts.other_searches import CONTRASTS, across, by_search
from analysis.stats.meta import pool


def table(verdict="conflict", harm=-0.03, error=0.005, a="p", b="q", **other):
    row = {"a": a, "b": b, "context": "", "verdict": verdict, "n_seeds": 5}
    for name, value in zip(CONTRASTS, (2 * harm, harm, harm), strict=True):
        row |= {name: value, f"{name}_se": error, f"{name}_low": value - error, f"{name}_high": value + error}
        row[f"{name}_df"] = 30.0
    return pd.DataFrame([row | other])


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ([-0.02, -0.03, -0.01, 0.04], [0.005, 0.004, 0.006, 0.01]),
        ([-0.02, -0.035, -0.005], [0.005, 0.01, 0.01]),
        ([0.01, 0.05], [0.004, 0.009]),
    ],
)
def test_pooling_equals_statsmodels(values, errors):
    values, errors = np.array(values), np.array(errors)
    found = pool(values, errors)
    other = combine_effects(values, errors**2, method_re="dl")
    assert found.mean == pytest.approx(other.mean_effect_re)
    assert found.tau**2 == pytest.approx(max(other.tau2, 0.0))
    assert found.i2 == pytest.approx(max(other.i2, 0.0))
    assert found.q_p == pytest.approx(other.test_homogeneity().pvalue)
    error = max(other.sd_eff_w_re_hksj, other.sd_eff_w_re)  # never narrower than known errors allow
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, len(values) - 1) * error)


def test_agreement_beyond_chance_narrows_nothing():
    found = pool(np.array([-0.02, -0.021, -0.019]), np.array([0.005, 0.005, 0.005]))
    assert (found.tau, found.i2) == (0.0, 0.0)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * 0.005 / np.sqrt(3))


def test_prediction_by_hand():
    found = pool(np.array([-0.02, -0.03, -0.01]), np.array([0.005] * 3))
    # Q = 8 on 2 df, tau² = (8 − 2)·0.005²/2 = 7.5e-5, var of the mean (1e-4)/3
    reach = stats.t.ppf(0.975, 1) * np.sqrt(7.5e-5 + 1e-4 / 3)
    assert [found.predicted_low, found.predicted_high] == pytest.approx([-0.02 - reach, -0.02 + reach])
    assert np.isnan(pool(np.array([0.1, 0.2]), np.array([0.1, 0.1])).predicted_low)


def test_whether_searches_agree_is_welch_s_test():
    means, variances, blocks = np.array([0.1, 0.12, 0.09]), np.array([1e-3, 4e-4, 9e-4]), np.array([4, 6, 9])
    other = anova_generic(means, variances, blocks, use_var="unequal", welch_correction=True)
    assert pool(means, np.sqrt(variances / blocks), blocks - 1.0).q_p == pytest.approx(other.pvalue)


def test_errors_of_few_degrees_of_freedom_make_no_differences():
    rng = np.random.default_rng(4)
    welch = known = 0
    for _ in range(1000):
        values, errors = rng.normal(0, 0.01, 4), 0.01 * np.sqrt(rng.chisquare(6, 4) / 6)
        welch += pool(values, errors, np.full(4, 6.0)).q_p <= 0.05
        known += pool(values, errors).q_p <= 0.05
    assert welch <= stats.binom.isf(0.001, 1000, 0.05) < known


def test_intervals_of_the_mean_hold():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        errors = rng.uniform(0.004, 0.012, 5)
        found = pool(rng.normal(-0.01, 0.01, 5) + rng.normal(0, errors), errors)
        inside += found.low <= -0.01 <= found.high
    assert 0.92 <= inside / 400 <= 0.985


def test_words():
    def word(*tables):
        row = across({f"s{i}": found for i, found in enumerate(tables)}).iloc[0]
        return row.word, row.why

    assert word(table(), table(harm=-0.028)) == ("holds in all", "conflict in 2 of 2 searches")
    # three points beside none is a difference; one beside half a point is none, whatever the verdicts are called
    assert word(table(), table("compatible", 0.0))[0] == "differs"
    assert word(table(harm=-0.01), table("compatible", -0.005)) == (
        "open", "conflict in s0, safe to combine in s1; a difference between their effects is not shown")  # fmt: skip
    said, why = word(table(harm=-0.03), table(harm=-0.10))
    assert said == "differs" and why.startswith("the interaction varies between searches by 9.")
    assert word(table(), table("unresolved", -0.025)) == (
        "open",
        "not every search settles the pair, and no difference between searches is shown",
    )
    unknown = table("unresolved").assign(**{f"{name}_se": np.nan for name in CONTRASTS})
    assert word(table(), unknown) == ("too few", "1 of 2 searches can be judged")
    assert word(table(), table(), unknown) == ("holds in all", "conflict in 2 of 2 searches that can be judged, of 3")


def test_agreeing_searches_rarely_differ():
    rng = np.random.default_rng(5)
    words = []
    for _ in range(80):
        found = {}
        for i in range(4):
            cells = rng.normal(0, 0.005, 4)  # 00, 10, 01, 11 of one search, truth additive
            values = {"b_given_a": cells[3] - cells[1], "a_given_b": cells[3] - cells[2]}
            errors = {"b_given_a_se": 0.005 * 2**0.5, "a_given_b_se": 0.005 * 2**0.5, "interaction_se": 0.01}
            found[f"s{i}"] = table(
                "unresolved", interaction=cells[3] - cells[1] - cells[2] + cells[0], **values, **errors
            )
        words.append(across(found).iloc[0].word)
    assert words.count("differs") <= stats.binom.isf(0.001, 80, 0.05)


def test_pairs_of_one_search_only_are_left_out():
    both = pd.concat([table(), table(a="p", b="r")])
    assert list(across({"one": both, "two": table()}).b) == ["q"]
    assert list(by_search({"one": both, "two": table()}).search) == ["one", "two"]
    gone = table("not applicable")
    assert across({"one": table(), "two": gone}).empty
    assert across({}).empty and list(across({}).columns[:3]) == ["a", "b", "n_searches"]


def test_numbers_of_the_row():
    row = across({"one": table(harm=-0.03), "two": table(harm=-0.02)}).iloc[0]
    assert row.b_given_a == pytest.approx(-0.025) and row.interaction == pytest.approx(-0.05)
    assert (row.n_searches, row.searches, row.verdicts) == (2, "one, two", "conflict 2")
    assert row.b_given_a_low < -0.025 < row.b_given_a_high
    assert other_searches.words(across({"one": table(), "two": table()}))[0].startswith(
        "p × q: holds in all (conflict in 2 of 2 searches); conflict 2; adding the second: −3.0 ("
    )


def test_one_search_is_nothing_to_compare(monkeypatch, capsys):
    for tables, said in (({}, "no search"), ({"one": table()}, "one search")):
        monkeypatch.setattr(other_searches, "from_store", lambda uri, tables=tables: (tables, {}))
        assert other_searches.main(["--tracking-uri", "sqlite:////data/x.db"]) == 0
        assert capsys.readouterr().out == f"nothing to compare: sqlite:////data/x.db has {said} with a conflict table\n"


def test_a_store_that_is_not_there(tmp_path, capsys):
    assert other_searches.main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db"]) == 2
    assert "error: " in capsys.readouterr().err
