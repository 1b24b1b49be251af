"""Importance: what each evaluator is given and refused, and shares as Optuna itself computes them."""

import dataclasses
import itertools
import warnings

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis.recipes import importance as module
from analysis.recipes.importance import EVALUATORS, all_of, factors, importance, rate
from analysis.records import reader as load
from analysis.records.schema import Record, RecordError

LABELS = tuple(f"first/t{index}" for index in range(5))


def record(trial: str, tricks: tuple[str, ...], seed: int, accuracy: float, **changes) -> Record:
    return dataclasses.replace(
        Record(
            search="demo", trial=trial, arm="design", recipe="+".join(tricks) or "plain", title="", seed=seed,
            split_seed=seed, first_stage=f"{tricks}{seed}", tricks=tricks, context="", outcome="finished",
            choices={"stages": "first > finish"}, plan={}, data="digits-lt", model="resnet8", imbalance=50.0,
            fingerprint="", counts=(100, 2), val_counts=(30, 30), epochs=4.0, epochs_trained=4.0, images=528, steps=8,
            seconds=2.0, seconds_saved=0.0, reused=(), metrics={"final/accuracy": accuracy},
        ),
        **changes,
    )  # fmt: skip


def crossed(noise: float = 0.004, **changes) -> list[Record]:
    """All 32 recipes of five labels over three blocks: t0 gains 6 points, t1 3, the others nothing."""
    random = np.random.default_rng(0)
    rows = []
    for seed, on in itertools.product(range(3), itertools.product((False, True), repeat=5)):
        tricks = tuple(label for label, is_on in zip(LABELS, on, strict=True) if is_on)
        accuracy = 0.6 + 0.06 * on[0] + 0.03 * on[1] + 0.02 * seed + noise * random.standard_normal()
        rows.append(record(f"t{len(rows)}", tricks, seed, accuracy, **changes))
    return rows


def adaptive(count: int, **changes) -> list[Record]:
    """Random recipes: the learning rate decides, a number that only mixup has does not."""
    random = np.random.default_rng(1)
    rows = []
    for index in range(count):
        rate_, mixed = float(random.choice([0.01, 0.03, 0.1, 0.3])), bool(random.integers(2))
        choices = {"stages": "first > finish", "first/lr": rate_, "first/draw": str(random.choice(["a", "b"]))}
        if mixed:
            choices |= {"first/mix": "mixup", "first/mixup.alpha": float(random.uniform(0.2, 1))}
        accuracy = 0.7 + 0.05 * np.log10(rate_) + 0.002 * random.standard_normal()
        arms = {"arm": "adaptive", "recipe": f"r{index}", "first_stage": f"s{index}", "choices": choices}
        arms["families"] = {"mixup": "mixup", "a": "re-sampling", "b": "re-sampling"}
        rows.append(record(f"t{index}", (), 100, accuracy, **(arms | changes)))
    return rows


def test_planted_effects_come_first_and_idle_tricks_are_not_shown():
    for name in ("fANOVA", "MDI"):
        found = importance(load.frame(crossed()), name)
        assert (found.problem, found.recipes, found.needed) == ("", 32, 16)
        assert found.table["factor"].tolist()[:2] == ["first/t0", "first/t1"]
        assert found.table["share"].sum() == pytest.approx(1)
        # by hand: the variance of a choice between two halves is its effect's square / 4, here 36 : 9 of 45
        assert found.table["share"][0] == pytest.approx(0.8, abs=0.06)
        assert found.table["matters"].tolist() == [True, True, False, False, False][: len(found.table)]
        assert (found.table["low"] <= found.table["share"]).all() and (
            found.table["share"] <= found.table["high"]
        ).all()


def test_ped_anova_of_a_whole_factorial_of_six_finds_the_first():
    rows = crossed() + [
        dataclasses.replace(
            one, trial=f"u{one.trial}", tricks=(*one.tricks, "first/t5"), recipe=one.recipe + "+first/t5"
        )
        for one in crossed()
    ]
    found = importance(load.frame(rows), "PED-ANOVA")
    assert (found.recipes, found.needed, found.table["factor"][0]) == (64, 50, "first/t0")


def test_shares_are_those_that_optuna_gives_for_a_study_of_its_own():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("first/lr", 0.01, 0.3, log=True)
        kind = trial.suggest_categorical("first: mixup", ["cut", "none", "soft"])
        alpha = trial.suggest_float("first/cut.alpha", 0.2, 1.0) if kind == "cut" else 0.0
        return np.log(lr) * 0.1 + 0.3 * (kind == "soft") + 0.2 * alpha

    study.optimize(objective, n_trials=60)
    levels = pd.DataFrame(
        [trial.params for trial in study.trials], index=[f"r{trial.number}" for trial in study.trials]
    )
    # Optuna's own ranges are wider than what occurred, so both are given what occurred
    levels.iloc[0, levels.columns.get_loc("first/lr")] = 0.01
    levels.iloc[1, levels.columns.get_loc("first/lr")] = 0.3
    scores = pd.Series([trial.value for trial in study.trials], index=levels.index)
    alphas = levels["first/cut.alpha"].dropna()
    again = optuna.create_study(direction="maximize")
    for row, score in zip(levels.to_dict("records"), scores, strict=True):
        ranges = {
            "first/lr": optuna.distributions.FloatDistribution(0.01, 0.3, log=True),
            "first: mixup": optuna.distributions.CategoricalDistribution(["cut", "none", "soft"]),
            "first/cut.alpha": optuna.distributions.FloatDistribution(alphas.min(), alphas.max()),
        }
        params = {name: value for name, value in row.items() if value == value}
        again.add_trial(
            optuna.trial.create_trial(params=params, distributions={n: ranges[n] for n in params}, value=score)
        )
    for name, partial in (("PED-ANOVA", True), ("fANOVA", False), ("MDI", False)):
        kept = levels if partial else levels[["first/lr", "first: mixup"]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = optuna.importance.get_param_importances(again, evaluator=EVALUATORS[name].make(5))
        assert rate(EVALUATORS[name], kept, scores, 5) == pytest.approx(wanted)


def test_too_little_data_is_said_with_what_is_needed():
    few = [one for one in crossed() if len(one.tricks) <= 1]
    found = importance(load.frame(few), "fANOVA")
    assert found.problem == "too little data: 6 recipes of the design arm finished, fANOVA needs 16 for 5 factors"
    assert found.table.empty and list(found.table) == list(module.COLUMNS)
    assert importance(load.frame(crossed()), "PED-ANOVA").problem.endswith("PED-ANOVA needs 50 for 5 factors")
    assert importance(load.frame(few[:1]), "MDI").problem.startswith("no choice differs")
    assert importance(load.frame([]), "MDI").problem == "the design arm has not run"


def test_survivors_and_what_a_sampler_proposed_are_refused():
    rows = adaptive(60)
    stopped = [*rows, record("x", (), 101, 0.5, arm="adaptive", outcome="stopped")]
    found = importance(load.frame(stopped), "fANOVA", arm="adaptive")
    assert found.problem.startswith("1 of 61 trials of the adaptive arm were stopped early: those that are left")
    assert "it would rate the sampler" in importance(load.frame(rows), "PED-ANOVA", arm="adaptive").problem
    whole = importance(load.frame(rows), "fANOVA", arm="adaptive")
    assert whole.problem == "" and whole.table["factor"][0] == "first/lr" and whole.table["share"][0] > 0.9
    # a number that only some recipes have is not in a forest
    assert "first/mixup.alpha" not in set(whole.table["factor"])


def test_factors_are_families_and_numbers_and_what_is_decided_elsewhere_is_named():
    rows = [dataclasses.replace(one, choices=one.choices | {"finish/lr": one.choices["first/lr"] / 10})
            for one in adaptive(20)]  # fmt: skip
    levels, kinds = factors(load.frame(rows))
    assert set(levels) == {"first: mixup", "first: re-sampling", "finish/lr", "first/mixup.alpha"}
    assert kinds["finish/lr"] == module.Factor("number", "", ["first/lr"])
    assert (kinds["first: mixup"].kind, kinds["first: mixup"].family) == ("family", "mixup")
    assert set(levels["first: mixup"]) == {"mixup", "none"}
    assert levels["first/mixup.alpha"].isna().equals(levels["first: mixup"] == "none")


def test_a_record_that_names_no_families_is_told_by_its_seams():
    levels, _ = factors(load.frame(adaptive(20, families={})))
    assert "first: draw" in levels and "first: mix" in levels


def test_bad_questions_are_refused():
    trials = load.frame(crossed())
    with pytest.raises(RecordError, match="evaluator 'fanova' is unknown: did you mean 'fANOVA'"):
        importance(trials, "fanova")
    with pytest.raises(RecordError, match="metric 'test/accuracy' is of the test split"):
        importance(trials, metric="test/accuracy")
    with pytest.raises(RecordError, match="no trial has the metric 'final/accurcy'"):
        importance(trials, metric="final/accurcy")
    with pytest.raises(RecordError, match="draws must be at least 2, got 1"):
        importance(trials, draws=1)


def test_every_evaluator_speaks_or_says_why_not():
    found = all_of(load.frame(crossed() + adaptive(12)), draws=2)
    assert [(one.arm, one.evaluator) for one in found] == [
        (arm, name) for arm in ("design", "adaptive") for name in EVALUATORS
    ]
    assert all(bool(one.problem) is one.table.empty for one in found)
