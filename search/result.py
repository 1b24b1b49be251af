"""The result of a search, as `search.run` returns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves.

    Args:
        name: Name of the search.
        folder: Folder with `best.yaml`, `conflicts.csv`, `report.html`.
        complete: Whether it ran to its end.
        trials: Table of trials (`analysis.records.reader.frame`).
        conflicts: Table of pairs; `None` where the design arm has too little.
        best: The exported document; `None` where nothing has finished.
        phase_seconds: Wall time by phase.
        saved: Epochs and seconds of training that re-use saved.
        tables: Tables of the phases by name, e.g. "nominated", "removals", "path".
        health: Reasons not to believe the search, whole sentences; empty where there are none.
        interrupted: Whether a person ended it.
        failed: Whether it ended early because it could not continue.
    """

    name: str
    folder: Path
    complete: bool
    trials: pd.DataFrame
    conflicts: pd.DataFrame | None
    best: dict[str, Any] | None
    phase_seconds: dict[str, float]
    saved: tuple[float, float]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    interrupted: bool = False
    failed: bool = False
