"""Looking more than once: how much of the error rate each look at a growing table may spend.

**Rule, declared beforehand.** Of the error rate α of the primary (declared) pairs, look 1 spends 60 %, looks 2 and 3
20 % each, so that the family-wise error over all looks stays ≤ α by Bonferroni's inequality, whatever joins the looks
and whoever stops when. The exploratory matrix is judged at its full rate at the first look, because most searches
never look again; blocks that are added later spend another 20 % of the rate at each of looks 2 and 3, so that over all
looks it is at most 1.4 times the rate of one. What a look has shown stays shown. After three looks nothing new is
claimed. Intervals are shown at the full level.

Source: alpha spending: Lan & DeMets 1983 (Biometrika 70); Bonferroni shares as in Wiens 2003 (Pharm. Stat. 2).
"""

from __future__ import annotations

PRIMARY_SHARES = (0.6, 0.2, 0.2)
MATRIX_SHARES = (1.0, 0.2, 0.2)
LOOKS = len(PRIMARY_SHARES)
"""Looks that may claim anything."""


def share_at(look: int | None, primary: bool) -> float:
    """The part of an error rate that a look may spend.

    Args:
        look: Number of the look, from 1; `None`: there is one look only, which may spend everything.
        primary: Whether it is the rate of the declared pairs, which look 1 does not spend entirely.

    Raises:
        ValueError: The look is below 1.

    >>> [share_at(look, True) for look in (None, 1, 2, 3, 4)], [share_at(look, False) for look in (1, 2, 3, 4)]
    ([1.0, 0.6, 0.2, 0.2, 0.0], [1.0, 0.2, 0.2, 0.0])
    """
    if look is None:
        return 1.0
    if look < 1:
        raise ValueError(f"look must be at least 1, or None where there is only one; got {look}")
    shares = PRIMARY_SHARES if primary else MATRIX_SHARES
    return shares[look - 1] if look <= LOOKS else 0.0
