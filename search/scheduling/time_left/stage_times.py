"""How long an epoch takes by stage and tricks, found in the times of whole trials."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np

TRIAL_SECONDS = 0.35
"""What a trial costs besides training: Ray, the first report, the record; by `tests/benchmarks/overhead.py`."""

PRIOR_EPOCHS = 20.0
"""Weight of what is usual in the time of a stage or trick, in epochs."""

PRIOR_TRIALS = 4.0
"""Weight of what is usual, in trials, against what trials have shown."""

KNOWN_EPOCHS = 200.0
"""Weight of the epoch time that an earlier search has shown, in epochs."""

RECENT_TRIALS = 64
"""After so many further trials, a trial counts half in the pace: a machine may become slower or faster."""

SWEEPS = 8
"""Steps towards the best fit; each begins where the last fit ended."""

TRIAL = "trial"
"""The part of a trial that is no epoch of a stage."""

Kind = tuple[str, ...]
"""Parts of an epoch's time: its stage, written "stage/", and the tricks of the stage."""


class StageTimes:
    """Seconds of one epoch by stage and tricks.

    An epoch takes the time of its stage and what each of its tricks adds to it; a trial takes the sum over the epochs
    that it trains, and something besides. These times are fitted by multiplicative updates, as those of a Poisson
    mean, so none is ever negative. Times of tricks are drawn towards 0, those of stages towards the mean of all epochs.

    Args:
        known: Seconds of an epoch in an earlier search; `None` for nothing.

    >>> times = StageTimes()
    >>> for _ in range(200):
    ...     times.add({("second/",): 10}, 3.0)
    ...     times.add({("second/", "mixup"): 10}, 7.0)
    ...     times.fit()
    >>> [round(10 * times.of(kind), 1) for kind in (("second/",), ("second/", "mixup"))]  # shrunk a little
    [2.8, 6.7]
    """

    def __init__(self, known: float | None = None) -> None:
        self.known = self.mean = known
        self.pace = 1.0
        """Seconds of the last trials for each second that was to be expected of them."""
        self._parts: dict[str, float] = {}  # seconds
        self._work: dict[tuple[tuple[str, float], ...], int] = {}  # epochs by part -> number of such trials' work
        self._trials: list[tuple[int, float]] = []  # number of its work, seconds
        self._epochs = 0.0
        self._fitted = 0

    def add(self, epochs: Mapping[Kind, float], seconds: float) -> None:
        """A trial has trained some epochs of each kind in so many seconds."""
        work = {TRIAL: 1.0}
        for kind, count in epochs.items():
            for part in kind:
                work[part] = work.get(part, 0.0) + count
        self._epochs += sum(epochs.values())
        self._trials.append((self._work.setdefault(tuple(sorted(work.items())), len(self._work)), seconds))

    def fit(self) -> None:
        """Takes in what was added."""
        if len(self._trials) == self._fitted:
            return
        self._fitted = len(self._trials)
        which, seconds = (np.array(column) for column in zip(*self._trials, strict=True))
        known = KNOWN_EPOCHS if self.known else 0.0
        if self._epochs + known:
            trained = max(0.0, float(seconds.sum()) - TRIAL_SECONDS * len(seconds))
            self.mean = (trained + known * (self.known or 0.0)) / (self._epochs + known)
        mean = self.mean or 0.0
        parts = list(dict.fromkeys(part for part, _ in chain(*self._work)))
        column = {part: number for number, part in enumerate(parts)}
        work = np.zeros((len(self._work), len(parts)))
        for row, each in enumerate(self._work):
            for part, count in each:
                work[row, column[part]] = count
        usual = {TRIAL: TRIAL_SECONDS} | {part: mean for part in parts if part.endswith("/")}
        weight = np.array([PRIOR_TRIALS if part == TRIAL else PRIOR_EPOCHS for part in parts])
        anchor = weight * [usual.get(part, 0.0) for part in parts]
        rates = np.array([self._parts.get(part, usual.get(part, mean)) for part in parts])
        took, times = np.bincount(which, seconds), np.bincount(which)
        exposure = times @ work + weight
        for _ in range(SWEEPS):
            rates = (rates * (took / np.maximum(work @ rates, 1e-9) @ work) + anchor) / exposure
        self._parts |= dict(zip(parts, rates.tolist(), strict=True))
        recent = 0.5 ** (np.arange(len(seconds))[::-1] / RECENT_TRIALS)
        self.pace = float(recent @ seconds) / max(1e-9, float(recent @ (work @ rates)[which]))

    def of(self, kind: Kind) -> float:
        """Seconds of one epoch; a trick that no trial has shown adds nothing."""
        return self._parts.get(kind[0], self.mean or 0.0) + sum(self._parts.get(trick, 0.0) for trick in kind[1:])

    def shown(self, kind: Kind) -> bool:
        """Whether trials have shown all of its parts."""
        return all(part in self._parts for part in kind)

    @property
    def overhead(self) -> float:
        """Seconds of a trial besides its epochs."""
        return self._parts.get(TRIAL, TRIAL_SECONDS)
