"""Verdicts on pairs of tricks: hand-worked numbers, independent libraries, planted truths, refusals."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis import cells
from analysis.conflicts import (
    at_looks,
    benjamini_hochberg,
    block_correlation,
    effects,
    holm,
    pairwise,
    tables,
    wilson_interval,
)

METRIC = "final/accuracy"
COLUMNS = [
    *["a", "b", "primary", "n_seeds", "n_first_stages", "mean_00", "mean_10", "mean_01", "mean_11", "diverged_11"],
    *[f"{name}{end}" for name in ("alone_a", "alone_b") for end in ("", "_low", "_high")],
    *[f"{name}{end}" for name in ("interaction", "b_given_a", "a_given_b") for end in ("", "_low", "_high")],
    *["p_value", "adjusted_p", "verdict", "action", "sign_flip", "more_seeds", "reason"],
]


def rows(cells, first_stage=None, **extra):
    """Trials from {tricks: one value per seed}; every trial has its own first stage unless told."""
    return pd.DataFrame(
        [
            {
                "arm": "design",
                "seed": seed,
                "first_stage": first_stage(tricks, seed) if first_stage else f"{tricks}-{seed}",
                "tricks": tricks,
                METRIC: value,
                **extra,
            }
            for tricks, values in cells.items()
            for seed, value in enumerate(values)
        ]
    )


def planted(rng, alone, interaction=None, blocks=5, deviation=0.005, base=0.6):
    """Trials of the baseline, the singles and all pairs: additive but for the interactions, normal noise."""
    tricks = sorted(alone)
    cells = [(), *((trick,) for trick in tricks), *combinations(tricks, 2)]
    split = rng.normal(0, 0.02, blocks)
    return rows(
        {
            cell: base
            + sum(alone[trick] for trick in cell)
            + (interaction or {}).get(cell, 0.0)
            + split
            + rng.normal(0, deviation, blocks)
            for cell in cells
        }
    )


def calm(means):
    """Four cells over five blocks whose noise is orthogonal with equal spread, so that no cell is noisier."""
    helmert = np.array([[1, -1, 0, 0, 0], [1, 1, -2, 0, 0], [1, 1, 1, -3, 0], [1, 1, 1, 1, -4]], dtype=float)
    noise = 0.01 * helmert / np.linalg.norm(helmert, axis=1, keepdims=True)
    split = np.array([0.02, -0.01, 0.0, 0.03, -0.02])
    return {cell: mean + split + noise[i] for i, (cell, mean) in enumerate(means.items())}


def only(table):
    assert len(table) == 1
    return table.iloc[0]


# --------------------------------------------------------------------------------------------------- hand-worked


def test_columns_of_the_issue_come_first():
    assert list(pairwise(rows(calm({(): 0.6, ("a",): 0.6, ("b",): 0.6, ("a", "b"): 0.6}))).columns[:32]) == COLUMNS


def test_contrasts_by_hand():
    row = only(
        pairwise(
            rows(
                {(): [0.5, 0.6], ("p",): [0.6, 0.72], ("o",): [0.55, 0.63], ("o", "p"): [0.5, 0.66]},
                first_stage=lambda tricks, seed: str(seed),
            )
        )
    )
    assert (row.a, row.b, row.n_seeds, row.n_first_stages, row.diverged_11) == ("o", "p", 2, 2, 0)
    means = {"mean_00": 0.55, "mean_10": 0.59, "mean_01": 0.66, "mean_11": 0.58}
    contrasts = {
        "alone_a": 0.59 - 0.55, "alone_b": 0.66 - 0.55, "interaction": 0.58 - 0.59 - 0.66 + 0.55,
        "b_given_a": 0.58 - 0.59, "a_given_b": 0.58 - 0.66,
    }  # fmt: skip
    for name, value in (means | contrasts).items():
        assert row[name] == pytest.approx(value, abs=1e-12), name


def test_even_noise_equals_least_squares_with_blocks():
    trials = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.61}))
    row = only(pairwise(trials))
    trials["a"] = [float("a" in tricks) for tricks in trials.tricks]
    trials["b"] = [float("b" in tricks) for tricks in trials.tricks]
    fit = ols("y ~ a * b + C(seed)", trials.assign(y=trials[METRIC])).fit()
    assert fit.df_resid == 12
    for name, contrast in {
        "alone_a": "a",
        "alone_b": "b",
        "interaction": "a:b",
        "b_given_a": "b + a:b",
        "a_given_b": "a + a:b",
    }.items():
        test = fit.t_test(f"{contrast} = 0")
        low, high = test.conf_int()[0]
        assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(
            [test.effect[0], low, high], abs=1e-9
        )
    overlap, *harms = (fit.t_test(f"{c} = 0").tvalue.item() for c in ("a:b", "b + a:b", "a + a:b"))
    assert row.verdict == "conflict"
    assert row.p_value == pytest.approx(max(stats.t.cdf(overlap, 12), 2 * stats.t.cdf(min(harms), 12)))


def test_two_cells_are_a_paired_t_test():
    without, having = [0.60, 0.63, 0.61, 0.58], [0.70, 0.74, 0.71, 0.69]
    row = only(effects(rows({(): without, ("a",): having})))
    low, high = stats.ttest_rel(having, without).confidence_interval()
    assert [row.effect, row.low, row.high] == pytest.approx([0.105, low, high])
    assert (row.trick, row.context, row.n_seeds, row.mean_without, row.mean_with) == (
        "a",
        "",
        4,
        pytest.approx(0.605),
        pytest.approx(0.71),
    )


def test_correlation_between_cells_of_a_block_by_hand():
    # variances of the cells: 0.0004 and 0.0004; differences 0.10 0.12 0.10 -> 0.000133, half of it 0.0000667
    cells = {(): [0.60, 0.62, 0.64], ("a",): [0.70, 0.74, 0.74]}
    row = only(block_correlation(rows(cells)))
    total = (np.var([0.60, 0.62, 0.64], ddof=1) + np.var([0.70, 0.74, 0.74], ddof=1)) / 2
    assert row.correlation == pytest.approx(1 - (0.0004 / 3) / 2 / total)
    assert row.deviation == pytest.approx(np.sqrt(0.0002 / 3))


def test_limits_of_the_correlation_are_those_of_shrout_and_fleiss():
    # Shrout & Fleiss 1979, table 2: six targets by four judges; ICC(3,1) = 0.71, from F = 11.03 on 5 and 15 df
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]) / 20
    cells = [(), ("a",), ("b",), ("a", "b")]
    row = only(block_correlation(rows({cell: ratings[:, j] for j, cell in enumerate(cells)})))
    long = pd.DataFrame([{"y": ratings[i, j], "block": i, "cell": j} for i in range(6) for j in range(4)])
    anova = anova_lm(ols("y ~ C(block) + C(cell)", long).fit())
    f = anova.loc["C(block)", "F"]
    assert f == pytest.approx(11.03, abs=0.01)
    low, high = (f / stats.f.ppf(tail, 5, 15) for tail in (0.975, 0.025))
    expected = [(f - 1) / (f + 3), (low - 1) / (low + 3), (high - 1) / (high + 3)]
    assert expected == pytest.approx([0.715, 0.34, 0.95], abs=0.01)
    assert [row.correlation, row.correlation_low, row.correlation_high] == pytest.approx(expected, abs=1e-6)
    pair = only(pairwise(rows({cell: ratings[:, j] for j, cell in enumerate(cells)})))
    assert [pair.correlation, pair.correlation_low, pair.correlation_high] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_adjustments_equal_statsmodels(size):
    p = np.random.default_rng(size).uniform(size=size) ** 2
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


@pytest.mark.parametrize(("count", "total"), [(0, 5), (5, 5), (2, 7)])
def test_wilson_equals_statsmodels(count, total):
    assert wilson_interval(count, total) == pytest.approx(proportion_confint(count, total, method="wilson"))


def test_families_are_adjusted_claim_by_claim():
    rng = np.random.default_rng(3)
    trials = planted(rng, dict.fromkeys("abcd", -0.004), deviation=0.01)
    primary = [("b", "a"), "c×d", ("a", "d")]
    table = pairwise(trials, primary=primary)
    assert list(table.primary) == [True, False, True, False, False, True]
    assert set(table.verdict) <= {"compatible", "unresolved"}  # so that p_value is the conflict's everywhere
    for group, method in ((table[table.primary], "holm"), (table[~table.primary], "fdr_bh")):
        assert group.adjusted_p.to_numpy() == pytest.approx(multipletests(group.p_value, method=method)[1])


# ------------------------------------------------------------------------------------------------------- verdicts


def test_every_verdict_where_it_was_planted():
    alone = {"a": 0.05, "b": 0.05, "c": 0.04, "d": 0.0, "e": -0.05, "f": 0.04}
    interaction = {("a", "b"): -0.15, ("a", "c"): -0.04, ("c", "f"): 0.02, ("a", "d"): 0.0}
    table = pairwise(planted(np.random.default_rng(2), alone, interaction, deviation=0.003), margin=0.02)
    got = {(row.a, row.b): row for row in table.itertuples()}
    expected = {
        ("a", "b"): ("conflict", "avoid together"),
        ("a", "c"): ("redundant", "one is enough"),
        ("a", "d"): ("compatible", "free"),
        ("a", "e"): ("harmful", "avoid the one that harms: e"),
        ("c", "f"): ("synergy", "use together"),
    }
    assert {pair: (got[pair].verdict, got[pair].action) for pair in expected} == expected
    assert all(got[pair].more_seeds == 0 for pair in expected)
    assert got["a", "b"].reason.startswith(
        "adding b to a costs 10.0 points (9.6 to 10.4), and they overlap: interaction"
    )
    assert got["a", "c"].reason.startswith("their gains overlap: interaction -")
    assert got["a", "d"].reason.startswith("neither harms the other by 2.0 points or more")


def test_noise_leaves_it_unresolved_and_says_how_many_seeds_more():
    table = pairwise(planted(np.random.default_rng(1), dict.fromkeys("abc", 0.0), deviation=0.02), margin=0.02)
    table = table[table.verdict == "unresolved"]
    assert len(table) and set(table.action) == {"unknown"}
    for row in table.itertuples():
        assert row.excluded_harm > 0.02 and 1 <= row.more_seeds <= 100
        some = (
            "even 100 further seeds would hardly" if row.more_seeds == 100 else f"about {row.more_seeds} further seed"
        )
        assert some in row.reason
    assert table.more_seeds.min() < 100


def test_further_seeds_by_hand():
    # Even noise: σ² = 0.01² / 4 per cell, harms -0.006 and -0.006, no interaction shown, margin 0.004: only "harmful"
    # can come. σ of a difference: √2 · 0.005; n blocks of 12 · (n - 1) / 4 degrees of freedom.
    row = only(pairwise(rows(calm({(): 0.6, ("a",): 0.594, ("b",): 0.594, ("a", "b"): 0.588})), margin=0.004))
    assert row.verdict == "unresolved"

    def settled(n):
        df = 3 * (n - 1)
        return 0.006 / (0.005 * np.sqrt(2 / n)) >= stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)

    assert row.more_seeds == next(n for n in range(6, 100) if settled(n)) - 5


def test_sign_flip_needs_help_alone_and_harm_together():
    flips = only(pairwise(rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.65}))))
    harms = only(pairwise(rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.50, ("a", "b"): 0.55}))))
    assert flips.sign_flip and flips.verdict == "conflict"
    assert not harms.sign_flip and harms.verdict == "conflict"


def test_compatible_at_margin_zero_needs_gains_shown_both_ways():
    gain = calm({(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.80})
    idle = calm({(): 0.60, ("a",): 0.60, ("b",): 0.60, ("a", "b"): 0.60})
    assert only(pairwise(rows(gain), margin=0)).verdict == "compatible"
    assert only(pairwise(rows(idle), margin=0)).verdict == "unresolved"


def test_identical_cells_are_no_evidence():
    split = np.array([0.01, -0.02, 0.0, 0.03])
    idle = {(): 0.6 + split, ("a",): 0.6 + split, ("b",): 0.64 + split, ("a", "b"): 0.64 + split - 1e-5}
    row = only(pairwise(rows(idle)))
    assert row.verdict == "compatible"
    assert row.interaction_low < -5e-4 and row.interaction_high > 5e-4
    assert row.p_value > 0.3


def test_gains_that_shrink_near_the_ceiling():
    # 0.70 and twice 0.85: additive accuracy would be 1.00, additive log-odds 0.93. At 0.86 both fall short; at 0.94
    # only accuracy does, and together they are above either alone.
    short = only(pairwise(rows(calm({(): 0.70, ("a",): 0.85, ("b",): 0.85, ("a", "b"): 0.851}))))
    above = only(pairwise(rows(calm({(): 0.70, ("a",): 0.85, ("b",): 0.85, ("a", "b"): 0.94}))))
    assert (short.verdict, above.verdict) == ("redundant", "compatible")
    assert short.interaction_log_odds_high < 0 and above.interaction_high < 0 < above.interaction_log_odds
    log_odds = {cell: np.log(np.array(y) / (1 - np.array(y))).mean() for cell, y in calm(
        {(): 0.70, ("a",): 0.85, ("b",): 0.85, ("a", "b"): 0.94}).items()}  # fmt: skip
    by_hand = log_odds["a", "b"] - log_odds["a",] - log_odds["b",] + log_odds[()]
    assert above.interaction_log_odds == pytest.approx(by_hand)


# ------------------------------------------------------------------------------------------- blocks, cells, contexts


def test_adaptive_rows_are_ignored():
    design = planted(np.random.default_rng(5), {"a": 0.03, "b": 0.02})
    lucky = design[design.tricks.map(len) == 1].assign(arm="adaptive", seed=77, outcome="stopped", **{METRIC: 7.0})
    both = pd.concat([design, lucky], ignore_index=True)
    pd.testing.assert_frame_equal(pairwise(design), pairwise(both))
    pd.testing.assert_frame_equal(effects(design), effects(both))


def test_survivors_of_an_additive_world_make_no_conflicts():
    rng = np.random.default_rng(8)
    design = planted(rng, {"a": -0.02, "b": -0.02, "c": 0.01}, deviation=0.01)
    runs = [
        {"arm": "adaptive", "seed": 1000 + i, "first_stage": str(i), "tricks": tricks, METRIC: value}
        for i in range(300)
        for tricks in [tuple(trick for trick in "abc" if rng.random() < 0.5)]
        for value in [0.6 - 0.02 * len({"a", "b"} & set(tricks)) + rng.normal(0, 0.01)]
        if value > 0.59 or not tricks
    ]
    assert "conflict" not in set(pairwise(pd.concat([design, pd.DataFrame(runs)])).verdict)


def test_order_of_rows_and_labels_changes_nothing_and_input_stays():
    trials = planted(np.random.default_rng(2), {"a": 0.03, "b": 0.02, "c": -0.01})
    shuffled = trials.sample(frac=1, random_state=1)
    shuffled["tricks"] = [tuple(reversed(tricks)) for tricks in shuffled.tricks]
    before = shuffled.copy(deep=True)
    pd.testing.assert_frame_equal(pairwise(trials), pairwise(shuffled))
    pd.testing.assert_frame_equal(shuffled, before)


def test_replicates_of_a_cell_and_seed_are_averaged():
    cells = calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.645})
    twice = pd.concat([rows({cell: np.array(y) + shift for cell, y in cells.items()}) for shift in (-0.01, 0.01)])
    pd.testing.assert_frame_equal(pairwise(rows(cells))[COLUMNS[:25]], pairwise(twice)[COLUMNS[:25]])


def with_indicators(trials):
    columns = {label: [float(label in cell) for cell in trials.tricks] for label in set().union(*trials.tricks)}
    return trials.assign(y=trials[METRIC], **columns)


def test_extra_blocks_of_singles_sharpen_the_pair_as_least_squares_does():
    rng = np.random.default_rng(6)
    split = rng.normal(0, 0.03, 9)
    means = {(): 0.60, ("a",): 0.64, ("b",): 0.63, ("c",): 0.62, ("a", "b"): 0.61, ("a", "c"): 0.66, ("b", "c"): 0.65}
    cells = {cell: mean + split + rng.normal(0, 0.01, 9) for cell, mean in means.items()}
    trials = rows({cell: y if len(cell) < 2 else y[:4] for cell, y in cells.items()})
    row = pairwise(trials).iloc[0]
    fit = ols("y ~ a * b + a:c + b:c + c + C(seed)", with_indicators(trials)).fit()
    for name, contrast in {
        "alone_a": "a",
        "interaction": "a:b",
        "b_given_a": "b + a:b",
        "a_given_b": "a + a:b",
    }.items():
        assert row[name] == pytest.approx(fit.t_test(f"{contrast} = 0").effect[0], abs=1e-9), name
    assert (row.n_seeds, row.n_seeds_alone) == (4, 9)
    assert row.mean_11 - row.mean_10 == pytest.approx(row.b_given_a)
    assert set(effects(trials).n_seeds) == {9}


def test_unequal_blocks_have_the_errors_of_least_squares():
    rng = np.random.default_rng(0)
    cells = {cell: 0.6 + rng.normal(0, 0.01, 400) for cell in [(), ("a",), ("b",), ("a", "b")]}
    trials = rows({cell: y if len(cell) < 2 else y[:100] for cell, y in cells.items()})
    row = only(pairwise(trials))
    fit = ols("y ~ a * b + C(seed)", with_indicators(trials)).fit()
    for name, contrast in {"interaction": "a:b", "b_given_a": "b + a:b", "alone_a": "a"}.items():
        assert row[f"{name}_se"] == pytest.approx(fit.t_test(f"{contrast} = 0").sd[0, 0], rel=0.04), name


def test_diverged_trials_are_counted_not_averaged():
    trials = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.645}))
    lost = (trials.tricks == ("a", "b")) & (trials.seed < 2)
    trials["outcome"] = np.where(lost, "diverged", "finished")
    trials.loc[lost, METRIC] = np.nan
    row = only(pairwise(trials))
    low, high = proportion_confint(2, 5, method="wilson")
    assert (row.diverged_11, row.trials_11, row.n_seeds) == (2, 5, 3)
    assert [row.diverged_11_rate, row.diverged_11_rate_low, row.diverged_11_rate_high] == pytest.approx(
        [0.4, low, high]
    )
    assert "together they diverged in 2 of 5 trials (12% to 77%)" in row.reason
    assert "the diverged trials of 2 seeds left out" in row.reason
    trials.loc[trials.tricks == ("a", "b"), "outcome"] = "diverged"
    gone = only(pairwise(trials))
    assert (gone.verdict, gone.diverged_11) == ("unresolved", 5)
    assert gone.reason.startswith("all cells finished in 0 of 5 seeds; at least 2 are needed; together they diverged")
    assert np.isnan(gone.interaction) and gone.more_seeds is pd.NA


@pytest.mark.parametrize(("together", "finished"), [(0.67, "compatible"), (0.71, "synergy")])
def test_what_diverges_together_is_not_free(together, finished):
    trials = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): together})).assign(outcome="finished")
    assert only(pairwise(trials, margin=0.05)).verdict == finished
    lost = (trials.tricks == ("a", "b")) & (trials.seed < 2)
    trials.loc[lost, "outcome"] = "diverged"
    row = only(pairwise(trials, margin=0.05, level=0.9))
    assert (row.verdict, row.action, row.more_seeds) == ("unresolved", "unknown", 100)
    assert row.reason.startswith(f"{finished} in the trials that finished (harms above ")
    low, high = proportion_confint(2, 5, alpha=0.1, method="wilson")
    assert f"together they diverged in 2 of 5 trials ({low:.0%} to {high:.0%})" in row.reason
    # a harm of those that finished is a harm
    harm = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.5})).assign(outcome="finished")
    harm.loc[lost, "outcome"] = "diverged"
    assert only(pairwise(harm, margin=0.05)).verdict == "conflict"


def test_the_caveat_of_a_lone_pair_is_one_of_borrowed_variances():
    few = {cell: y[:3] for cell, y in calm({(): 0.60, ("a",): 0.70, ("b",): 0.60, ("a", "b"): 0.50}).items()}
    assert "four cells and three blocks hardly tell" in only(pairwise(rows(few))).reason
    twice = {cell: np.repeat(y, 2) for cell, y in few.items()}  # three units of two blocks each
    joined = only(pairwise(rows(twice, first_stage=lambda tricks, seed: f"{'a' in tricks}{seed // 2}")))
    assert joined.n_first_stages == 3 and "hardly tell" not in joined.reason


def test_pair_without_its_cells_is_not_applicable():
    table = pairwise(rows({(): [0.6, 0.61], ("a",): [0.6, 0.62], ("b",): [0.6, 0.61]}))
    row = only(table)
    assert (row.verdict, row.action, row.n_seeds) == ("not applicable", "unknown", 0)
    assert row.reason == "the design has no trial with a and b together"
    assert row.more_seeds is pd.NA and np.isnan(row.p_value)


def test_a_failed_trial_is_missing_and_no_outcome():
    trials = planted(np.random.default_rng(3), dict.fromkeys("ab", 0.02), {("a", "b"): -0.06})
    trials = trials.assign(outcome="finished")
    lost = (trials.tricks == ("a",)) & (trials.seed == 1)
    failed = trials.assign(**{METRIC: trials[METRIC].mask(lost)})
    failed.loc[lost, "outcome"] = "failed"
    pd.testing.assert_frame_equal(pairwise(failed), pairwise(trials[~lost]))


def test_one_complete_block_is_unresolved():
    row = only(pairwise(rows({(): [0.6, 0.61], ("a",): [0.6, 0.62], ("b",): [0.6, 0.61], ("a", "b"): [0.6]})))
    assert row.verdict == "unresolved"
    assert row.reason == "all cells finished in 1 of 2 seeds; at least 2 are needed"
    # the second block is better by 0.04/3, as the three cells that it has show
    assert row.b_given_a == pytest.approx(-0.01 / 3) and np.isnan(row.b_given_a_low)


def test_nothing_to_pair_is_an_empty_table_with_all_columns():
    table = pairwise(rows({(): [0.6, 0.61], ("a",): [0.6, 0.62]}))
    assert table.empty and list(table.columns[:32]) == COLUMNS


def test_cells_are_compared_within_the_context_that_has_most_blocks():
    short = rows({(): [0.6, 0.61], ("a",): [0.6, 0.62], ("b",): [0.6, 0.61]}, context="")
    long = rows(calm({(): 0.70, ("a",): 0.74, ("b",): 0.73, ("a", "b"): 0.745}), context="classifier")
    apart = pairwise(pd.concat([short, long.assign(context="")[long.tricks == ("a", "b")]])).iloc[0]
    assert apart.context == "" and apart.n_seeds == 2
    row = only(pairwise(pd.concat([short, long])))
    assert (row.context, row.n_seeds) == ("classifier", 5)
    split = only(pairwise(pd.concat([short, long[long.tricks == ("a", "b")]])))
    assert split.verdict == "not applicable"
    assert split.reason == "the four cells never occur in one context with the same other tricks"
    assert list(effects(pd.concat([short, long])).context) == ["", "classifier"] * 2


# ---------------------------------------------------------------------------------------------------- first stages


def test_one_checkpoint_with_many_later_seeds_shows_nothing_about_its_own_trick():
    cells = calm({(): 0.60, ("a",): 0.70, ("b",): 0.60, ("a", "b"): 0.50})
    row = only(pairwise(rows(cells, first_stage=lambda tricks, seed: f"{'a' in tricks}")))
    assert (row.verdict, row.n_first_stages, row.n_seeds) == ("unresolved", 1, 5)
    assert row.reason.startswith("a trick of the first stage was measured on 1 independent first stage per level")
    assert np.isnan(row.interaction_low)


def test_later_tricks_may_share_checkpoints_within_a_block():
    cells = calm({(): 0.60, ("a",): 0.70, ("b",): 0.60, ("a", "b"): 0.50})
    shared = only(pairwise(rows(cells, first_stage=lambda tricks, seed: str(seed))))
    assert (shared.verdict, shared.n_first_stages) == ("conflict", 5)
    one = only(pairwise(rows(cells, first_stage=lambda tricks, seed: "the only one")))
    assert one.verdict == "conflict" and one.reason.endswith("measured on 1 first stage and true of no others")


def test_blocks_that_share_checkpoints_are_one_unit():
    rng = np.random.default_rng(0)
    false = naive = 0
    for _ in range(100):  # three checkpoints per level, four later seeds on each; the first-stage trick a does nothing
        start = {(a, s): rng.normal(0, 0.01) for a, s in product((False, True), range(3))}
        cells = {
            cell: [0.6 + start["a" in cell, seed // 4] + rng.normal(0, 0.003) for seed in range(12)]
            for cell in [(), ("a",), ("b",), ("a", "b")]
        }
        trials = rows(cells, first_stage=lambda tricks, seed: f"{'a' in tricks}{seed // 4}")
        row = only(pairwise(trials))
        false += not row.alone_a_low <= 0 <= row.alone_a_high
        row = only(pairwise(trials.assign(first_stage=[str(i) for i in range(len(trials))])))
        naive += not row.alone_a_low <= 0 <= row.alone_a_high
    assert false <= 13 < naive  # nominal 5 of 100; 14 in one of a thousand runs


def test_first_stage_noise_counts_only_between_first_stages():
    rng = np.random.default_rng(1)
    start = {(a, s): rng.normal(0, 0.03) for a, s in product((False, True), range(8))}
    cells = {
        cell: [0.6 + start["a" in cell, seed] + rng.normal(0, 0.004) for seed in range(8)]
        for cell in [(), ("a",), ("b",), ("a", "b"), ("c",), ("a", "c"), ("b", "c")]
    }
    row = pairwise(rows(cells, first_stage=lambda tricks, seed: f"{'a' in tricks}{seed}")).iloc[0]
    width = {name: row[f"{name}_high"] - row[f"{name}_low"] for name in ("b_given_a", "a_given_b", "interaction")}
    assert 4 * width["b_given_a"] < width["a_given_b"] > 3 * width["interaction"]


# ------------------------------------------------------------------------------------------------------ factorials


def factorial(rng, labels, keep=lambda cell: True):
    cells = [cell for n in range(len(labels) + 1) for cell in combinations(labels, n) if keep(cell)]
    truth = {cell: 0.6 + 0.01 * len(cell) - 0.06 * ({"a", "b"} <= set(cell)) for cell in cells}
    return rows({cell: mean + rng.normal(0, 0.004, 3) for cell, mean in truth.items()})


def test_factorial_averages_over_the_other_tricks():
    trials = factorial(np.random.default_rng(4), "abc")
    row = pairwise(trials).iloc[0]
    mean = {tricks: group[METRIC].mean() for tricks, group in trials.groupby("tricks")}
    with_c = mean["a", "b", "c"] - mean["a", "c"] - mean["b", "c"] + mean["c",]
    assert row.interaction == pytest.approx((mean["a", "b"] - mean["a",] - mean["b",] + mean[()] + with_c) / 2)
    assert row.verdict == "conflict"


def test_resolution_v_fraction_uses_balanced_cells():
    trials = factorial(np.random.default_rng(4), "abcde", keep=lambda cell: len(cell) % 2 == 0)
    assert trials.tricks.nunique() == 16
    table = pairwise(trials)
    fit_on = trials.assign(y=trials[METRIC], **{t: [2.0 * (t in cell) - 1 for cell in trials.tricks] for t in "abcde"})
    fit = ols("y ~ (a + b + c + d + e) ** 2 + C(seed)", fit_on).fit()
    for row in table.itertuples():
        assert row.interaction == pytest.approx(4 * fit.params[f"{row.a}:{row.b}"], abs=1e-9)
    assert [(row.a, row.b) for row in table.itertuples() if row.verdict == "conflict"] == [("a", "b")]
    assert len(effects(trials)) == 5
    # harms, effects alone and means are the fit's with all else off, errors those of the fit but for moderation
    off = dict.fromkeys("abcde", -1.0)
    for row in table.itertuples():
        four = [off, off | {row.a: 1.0}, off | {row.b: 1.0}, off | {row.a: 1.0, row.b: 1.0}]
        cells = [fit.predict(pd.DataFrame([cell | {"seed": seed} for seed in (0, 1, 2)])).mean() for cell in four]
        assert [row.mean_00, row.mean_10, row.mean_01, row.mean_11] == pytest.approx(cells, abs=1e-9)
        assert row.b_given_a == pytest.approx(cells[3] - cells[1], abs=1e-9)
        assert row.alone_a == pytest.approx(cells[1] - cells[0], abs=1e-9)
        assert row.b_given_a_se == pytest.approx((4 * 5 * fit.scale / 48) ** 0.5, rel=0.35)
    alone = effects(trials).set_index("trick")
    assert alone.loc["a", "effect"] == pytest.approx(table.iloc[0].alone_a, abs=1e-9)


def test_a_conflict_in_a_fraction_is_not_laid_at_other_pairs_door():
    # 10 points alone, −27 together: averaged over each other both lose 3.5 points beside every trick
    rng = np.random.default_rng(6)
    gains = {"a": 0.10, "b": 0.10, "c": 0.02, "d": 0.02, "e": 0.0}
    cells = [cell for n in (0, 2, 4) for cell in combinations("abcde", n)]
    truth = {cell: 0.6 + sum(gains[t] for t in cell) - 0.27 * ({"a", "b"} <= set(cell)) for cell in cells}
    table = pairwise(rows({cell: mean + rng.normal(0, 0.005, 5) for cell, mean in truth.items()}), margin=0.02)
    verdicts = table.set_index(["a", "b"]).verdict
    assert verdicts["a", "b"] == "conflict" and table.iloc[0].sign_flip
    assert set(verdicts.drop(index=("a", "b"))) == {"compatible"}
    assert "fitted to 16 runs of a fraction with the other tricks off" in table.iloc[0].reason
    assert table.iloc[0].b_given_a == pytest.approx(-0.17, abs=0.01)


def beside(rng, three_way=0.0, blocks=5, deviation=0.01):
    """16 runs of five tricks and the tricks alone; a pair, and where asked an interaction of three."""
    gains = dict(zip("abcde", (0.05, 0.04, 0.02, -0.01, 0.0), strict=True))
    cells = [cell for n in (0, 1, 2, 4) for cell in combinations("abcde", n)]
    truth = {
        cell: 0.6 + sum(gains[t] for t in cell) - 0.05 * ({"a", "b"} <= set(cell))
        - three_way * ({"a", "c", "d"} <= set(cell))
        for cell in cells
    }  # fmt: skip
    return rows({cell: mean + rng.normal(0, deviation, blocks) for cell, mean in truth.items()})


def test_a_fraction_whose_model_holds_is_believed():
    rng = np.random.default_rng(8)
    refused = [pairwise(beside(rng)).averaged_over.eq(1).all() for _ in range(150)]
    assert 1 <= sum(refused) <= 15  # 5 % of 150 is 7.5


def test_a_fraction_with_an_interaction_of_three_gives_way_to_the_pairs_own_cells():
    trials = beside(np.random.default_rng(9), three_way=0.12)
    table = pairwise(trials, margin=0.02)
    mean = {tricks: group[METRIC].mean() for tricks, group in trials.groupby("tricks")}
    for row in table.itertuples():
        four = [mean[()], mean[row.a,], mean[row.b,], mean[row.a, row.b]]
        assert row.interaction == pytest.approx(four[3] - four[1] - four[2] + four[0], abs=1e-9)
        assert "judged by its own four cells: interactions of three tricks are shown in the fraction (p" in row.reason
    alone = effects(trials).set_index("trick").effect
    assert alone["c"] == pytest.approx(mean["c",] - mean[()], abs=1e-9)
    # the interaction of a, c and d would have stood for that of b and e, with which it is aliased
    verdicts = table.set_index(["a", "b"]).verdict
    assert verdicts["a", "b"] == "conflict" and verdicts["b", "e"] != "conflict"


def test_the_lack_of_fit_is_that_of_least_squares_on_all_cells():
    """With equal noise, the statistic is the classical one: residual beyond the pairs' model over pure error."""
    trials = beside(np.random.default_rng(10), three_way=0.03)
    table = cells.tables(trials, METRIC)[0]
    crossed = np.array([i for i, cell in enumerate(table.cells) if len(cell) != 1])
    coded = {t: [2.0 * (t in cell) - 1 for cell in trials.tricks] for t in "abcde"}
    fit_on = trials.assign(y=trials[METRIC], cell=trials.tricks.map("".join), **coded)
    small = ols("y ~ (a + b + c + d + e) ** 2 + C(seed)", fit_on).fit()
    large = ols("y ~ C(cell) + C(seed)", fit_on).fit()
    f = (small.ssr - large.ssr) / 5 / (table.noise.leaf + table.noise.start)
    assert cells.lack_of_fit(table, crossed) == pytest.approx(stats.f.sf(f, 5, large.df_resid), rel=1e-6)


def test_the_lack_of_fit_knows_what_shared_first_stages_have_in_common():
    """Tricks c, d and e act later: their cells share first stages, whose noise cancels between them."""
    rng = np.random.default_rng(12)
    found = []
    for three_way in [0.0] * 120 + [0.04] * 10:
        started = {(early, seed): rng.normal(0, 0.02) for early in ("", "a", "b", "ab") for seed in range(3)}
        trials = beside(rng, blocks=3, deviation=0.005)
        early = ["".join(t for t in cell if t in "ab") for cell in trials.tricks]
        shared = [started[key] for key in zip(early, trials.seed, strict=True)]
        low = three_way * trials.tricks.map(lambda cell: {"c", "d", "e"} <= set(cell))
        trials = trials.assign(first_stage=[f"{e}-{s}" for e, s in zip(early, trials.seed, strict=True)])
        table = cells.tables(trials.assign(**{METRIC: trials[METRIC] + shared - low}), METRIC)[0]
        crossed = np.array([i for i, cell in enumerate(table.cells) if len(cell) != 1])
        found.append(cells.lack_of_fit(table, crossed))
    assert 1 <= sum(p < 0.05 for p in found[:120]) <= 14  # 5 % of 120 is 6
    assert sum(p < 0.05 for p in found[120:]) >= 8


def test_a_fraction_is_found_among_the_cells_of_other_pairs():
    rng = np.random.default_rng(4)
    fraction = factorial(rng, "abcde", keep=lambda cell: len(cell) % 2 == 1)  # holds every single, but not the baseline
    more = [(), ("x",), ("a", "x"), ("b", "x"), ("a", "b")]
    # what the fraction's own truth says of them, and nothing for x
    truth = {cell: 0.6 + 0.01 * len(set(cell) - {"x"}) - 0.06 * ({"a", "b"} <= set(cell)) for cell in more}
    others = rows({cell: mean + rng.normal(0, 0.004, 3) for cell, mean in truth.items()})
    both = pd.concat([fraction, others], ignore_index=True)
    alone, among = pairwise(fraction), pairwise(both)
    crossed = among[~among.b.eq("x")].reset_index(drop=True)
    names = ["interaction", "b_given_a", "a_given_b", "averaged_over"]
    pd.testing.assert_frame_equal(alone[names], crossed[names])
    assert set(alone.averaged_over) == {4}
    beside = among[among.b.eq("x")].set_index("a")
    assert beside.loc["a", "averaged_over"] == 1 and beside.loc["c", "verdict"] == "not applicable"


def test_two_fractions_beside_each_other_are_two():
    rng = np.random.default_rng(4)
    one, other = (factorial(rng, some, keep=lambda cell: len(cell) % 2 == 0) for some in ("abcde", "vwxyz"))
    both = pd.concat([one, other[other.tricks != ()]], ignore_index=True)
    table = pairwise(both).set_index(["a", "b"])
    assert set(table[table.verdict != "not applicable"].averaged_over) == {4}
    apart = pairwise(one).set_index(["a", "b"])
    assert table.loc[apart.index, "interaction"].to_numpy() == pytest.approx(apart.interaction.to_numpy())
    assert (table.verdict == "not applicable").sum() == 25  # of one with the other


def test_a_lost_trial_leaves_the_rest_of_a_fraction():
    trials = factorial(np.random.default_rng(4), "abcde", keep=lambda cell: len(cell) % 2 == 0).assign(
        outcome="finished"
    )
    lost = trials.index[(trials.tricks == ("a", "b")) & (trials.seed == 1)]
    trials.loc[lost, "outcome"] = "diverged"
    row = pairwise(trials).iloc[0]
    kept = trials.drop(lost).assign(y=lambda t: t[METRIC], cell=lambda t: t.tricks.map("".join))
    fit = ols("y ~ C(cell) + C(seed)", kept).fit()
    cells = sorted(set(kept.cell))
    mean = dict(zip(cells, fit.predict(pd.DataFrame({"cell": cells, "seed": 0})), strict=True))
    sign = {cell: (2 * ("a" in cell) - 1) * (2 * ("b" in cell) - 1) for cell in cells}
    assert row.interaction == pytest.approx(sum(sign[cell] * mean[cell] for cell in cells) / 4, abs=1e-9)
    assert (row.verdict, row.n_seeds) == ("conflict", 2)


def test_a_cell_that_never_finishes_does_not_cost_a_fraction_its_table():
    trials = beside(np.random.default_rng(8)).assign(outcome="finished")
    trials.loc[trials.tricks == ("b", "c", "d", "e"), "outcome"] = "diverged"
    table = pairwise(trials, margin=0.02)
    mean = {tricks: group[METRIC].mean() for tricks, group in trials.groupby("tricks")}
    for row in table.itertuples():
        assert row.b_given_a == pytest.approx(mean[row.a, row.b] - mean[row.a,], abs=1e-9)
        assert "judged by its own four cells: 1 cell of the fraction finished in fewer than 2 blocks" in row.reason
    assert table.iloc[0].verdict == "conflict"
    alone = effects(trials).set_index("trick").effect
    assert alone["c"] == pytest.approx(mean["c",] - mean[()], abs=1e-9)


def test_spread_over_the_other_tricks():
    rng = np.random.default_rng(1)
    labels = "abcdef"
    cells = [cell for n in range(7) for cell in combinations(labels, n) if len(cell) % 2 == 0]  # 2^(6-1), resolution VI
    # the interaction of a and b is -2 points without c and -6 points with it
    truth = {cell: 0.6 - 0.02 * ({"a", "b"} <= set(cell)) - 0.04 * ({"a", "b", "c"} <= set(cell)) for cell in cells}
    row = pairwise(rows({cell: mean + rng.normal(0, 1e-4, 4) for cell, mean in truth.items()})).iloc[0]
    assert row.interaction == pytest.approx(-0.04, abs=0.001)
    assert row.spread == pytest.approx(0.02, abs=0.001)
    assert (
        "the interaction an average over 8 settings of them, between which the interaction varies by 2.0 points"
        in row.reason
    )
    whole = {cell: 0.6 - 0.02 * ({"a", "b"} <= set(cell)) - 0.04 * ({"a", "b", "c"} <= set(cell))
             for n in range(4) for cell in combinations("abc", n)}  # fmt: skip
    row = pairwise(rows({cell: mean + rng.normal(0, 1e-4, 4) for cell, mean in whole.items()})).iloc[0]
    assert (row.averaged_over, row.spread) == (2, pytest.approx(0.02, abs=0.001))
    sixteen = factorial(rng, "abcde", keep=lambda cell: len(cell) % 2 == 0)
    assert pairwise(sixteen).spread.isna().all()  # abc falls together with de


# ------------------------------------------------------------------------------------------ images of a fixed val


def images_of(rng, blocks, n_images=300, own=0.5):
    """Correctness on the same images in every block: {cell: (blocks, images)}; difficulty partly of image and cell."""
    u = rng.normal(size=n_images)
    cells = {}
    for cell, mean in {(): 0.55, ("a",): 0.60, ("b",): 0.60, ("a", "b"): 0.65, ("c",): 0.55, ("a", "c"): 0.60,
                       ("b", "c"): 0.60}.items():  # fmt: skip
        e = np.sqrt(own) * rng.normal(size=n_images) + np.sqrt(1 - own) * rng.normal(size=(blocks, n_images))
        p = mean + rng.normal(0, 0.005, (blocks, 1))
        cells[cell] = np.sqrt(0.5) * u + np.sqrt(0.5) * e < stats.norm.ppf(p)
    return cells


def with_images(cells):
    trials = rows({cell: correct.mean(1) for cell, correct in cells.items()})
    return trials.assign(
        correct=[tuple(correct[s].astype(int)) for correct in cells.values() for s in range(len(correct))]
    )


def test_images_of_a_fixed_val_have_their_share():
    rng = np.random.default_rng(0)
    inside, bare = np.zeros(3), np.zeros(3)
    for _ in range(80):
        trials = with_images(images_of(rng, 4))
        for count, table in ((inside, pairwise(trials)), (bare, pairwise(trials.drop(columns="correct")))):
            row = table.iloc[0]
            truth = {"interaction": 0.0, "b_given_a": 0.05, "alone_a": 0.05}
            count += [row[f"{name}_low"] <= value <= row[f"{name}_high"] for name, value in truth.items()]
    low, high = stats.binom.ppf([0.001, 0.999], 80, 0.95)
    assert (inside >= low).all() and (inside <= high).all()
    assert (bare < 0.87 * 80).all()
    assert row.val_images == 0 and np.isnan(row.images_share)


def test_the_images_share_by_two_way_components():
    trials = with_images(images_of(np.random.default_rng(3), 6))
    row = pairwise(trials).iloc[0]
    cell = {tricks: np.array(group.correct.tolist(), dtype=float) for tricks, group in trials.groupby("tricks")}
    contrast = cell["a", "b"] - cell["a",]  # (blocks, images)
    long = pd.DataFrame({"y": contrast.ravel(), "block": np.repeat(range(6), 300), "image": np.tile(range(300), 6)})
    centred = contrast - contrast.mean(0) - contrast.mean(1, keepdims=True) + contrast.mean()
    between = 6 * contrast.mean(0).var(ddof=1)  # mean squares of images and of the rest
    rest = (centred**2).sum() / (5 * 299)
    assert len(long) == 1800
    share = (between - rest) / (6 * 300)
    bare = pairwise(trials.drop(columns="correct")).iloc[0]
    assert row.b_given_a_se**2 - bare.b_given_a_se**2 == pytest.approx(share)
    assert row.val_images == 300 and 0 < row.images_share < 1
    assert "val is the same in every block, the share of its 300 images is in the intervals" in row.reason


def test_further_seeds_do_not_make_images():
    trials = with_images(images_of(np.random.default_rng(3), 4))
    few = pairwise(trials.assign(context=""), margin=0.001).iloc[0]
    bare = pairwise(trials.drop(columns="correct"), margin=0.001).iloc[0]
    assert few.excluded_harm >= bare.excluded_harm and few.interaction_se > bare.interaction_se


def test_what_a_fixed_val_leaves_unsaid():
    trials = with_images(images_of(np.random.default_rng(3), 4))
    other = trials.assign(**{METRIC: trials[METRIC] * 0.9})
    assert "the metric is no mean over its images: true of these images only" in pairwise(other).iloc[0].reason
    one = trials.drop(columns="correct").assign(split_seed=0)
    assert "its images were not kept: true of these images only" in pairwise(one).iloc[0].reason
    cut = one.assign(split_seed=one.seed)
    assert "images" not in pairwise(cut).iloc[0].reason


def test_images_that_do_not_fit_are_refused():
    trials = with_images(images_of(np.random.default_rng(3), 3))
    shorter = trials.assign(correct=[trials.correct[0][:-1], *trials.correct[1:]])
    with pytest.raises(ValueError, match="must have one length in all finished trials, got 299, 300"):
        pairwise(shorter)
    with pytest.raises(ValueError, match="got none, 300"):
        pairwise(trials.assign(correct=[(), *trials.correct[1:]]))
    with pytest.raises(ValueError, match="row 0: correct must be a list of 0 and 1"):
        pairwise(trials.assign(correct=[(2,) * 300, *trials.correct[1:]]))


# ------------------------------------------------------------------------------------------------------- looks, metrics


def test_what_a_look_has_shown_stays_shown_and_the_next_has_its_share():
    start = planted(np.random.default_rng(2), {"a": 0.02, "b": 0.02, "c": 0.0}, {("a", "b"): -0.05}, blocks=3)
    later = planted(np.random.default_rng(9), {"a": 0.02, "b": 0.02, "c": 0.0}, {("a", "b"): 0.05}, blocks=4)
    later["seed"] += 10
    later["first_stage"] += "later"
    both = pd.concat([start, later], ignore_index=True)
    primary = [("a", "b"), ("a", "c")]
    first = at_looks(start, primary=primary)
    assert list(first.verdict[:1]) == ["conflict"] and set(first.look) == {1}
    second = at_looks(both, primary=primary, firsts=[10]).iloc[0]
    assert (second.verdict, second.look) == ("conflict", 2) and "shown at look 1" in second.reason
    assert pairwise(both, primary=primary, look=2).iloc[0].verdict != "conflict"
    assert pairwise(both, look=None).look.isna().all()
    with pytest.raises(ValueError, match="the table is of no look"):
        pairwise(both, primary=primary, look=2, earlier=pairwise(start, primary=primary))


def test_a_later_look_may_show_more_than_an_earlier_one():
    # at look 1 a harm alone is shown, at look 2 the interaction as well
    first = rows(calm({(): 0.600, ("a",): 0.604, ("b",): 0.604, ("a", "b"): 0.596}))
    earlier = pairwise(first, primary=["a×b"], look=1).assign(verdict="harmful")
    later = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.64, ("a", "b"): 0.58}))
    row = only(pairwise(later, primary=["a×b"], look=2, earlier=earlier))
    assert row.verdict == "conflict" and "shown at look" not in row.reason
    # what look 1 has shown names the trick that harms, also where look 2 shows no harm at its share
    kept = only(pairwise(rows(calm({(): 0.6, ("a",): 0.61, ("b",): 0.60, ("a", "b"): 0.606})), primary=["a×b"], look=2,
                         earlier=earlier))  # fmt: skip
    assert (kept.verdict, kept.action) == ("harmful", "avoid the one that harms: b")


def test_a_look_tests_primary_pairs_at_its_share():
    # a harm of 0.8 points at an error of 0.32 on 12 df: p = 0.013, by Holm over the two 0.027
    trials = rows(calm({(): 0.600, ("a",): 0.604, ("b",): 0.604, ("a", "b"): 0.596}))
    p = 2 * stats.t.cdf(-0.008 / (0.005 * np.sqrt(2 / 5)), 12)
    verdicts = []
    for look in (None, 1, 2):
        row = only(pairwise(trials, primary=["a×b"], look=look))
        assert row.adjusted_p == pytest.approx(p) or look == 2
        assert row.interaction_low == pytest.approx(-0.012 - stats.t.ppf(0.975, 12) * 0.005 * np.sqrt(4 / 5))
        verdicts.append(row.verdict)
    assert verdicts == ["conflict", "conflict", "redundant"]  # at 0.05, 0.03 and 0.01; the interaction's p is 0.00996


def test_looks_leave_the_matrix_alone():
    trials = planted(np.random.default_rng(3), dict.fromkeys("abcd", 0.01), {("c", "d"): -0.04}, deviation=0.01)
    once, third = (pairwise(trials, primary=["a×b"], look=look) for look in (None, 3))
    names = ["verdict", "adjusted_p", "excluded_harm", "more_seeds"]
    pd.testing.assert_frame_equal(once.loc[~once.primary, names], third.loc[~third.primary, names])
    assert third.excluded_harm[0] > once.excluded_harm[0]


def test_one_look_without_primary_pairs():
    trials = planted(np.random.default_rng(3), dict.fromkeys("ab", 0.0))
    pd.testing.assert_frame_equal(at_looks(trials), pairwise(trials))


def test_tables_of_other_metrics():
    trials = planted(np.random.default_rng(3), dict.fromkeys("abc", 0.01))
    trials["final/few"] = trials[METRIC] / 2
    counts = [10, 10]
    trials["recalls"] = [(round(10 * y) / 10, 0.0) for y in trials[METRIC]]
    trials["val_counts"] = [counts] * len(trials)
    found = tables(trials, 0.02, primary=["a×b"])
    assert list(found) == [METRIC, "final/few", "final/smoothed_harmonic_mean"] and found.primary == METRIC
    pd.testing.assert_frame_equal(found[METRIC], pairwise(trials, margin=0.02, primary=["a×b"]))
    assert found["final/few"].interaction.to_numpy() == pytest.approx(found[METRIC].interaction.to_numpy() / 2)
    # two classes of ten images, k and 0 right: 2 / (11 / (k + ½) + 11 / ½)
    first = trials.iloc[0]
    by_hand = 2 / (11 / (10 * first.recalls[0] + 0.5) + 22)
    means = found["final/smoothed_harmonic_mean"]
    assert means.mean_00.iloc[0] == pytest.approx(by_hand, rel=0.02)
    assert found.notes["final/smoothed_harmonic_mean"].startswith("a class has 10 val images only")
    less = tables(trials.drop(columns=["final/few", "recalls"]))
    assert list(less) == [METRIC]
    assert less.skipped["final/few"] == "no trial has final/few (no class has fewer than 20 training images)"
    assert less.skipped["final/smoothed_harmonic_mean"] == "no trial has final/smoothed_harmonic_mean"


def test_another_arm_is_judged_where_it_is_asked_for():
    trials = rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.65})).assign(arm="nominated")
    assert only(pairwise(trials, arm="nominated")).verdict == "conflict"
    with pytest.raises(ValueError, match=r"no rows with arm 'design' \(arms found: \['nominated'\]\)"):
        pairwise(trials)


# --------------------------------------------------------------------------------------------- published and simulated

# Zhang et al. 2021 (Bag of Tricks), tables 5 to 10, error in % on CIFAR-10-LT (factors 100, 50) and CIFAR-100-LT (100,
# 50); single runs, the mixup rows trained twice as long. "plain",
# "input" and "manifold" are worked back from the interactions that reference/conflicts.md lists.
BAG = {
    "plain": (30.18, 24.78, 61.73, 57.90),
    "cs_ce": (25.31, 20.81, 58.92, 54.57),
    "cam": (24.63, 18.60, 58.27, 54.05),
    "cs_ce cam": (24.82, 18.96, 58.36, 54.09),
    "input": (26.99, 22.91, 59.66, 55.75),
    "input cam": (21.88, 17.94, 53.94, 50.04),
    "input finetune": (26.27, 20.32, 58.21, 53.97),
    "manifold": (26.61, 21.50, 60.14, 56.44),
    "manifold finetune": (28.88, 22.59, 61.16, 57.43),
}


def bag(cells):
    return only(pairwise(rows({cell: [1 - error / 100 for error in BAG[name]] for cell, name in cells.items()})))


def test_bag_of_tricks_reweighting_and_resampling_are_redundant():
    row = bag({(): "plain", ("cs_ce",): "cs_ce", ("cam",): "cam", ("cam", "cs_ce"): "cs_ce cam"})
    assert row.interaction == pytest.approx(-0.0392, abs=1e-4)
    assert row.verdict == "redundant" and row.b_given_a_low < 0 < row.b_given_a_high


def test_bag_of_tricks_finetuning_flips_with_the_kind_of_mixup():
    row = bag(
        {
            (): "input",
            ("finetune",): "input finetune",
            ("manifold",): "manifold",
            ("finetune", "manifold"): "manifold finetune",
        }
    )
    assert row.sign_flip and row.verdict == "conflict"
    assert row.alone_a_low > 0 > row.a_given_b_high


def test_bag_of_tricks_input_mixup_and_cam_are_compatible():
    trials = rows({cell: [1 - error / 100 for error in BAG[name]] for cell, name in {
        (): "plain", ("input",): "input", ("cam",): "cam", ("cam", "input"): "input cam"}.items()})  # fmt: skip
    row = only(pairwise(trials.assign(epochs=[200 * (1 + ("input" in cell)) for cell in trials.tricks])))
    assert row.verdict == "compatible" and row.excluded_harm == 0.0
    assert row.interaction_low < 0 < row.interaction_high  # above either alone, but not beyond what adds up
    assert row.reason.endswith("; trials with input were trained 2.0 times as long as those without")


@pytest.mark.parametrize("effect", [0.03, 0.0, -0.01, -0.06])
def test_additive_worlds_rarely_show_conflicts(effect):
    rng = np.random.default_rng(11)
    any_primary = any_matrix = covered = 0
    searches, primary = 40, [("a", "b"), ("a", "c"), ("a", "d")]
    for _ in range(searches):
        table = pairwise(planted(rng, dict.fromkeys("abcde", effect), blocks=4), primary=primary)
        conflict = table.verdict == "conflict"
        any_primary += conflict[table.primary].any()
        any_matrix += conflict[~table.primary].any()
        covered += (table.interaction_low.le(0) & table.interaction_high.ge(0)).mean()
    # limits: what 5 %, 10 % and 95 % exceed in fewer than one of a thousand runs
    assert any_primary <= stats.binom.isf(0.001, searches, 0.05)
    assert any_matrix <= stats.binom.isf(0.001, searches, 0.10)
    assert 0.91 < covered / searches < 0.985


def test_three_blocks_suffice_for_a_clear_conflict():
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(40):  # 2 points of harm at σ = 0.5: alone, three differences would show it in 7 % of cases
        table = pairwise(planted(rng, dict.fromkeys("abcdef", 0.02), {("a", "b"): -0.04}, blocks=3))
        found += table.verdict[0] == "conflict"
    assert found >= 36


# ---------------------------------------------------------------------------------------------------------- refusals


def small():
    return rows(calm({(): 0.60, ("cutout",): 0.64, ("mixup",): 0.63, ("cutout", "mixup"): 0.645}))


@pytest.mark.parametrize("column", ["arm", "seed", "first_stage", "tricks", METRIC])
def test_missing_columns_are_named(column):
    with pytest.raises(ValueError, match=f"trials has no column '{column}'"):
        pairwise(small().drop(columns=column))


def test_missing_metric_offers_the_nearest_column():
    with pytest.raises(ValueError, match="did you mean 'final/accuracy'"):
        pairwise(small(), metric="final/acuracy")


@pytest.mark.parametrize("metric", ["test/accuracy", "final/test/accuracy"])
def test_the_test_split_may_not_judge(metric):
    with pytest.raises(ValueError, match=r"is of the test split.*use a final/\* metric"):
        pairwise(small().rename(columns={METRIC: metric}), metric=metric)


def test_no_design_rows():
    with pytest.raises(ValueError, match=r"no rows with arm 'design' \(arms found: \['adaptive'\]\)"):
        pairwise(small().assign(arm="adaptive"))


def test_one_block():
    trials = small()
    with pytest.raises(ValueError, match=r"the design arm has 1 block \(seed 0\); differences need at least 2"):
        pairwise(trials[trials.seed == 0])


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        (
            METRIC,
            64.0,
            ValueError,
            r"row 3: final/accuracy must be a fraction in \[0, 1\], got 64; divide percent by 100",
        ),
        (METRIC, float("nan"), ValueError, r"row 3: final/accuracy is missing although the trial finished"),
        ("outcome", "stopped", ValueError, r"row 3: outcome 'stopped' in the design arm; allowed are 'finished'"),
        ("tricks", "cutout", TypeError, r"row 3: tricks must be a tuple of labels such as \('cutout',\), got 'cutout'"),
        (
            "first_stage",
            None,
            ValueError,
            r"row 3: seed and first_stage must be known, got seed=3, first_stage=(None|nan)",
        ),
    ],
)
def test_bad_cells_name_the_row(column, value, error, message):
    trials = small().assign(outcome="finished")
    values = list(trials[column])
    values[3] = value
    trials[column] = values
    with pytest.raises(error, match=message):
        pairwise(trials)


def test_contradictory_outcomes_of_one_cell_and_seed():
    trials = small()
    again = trials.iloc[[6]].assign(outcome="diverged")
    with pytest.raises(ValueError, match=r"tricks \('cutout',\) at seed 1 both finished and diverged"):
        pairwise(pd.concat([trials.assign(outcome="finished"), again]))


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ([("cutout", "mixip")], r"no trick 'mixip' in the design arm \(did you mean 'mixup'\?\)"),
        (["cutout"], "'cutout' is not a pair; write"),
        ([("mixup", "mixup")], "is not a pair; write"),
        ("cutout×mixup", r"primary is a list of pairs, got the text 'cutout×mixup'; write \['cutout×mixup'\]"),
    ],
)
def test_bad_primary_pairs(primary, message):
    with pytest.raises(ValueError, match=message):
        pairwise(small(), primary=primary)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"margin": -0.1}, r"margin is a fraction in \[0, 1\).*got -0.1"),
        ({"level": 95}, r"level is a fraction in \(0.5, 1\).*got 95"),
        ({"q": 0}, r"q, the false discovery rate, is a fraction in \(0, 1\).*got 0"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        pairwise(small(), **option)
