"""Reasons not to believe a search, shown next to its results.

A search always ends with a table and a best recipe. Each check below names a way in which both can be meaningless, from
the records alone; what it finds is shown on the screen, in the report, in MLflow and in `findings.json`.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.formatting import bounds, magnitude, percent, points
from analysis.recipes.ablation import path
from analysis.records.schema import NUMBERS
from analysis.stats.intervals import wilson_interval

MOST_LOST = 0.1
"""Share of the design's trials that may diverge or fail before a reader should know."""


def warnings(
    trials: pd.DataFrame,
    effects: pd.DataFrame | None,
    margin: float,
    *,
    metric: str = "final/accuracy",
    winner: str | None = None,
) -> list[str]:
    """What speaks against believing a search; empty where nothing does.

    Args:
        trials: Table of trials (`analysis.records.reader.frame`).
        effects: Effects alone (`analysis.conflicts.effects`); `None` where the design arm cannot be judged.
        margin: Difference that matters, a fraction.
        metric: Column that everything is judged by, of the val split.
        winner: Id of the recipe that is called best.

    Returns:
        Whole sentences, each with what to do.
    """
    found = [
        no_effect(effects),
        small_val(trials, margin, metric),
        published_below_baseline(trials, metric),
        under_tuned(trials, margin, metric, winner),
        lost_trials(trials),
    ]
    return [sentence for sentence in found if sentence]


def no_effect(effects: pd.DataFrame | None) -> str:
    """Whether no trick alone is shown to do anything."""
    if effects is None or effects.empty or effects["low"].isna().all():
        return ""
    if ((effects["low"] > 0) | (effects["high"] < 0)).any():
        return ""
    tricks = effects["trick"].nunique()
    return (
        f"No trick alone is shown to change anything ({tricks} tricks, 95 % intervals): differences between recipes "
        "may be noise. Add seed blocks (--seeds +N) or train longer (--epochs-scale)."
    )


def small_val(trials: pd.DataFrame, margin: float, metric: str = "final/accuracy") -> str:
    """Whether val has too few images to tell a difference as small as the margin."""
    design = trials[(trials["arm"] == "design") & (trials["outcome"] == "finished")]
    plain = design[design["tricks"].map(len) == 0]
    if plain.empty or "val_counts" not in trials.columns:
        return ""
    images = int(sum(plain["val_counts"].iloc[0]))
    if images == 0:
        return ""
    accuracy, blocks = float(plain[metric].mean()), plain["seed"].nunique()
    splits = plain["split_seed"].nunique() if "split_seed" in plain.columns else 1
    fresh = splits >= blocks  # new images in every block
    error = math.sqrt(2 * accuracy * (1 - accuracy) / (images * (blocks if fresh else 1)))
    if 1.96 * error <= 2 * margin:
        return ""
    over = f" a block over {blocks} block{'s' * (blocks != 1)}" if fresh else ", the same in every block,"
    return (
        f"Val is small for a margin of {magnitude(margin)} points: its {images} images{over} leave a difference of two "
        f"recipes uncertain by up to ±{magnitude(1.96 * error)} points, were all their errors independent. More val "
        "images per class, more seed blocks or a larger margin would help."
    )


def published_below_baseline(trials: pd.DataFrame, metric: str = "final/accuracy") -> str:
    """Whether most published recipes lose to plain training, as they do where the schedule is too short."""
    finished = trials[trials["outcome"] == "finished"]
    started = finished[finished["arm"] == "start"]["recipe"].unique()
    race = finished[finished["arm"].isin(["race", "start"])]
    plain = finished[finished["tricks"].map(len) == 0]
    baseline = plain[plain["arm"] == "design"]["recipe"]
    if baseline.empty or not len(started):
        return ""
    base = race[race["recipe"] == baseline.iloc[0]].groupby("seed")[metric].mean()
    gains = []
    for recipe in started:
        own = race[race["recipe"] == recipe].groupby("seed")[metric].mean()
        both = own.index.intersection(base.index)
        if len(both):
            gains.append(float((own[both] - base[both]).mean()))
    below = int(sum(gain < 0 for gain in gains))
    if len(gains) < 2 or 2 * below <= len(gains):
        return ""
    return (
        f"{below} of {len(gains)} published recipes are below plain training here: the schedule may be too short for "
        "tricks that need a trained network. Compare at a longer one (--epochs-scale 2) before believing what hurts."
    )


def under_tuned(trials: pd.DataFrame, margin: float, metric: str = "final/accuracy", winner: str | None = None) -> str:
    """Whether the winner's learning rates and lengths gain as much as a trick, without any trick."""
    steps = path(trials, metric, winner=winner)
    tuned = steps[[added == (NUMBERS,) for added in steps["added"]]]
    if tuned.empty or not float(tuned["gain_low"].iloc[0]) > margin:
        return ""
    row = tuned.iloc[0]
    return (
        f"The baseline is under-tuned: the best recipe's learning rates, weight decays and lengths alone gain "
        f"{points(row['gain'])} points ({bounds(row['gain_low'], row['gain_high'])}). Gains over the "
        "baseline are partly tuning; search again with --tune-baseline."
    )


def lost_trials(trials: pd.DataFrame) -> str:
    """Whether so many of the design's trials were lost that the rest may not speak for them."""
    design = trials[trials["arm"] == "design"]
    lost = int(design["outcome"].isin(["diverged", "failed"]).sum())
    if not len(design) or lost <= MOST_LOST * len(design):
        return ""
    low, high = (percent(limit, 0) for limit in wilson_interval(lost, len(design)))
    return (
        f"{lost} of the {len(design)} designed trials diverged or failed (95 % interval of the rate: {low} to {high}): "
        "verdicts must hold with them at the worst value of their cell, so that fewer pairs have an answer. A lower "
        "learning rate may help."
    )
