"""Learning curves of the best recipe and the baseline."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from markupsafe import Markup

from analysis.formatting import seeds
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import curves

TITLE = "Learning curves"


def problem(findings: Findings) -> str | None:
    """Curves must have been logged."""
    if findings.curves is None:
        return "No learning curves were logged."
    return None if _curves(findings) else "Neither the best recipe nor the baseline has a learning curve."


def html(findings: Findings) -> Markup:
    """Every seed, and their mean."""
    drawn = _curves(findings)
    counts = ", ".join(f"{curve.name}: {seeds(len(curve.seeds))}" for curve in drawn)
    caption = (
        f"Accuracy on val over the epochs of the plan: the mean as a thick line, every seed as a thin one ({counts})."
    )
    return ui.stack(
        ui.figure(curves.learning_curves(drawn), "curves", caption, ""),
        ui.note(missing(findings, [curve.name for curve in drawn], "learning curve")),
    )


def trials_drawn(findings: Findings) -> pd.DataFrame:
    """Trials of the best recipe and of the baseline."""
    return pd.concat([findings.trials.iloc[:0], *(findings.trials_of(recipe) for recipe in findings.compared)])


def missing(findings: Findings, drawn: Collection[str], what: str) -> str:
    """A sentence that names the recipes that are not drawn; "" where all are."""
    lacking = [name for name in findings.compared.values() if name not in drawn]
    return f"The {' and the '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no {what}." if lacking else ""


def _curves(findings: Findings) -> list[curves.Curve]:
    assert findings.curves is not None
    kept = findings.curves[findings.curves["trial"].isin(trials_drawn(findings)["trial"])]
    return curves.curves_info(kept, findings.compared)
