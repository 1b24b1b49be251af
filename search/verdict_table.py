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


def judge(
    trials: pd.DataFrame, margin: float, primary: Sequence[str] = (), further: Sequence[int] = ()
) -> pd.DataFrame:
    """The conflict table.

    Args:
        trials: Table of trials; the design arm is read.
        margin: Difference in accuracy that matters.
        primary: Declared pairs.
        further: First seed of the blocks that each decision after a look has added, in order. Where primary pairs are
            declared, every look is judged at its own share, and what an earlier one has shown stays shown.

    Raises:
        ValueError: The design arm cannot be judged.
    """
    from analysis.conflicts import at_looks

    return at_looks(trials, margin=margin, primary=primary, firsts=further)


def with_checks(table: pd.DataFrame, trials: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The conflict table with what became of its verdicts where they were run again.

    Args:
        table: Of `judge`.
        trials: Table of trials; the check arm is read.
        margin: Difference in accuracy that matters.

    Returns:
        The table with two more columns: `holds`, "final" or "at these settings" for conflicts, harmful pairs and
        synergies and "" for other verdicts, and `holds_why`.
    """
    from analysis.conflicts.robustness import settings_agree

    found = settings_agree(table, trials, margin=margin)
    words = {(row["a"], row["b"]): (row["word"], row["why"]) for row in found.to_dict("records")}
    pairs = [words.get((row["a"], row["b"]), ("", "")) for row in table.to_dict("records")]
    return table.assign(holds=[word for word, _ in pairs], holds_why=[why for _, why in pairs])
