"""What Ray's errors say of a trial, and when failures end a search."""

from __future__ import annotations

import re
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)

from analysis.records.schema import Record


class FailureCount:
    """Counts failures in a row, to end a search in which every trial would fail for the same reason."""

    def __init__(self) -> None:
        self._alike: tuple[str, int] = "", 0
        self._ended_otherwise = False

    def count(self, record: Record) -> str:
        """Takes the next record; why the search should end, in words, or an empty text."""
        if record.outcome != "failed":
            self._alike, self._ended_otherwise = ("", 0), True
            return ""
        alike = NUMBER.sub("#", record.reason)
        self._alike = alike, self._alike[1] + 1 if alike == self._alike[0] else 1
        count = self._alike[1]
        if count < (IN_A_ROW if self._ended_otherwise else FIRST):
            return ""
        which = f"{count} trials in a row" if self._ended_otherwise else f"The first {count} trials"
        return f"{which} failed for the same reason: {record.reason}"


FIRST, IN_A_ROW = 3, 10
"""After how many failures alike a search ends: where nothing has ended otherwise, and where something has."""

NUMBER = re.compile(r"\d+")
"""What may differ between reasons that are alike: sizes, positions, process ids."""


def describe_error(error: Any) -> tuple[str, bool]:
    """What an error of Ray says, in one line, and whether the trial's process is gone."""
    # an error in the process's own start is told as its death
    if isinstance(error, LOST) and not getattr(error, "actor_init_failed", False):
        return f"{type(error).__name__}: its process is gone", True
    # what a trial raises it has told itself: what is left is a whole traceback of Ray's, which ends with the cause
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__), False


LOST = (RayActorError, WorkerCrashedError, NodeDiedError, RaySystemError, ObjectLostError, OutOfMemoryError)
"""Errors of Ray that say nothing about the trial: its process or its machine is gone."""
