"""The ranking of recipes."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from analysis.formatting import seeds
from analysis.records.reader import mean_interval
from analysis.records.schema import BASELINE
from analysis.report import html as ui
from analysis.report.findings import Findings

TITLE = "Best recipes"

MOST_RECIPES = 12
"""Rows of the table on the page, besides the baseline."""

SECONDARY = {"final/harmonic_mean": "harmonic mean", "final/few": "few-shot classes"}
ARM_NAMES = {"confirm": "confirmed", "around": "ablation", "tune": "tuning"}


def problem(findings: Findings) -> str | None:
    """A ranking needs a finished trial."""
    return "No trial has finished, so there is no recipe to rank." if findings.ranking.empty else None


def html(findings: Findings) -> Markup:
    """The first recipes and the baseline."""
    ranking = findings.ranking
    secondary = [metric for metric in SECONDARY if metric in findings.trials and metric != findings.metric]
    heads = ["rank", "recipe", "accuracy, %", "gain over the baseline, points"]
    heads += [f"{SECONDARY[metric]}, %" for metric in secondary] + ["seeds", "images seen"]
    raced = ranking["arm"].isin(["race", "confirm"]).any()
    return ui.stack(
        ui.paragraph(
            f"The first {MOST_RECIPES} and the baseline, of {len(ranking)} that have finished. The confirmed recipe "
            "comes first, then those that raced on fresh seeds, the most seeds first (the baseline among them), then "
            "the rest, whose means are optimistic because they took part in the choice. Compare at equal images seen."
        ),
        ui.note("" if raced else "No race on fresh seeds has been run, so chance has a part in the order below."),
        ui.table(heads, _rows(findings, secondary), "recipes", ranking),
    )


def _rows(findings: Findings, secondary: list[str]) -> list[list[ui.Cell]]:
    ranking = findings.ranking
    ranked = ranking.assign(rank=range(1, len(ranking) + 1))
    shown = pd.concat([ranked.head(MOST_RECIPES), ranked[ranked["recipe"] == findings.baseline]])
    rows = []
    for row in shown.drop_duplicates("recipe").to_dict("records"):
        baseline = row["recipe"] == findings.baseline
        trials = findings.trials_of(row["recipe"])
        common = row["gain_seeds"] not in (0, row["seeds"])
        gain = ui.effect(
            row["gain"], row["gain_low"], row["gain_high"], *[f"{seeds(row['gain_seeds'])} in common"] * common
        )
        rows.append(
            [
                ui.count(row["rank"]),
                ui.name(row["title"] + " (the baseline)" * (baseline and row["title"] != BASELINE), row["recipe"]),
                ui.rate(row["mean"], row["low"], row["high"]),
                ui.number("–", row["gain"]) if baseline else gain,
                *(ui.rate(*mean_interval(trials, metric)) for metric in secondary),
                seeds_of(row, f", {row['diverged']} diverged" if row["diverged"] else ""),
                ui.count(row["images"]),
            ]
        )
    return rows


def seeds_of(row: dict[str, object], more: str = "") -> ui.Cell:
    """The seeds of a recipe, and the arm that they are from."""
    arm = str(row["arm"])
    return ui.count(row["seeds"], ARM_NAMES.get(arm, arm) + more)
