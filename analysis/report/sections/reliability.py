"""What the best recipe and the baseline get wrong, and how far their probabilities can be trusted."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.formatting import seeds
from analysis.recipes.reliability import confusions, precision, recall, with_decisions, wrong_above
from analysis.records.intervals import bounded_interval
from analysis.records.schema import MOST_CONFUSIONS
from analysis.report import html as ui
from analysis.report.context import val_of
from analysis.report.findings import Findings
from analysis.report.sections.curves import missing, trials_drawn

TITLE = "Precision, confusions and calibration"

MOST_CLASSES = 200
"""Rows of a table on the page."""

SHOWN_CONFUSIONS = 12
"""Confusions of a recipe on the page."""

BEFORE_AND_AFTER = (
    ("final/calibration_error_uncalibrated", "final/calibrated_error", "calibration error"),
    ("final/accuracy_uncalibrated", "final/calibrated_accuracy", "accuracy"),
)
"""Metrics before and after calibration, all at equal class frequencies, and what they are called."""


def problem(findings: Findings) -> str | None:
    """Records must say what was predicted."""
    if _drawn(findings):
        return None
    return (
        "The records do not say which classes were predicted: earlier versions kept the recall of each class alone. "
        "Resuming the search does not add it; a search with the same space and seeds does."
    )


def html(findings: Findings) -> Markup:
    """Precision by class, the largest confusions, the calibration, and how often confident answers are wrong."""
    drawn = _drawn(findings)
    counts = ", ".join(f"{name}: {seeds(len(mine))}" for name, mine in drawn.items())
    return ui.stack(
        ui.paragraph(
            "Precision is the share of the val images assigned to a class that belong to it, at the class frequencies "
            f"of val; intervals are over seeds ({counts})."
        ),
        _precisions(drawn),
        *(_confusions(name, mine) for name, mine in drawn.items()),
        _calibration(drawn),
        *(_confident(name, mine) for name, mine in drawn.items()),
        ui.note(missing(findings, drawn, "record of its predictions")),
    )


def _drawn(findings: Findings) -> dict[str, pd.DataFrame]:
    """The trials that speak for each recipe and say what they predicted, by the recipe's name."""
    trials = with_decisions(trials_drawn(findings))
    each = {name: trials[trials["recipe"] == recipe] for recipe, name in findings.compared.items()}
    return {name: mine for name, mine in each.items() if len(mine)}


def _precisions(drawn: dict[str, pd.DataFrame]) -> Markup:
    first = next(iter(drawn.values())).iloc[0]
    order = sorted(range(len(first["counts"])), key=lambda label: (-first["counts"][label], label))
    rows, content = [], []
    for label in order:
        name = _class_name(first, label)
        cells = [ui.name(name), ui.count(first["counts"][label])]
        line: dict[str, Any] = {"label": label, "class": name, "training images": first["counts"][label]}
        for recipe, mine in drawn.items():
            for what, each in (("recall", recall), ("precision", precision)):
                mean, low, high = each(mine, label)
                cells.append(ui.rate(mean, low, high))
                line |= {f"{recipe}, {what}": mean, f"{recipe}, {what} low": low, f"{recipe}, {what} high": high}
        rows.append(cells)
        content.append(line)
    heads = ["class", "training images"] + [
        f"{what} of the {recipe}, %" for recipe in drawn for what in ("recall", "precision")
    ]
    cut = f"The first {MOST_CLASSES} of {len(rows)} classes; the CSV has all." if rows[MOST_CLASSES:] else ""
    return ui.stack(ui.note(cut), ui.table(heads, rows[:MOST_CLASSES], "precisions", pd.DataFrame(content)))


def _confusions(name: str, mine: pd.DataFrame) -> Markup:
    first = mine.iloc[0]
    rows, content = [], []
    for true, other, count, (mean, low, high) in confusions(mine):
        names = _class_name(first, true), _class_name(first, other)
        rows.append([ui.name(names[0]), ui.name(names[1]), ui.count(count), ui.rate(mean, low, high)])
        line: dict[str, Any] = {"true class": names[0], "predicted class": names[1], "images": count}
        content.append(line | {"share": mean, "low": low, "high": high})
    if not rows:
        return ui.note(f"The {name} made no mistake on val.")
    heads = ["true class", "predicted class", "val images, all seeds", "share of the true class, %"]
    shown = ui.table(heads, rows[:SHOWN_CONFUSIONS], f"confusions of the {name}", pd.DataFrame(content))
    return ui.stack(
        ui.paragraph(
            f"Largest confusions of the {name}. A record keeps the {MOST_CONFUSIONS} largest of its trial: where the "
            "full list of a seed lacks a pair, the share is unknown and the number of images is a lower bound."
        ),
        shown,
    )


def _calibration(drawn: dict[str, pd.DataFrame]) -> Markup:
    rows, content = [], []
    fitted = {
        name: mine
        for name, mine in drawn.items()
        if "final/temperature" in mine and mine["final/temperature"].notna().any()
    }
    if not fitted:
        return ui.note("Calibration is measured in the race and the confirmation, which these recipes have not run.")
    for name, mine in fitted.items():
        cells = [ui.name(name)]
        line: dict[str, Any] = {"recipe": name}
        for what, key in (("temperature", "final/temperature"), ("exponent", "final/prior_exponent")):
            value = float(mine[key].mean()) if key in mine else math.nan
            cells.append(ui.number(f"{value:.2f}" if math.isfinite(value) else "unknown", value))
            line[what] = value
        for before, after, what in BEFORE_AND_AFTER:
            for key, when in ((before, "before"), (after, "after")):
                known = mine[key].dropna().tolist() if key in mine else []
                mean, low, high = bounded_interval(known)
                cells.append(ui.rate(mean, low, high))
                line |= {f"{what} {when}": mean, f"{what} {when} low": low, f"{what} {when} high": high}
        rows.append(cells)
        content.append(line)
    heads = ["recipe", "temperature", "exponent of the training prior"]
    heads += [f"{what} {when}, %" for *_, what in BEFORE_AND_AFTER for when in ("before", "after")]
    return ui.stack(
        ui.paragraph(
            "Calibration fits two numbers on val: a temperature (above 1: the network is overconfident) and the prior "
            "under which its probabilities hold, as a power of the class frequencies in training (about 1 after plain "
            "training, about 0 after re-balancing). Bayes' rule then gives probabilities for equal class frequencies, "
            "at which before and after are measured, each half of val with the calibration fitted on the other half. "
            "Recipes are compared without calibration; trainables.train --calibrate builds it into the final model."
        ),
        ui.table(heads, rows, "calibration", pd.DataFrame(content)),
    )


def _confident(name: str, mine: pd.DataFrame) -> Markup:
    """How often answers are wrong above each confidence, by predicted class."""
    first = mine.iloc[0]
    limits = list(mine["decisions"].iloc[0].accepted)
    if not limits:
        return Markup("")
    order = sorted(range(len(first["counts"])), key=lambda label: (-first["counts"][label], label))
    rows, content = [], []
    for label in order:
        cells = [ui.name(_class_name(first, label))]
        line: dict[str, Any] = {"class": _class_name(first, label)}
        for limit in limits:
            answers, (mean, low, high) = wrong_above(mine, label, limit)
            cells += [ui.number(f"{answers:.1f}", answers), ui.rate(mean, low, high)]
            line |= {f"answers from {limit}": answers, f"wrong from {limit}": mean}
            line |= {f"wrong from {limit} low": low, f"wrong from {limit} high": high}
        rows.append(cells)
        content.append(line)
    heads = ["predicted class"]
    for limit in limits:
        heads += [f"answers of a seed from {100 * float(limit):g} % on", "wrong among them, %"]
    return ui.stack(
        ui.paragraph(
            f"Abstention: the number of answers of each class that remain if the {name} only answers from a calibrated "
            "probability on, and the share of these that is wrong, at the class frequencies of val."
        ),
        ui.table(heads, rows[:MOST_CLASSES], f"abstention of the {name}", pd.DataFrame(content)),
    )


def _class_name(first: Any, label: int) -> str:
    names = val_of(pd.DataFrame([first]))[1]
    return str(names[label]) if len(names) > label else f"class {label}"
