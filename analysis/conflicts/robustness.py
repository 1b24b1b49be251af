"""Does a verdict hold at other learning rates and at the final length? From the rows of the check arm.

A pair's cells are run again with every learning rate at a third and at three times its value and, where the search was
shortened, at full length (`Record.setting`). A verdict is **robust** where it is shown in the design and in every one
of these settings: a conjunction, which needs no correction. These runs share the design's blocks, so this checks the
settings and is no replication with new seeds. Everything else reads "at these settings".

Source: Berger 1982 (Technometrics 24, intersection-union tests).
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.conflicts.table import pairwise
from analysis.conflicts.verdicts import MARGIN
from analysis.formatting import VERDICTS

RATES = {"lr/3": "a third of the learning rate", "lr*3": "three times the learning rate"}
"""Settings in which every checked pair is run again -> what people read."""

NOT_RUN = "not run at other learning rates"
CHECKED = ("conflict", "harmful", "synergy", "better together")
ROBUST, HERE = "robust", "at these settings"
UNJUDGED = "not judged: "


def settings_agree(
    table: pd.DataFrame,
    checks: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """What became of each verdict that would be acted upon (`CHECKED`) in the settings in which it was run again.

    Args:
        table: Conflict table of the design arm.
        checks: Table of trials; the rows with arm "check" are read, by their column `setting`.
        metric: Column that the table was judged by.
        margin: Its margin.
        level: Its confidence level.

    Returns:
        One row per pair of the table with such a verdict: a, b, context, verdict, one column per setting
        ("lr/3", "lr*3", "full length") with the verdict there ("" where it was not run), word ("robust" or "at these
        settings") and why. A row is "robust" only if both learning rates were run and every setting that was run shows
        the same verdict.
    """
    rows = checks[checks["arm"] == "check"]
    design = checks[checks["arm"] == "design"]
    names = [*RATES, *sorted(set(rows["setting"]) - set(RATES) if len(rows) else ())]
    found = []
    for pair in table[table["verdict"].isin(CHECKED)].to_dict("records"):
        there = {name: _verdict(rows[rows["setting"] == name], design, pair, metric, margin, level) for name in names}
        word, why = _word(pair["verdict"], there)
        found.append(
            {**{name: pair[name] for name in ("a", "b", "context", "verdict")}, **there, "word": word, "why": why}
        )
    return pd.DataFrame(found, columns=["a", "b", "context", "verdict", *names, "word", "why"])


def _verdict(
    rows: pd.DataFrame, design: pd.DataFrame, pair: dict[str, Any], metric: str, margin: float, level: float
) -> str:
    """The pair's verdict in one setting, tested alone; "" where its cells were not run."""
    same = rows["context"].fillna("") == pair["context"] if "context" in rows.columns else pd.Series(True, rows.index)
    here = rows[same] if same.any() else rows  # a factorial's pairs are checked in a context of their own
    labels = set().union(*here["tricks"]) if len(here) else set()
    if not {pair["a"], pair["b"]} <= labels:
        return ""
    try:
        declared = [(pair["a"], pair["b"])]
        judged = pairwise(here, metric, margin, primary=declared, level=level, arm="check", beside=design)
    except ValueError as error:
        return f"{UNJUDGED}{error}"
    row = judged[(judged["a"] == pair["a"]) & (judged["b"] == pair["b"])].iloc[0]
    if row["verdict"] == "unresolved" and pd.isna(row["interaction_low"]):
        # too few blocks or first stages for any claim: no test, and none that it could have failed
        return f"{UNJUDGED}{row['reason']}"
    return "" if row["verdict"] == "not applicable" else str(row["verdict"])


def _word(verdict: str, found: dict[str, str]) -> tuple[str, str]:
    names = {setting: RATES.get(setting, setting) for setting in found}
    missing = [names[setting] for setting in RATES if not found[setting]]
    cut = [word.removeprefix(UNJUDGED) for word in found.values() if word.startswith(UNJUDGED)]
    others = [
        f"{names[setting]} ({VERDICTS[word].name})"
        for setting, word in found.items()
        if word not in ("", verdict) and not word.startswith(UNJUDGED)
    ]
    if others:
        return HERE, f"not shown at {' nor at '.join(others)}"
    if cut:
        return HERE, f"too few seeds at other settings: {cut[0]}"
    if missing:
        return HERE, NOT_RUN if len(missing) == len(RATES) else f"not run at {missing[0]}"
    return ROBUST, f"also shown at {', '.join(names[setting] for setting, word in found.items() if word)}"
