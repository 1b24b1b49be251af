"""What may be removed from the best recipe, what depends on what, and the path up to it from the baseline."""

from __future__ import annotations

import math

import pandas as pd
from markupsafe import Markup

from analysis.recipes.ablation import path, removals
from analysis.records.schema import BASELINE, NUMBERS, NUMBERS_IN_WORDS
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import forest_plots

TITLE = "What the best recipe needs"


def problem(findings: Findings) -> str | None:
    """The search must have run the ablation."""
    if (findings.trials["arm"] == "around").any():
        return None
    return (
        "Not known: the best recipe was not run with some of its tricks removed, so what it needs is open. A search "
        "does that at its end."
    )


def html(findings: Findings) -> Markup:
    """The path, then the removals."""
    return ui.stack(
        ui.paragraph(
            "The best recipe was trained again with some of its tricks removed, all on the same fresh seeds, down to "
            "the baseline. Differences are paired by seed; p-values are Holm-adjusted."
        ),
        _path(path(findings.trials, findings.metric)),
        _removals(removals(findings.trials, findings.metric, findings.margin), findings.margin),
    )


def _path(steps: pd.DataFrame) -> Markup:
    if steps.empty:
        return ui.note("The path from the baseline to the best recipe is not complete.")
    rows = []
    for row in steps.to_dict("records"):
        added = [NUMBERS_IN_WORDS if label == NUMBERS else label for label in row["added"]]
        rows.append(
            [
                ui.count(row["step"]),
                ui.name(" + ".join(added) or BASELINE),
                ui.rate(row["mean"], row["low"], row["high"]),
                *(
                    ui.effect(row[gain], row[f"{gain}_low"], row[f"{gain}_high"])
                    if row["step"]
                    else ui.number("–", math.nan)
                    for gain in ("gain", "total")
                ),
                ui.count(row["n_seeds"]),
            ]
        )
    heads = ["step", "added", "accuracy, %", "gain of the step, points", "gain over the baseline, points", "seeds"]
    caption = (
        "From the baseline to the best recipe, one trick at a time, every step a real run over the same seeds: the "
        "mean and its 95 % interval. The order was chosen by these numbers, from the best recipe down: another order "
        "gives other steps, and what a step adds may look a little small. The intervals of single means are wider than "
        "those of the gains, which are paired."
    )
    return ui.stack(
        ui.MACROS.heading("From the baseline to the best recipe"),
        ui.figure(forest_plots.path(steps), "path", caption),
        ui.table(heads, rows, "path", steps),
    )


def _removals(removed: pd.DataFrame, margin: float) -> Markup:
    if removed.empty:
        return ui.note("No trick was removed from the best recipe alone.")
    rows = []
    for row in removed.to_dict("records"):
        known = math.isfinite(row["dependency"])
        rows.append(
            [
                ui.name(" and ".join(row["removed"])),
                ui.effect(row["loss"], row["loss_low"], row["loss_high"]),
                ui.p_value(row["adjusted_p"]),
                ui.Cell(word=row["word"]),
                ui.effect(row["dependency"], row["dependency_low"], row["dependency_high"])
                if known
                else ui.number("–", math.nan),
                ui.Cell(row["depends"] or ("not shown" if known else "")),
                ui.count(row["n_seeds"]),
            ]
        )
    heads = ["without", "lost, points", "adjusted p", "may it be removed?", "dependency, points", "kind", "seeds"]
    caption = (
        "What the best recipe does without one or two of its tricks, against the whole, paired by seed. The dotted "
        "line is the margin. Unknown does not mean free: the seeds neither show nor exclude a loss."
    )
    return ui.stack(
        ui.MACROS.heading("What may be removed, and what depends on what"),
        ui.figure(forest_plots.removals(removed, margin), "removals", caption),
        ui.paragraph(
            "Dependency of two tricks: above 0 they are worth more together, below 0 one stands in for the other."
        ),
        ui.table(heads, rows, "removals", removed),
    )
