"""Verdicts on pairs of tricks: hand-worked numbers, independent libraries, planted truths, refusals."""

import re
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.conflicts import (
    at_looks,
    effects,
    other_metric_tables,
    pairwise,
)
from analysis.stats.intervals import wilson_interval
from analysis.stats.moderation import fit_prior
from analysis.stats.multiplicity import benjamini_hochberg, holm

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
        raw = group[["b_given_a_p", "a_given_b_p"]].to_numpy().ravel()
        adjusted = group[["b_given_a_adjusted_p", "a_given_b_adjusted_p"]].to_numpy().ravel()
        assert adjusted == pytest.approx(multipletests(raw, method=method)[1])


# ------------------------------------------------------------------------------------------------------- verdicts


def test_every_verdict_where_it_was_planted():
    alone = {"a": 0.05, "b": 0.05, "c": 0.04, "d": 0.0, "e": -0.05, "f": 0.04, "g": 0.03}
    interaction = {("a", "b"): -0.15, ("a", "c"): -0.043, ("c", "f"): 0.03, ("a", "d"): 0.0}
    table = pairwise(planted(np.random.default_rng(2), alone, interaction, deviation=0.003), margin=0.02)
    got = {(row.a, row.b): row for row in table.itertuples()}
    expected = {
        ("a", "b"): ("conflict", "avoid together", "hurts", "hurts"),
        ("a", "c"): ("redundant", "one is enough: a", "no loss", "helps"),
        ("a", "d"): ("compatible", "safe to combine", "no loss", "helps"),
        ("a", "e"): ("harmful", "do not add e to a", "hurts", "helps"),
        ("c", "f"): ("synergy", "use together", "helps", "helps"),
        ("a", "g"): ("better together", "use together", "helps", "helps"),
    }
    found = {
        pair: (got[pair].verdict, got[pair].action, got[pair].b_given_a_verdict, got[pair].a_given_b_verdict)
        for pair in expected
    }
    assert found == expected
    assert all(got[pair].more_seeds == 0 for pair in expected)
    assert re.match(
        r"adding b to a hurts: −9\.9 points \(−10\.\d to −9\.\d\); adding a to b hurts: −9\.9 points .*; "
        r"their gains overlap, in accuracy and in log-odds: interaction −14\.8 points \(−15\.\d to −14\.\d\)$",
        got["a", "b"].reason,
    )
    assert [got["a", "b"].b_given_a, got["a", "b"].interaction] == pytest.approx([-0.10, -0.15], abs=0.005)
    assert "adding c to a: no loss of 2.0 points or more" in got["a", "c"].reason
    assert got["a", "e"].alone_b == pytest.approx(-0.05, abs=0.002)
    blame = (
        "e alone: −4.9 points (−5.2 to −4.7), so it is not shown that the pair is to blame (interaction −0.1 points ("
    )
    assert blame in got["a", "e"].reason
    assert "they gain more than the sum of both" in got["c", "f"].reason


def test_one_that_is_enough_is_named_where_it_alone_gains():
    trials = planted(np.random.default_rng(2), {"a": 0.10, "b": 0.04, "c": 0.0}, {("a", "b"): -0.04}, deviation=0.003)
    row = pairwise(trials, margin=0.02).iloc[0]
    assert (row.verdict, row.action) == ("redundant", "one is enough: a")
    assert (row.b_given_a_verdict, row.a_given_b_verdict) == ("no loss", "helps")


def test_two_that_merely_harm_are_no_conflict_near_a_ceiling():
    # additive in log-odds: −2 each, from 97 %; accuracy alone would show an interaction
    odds = {(): 3.5, ("a",): 2.5, ("b",): 2.5, ("a", "b"): 1.5, ("c",): 3.5, ("a", "c"): 2.5, ("b", "c"): 2.5}
    cells = {cell: 1 / (1 + np.exp(-value)) for cell, value in odds.items()}
    rng = np.random.default_rng(4)
    row = pairwise(rows({cell: mean + rng.normal(0, 0.003, 5) for cell, mean in cells.items()})).iloc[0]
    assert row.interaction_high < 0 and row.interaction_log_odds_low < 0 < row.interaction_log_odds_high
    assert row.verdict == "harmful" and row.action == "do not add b to a and do not add a to b"


def test_both_must_beat_neither_to_be_better_together():
    # each makes good what the other costs, and no more
    trials = planted(np.random.default_rng(2), {"a": -0.10, "b": -0.10, "c": 0.0}, {("a", "b"): 0.13}, deviation=0.003)
    row = pairwise(trials, margin=0.02).iloc[0]
    assert (row.b_given_a_verdict, row.a_given_b_verdict) == ("helps", "helps")
    assert row.verdict == "compatible"


def test_noise_leaves_it_unresolved_and_says_how_many_seeds_more():
    table = pairwise(planted(np.random.default_rng(1), dict.fromkeys("abc", 0.0), deviation=0.02), margin=0.02)
    table = table[table.verdict == "unresolved"]
    assert len(table) and set(table.action) == {"not known yet"}
    for row in table.itertuples():
        assert row.excluded_harm > 0.02 and 1 <= row.more_seeds <= 100
        some = (
            "even 100 further seeds would hardly" if row.more_seeds == 100 else f"about {row.more_seeds} further seed"
        )
        assert some in row.reason
        assert "not known yet, anything from −" in row.reason
    assert table.more_seeds.min() < 100


def test_further_seeds_by_hand():
    # a lone pair: harms of -0.6 points, each with a variance of its own, and no interaction: a direction must settle it
    row = only(pairwise(rows(calm({(): 0.6, ("a",): 0.594, ("b",): 0.594, ("a", "b"): 0.588})), margin=0.004))
    assert row.verdict == "unresolved"
    # two directions by Holm and two sides: a quarter of 5 % where p-values are even
    factor = row.b_given_a_adjusted_p / row.b_given_a_p

    def settled(n):
        df = n - 1
        error = row.b_given_a_se * np.sqrt(5 / n)
        return 0.006 / error >= stats.t.ppf(1 - 0.025 / factor, df) + stats.t.ppf(0.8, df)

    assert row.more_seeds == next(n for n in range(6, 100) if settled(n)) - 5


def test_sign_flip_needs_help_alone_and_harm_together():
    flips = only(pairwise(rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.65}))))
    harms = only(pairwise(rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.50, ("a", "b"): 0.55}))))
    assert flips.sign_flip and flips.verdict == "conflict"
    assert not harms.sign_flip and harms.verdict == "conflict"


def test_compatible_at_margin_zero_needs_gains_shown_both_ways():
    gain = calm({(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.80})
    idle = calm({(): 0.60, ("a",): 0.60, ("b",): 0.60, ("a", "b"): 0.60})
    assert only(pairwise(rows(gain), margin=0)).verdict == "better together"
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
    assert (short.verdict, above.verdict) == ("redundant", "better together")
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


def test_every_contrast_uses_the_blocks_that_have_its_cells():
    rng = np.random.default_rng(6)
    split = rng.normal(0, 0.03, 9)
    means = {(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.61}
    cells = {cell: mean + split + rng.normal(0, 0.01, 9) for cell, mean in means.items()}
    trials = rows({cell: y if len(cell) < 2 else y[:4] for cell, y in cells.items()})
    row = only(pairwise(trials))
    assert row.n_seeds == 4
    for name, values in {
        "alone_a": cells["a",] - cells[()],
        "b_given_a": (cells["a", "b"] - cells["a",])[:4],
        "interaction": (cells["a", "b"] - cells["a",] - cells["b",] + cells[()])[:4],
    }.items():
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx([values.mean(), low, high]), name
    assert set(effects(trials).n_seeds) == {9}


def test_diverged_trials_are_counted_not_averaged():
    trials = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.645}))
    lost = (trials.tricks == ("a", "b")) & (trials.seed < 2)
    trials["outcome"] = np.where(lost, "diverged", "finished")
    trials.loc[lost, METRIC] = np.nan
    row = only(pairwise(trials))
    low, high = proportion_confint(2, 5, method="wilson")
    assert (row.diverged_11, row.trials_11, row.n_seeds, row.lost) == (2, 5, 3, 2)
    assert [row.diverged_11_rate, row.diverged_11_rate_low, row.diverged_11_rate_high] == pytest.approx(
        [0.4, low, high]
    )
    assert "together they diverged in 2 of 5 trials (12 % to 77 %)" in row.reason
    assert "2 trials of these cells diverged: claims also hold with them at the worst value of their cell" in row.reason
    trials.loc[trials.tricks == ("a", "b"), "outcome"] = "diverged"
    gone = only(pairwise(trials))
    assert (gone.verdict, gone.diverged_11) == ("unresolved", 5)
    assert gone.reason.startswith("all cells finished in 0 of 5 seeds; at least 2 are needed; together they diverged")
    assert np.isnan(gone.interaction) and gone.more_seeds is pd.NA


@pytest.mark.parametrize(
    ("interaction", "verdict", "cell"), [(0.0, "better together", ("a", "b")), (-0.06, "conflict", ("a",))]
)
def test_what_lost_runs_may_hide_is_not_claimed(interaction, verdict, cell):
    """A claim must hold with the runs that diverged at the worst value that their cell has reached."""
    trials = planted(
        np.random.default_rng(3), {"a": 0.02, "b": 0.02, "c": 0.0}, {("a", "b"): interaction}, 6, 0.002
    ).assign(outcome="finished")  # fmt: skip
    if verdict == "conflict":  # of one direction alone
        trials.loc[trials.tricks == ("b",), METRIC] -= 0.05
    assert pairwise(trials, margin=0.01).iloc[0].verdict == verdict
    at = trials.index[trials.tricks == cell]
    trials.loc[at[0], METRIC] -= 0.10
    trials.loc[at[1:3], "outcome"] = "diverged"
    row = pairwise(trials, margin=0.01).iloc[0]
    assert row.lost == 2 and row.verdict in ("unresolved", "redundant")
    # without them the run that was worst is one among four
    trials.loc[at[1:3], "outcome"] = "failed"
    assert pairwise(trials, margin=0.01).iloc[0].lost == 0


def test_a_harm_of_the_runs_that_finished_stands_where_the_lost_ones_would_be_worse():
    harm = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.63, ("a", "b"): 0.5})).assign(outcome="finished")
    lost = (harm.tricks == ("a", "b")) & (harm.seed < 2)
    harm.loc[lost, "outcome"] = "diverged"
    assert only(pairwise(harm, margin=0.05)).verdict == "conflict"


def test_a_lone_pair_borrows_nothing():
    row = only(pairwise(rows(calm({(): 0.60, ("a",): 0.70, ("b",): 0.60, ("a", "b"): 0.50}))))
    assert [row[f"{name}_df"] for name in ("interaction", "b_given_a", "alone_a")] == [4, 4, 4]


def test_variances_are_lent_within_a_kind_and_towards_their_mean():
    trials = planted(np.random.default_rng(5), dict.fromkeys("abcd", 0.01), deviation=0.01)
    table = pairwise(trials)
    y = {tricks: group[METRIC].to_numpy() for tricks, group in trials.groupby("tricks")}
    s2 = np.array([(y[a, b] - y[a,] - y[b,] + y[()]).var(ddof=1) for a, b in combinations("abcd", 2)])
    prior = min(fit_prior(s2, np.full(6, 4.0)).df, 8)
    lent = (prior * s2.mean() + 4 * s2) / (prior + 4)
    assert table.interaction_se.to_numpy() == pytest.approx(np.sqrt(lent / 5))
    assert table.interaction_df.to_numpy() == pytest.approx(np.full(6, min(prior + 4, 24)))
    directions = np.array([(y[a, b] - y[one,]).var(ddof=1) for a, b in combinations("abcd", 2) for one in (a, b)])
    prior = min(fit_prior(directions, np.full(12, 4.0)).df, 8)
    lent = (prior * directions.mean() + 4 * directions) / (prior + 4)
    got = table[["b_given_a_se", "a_given_b_se"]].to_numpy().ravel()
    assert got == pytest.approx(np.sqrt(lent / 5))


def test_contrasts_within_a_first_stage_are_moderated_apart():
    """Tricks c and d act later: their contrast within one checkpoint has none of the first stages' scatter."""
    rng = np.random.default_rng(1)
    cells = [(), *((t,) for t in "abcd"), *combinations("abcd", 2)]
    start = {first: rng.normal(0, 0.05, 5) for first in {tuple(t for t in cell if t in "ab") for cell in cells}}
    stage = lambda tricks, seed: f"{tuple(t for t in tricks if t in 'ab')}{seed}"  # noqa: E731
    table = pairwise(
        rows({c: 0.6 + start[tuple(t for t in c if t in "ab")] + rng.normal(0, 0.002, 5) for c in cells}, stage)
    ).set_index(["a", "b"])
    assert table.loc[("c", "d"), "b_given_a_se"] < 0.005 < table.loc[("a", "b"), "b_given_a_se"]
    # of a first-stage and a later trick, adding the later one stays within a checkpoint
    assert table.loc[("a", "c"), "b_given_a_se"] < 0.005 < table.loc[("a", "c"), "a_given_b_se"]


def test_design_rows_beside_lend_their_variances_and_nothing_else():
    design = planted(np.random.default_rng(5), dict.fromkeys("abcd", 0.01), deviation=0.01)
    few = rows({cell: y[:3] for cell, y in calm({(): 0.6, ("a",): 0.7, ("b",): 0.7, ("a", "b"): 0.62}).items()})
    alone = only(pairwise(few.assign(arm="check"), arm="check"))
    beside = only(pairwise(few.assign(arm="check"), arm="check", beside=design))
    assert (alone.interaction, alone.interaction_df) == (pytest.approx(beside.interaction), 2)
    assert beside.interaction_df > 2 and beside.interaction_se != alone.interaction_se


def test_pair_without_its_cells_is_not_applicable():
    table = pairwise(rows({(): [0.6, 0.61], ("a",): [0.6, 0.62], ("b",): [0.6, 0.61]}))
    row = only(table)
    assert (row.verdict, row.action, row.n_seeds) == ("not applicable", "cannot be combined", 0)
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
    assert row.b_given_a == pytest.approx(0.0) and np.isnan(row.b_given_a_low)


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


def test_four_plain_cells_are_preferred_to_assumptions():
    trials = factorial(np.random.default_rng(4), "abc")
    row = pairwise(trials).iloc[0]
    mean = {tricks: group[METRIC].mean() for tricks, group in trials.groupby("tricks")}
    assert row.interaction == pytest.approx(mean["a", "b"] - mean["a",] - mean["b",] + mean[()])
    assert not row.exploratory


def test_a_factorials_context_is_fitted_and_said_to_be_exploratory():
    trials = factorial(np.random.default_rng(4), "abc").assign(context="factorial")
    row = pairwise(trials).iloc[0]
    # with all eight cells the fit without an interaction of three averages the interaction over c
    mean = {tricks: group[METRIC].mean() for tricks, group in trials.groupby("tricks")}
    with_c = mean["a", "b", "c"] - mean["a", "c"] - mean["b", "c"] + mean["c",]
    assert row.interaction == pytest.approx((mean["a", "b"] - mean["a",] - mean["b",] + mean[()] + with_c) / 2)
    assert row.exploratory and "exploratory: fitted to a factorial with the other tricks off" in row.reason


def test_resolution_v_fraction_is_fitted_block_by_block():
    trials = factorial(np.random.default_rng(4), "abcde", keep=lambda cell: len(cell) % 2 == 0)
    assert trials.tricks.nunique() == 16
    table = pairwise(trials)
    fit_on = trials.assign(y=trials[METRIC], **{t: [float(t in cell) for cell in trials.tricks] for t in "abcde"})
    fit = ols("y ~ (a + b + c + d + e) ** 2 + C(seed)", fit_on).fit()
    for row in table.itertuples():
        assert row.interaction == pytest.approx(fit.params[f"{row.a}:{row.b}"], abs=1e-9)
        assert row.alone_a == pytest.approx(fit.params[row.a], abs=1e-9)
        assert row.b_given_a == pytest.approx(fit.params[row.b] + fit.params[f"{row.a}:{row.b}"], abs=1e-9)
    assert table.exploratory.all()
    assert [(row.a, row.b) for row in table.itertuples() if row.verdict == "conflict"] == [("a", "b")]
    alone = effects(trials).set_index("trick")
    assert alone.loc["a", "effect"] == pytest.approx(table.iloc[0].alone_a, abs=1e-9)


def test_a_block_that_lost_a_run_is_left_out_of_a_saturated_fraction():
    trials = factorial(np.random.default_rng(4), "abcde", keep=lambda cell: len(cell) % 2 == 0)
    lost = (trials.tricks == ("a", "b")) & (trials.seed == 1)
    pd.testing.assert_series_equal(
        pairwise(trials[~lost]).interaction, pairwise(trials[trials.seed != 1]).interaction, check_exact=False
    )


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
    earlier = pairwise(first, primary=["a×b"], look=1).assign(verdict="harmful", b_given_a_verdict="hurts")
    later = rows(calm({(): 0.60, ("a",): 0.64, ("b",): 0.64, ("a", "b"): 0.58}))
    row = only(pairwise(later, primary=["a×b"], look=2, earlier=earlier))
    assert row.verdict == "conflict" and "shown at look" not in row.reason
    # what look 1 has shown stays, also where look 2 shows no harm at its share
    kept = only(pairwise(rows(calm({(): 0.6, ("a",): 0.61, ("b",): 0.60, ("a", "b"): 0.606})), primary=["a×b"], look=2,
                         earlier=earlier))  # fmt: skip
    assert (kept.verdict, kept.action) == ("harmful", "do not add b to a")


@pytest.mark.parametrize("primary", [True, False])
def test_a_look_tests_at_its_share(primary):
    trials = rows(calm({(): 0.600, ("a",): 0.606, ("b",): 0.606, ("a", "b"): 0.594}))
    declared = ["a×b"] if primary else []
    rates = {None: 1.0, 1: 0.6 if primary else 1.0, 2: 0.2, 3: 0.2, 4: 0.0}
    harm = only(pairwise(trials, primary=declared)).b_given_a_adjusted_p
    assert 0 < harm < 0.05
    for look, share in rates.items():
        row = only(pairwise(trials, primary=declared, look=look))
        # a lone pair has one test of each claim, so that a false discovery rate of 10 % leaves the raw 5 %
        assert (row.b_given_a_verdict == "hurts") == (row.b_given_a_adjusted_p <= share * 0.05), look
        assert row.interaction_low == only(pairwise(trials)).interaction_low


def test_one_look_without_primary_pairs():
    trials = planted(np.random.default_rng(3), dict.fromkeys("ab", 0.0))
    pd.testing.assert_frame_equal(at_looks(trials), pairwise(trials))


def test_tables_of_other_metrics():
    trials = planted(np.random.default_rng(3), dict.fromkeys("abc", 0.01))
    trials["final/few"] = trials[METRIC] / 2
    counts = [10, 10]
    trials["recalls"] = [(round(10 * y) / 10, 0.0) for y in trials[METRIC]]
    trials["val_counts"] = [counts] * len(trials)
    found = other_metric_tables(trials, margin=0.02, primary=["a×b"])
    assert list(found.tables) == ["final/few", "final/smoothed_harmonic_mean"]
    decides = pairwise(trials, margin=0.02, primary=["a×b"])
    assert found.tables["final/few"].interaction.to_numpy() == pytest.approx(decides.interaction.to_numpy() / 2)
    # two classes of ten images, k and 0 right: 2 / (11 / (k + ½) + 11 / ½)
    first = trials.iloc[0]
    by_hand = 2 / (11 / (10 * first.recalls[0] + 0.5) + 22)
    means = found.tables["final/smoothed_harmonic_mean"]
    assert means.mean_00.iloc[0] == pytest.approx(by_hand, rel=0.02)
    assert found.notes["final/smoothed_harmonic_mean"].startswith("A class has only 10 val images")
    less = other_metric_tables(trials.drop(columns=["final/few", "recalls"]))
    assert not less.tables
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


def test_bag_of_tricks_input_mixup_and_cam_are_better_together():
    trials = rows({cell: [1 - error / 100 for error in BAG[name]] for cell, name in {
        (): "plain", ("input",): "input", ("cam",): "cam", ("cam", "input"): "input cam"}.items()})  # fmt: skip
    row = only(pairwise(trials.assign(epochs=[200 * (1 + ("input" in cell)) for cell in trials.tricks])))
    assert row.verdict == "better together" and row.excluded_harm == 0.0
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


def test_a_whole_recipe_makes_no_pair():
    cells = {(): 0.6, ("a",): 0.7, ("b",): 0.65, ("a", "b"): 0.8, ("recipe:whole",): 0.9}
    trials = pd.DataFrame(
        [
            {"arm": "design", "seed": seed, "first_stage": f"{tricks} {seed}", "tricks": tricks,
             "final/accuracy": value + 0.01 * ((seed + len(tricks)) % 3)}
            for tricks, value in cells.items() for seed in range(3)
        ]
    )  # fmt: skip
    assert pairwise(trials)[["a", "b"]].values.tolist() == [["a", "b"]]
    assert "recipe:whole" in set(effects(trials)["trick"])
