"""The same pairs in several searches of a store: does a verdict hold for other data?"""

from __future__ import annotations

import math

import pandas as pd
from markupsafe import Markup

from analysis.formatting import VERDICTS, bounds, percent, worse_harm
from analysis.report import html as ui
from analysis.report.findings import Findings
from analysis.report.plots import forest_plots

TITLE = "Does it hold elsewhere?"


def problem(findings: Findings) -> str | None:
    """There must be another search."""
    if findings.other_searches is not None:
        return None
    return (
        "Not known: the store holds no other search with these pairs. A search on other data, another imbalance or "
        "network writes into the same store; then python -m analysis.report shows one table across them."
    )


def html(findings: Findings) -> Markup:
    """One table over the searches, and one by search."""
    assert findings.other_searches is not None
    pooled, each, skipped = findings.other_searches
    caption = "The worse of a pair's two harms in each search, pair by pair: its verdict by shape and colour."
    heads = [
        "pair",
        "does it hold?",
        *ui.CONTRAST_HEADS,
        "I² of the interaction",
        "one more search, interaction",
        "searches",
    ]
    return ui.stack(
        ui.paragraph(
            f"{each['search'].nunique()} searches of the store have pairs in common. For each pair: the mean over "
            "searches (random effects, so that searches may differ), whether they do, and where one more search should "
            "lie. I² is the share of the variance that is between searches. Searches on the same data share their "
            "images and agree more than they should."
        ),
        ui.table(heads, _pooled(pooled), "elsewhere", pooled),
        ui.figure(forest_plots.other_searches(each), "elsewhere", caption),
        ui.MACROS.heading("Search by search"),
        ui.table(["pair", "search", "verdict", *ui.CONTRAST_HEADS, "seeds"], _by_search(each), "searches", each),
        *(ui.note(f"Left out, {search}: {why}") for search, why in skipped.items()),
    )


def _pooled(pooled: pd.DataFrame) -> list[list[ui.Cell]]:
    order = ("differs", "holds in all", "open", "too few")
    rows = []
    for row in sorted(pooled.to_dict("records"), key=lambda row: (order.index(row["word"]), worse_harm(row))):
        low, high = row["interaction_predicted_low"], row["interaction_predicted_high"]
        rows.append(
            [
                ui.name(f"{row['a']} × {row['b']}"),
                ui.Cell(row["verdicts"], [row["why"]], "long", order.index(row["word"]), row["word"]),
                *(
                    ui.effect(row[contrast], row[f"{contrast}_low"], row[f"{contrast}_high"])
                    for contrast in ("b_given_a", "a_given_b", "interaction")
                ),
                ui.number(percent(row["interaction_i2"], 0), row["interaction_i2"]),
                ui.number(bounds(low, high) if math.isfinite(low) else "not known", low),
                ui.count(row["n_searches"]),
            ]
        )
    return rows


def _by_search(each: pd.DataFrame) -> list[list[ui.Cell]]:
    return [
        [
            ui.name(f"{row['a']} × {row['b']}"),
            ui.long(row["search"]),
            ui.Cell(VERDICTS[row["verdict"]].name, kind="verdict", verdict=row["verdict"]),
            *ui.contrasts(row),
            ui.count(row["n_seeds"]),
        ]
        for row in each.to_dict("records")
    ]
