"""Interim looks: what each look at a growing design may claim, and which pairs get further blocks.

A user adds blocks to every pair (`--seeds +N`) or to the declared pairs that are unresolved (`--settle`). Each time
counts as a look, with its share of the error rate (`analysis.stats.alpha_spending`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.conflicts.table import pairwise
from analysis.conflicts.verdicts import MARGIN, UNKNOWN


def at_looks(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    *,
    primary: Iterable[Sequence[str] | str] = (),
    firsts: Sequence[int] = (),
    level: float = 0.95,
    q: float = 0.10,
) -> pd.DataFrame:
    """Judges the pairs at each interim look, with the blocks that it had.

    Args:
        trials: Table of trials, see `pairwise`.
        metric: Column of the val split that decides.
        margin: Loss that would not matter, a fraction.
        primary: Declared pairs; where there are any, the first look leaves a part of their error rate to the next ones.
        firsts: First seed block of each further look, in order; blocks of one look have seeds from
            there on, below the next look's. Blocks of two looks that begin together are judged at the later one.
        level: Confidence level of the two-sided intervals.
        q: False discovery rate over the pairs that are not declared.

    Raises:
        ValueError: The design arm cannot be judged, see `pairwise`.
    """
    primary = list(primary)
    if not primary and not firsts:
        return pairwise(trials, metric, margin, level=level, q=q)
    table = None
    for look, end in enumerate([*firsts, None], start=1):
        rows = trials if end is None else trials[(trials["arm"] != "design") | (trials["seed"] < end)]
        table = pairwise(rows, metric, margin, primary=primary, level=level, q=q, look=look, earlier=table)
    assert table is not None
    return table


def open_directions(table: pd.DataFrame) -> pd.DataFrame:
    """Directions of primary pairs that are not known yet, those that need the fewest further blocks first.

    Args:
        table: Conflict table at this look.

    Returns:
        One row per direction: base, added, context, blocks: the number of further ones after which it would be shown
        to help, to hurt or to cost no loss as large as the margin, with 80 % probability, were its estimate true.

    >>> row = {"a": "p", "b": "q", "context": "", "primary": True, "b_given_a_verdict": "unknown",
    ...     "b_given_a_more_seeds": 7, "a_given_b_verdict": "helps", "a_given_b_more_seeds": 0}
    >>> open_directions(pd.DataFrame([row])).to_dict("records")
    [{'base': 'p', 'added': 'q', 'context': '', 'blocks': 7}]
    """
    found = [
        {"base": row[base], "added": row[added], "context": row["context"], "blocks": row[f"{name}_more_seeds"]}
        for row in table[table["primary"]].to_dict("records")
        for name, base, added in (("b_given_a", "a", "b"), ("a_given_b", "b", "a"))
        if row[f"{name}_verdict"] == UNKNOWN and not pd.isna(row[f"{name}_more_seeds"])
    ]
    return pd.DataFrame(found, columns=["base", "added", "context", "blocks"]).sort_values(
        ["blocks", "base", "added"], ignore_index=True
    )


def further_blocks(table: pd.DataFrame, budget: int | None = None, most: int = 20) -> pd.DataFrame:
    """Which unresolved primary pairs get how many further blocks.

    Pairs that need the fewest come first. A pair that the rest of the budget cannot settle gets none, because half of
    what it takes would settle nothing.

    Args:
        table: Conflict table at this look.
        budget: Further blocks in all, each of the four cells of one pair; `None`: no bound.
        most: A pair that needs more gets none.

    Returns:
        One row per unresolved primary pair: a, b, context, asks (missing: cannot be said), blocks (granted), why.

    >>> table = pd.DataFrame({"a": ["p", "p"], "b": ["q", "r"], "context": ["", ""], "primary": [True, True],
    ...     "verdict": ["unresolved"] * 2, "more_seeds": [7, 4], "reason": [""] * 2})
    >>> print(further_blocks(table, budget=8)[["a", "b", "asks", "blocks"]].to_string(index=False))
    a b  asks  blocks
    p r     4       4
    p q     7       0
    """
    rows = table[table["primary"] & (table["verdict"] == "unresolved")]
    rows = rows.sort_values(["more_seeds", "a", "b"], na_position="last")
    left = math.inf if budget is None else budget
    found = []
    for row in rows.to_dict("records"):
        ask, granted = row["more_seeds"], 0
        if pd.isna(ask):
            why = f"cannot be judged: {row['reason']}"
        elif ask > most:
            why = f"would take {'at least ' * (ask >= 100)}{ask} further blocks, more than {most}"
        elif ask > left:
            why = f"would take {ask} further blocks, and {left:g} of the budget are left"
        else:
            granted, why = int(ask), f"about {ask} further blocks would settle it"
            left -= ask
        pair = {name: row[name] for name in ("a", "b", "context")}
        found.append({**pair, "asks": ask, "blocks": granted, "why": why})
    columns = ["a", "b", "context", "asks", "blocks", "why"]
    return pd.DataFrame(found, columns=columns).astype({"asks": "Int64", "blocks": "int64"})
