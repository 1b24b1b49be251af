"""When the adaptive arm ends before all of its proposals: it has stagnated, and its model sees little more to gain.

Both must hold. The arm has **stagnated** when the last `patience` proposals that are known have not improved on the
best recipe by the margin, as in early stopping with a minimum improvement: a result counts as an improvement if it is
better by the margin than the last one that did, so that small gains add up. The **gain** of the next `patience`
proposals must then be below the margin with 90 % probability (`search.scheduling.early_end.gain_bound`): stagnation
alone may be one lucky seed that is hard to beat. The decision depends only on the results that the next proposal may
know, so it is the same with one slot or several and follows from the journal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.formatting import magnitude

PATIENCE = 15
"""The smallest patience that a search gets by default."""

PATIENT_SHARE = 3
"""The default patience of a longer arm is its number of trials divided by this."""


def default_patience(trials: int) -> int:
    """Patience of a search that sets none.

    >>> default_patience(12), default_patience(40), default_patience(300)
    (15, 15, 100)
    """
    return max(PATIENCE, trials // PATIENT_SHARE)


@dataclass(frozen=True)
class EarlyEnd:
    """The decision to end the adaptive arm.

    Args:
        asked: Proposals made.
        saved: Proposals not made.
        stagnant: The last proposals in a row that have not improved on the best recipe by the margin.
        ahead: Next proposals whose gain was estimated.
        gain: Upper bound of that gain with 90 % probability, by the model, a fraction.
        margin: The margin it was compared with, a fraction.
    """

    asked: int
    saved: int
    stagnant: int
    ahead: int
    gain: float
    margin: float

    def to_dict(self) -> dict[str, Any]:
        """The fields, as the journal keeps them."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        margin = f"the margin of {magnitude(self.margin)} points"
        return (
            f"The adaptive arm ended after {self.asked} of {self.asked + self.saved} proposals: the last "
            f"{self.stagnant} did not improve on the best recipe by {margin}, and by its model the next "
            f"{self.ahead} gain at most {magnitude(self.gain)} with 90 % probability"
        )


def stagnation(best: float, values: Sequence[float | None], margin: float) -> int:
    """Proposals in a row, up to the last one, that have not improved on the best recipe by the margin.

    Args:
        best: The best value before the first proposal; −∞ for none.
        values: Of the proposals in order; `None` for one without a value: stopped, diverged or failed.
        margin: Smallest improvement that counts.

    >>> stagnation(0.80, [0.79, 0.83, None, 0.84, 0.82], margin=0.02)
    3
    >>> stagnation(0.80, [0.79, 0.83, None, 0.84, 0.85], margin=0.02)
    0
    """
    improved = -1
    for position, value in enumerate(values):
        if value is not None and value >= best + margin:
            best, improved = value, position
    return len(values) - 1 - improved


def is_due(stagnant: int, patience: int) -> bool:
    """Whether the gain is estimated now: when the patience is exhausted, and at every third of it after that.

    >>> [stagnant for stagnant in range(30) if is_due(stagnant, 15)]
    [15, 20, 25]
    """
    return patience > 0 and stagnant >= patience and (stagnant - patience) % max(1, patience // 3) == 0
