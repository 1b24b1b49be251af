"""Looking more than once: how much of the error each look may spend, and who asks for further blocks.

Further blocks may be run for declared (primary) pairs that are unresolved, at most three looks in all (``--settle``).
**Rule, declared beforehand:** of the error rate α = 1 − level, look 1 spends 60 %, looks 2 and 3 20 % each. A claim
of the table at look k is tested at its share, and what an earlier look has shown stays shown. By Bonferroni's
inequality over the looks the family-wise error stays ≤ α, whatever joins the looks and whoever stops when, as long as
the number of further blocks does not favour a look's own test; blocks are asked for by the size of the estimates, which
simulation finds harmless (`tests/benchmarks/conflict_truth.py`, section looks). Intervals are shown at the full level.
Pairs of the exploratory matrix ask for no blocks and are judged at the full rate at every look.

The first look takes most because most searches never look again.

Source: alpha spending: Lan & DeMets 1983 (Biometrika 70); Bonferroni shares as in Wiens 2003 (Pharm. Stat. 2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.6, 0.2, 0.2)
LOOKS = len(SHARES)


def level_at(look: int | None, level: float = 0.95) -> float:
    """The level at which a look tests the primary pairs.

    Args:
        look: 1 to 3; None: there is one look only, which has all of α.
        level: 1 − α.

    Raises:
        ValueError: Another look.

    >>> [round(level_at(look), 3) for look in (None, 1, 2, 3)]
    [0.95, 0.97, 0.99, 0.99]
    """
    if look is None:
        return level
    if not 1 <= look <= LOOKS:
        raise ValueError(f"look must be 1 to {LOOKS}, or None where there is only one; got {look}")
    return 1 - (1 - level) * SHARES[look - 1]


def needs(table: pd.DataFrame, budget: int | None = None, most: int = 20) -> pd.DataFrame:
    """Which unresolved primary pairs get how many further blocks.

    Those that ask for least come first, and a pair that the rest of the budget cannot settle gets nothing: half of
    what it takes would settle nothing.

    Args:
        table: Of `analysis.conflicts.pairwise` at this look.
        budget: Further blocks in all, each of the four cells of one pair; None: no bound.
        most: A pair that asks for more is left as it is.

    Returns:
        One row per unresolved primary pair: a, b, context, asks (missing: cannot be said), blocks (granted), why.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"a": ["p", "p"], "b": ["q", "r"], "context": ["", ""], "primary": [True, True],
    ...     "verdict": ["unresolved"] * 2, "more_seeds": [7, 4], "reason": [""] * 2})
    >>> print(needs(table, budget=8)[["a", "b", "asks", "blocks"]].to_string(index=False))
    a b  asks  blocks
    p r     4       4
    p q     7       0
    """
    import pandas as pd

    rows = table[table["primary"] & (table["verdict"] == "unresolved")]
    rows = rows.sort_values(["more_seeds", "a", "b"], na_position="last")
    left = math.inf if budget is None else budget
    found = []
    for row in rows.to_dict("records"):
        ask, granted = row["more_seeds"], 0
        if pd.isna(ask):
            why = f"cannot be judged: {row['reason']}"
        elif ask > most:
            why = f"asks for {'at least ' * (ask >= 100)}{ask} further blocks, more than {most}"
        elif ask > left:
            why = f"asks for {ask} further blocks, of the budget {left:g} are left"
        else:
            granted, why = int(ask), f"about {ask} further blocks would settle it"
            left -= ask
        pair = {name: row[name] for name in ("a", "b", "context")}
        found.append({**pair, "asks": ask, "blocks": granted, "why": why})
    columns = ["a", "b", "context", "asks", "blocks", "why"]
    return pd.DataFrame(found, columns=columns).astype({"asks": "Int64", "blocks": "int64"})
