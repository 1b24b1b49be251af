"""What was trained, re-used and stopped, by arm."""

from __future__ import annotations

import math

import pandas as pd
from markupsafe import Markup

from analysis.formatting import duration, percent
from analysis.report import html as ui
from analysis.report.findings import Findings

TITLE = "What it cost"


def problem(findings: Findings) -> str | None:
    """There must be a trial."""
    return "No trial has been logged." if findings.trials.empty else None


def html(findings: Findings) -> Markup:
    """The whole search in a sentence, and each arm."""
    trials = findings.trials
    planned, trained = trials["epochs"].sum(), trials["epochs_trained"].sum()
    share = (planned - trained) / planned if planned else math.nan
    gpus = trials["gpus"] if "gpus" in trials else pd.Series(0.0, index=trials.index)
    hours = float((trials["seconds"] * gpus.fillna(0.0)).sum()) / 3600
    sums = trials.groupby("arm", sort=False)[["epochs", "epochs_trained", "images", "seconds", "seconds_saved"]].sum()
    outcomes = trials.groupby(["arm", "outcome"], sort=False).size().unstack(fill_value=0)
    rows = [
        [
            ui.name(str(arm)),
            ui.count(int(outcomes.loc[arm].sum())),
            *(ui.count(outcomes.loc[arm].get(end, 0)) for end in ("finished", "stopped", "diverged", "failed")),
            ui.count(round(row["epochs_trained"])),
            ui.count(round(row["epochs"] - row["epochs_trained"])),
            ui.number(duration(row["seconds"]), row["seconds"]),
        ]
        for arm, row in sums.to_dict("index").items()
    ]
    heads = [
        "arm", "trials", "finished", "stopped early", "diverged", "failed", "epochs trained", "epochs re-used", "time",
    ]  # fmt: skip
    return ui.stack(
        ui.paragraph(
            f"The plans of {len(trials)} trials add up to {planned:,.0f} epochs: {trained:,.0f} were trained, "
            f"{planned - trained:,.0f} ({percent(share, 0)}) were re-used from other trials. Trials took "
            f"{duration(trials['seconds'].sum())}; re-use saved about {duration(trials['seconds_saved'].sum())}."
            + (f" On GPUs, shares counted: {hours:.1f} hours." if hours else "")
        ),
        ui.table(heads, rows, "cost", outcomes.join(sums).reset_index()),
    )
