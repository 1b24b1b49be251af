"""Verdicts at other learning rates and at full length."""

import numpy as np
import pandas as pd

from analysis.conflicts import pairwise
from analysis.conflicts.robustness import settings_agree

METRIC = "final/accuracy"
CONFLICT = {(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.62}
IDLE = {(): 0.60, ("a",): 0.60, ("b",): 0.60, ("a", "b"): 0.60}
GONE = {(): 0.60, ("a",): 0.70, ("b",): 0.70, ("a", "b"): 0.75}


def trials(means, arm="design", setting="", seed=0, blocks=4, context=""):
    rng = np.random.default_rng(seed)
    split = rng.normal(0, 0.01, blocks)
    return pd.DataFrame(
        [
            {"arm": arm, "setting": setting, "seed": s, "first_stage": f"{setting}{cell}{s}", "tricks": cell,
             METRIC: mean + split[s] + rng.normal(0, 0.003), "context": context}
            for cell, mean in means.items() for s in range(blocks)
        ]
    )  # fmt: skip


def agreed(*checks, table=None):
    table = pairwise(trials(CONFLICT)) if table is None else table
    rows = pd.concat([trials(CONFLICT), *checks], ignore_index=True)
    return settings_agree(table, rows)


def check(means, setting, **options):
    return trials(means, "check", setting, seed=len(setting), **options)


def test_robust_needs_both_learning_rates():
    row = agreed(check(CONFLICT, "lr/3"), check(CONFLICT, "lr*3")).iloc[0]
    assert (row.verdict, row["lr/3"], row["lr*3"]) == ("conflict", "conflict", "conflict")
    assert (row.word, row.why) == (
        "robust",
        "also shown at a third of the learning rate, three times the learning rate",
    )


def test_what_goes_away_is_of_these_settings():
    row = agreed(check(CONFLICT, "lr/3"), check(GONE, "lr*3"), check(CONFLICT, "full length")).iloc[0]
    assert (row.word, row["full length"]) == ("at these settings", "conflict")
    assert row.why == "not shown at three times the learning rate (better together)"


def test_what_was_not_run_is_said():
    row = agreed(check(CONFLICT, "lr/3")).iloc[0]
    assert (row.word, row.why, row["lr*3"]) == ("at these settings", "not run at three times the learning rate", "")
    assert agreed().iloc[0].why == "not run at other learning rates"


def test_the_final_length_counts_where_it_was_run():
    row = agreed(check(CONFLICT, "lr/3"), check(CONFLICT, "lr*3"), check(GONE, "full length")).iloc[0]
    assert (row.word, row.why) == ("at these settings", "not shown at full length (better together)")


def test_one_block_is_no_check():
    row = agreed(check(CONFLICT, "lr/3", blocks=1), check(CONFLICT, "lr*3")).iloc[0]
    assert row.word == "at these settings" and "the check arm has 1 block" in row["lr/3"]


def test_too_few_first_stages_are_no_check():
    row = agreed(check(CONFLICT, "lr/3", blocks=2), check(CONFLICT, "lr*3", blocks=2)).iloc[0]
    assert row.word == "at these settings"
    # two blocks of a first-stage trick can show nothing, which is not the same as showing that it went away
    assert row.why.startswith("too few seeds at other settings: ") and "at least 3" in row.why


def test_checks_may_stand_in_a_context_of_their_own():
    table = pairwise(trials(CONFLICT, context="factorial"))
    rows = pd.concat([check(CONFLICT, "lr/3", context="plain"), check(CONFLICT, "lr*3", context="plain")])
    assert settings_agree(table, rows).iloc[0].word == "robust"


def test_pairs_without_a_verdict_that_matters_are_left_out():
    assert agreed(check(CONFLICT, "lr/3"), table=pairwise(trials(IDLE), margin=0.05)).empty
