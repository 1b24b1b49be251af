"""Recall of every class."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.formatting import coverage, seeds
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import curves
from analysis.report.sections.curves import missing, trials_drawn

TITLE = "Recall of every class"

MOST_CLASSES = 200
"""Rows of the table on the page."""


def problem(findings: Findings) -> str | None:
    """Recalls of single classes must have been kept."""
    if curves.recalls_info(trials_drawn(findings), findings.compared):
        return None
    return (
        "No recall of single classes was logged, or there are too many classes to keep each as a metric; the file "
        "record.json of every MLflow run has them."
    )


def html(findings: Findings) -> Markup:
    """A figure, and the same as a table by the classes' names."""
    drawn = curves.recalls_info(trials_drawn(findings), findings.compared)
    counts = ", ".join(f"{recall.name}: {seeds(recall.seeds)}" for recall in drawn)
    caption = f"From the most to the least frequent class; mean, and 95 % interval over several seeds ({counts})."
    part = coverage(drawn[0].val_counts, drawn[0].names)
    return ui.stack(
        ui.note(f"{part}. Classes without a recall have no mark below." if part else ""),
        ui.figure(curves.recalls(drawn), "recalls", caption, ""),
        _table(drawn),
        ui.note(missing(findings, [each.name for each in drawn], "recall")),
    )


def _table(drawn: list[curves.Recall]) -> Markup:
    first = drawn[0]
    content, rows = [], []
    for index, class_name in enumerate(first.names):
        line: dict[str, Any] = {"label": first.classes[index], "class": class_name}
        cells = [ui.name(class_name)]
        for what, numbers in (("training images", first.counts), ("val images", first.val_counts)):
            line[what] = numbers[index] if numbers else None
            cells.append(ui.number(f"{numbers[index]:,}" if numbers else "–", numbers[index] if numbers else math.nan))
        for recall in drawn:
            mean, low, high = recall.mean[index], recall.low[index], recall.high[index]
            line |= {f"{recall.name}, recall": mean, f"{recall.name}, low": low, f"{recall.name}, high": high}
            cells.append(ui.rate(mean, low, high))
        content.append(line)
        rows.append(cells)
    heads = ["class", "training images", "val images", *(f"recall of the {recall.name}, %" for recall in drawn)]
    cut = f"The first {MOST_CLASSES} of {len(rows)} classes; the CSV has all." if rows[MOST_CLASSES:] else ""
    return ui.stack(ui.note(cut), ui.table(heads, rows[:MOST_CLASSES], "classes", pd.DataFrame(content)))
