"""Accuracy against the harmonic mean of recalls, where val is large enough for that."""

from __future__ import annotations

from markupsafe import Markup

from analysis.recipes import pareto
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import curves
from analysis.report.sections.recipes import seeds_of

TITLE = "Accuracy against the worst classes"


def problem(findings: Findings) -> str | None:
    """A few val images per class decide nothing."""
    if findings.ranking.empty:
        return "No trial has finished."
    first = findings.trials.iloc[0]
    if not first["val_counts"]:
        return "The records do not say how many val images each class has, so no Pareto front is drawn."
    few = pareto.too_few("The Pareto front", str(first["data"]), first["val_counts"])
    return f"{few}." if few else None


def html(findings: Findings) -> Markup:
    """The recipes on the front."""
    trades = pareto.front(findings.trials)
    rows = [
        [
            ui.name(row["title"], *["the knee"] * bool(row["knee"]), row["recipe"]),
            *(ui.rate(row[mean], row[f"{mean}_low"], row[f"{mean}_high"]) for mean in ("accuracy", "harmonic_mean")),
            seeds_of(row),
        ]
        for row in trades[trades["on_front"]].to_dict("records")
    ]
    caption = (
        "Every recipe by its accuracy and by the harmonic mean of smoothed recalls, which the worst classes decide. No "
        "other recipe is at least as good in both as one on the front; bars are 95 % intervals, so a recipe near the "
        "front may belong to it. The knee is farthest above the line between the two ends."
    )
    heads = ["recipe on the front", "accuracy, %", "smoothed harmonic mean, %", "seeds"]
    return ui.stack(ui.figure(curves.front(trades), "front", caption, ""), ui.table(heads, rows, "front", trades))
