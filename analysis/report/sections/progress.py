"""Every trial in the order of its end, and why some were stopped."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.formatting import percent
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import curves

TITLE = "How the search went"

MOST_STOPS = 200
"""Rows of the table on the page."""


def problem(findings: Findings) -> str | None:
    """There must be a finished trial."""
    return "No trial has finished." if findings.ranking.empty else None


def html(findings: Findings) -> Markup:
    """The scores, then the stops."""
    caption = (
        "Every finished trial (one recipe, one seed) in the order in which they ended. Single-trial scores are noisy: "
        "the highest point need not be the best recipe."
    )
    stopped = findings.trials[findings.trials["outcome"] == "stopped"]
    return ui.stack(
        ui.figure(curves.progress(findings.trials, findings.metric), "progress", caption, ""),
        _stops(stopped) if len(stopped) else "",
    )


def _stops(stopped: pd.DataFrame) -> Markup:
    """The early stopping decisions in numbers."""
    content = [
        {key: row[key] for key in ("trial", "recipe", "title", "seed", "reason")} | _decision(row)
        for row in stopped.to_dict("records")
    ]
    more = f" The first {MOST_STOPS} of {len(stopped)}; the CSV has all." if len(stopped) > MOST_STOPS else ""
    heads = ["recipe", "stopped at", "its score, %", "the cut, %", "among", "compared with", "score"]
    return ui.stack(
        ui.MACROS.heading(f"Why {len(stopped)} trials were stopped"),
        ui.paragraph(
            "A trial is stopped when its score, at a given share of its own plan, is below the cut of the trials in "
            f"the same stage with the same stages still to come.{more}"
        ),
        ui.table(
            heads, [_row(row) for row in stopped.head(MOST_STOPS).to_dict("records")], "stops", pd.DataFrame(content)
        ),
    )


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    return row["stop"] if isinstance(row.get("stop"), dict) else {}


def _row(row: dict[str, Any]) -> list[ui.Cell]:
    stop = _decision(row)
    title = ui.name(row["title"], f"seed {row['seed']}, {row['trial']}")
    if not stop:
        return [title, ui.long(row["reason"] or "no reason was logged")._replace(span=6)]
    rung, value, cut = (float(stop.get(key, math.nan)) for key in ("rung", "value", "cut"))
    cohort = stop.get("cohort", "")
    return [
        title,
        ui.number(f"{100 * rung:g} % of its plan", rung),
        ui.number(percent(value).removesuffix(" %"), value),
        ui.number(percent(cut).removesuffix(" %"), cut),
        ui.count(stop["among"]) if "among" in stop else ui.number("unknown", math.nan),
        ui.long(" > ".join(map(str, cohort)) if isinstance(cohort, list | tuple) else str(cohort)),
        ui.Cell(str(stop.get("score", ""))),
    ]
