"""Budgets of a search: wall time, and seconds times share of GPUs, over all of its runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Budget:
    """Counts what a search has used.

    Args:
        seconds: Wall time granted to this run and those that resume it; `None` for what an earlier grant has left.
        gpu_seconds: Seconds times share of GPUs for all runs together; `None` for no limit.
        gpus: Share of GPUs that a running trial usually holds.
    """

    def __init__(self, seconds: float | None, gpu_seconds: float | None, gpus: float) -> None:
        self._gpu_limit, self._gpus = gpu_seconds, gpus
        self.seconds = self.granted = seconds
        """`seconds` is the limit in force, `granted` the one that was granted to this run."""
        self._used_before = self._gpu_used = 0.0
        self._began = time.monotonic()
        self._held_since: dict[str, float] = {}

    def restore(self, event: Mapping[str, Any]) -> None:
        """Takes what an event of the journal says was used; a new grant starts at zero."""
        if event["event"] == "budget" and self.granted is None:
            self.seconds = event["seconds"]
        if self.granted is None:
            self._used_before = event.get("seconds_used", self._used_before)

    def charge(self, gpu_seconds: float) -> None:
        """Adds seconds times share of GPUs."""
        self._gpu_used += gpu_seconds

    def start(self, trial: str) -> None:
        """A trial holds its share from here on."""
        self._held_since[trial] = time.monotonic()

    def end(self, trial: str) -> float:
        """A trial gives its share back; the seconds for which it held it."""
        since = self._held_since.pop(trial, None)
        return 0.0 if since is None else time.monotonic() - since

    def held(self) -> float:
        """Seconds times share of GPUs of the trials that are running."""
        now = time.monotonic()
        # a list: the display asks from a thread of its own
        return self._gpus * sum(now - since for since in list(self._held_since.values()))

    @property
    def gpu_used(self) -> float:
        """Seconds times share of GPUs, those of running trials included."""
        return self._gpu_used + self.held()

    @property
    def seconds_used(self) -> float:
        """Wall time since the time was granted, over all runs."""
        return self._used_before + time.monotonic() - self._began

    @property
    def used(self) -> float:
        """The largest used share of any limit."""
        shares = [0.0]
        if self.seconds is not None:
            shares.append(self.seconds_used / self.seconds)
        if self._gpu_limit is not None:
            shares.append(self.gpu_used / self._gpu_limit)
        return max(shares)

    @property
    def seconds_left(self) -> float | None:
        """What remains of the wall time, at least 0; `None` without a limit."""
        return None if self.seconds is None else max(0.0, self.seconds - self.seconds_used)

    def entry(self) -> dict[str, float]:
        """The wall time for an event of the journal; empty without a limit."""
        return {} if self.seconds is None else {"seconds_used": round(self.seconds_used, 3)}

    def left(self) -> list[str]:
        """What remains of each limit, in words."""
        words = []
        if self.seconds_left is not None:
            words.append(f"{_clock(self.seconds_left)} of the time")
        if self._gpu_limit is not None:
            words.append(f"{max(0.0, self._gpu_limit - self.gpu_used) / 3600:.2f} GPU hours")
        return words

    def grant_again(self) -> str:
        """The options that grant every exhausted limit once more; empty where none is exhausted."""
        options = []
        if self.seconds is not None and self.seconds_used >= self.seconds:
            options.append(f"--time-budget {self.seconds:g}")
        if self._gpu_limit is not None and self.gpu_used >= self._gpu_limit:
            options.append(f"--gpu-hours {2 * self._gpu_limit / 3600:g}")
        return " ".join(options)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
