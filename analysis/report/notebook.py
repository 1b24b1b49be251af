"""What a notebook shows of a search: the report's cards, and the conflict table coloured by verdict."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup
from pandas.io.formats.style import Styler

from analysis.formatting import VERDICTS, labels_of, plus_minus, short, worse_harm
from analysis.report import cards
from analysis.report.findings import Findings

CARD = "border-left:4px solid {colour};padding:0 .8em;margin:.6em 0"


def styled_conflicts(table: pd.DataFrame) -> Styler:
    """The conflict table for people, worst pairs first, each row with the colour of its verdict.

    Args:
        table: The result of `analysis.conflicts.pairwise`.

    Returns:
        A pandas styler: "verdict", "A", "B", and what adding one to the other changes, in points of accuracy with the
        half width of the 95 % interval.
    """
    names, order = short(labels_of(table)), list(VERDICTS)
    rows = sorted(table.to_dict("records"), key=lambda row: (order.index(row["verdict"]), worse_harm(row)))
    shown = pd.DataFrame(
        [
            {
                "verdict": VERDICTS[row["verdict"]].name, "A": names[row["a"]], "B": names[row["b"]],
                "B added to A": _change(row, "b_given_a"), "A added to B": _change(row, "a_given_b"),
            }
            for row in rows
        ],
        columns=["verdict", "A", "B", "B added to A", "A added to B"],
    )  # fmt: skip
    colours = [VERDICTS[row["verdict"]] for row in rows]
    css = [f"background-color:{style.colour};color:{style.ink}" for style in colours]
    return shown.style.apply(lambda column: css, subset=["verdict"]).hide(axis="index").format(escape="html")


def _change(row: dict[str, Any], name: str) -> str:
    return plus_minus(row[name], row[f"{name}_low"], row[f"{name}_high"])


def found_html(name: str, findings: Findings) -> str:
    """A search's cards and its conflict table as HTML that needs no script and no style sheet.

    Args:
        name: Name of the search.
        findings: What it has found.
    """
    parts = [Markup("<h3>Search {}</h3>").format(name)]
    parts += [Markup("<p><b>Before you believe it.</b> {}</p>").format(warning) for warning in findings.health]
    for card in cards.cards(findings):
        pairs = Markup("").join(Markup("<li><b>{}</b>: {}</li>").format(*pair) for pair in card.pairs)
        parts.append(
            Markup('<div style="{}"><b>{}</b><br>{}<ul>{}</ul></div>').format(
                CARD.format(colour=card.colour), card.heading, card.words, pairs
            )
        )
    parts.append(Markup("<p><b>Best recipe.</b> {}</p>").format(cards.best_recipe(findings)))
    if arm := findings.about.get("adaptive_arm"):
        parts.append(Markup("<p><b>Adaptive arm.</b> {}</p>").format(arm))
    if findings.conflicts is not None and len(findings.conflicts):
        parts.append(Markup(styled_conflicts(findings.conflicts).to_html()))
    return str(Markup("\n").join(parts))
