"""The conflict table, by the metric that decides and by further ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.formatting import VERDICTS, labels_of, letter, metric_name, percent, worse_harm
from analysis.report import html as ui
from analysis.report.cards import no_table
from analysis.report.findings import Findings
from analysis.report.plots import forest_plots
from analysis.report.plots.heat_map import heat_map

TITLE = "Which tricks conflict"

TWO_LINES = 60
"""Letters of a reason that needs no folding."""


def problem(findings: Findings) -> str | None:
    """Without a design arm there is no table."""
    return no_table(findings) if findings.conflicts is None else None


def html(findings: Findings) -> Markup:
    """One table per metric, with a switch between them."""
    assert findings.conflicts is not None
    tables = {findings.metric: findings.conflicts, **findings.other_metrics.tables}
    bodies = {metric: _by_metric(findings, metric, judged) for metric, judged in tables.items()}
    shown = bodies[findings.metric]
    if len(tables) > 1:
        labels = {metric: metric_name(metric) + " (decides)" * (metric == findings.metric) for metric in tables}
        options = [(metric, labels[metric], body) for metric, body in bodies.items()]
        shown = Markup(ui.MACROS.switch(options, findings.metric))
    skipped = [
        ui.note(f"No table by {metric_name(metric)}: {why}") for metric, why in findings.other_metrics.skipped.items()
    ]
    return ui.stack(*skipped, shown, ui.paragraph(_images(findings, findings.conflicts), "faint"))


def _by_metric(findings: Findings, metric: str, judged: pd.DataFrame) -> Markup:
    decides = metric == findings.metric
    ending = "" if decides else f"-{metric.rpartition('/')[2]}"
    counts = judged["verdict"].value_counts()
    caption = (
        "Each cell is a pair: its verdict by colour and sign, and the worse of its two harms in points (adding one "
        "trick to the other). The diagonal, framed, is each trick alone. Point at a cell, or touch it, for intervals."
    )
    if not decides:
        caption += f" Judged by {metric_name(metric)}, which decides nothing here: it is a second look."
    return ui.stack(
        ui.note(findings.other_metrics.notes.get(metric, "")),
        ui.MACROS.legend([(verdict, counts[verdict]) for verdict in VERDICTS if counts.get(verdict, 0)]),
        # letters stand on the axis of the heat map where a screen is too narrow for names
        ui.MACROS.letters([(letter(index), label) for index, label in enumerate(labels_of(judged))]),
        ui.figure(heat_map(judged, findings.effects if decides else None), f"conflicts{ending}", caption),
        ui.table(
            ["pair", "verdict", *ui.CONTRAST_HEADS, "adjusted p", "seeds", "why"],
            _rows(judged),
            f"conflicts{ending}",
            judged,
        ),
        ui.paragraph(
            "Intervals are 95 %, unadjusted; p-values are adjusted for the number of pairs (Holm over the pairs "
            "declared beforehand, Benjamini-Hochberg over the others) and belong to the verdict's own test. The CSV "
            "holds every number as a fraction.",
            "faint",
        ),
        ui.figure(
            forest_plots.pairs(judged, findings.margin, metric_name(metric)),
            f"harms{ending}",
            f"What adding one trick to another does to {metric_name(metric)}, worst first. Left of the line it harms. "
            "The dotted line is the margin: a harm smaller than that would not matter.",
        ),
    )


def _rows(judged: pd.DataFrame) -> list[list[ui.Cell]]:
    order = list(VERDICTS)
    return [
        [
            ui.name(f"{row['a']} × {row['b']}", *["declared beforehand"] * bool(row["primary"])),
            verdict(row)._replace(value=order.index(row["verdict"])),
            *ui.contrasts(row),
            ui.p_value(row["adjusted_p"]),
            ui.count(row["n_seeds"]),
            reason(row),
        ]
        for row in sorted(judged.to_dict("records"), key=lambda row: (order.index(row["verdict"]), worse_harm(row)))
    ]


def verdict(row: Mapping[str, Any]) -> ui.Cell:
    """A pair's verdict and what to do about it."""
    title, action = VERDICTS[row["verdict"]].name, str(row["action"])
    notes = ["sign flip: helps alone, hurts here"] * bool(row["sign_flip"]) + [row.get("holds", "")]
    return ui.Cell("" if action == title else action, notes, "verdict", word=title, verdict=row["verdict"])


def reason(row: Mapping[str, Any]) -> ui.Cell:
    """Why a pair has its verdict: one clause, from which the others unfold."""
    clauses = [clause for clause in (*str(row["reason"]).split("; "), str(row.get("holds_why", ""))) if clause]
    if len(clauses) == 1 and len(clauses[0]) <= TWO_LINES:
        return ui.Cell(clauses[0], kind="long")
    # both directions come first, then what is shown of the pair
    about_the_pair = (
        len(clauses) > 2 and clauses[0].startswith("adding ") and row["verdict"] not in ("compatible", "not applicable")
    )
    return ui.Cell(clauses[2] if about_the_pair else clauses[0], kind="long", more=clauses)


def _images(findings: Findings, judged: pd.DataFrame) -> str:
    """Whether intervals hold for new images, and by what."""
    fixed = judged[judged["val_images"].fillna(0) > 0] if "val_images" in judged else judged.iloc[:0]
    if len(fixed):
        low, high = fixed["images_share"].min(), fixed["images_share"].max()
        return (
            f"Val is the same {int(fixed['val_images'].max()):,} images in every block: their share of the variance, "
            f"{percent(low, 0)} to {percent(high, 0)} of an interaction's, is estimated from which images each trial "
            "got right and added to every interval, so that it holds for new images."
        )
    if findings.design["split_seed"].nunique() < findings.design["seed"].nunique():
        return (
            "Val is the same in every block, and the records do not say which images each trial got right: intervals "
            "hold for these images and are too narrow for new ones."
        )
    return "Every block has its own split: intervals are about new seeds and new splits of these data."
