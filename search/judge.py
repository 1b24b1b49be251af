"""The conflict table of a search, judged the same way wherever it is needed.

Where primary pairs are declared, further blocks may be asked for after looking (`--settle`), at most twice. Every look
has its share of the error rate, so the claims about primary pairs are false in at most 5 % of searches, however many
looks are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_LOOKS = 3
"""The first table, and two more after further blocks."""


def judge(trials: pd.DataFrame, margin: float, primary: Sequence[str] = (), looks: int = 0) -> pd.DataFrame:
    """The conflict table.

    Args:
        trials: Table of trials; the design arm is read.
        margin: Difference in accuracy that matters.
        primary: Declared pairs.
        looks: How often further blocks have been run before.

    Raises:
        ValueError: The design arm cannot be judged.
    """
    from analysis.conflicts import pairwise

    return pairwise(trials, metric="final/accuracy", margin=margin, primary=primary)
