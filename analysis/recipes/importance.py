"""Which choices and numbers matter: Optuna's importance evaluators, on the data for which they are valid.

An importance is a share of the variance of a score over the recipes of one arm (fANOVA, MDI), or of how far the best
tenth differs from all of them (PED-ANOVA); the shares of all factors sum to 1. It says how much a choice moved the
score *over the recipes that were tried*, not which option is better, and it is no test: effects and verdicts are in
`analysis.conflicts`.

**What is accepted.** The design arm: its recipes were fixed beforehand and none was stopped. The adaptive arm only
where nothing in it was stopped, and only by evaluators that model the score given the choices (fANOVA, MDI): recipes
that survived are in the data *because* of their score. PED-ANOVA compares densities of the choices themselves, which
a sampler that learns has bent: over 6 TPE studies of a planted function it put a useless choice first every time.

**Chance.** A forest gives every factor some share. In each draw the factors compete with shuffled copies of
themselves; what the best copy gets at most in 95 % of the draws is the share that chance alone may give.

**Too little data** is said, with the number of recipes that is needed, and never shown as a share of 0. fANOVA and
MDI need 3 recipes per factor and no fewer than 16: with two of six factors planted at 5 and 3 points, both came first
in 19 of 20 tables of 16 recipes where noise was 1 point (of 12: 16), in 6 of 10 where it was 2. PED-ANOVA needs 50:
5 in its best tenth; with 40 it had both first in 8 of 20, with 80 in 19.

Source: Hutter, Hoos, Leyton-Brown 2014 (ICML, fANOVA); Watanabe, Bansal, Hutter 2023 (arXiv:2304.10255, PED-ANOVA);
Breiman 2001 (Machine Learning 45, mean decrease of impurity); Kursa & Rudnicki 2010 (J. Stat. Softw. 36, Boruta).
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.schema import RecordError, choosable

ABSENT = "none"
"""Level of a choice where nothing is chosen, or where its stage is not in the plan."""

TREES = 8
"""Of a forest; the draws are averaged, so few are enough."""

COLUMNS = ("factor", "kind", "family", "levels", "share", "low", "high", "chance", "matters", "also")


@dataclass(frozen=True)
class Evaluator:
    """One of Optuna's evaluators, and what it may be given.

    Args:
        name: As Optuna's documentation calls it.
        what: What its share means.
        learnt: Whether it accepts recipes that a sampler proposed after it had seen scores.
        partial: Whether it rates a number that only some recipes have.
        needed: Number of factors to the fewest recipes.
        make: Seed to Optuna's object.
    """

    name: str
    what: str
    learnt: bool
    partial: bool
    needed: Callable[[int], int]
    make: Callable[[int], Any]


def _fanova(seed: int) -> Any:
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(n_trees=TREES, seed=seed)


def _mdi(seed: int) -> Any:
    from optuna.importance import MeanDecreaseImpurityImportanceEvaluator

    return MeanDecreaseImpurityImportanceEvaluator(n_trees=TREES, seed=seed)


def _ped_anova(seed: int) -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator()


def _per_factor(factors: int) -> int:
    return max(16, 3 * factors)


EVALUATORS = {
    "fANOVA": Evaluator("fANOVA", "share of the score's variance, by a forest", True, False, _per_factor, _fanova),
    "MDI": Evaluator(
        "MDI", "share of a forest's splits, weighted by what they explain", True, False, _per_factor, _mdi
    ),
    "PED-ANOVA": Evaluator(
        "PED-ANOVA", "how far the best tenth of the recipes differs from all", False, True, lambda _: 50, _ped_anova
    ),
}


class Importance(NamedTuple):
    """What one evaluator says of one arm.

    Args:
        evaluator: Its name.
        arm: Whose recipes.
        recipes: How many.
        needed: The fewest that are enough.
        table: One row per factor, the largest share first: factor, kind ("stage", "trick", "family", "number"),
            family (empty where there is none), levels (options that occur), share, low, high (of 95 % of the draws),
            chance (see above), matters (share > chance), also (factors that were decided by this one and cannot be
            told from it). Empty where there is a problem.
        problem: Why there is no table; empty where there is one.
        note: What to know beside it.
    """

    evaluator: str
    arm: str
    recipes: int
    needed: int
    table: pd.DataFrame
    problem: str
    note: str


def importance(
    trials: pd.DataFrame,
    evaluator: str = "fANOVA",
    *,
    arm: str = "design",
    metric: str = "final/accuracy",
    draws: int = 24,
    seed: int = 0,
) -> Importance:
    """How much each choice and number moved the score over the recipes of an arm.

    A recipe's score is its effect in a two-way fit (recipe + seed block). A draw resamples the blocks (design arm) or
    the first stages with all their recipes (elsewhere, where a recipe has one seed), fits again, and gives the
    evaluator another seed; a share is the mean over the draws.

    Args:
        trials: Table of trials; `choices` decide the factors, `families` (trick to family) their names.
        evaluator: One of `EVALUATORS`.
        arm: Whose trials are read.
        metric: Column of the score, of the val split.
        draws: At least 2.
        seed: Of the draws.

    Raises:
        RecordError: An unknown evaluator or metric, or one of the test split.
    """
    if evaluator not in EVALUATORS:
        near = [name for name in EVALUATORS if name.lower() == evaluator.lower()] or difflib.get_close_matches(
            evaluator, EVALUATORS, n=1
        )
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecordError(f"evaluator {evaluator!r} is unknown: {hint}allowed are {', '.join(EVALUATORS)}")
    choosable(metric)
    if len(trials) and metric not in trials:
        raise RecordError(f"no trial has the metric {metric!r}")
    if draws < 2:
        raise RecordError(f"draws must be at least 2, got {draws}")
    method = EVALUATORS[evaluator]
    own = trials[trials["arm"] == arm]
    done = own[own["outcome"] == "finished"]
    levels, facts = factors(done)
    if not method.partial:
        levels = levels[[name for name in levels if not levels[name].isna().any()]]
    needed = method.needed(max(len(levels.columns), 1))
    problem = _problem(method, own, arm, levels, needed)
    if problem:
        return Importance(evaluator, arm, len(levels), needed, pd.DataFrame(columns=list(COLUMNS)), problem, "")
    random = np.random.default_rng(seed)
    by_block = arm == "design" and done["seed"].nunique() > 1
    shares, chance = [], []
    for draw in range(draws):
        scores = _scores(done, metric, _resampled(done, by_block, random))
        shares.append(rate(method, levels, scores, draw))
        shadows = _shadows(levels, random)
        beside = rate(method, levels.join(shadows), scores, draw)
        chance.append(max(beside[name] for name in shadows))
    drawn, by_chance = pd.DataFrame(shares), float(np.quantile(chance, 0.95))
    rows = []
    for name in levels:
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        share = float(drawn[name].mean())
        fact = facts[name]
        rows.append(
            {
                "factor": name, "kind": fact.kind, "family": fact.family, "levels": int(levels[name].nunique()),
                "share": share, "low": float(low), "high": float(high), "chance": by_chance,
                "matters": share > by_chance, "also": tuple(fact.also),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(
        ["share", "factor"], ascending=[False, True], ignore_index=True
    )
    lost = int((own["outcome"] != "finished").sum())
    note = f"{lost} trials that did not finish are left out" if lost else ""
    return Importance(evaluator, arm, len(levels), needed, table, "", note)


def all_of(trials: pd.DataFrame, metric: str = "final/accuracy", *, draws: int = 24) -> list[Importance]:
    """Every evaluator on the design arm, and on the adaptive arm; those that cannot say so."""
    arms = [arm for arm in ("design", "adaptive") if (trials["arm"] == arm).any()]
    return [importance(trials, name, arm=arm, metric=metric, draws=draws) for arm in arms for name in EVALUATORS]


def _problem(method: Evaluator, own: pd.DataFrame, arm: str, levels: pd.DataFrame, needed: int) -> str:
    if own.empty:
        return f"the {arm} arm has not run"
    stopped = int((own["outcome"] == "stopped").sum())
    if arm != "design" and not method.learnt:
        return (
            f"{method.name} compares how often a choice was proposed, and the {arm} arm's sampler proposes what did "
            "well before: it would rate the sampler"
        )
    if stopped:
        return (
            f"{stopped} of {len(own)} trials of the {arm} arm were stopped early: those that are left are there "
            "because of their score, and whatever they have in common would look important"
        )
    if not len(levels.columns):
        return f"no choice differs between the recipes of the {arm} arm that finished"
    if len(levels) < needed:
        return (
            f"too little data: {len(levels)} recipes of the {arm} arm finished, {method.name} needs {needed} for "
            f"{len(levels.columns)} factors"
        )
    return ""


# --------------------------------------------------------------------------------------------- factors


@dataclass(frozen=True)
class Factor:
    """What a column of `factors` is.

    Args:
        kind: "stage", "trick", "family" or "number".
        family: Of the tricks, where it is known.
        also: Other columns that this one decides among these recipes.
    """

    kind: str
    family: str
    also: list[str]


def factors(trials: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Factor]]:
    """The choices of recipes as columns.

    Of the design arm: every screened label, on or none, and "context", in which the labels were crossed. Elsewhere
    "last stage" and "stage <name>" say how a plan goes, "<stage>: <family>" which tricks of a family a stage has;
    "<stage>/lr", "<stage>/<trick>.<number>" are numbers, absent (NaN) where the recipe has no such stage or trick.
    What does not differ is left out, and so is what another column decides.

    Args:
        trials: Of one arm.

    Returns:
        One row per recipe, one column per factor; and what each column is.
    """
    recipes = trials.drop_duplicates("recipe").set_index("recipe")
    named = recipes["families"] if "families" in recipes else pd.Series([{}] * len(recipes), index=recipes.index)
    families: dict[str, str] = {}
    for each in named:
        families |= dict(each)
    designed = bool(len(recipes)) and bool((recipes["arm"] == "design").all())
    rows = {
        str(recipe): _crossed(row, families) if designed else _levels(row["choices"], families)
        for recipe, row in zip(recipes.index, recipes.to_dict("records"), strict=True)
    }
    kinds: dict[str, tuple[str, str]] = {}
    for row in rows.values():
        kinds |= {name: (kind, family) for name, (kind, family, _) in row.items()}
    order = {"stage": 0, "trick": 1, "family": 2, "number": 3}
    columns: dict[str, list[Any]] = {}
    for name in sorted(kinds, key=lambda name: (order[kinds[name][0]], name)):
        missing = math.nan if kinds[name][0] == "number" else ABSENT
        columns[name] = [row[name][2] if name in row else missing for row in rows.values()]
    kept: dict[str, Factor] = {}
    for name, values in columns.items():
        if len(_codes(values)) < 2 or (kinds[name][0] == "number" and len({v for v in values if v == v}) < 2):
            continue
        deciding = next((other for other in kept if _decides(columns[other], values)), None)
        if deciding is None:
            kept[name] = Factor(*kinds[name], [])
        else:
            kept[deciding].also.append(name)
    return pd.DataFrame({name: columns[name] for name in kept}, index=list(rows)), kept


def _crossed(row: Mapping[str, Any], families: Mapping[str, str]) -> dict[str, tuple[str, str, Any]]:
    """The same of a recipe of the design arm."""
    found: dict[str, tuple[str, str, Any]] = {"context": ("stage", "", row["context"] or "standard")}
    for label in row["tricks"]:
        found[label] = ("trick", families.get(label.rpartition("/")[2], ""), "on")
    return found


def _levels(choices: Mapping[str, Any], families: Mapping[str, str]) -> dict[str, tuple[str, str, Any]]:
    """Factor to kind, family and level, of one recipe."""
    found: dict[str, tuple[str, str, Any]] = {}
    stages = str(choices.get("stages", "")).split(" > ")
    found["last stage"] = ("stage", "", stages[-1])
    for stage in stages[:-1]:
        found[f"stage {stage}"] = ("stage", "", "in the plan")
    tricks: dict[tuple[str, str], list[str]] = {}
    for key, value in choices.items():
        stage, slash, name = key.rpartition("/")
        if not slash:
            continue
        if "." in name or not isinstance(value, str):
            level = value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            found[key] = ("number", "", level)
            continue
        for trick in value.split("+"):
            # a record that does not name families is told by the places where tricks act
            tricks.setdefault((stage, families.get(trick, name)), []).append(trick)
    for (stage, family), names in tricks.items():
        found[f"{stage}: {family}"] = ("family", family, " + ".join(sorted(names)))
    return found


def _codes(values: Sequence[Any]) -> set[Hashable]:
    return {_code(value) for value in values}


def _code(value: Any) -> Hashable:
    return "" if isinstance(value, float) and math.isnan(value) else (type(value) is str, value)


def _decides(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether the other's level follows from the one's."""
    return len(_codes(one)) == len({(_code(a), _code(b)) for a, b in zip(one, other, strict=True)})


# --------------------------------------------------------------------------------------------- scores and shares


def _resampled(done: pd.DataFrame, by_block: bool, random: np.random.Generator) -> pd.Series:
    """How often each trial counts in a draw."""
    units = done["seed"] if by_block else done["first_stage"]
    names = sorted(set(units), key=str)
    times = random.multinomial(len(names), [1 / len(names)] * len(names))
    return units.map(dict(zip(names, times, strict=True)))


def _scores(done: pd.DataFrame, metric: str, times: pd.Series) -> pd.Series:
    """Effect of each recipe in a two-way fit with seed blocks, weighted; recipes that count nowhere are absent."""
    used = done[(times > 0) & done[metric].notna()]
    weight = np.sqrt(times[used.index].to_numpy(dtype=float))
    recipe, names = pd.factorize(used["recipe"])
    block, blocks = pd.factorize(used["seed"])
    design = np.zeros((len(used), len(names) + len(blocks)))
    design[np.arange(len(used)), recipe] = 1
    design[np.arange(len(used)), len(names) + block] = 1
    # the least-norm solution: where a recipe has a seed to itself the two cannot be told apart
    if len(names) == len(used):
        return pd.Series(used[metric].to_numpy(dtype=float), index=list(names)).repeat(times[used.index].to_numpy())
    fit = np.linalg.lstsq(design * weight[:, None], used[metric].to_numpy(dtype=float) * weight, rcond=None)[0]
    return pd.Series(fit[: len(names)], index=list(names))


def _shadows(levels: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """A shuffled copy of each factor; a number is shuffled among the recipes that have it."""
    copies = {}
    for name in levels:
        column = levels[name].copy()
        there = column.notna().to_numpy()
        column[there] = random.permutation(column[there].to_numpy())
        copies[f"{name} shuffled"] = column
    return pd.DataFrame(copies)


def rate(method: Evaluator, levels: pd.DataFrame, scores: pd.Series, seed: int) -> dict[str, float]:
    """Optuna's importances, normalised to sum 1; a factor that no scored recipe has a level of gets 0.

    Args:
        method: One of the values of `EVALUATORS`.
        levels: As `factors` gives them: one row per recipe, NaN where it has no such number.
        scores: By recipe; one that comes several times counts as often.
        seed: Of the evaluator.
    """
    study = _study(levels, scores)
    from optuna.importance import get_param_importances

    with warnings.catch_warnings():
        # of evaluators that are marked experimental, and of numbers that fewer than two recipes have
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=method.make(seed))
    return {name: float(found.get(name, 0.0)) for name in levels}


def _study(levels: pd.DataFrame, scores: pd.Series) -> Any:
    """An Optuna study in memory that holds these recipes as complete trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(name, levels[name]) for name in levels}
    texts = levels.astype(object)
    for name in levels:
        if _is_category(levels[name]):
            texts[name] = [str(value) if value == value else value for value in levels[name]]
    rows = texts.to_dict("index")
    study = optuna.create_study(direction="maximize")
    made = []
    for recipe, score in scores.items():
        present = {name: value for name, value in rows[recipe].items() if value == value}
        mine = {name: distributions[name] for name in present}
        made.append(optuna.trial.create_trial(params=present, distributions=mine, value=float(score)))
    study.add_trials(made)
    return study


def _is_category(values: pd.Series) -> bool:
    return any(isinstance(value, str) for value in values)


def _distribution(name: str, values: pd.Series) -> Any:
    """From what occurred: a number's range (in logarithms where it spans a factor of 10), or the options."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    present = [value for value in values if value == value]
    if _is_category(values):
        return CategoricalDistribution(sorted({str(value) for value in present}))
    low, high = float(min(present)), float(max(present))
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
