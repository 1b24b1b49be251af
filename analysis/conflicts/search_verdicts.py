"""From the trials of a search to its verdicts: the one table that the screen, the report and exports show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.conflicts.looks import at_looks
from analysis.conflicts.robustness import settings_agree
from analysis.conflicts.verdicts import MARGIN


def verdict_table(
    trials: pd.DataFrame,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    *,
    primary: Iterable[Sequence[str] | str] | str = (),
    firsts: Sequence[int] = (),
) -> pd.DataFrame:
    """Judges every pair of the design arm at each interim look, and says which verdicts are robust.

    Args:
        trials: Table of trials; the arms "design" and "check" are read.
        metric: Column of the val split that decides.
        margin: Loss that would not matter, a fraction.
        primary: Declared pairs, as a list or as one text with commas, which is how MLflow keeps them.
        firsts: First seed block of each further look, see `at_looks`.

    Returns:
        The table of `pairwise` with `holds` and `holds_why`, see `with_robustness`.

    Raises:
        ValueError: The design arm cannot be judged.
    """
    table = at_looks(trials, metric, margin, primary=declared_pairs(primary), firsts=firsts)
    return with_robustness(table, trials, metric, margin)


def with_robustness(
    table: pd.DataFrame, trials: pd.DataFrame, metric: str = "final/accuracy", margin: float = MARGIN
) -> pd.DataFrame:
    """Adds to a conflict table whether its verdicts were confirmed at other learning rates and lengths.

    Returns:
        The table with `holds` ("robust" or "at these settings" for the verdicts that people act on, else "") and
        `holds_why`.
    """
    checked = settings_agree(table, trials, metric, margin)
    words = {(row["a"], row["b"]): (row["word"], row["why"]) for row in checked.to_dict("records")}
    pairs = [words.get((row["a"], row["b"]), ("", "")) for row in table.to_dict("records")]
    return table.assign(holds=[word for word, _ in pairs], holds_why=[why for _, why in pairs])


def declared_pairs(primary: Iterable[Sequence[str] | str] | str) -> list[Sequence[str] | str]:
    """Declared pairs as a list, also where they come as one text.

    >>> declared_pairs("a×b, c×d"), declared_pairs([("a", "b")])
    (['a×b', 'c×d'], [('a', 'b')])
    """
    if isinstance(primary, str):
        return [pair.strip() for pair in primary.split(",") if pair.strip()]
    return list(primary)


def margin_of(settings: Mapping[str, Any]) -> float:
    """The margin among a search's settings; the default where it has none."""
    margin = settings.get("margin")
    return float(margin) if isinstance(margin, int | float) else MARGIN
