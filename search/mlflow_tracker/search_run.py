"""What the search's own run in MLflow must hold, kept beside the journal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter

from analysis import files
from analysis.formatting import short
from analysis.records.mlflow_index import clip
from analysis.records.mlflow_store import key, pair_name

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

INDEX = "mlflow.json"
"""File beside the journal with the content of the search's own run."""

FINDINGS = ("conflict/", "nominated/", "removal/")
"""Prefixes of tags that say what a search has found; those that are no longer true are deleted."""

NO_CONFLICT = "none"
"""Tag "conflicts" where no pair is in conflict."""


@dataclass
class SearchRun:
    """What the search's own run holds; its trials and recipes follow from the journal.

    Kept beside the journal, so that the run can be written again at any time, without data or Ray.

    Args:
        data: Name of the data set.
        started: Unix time in milliseconds.
        params: What the search was started with; where something changed on resuming, its first value.
        tags: Further tags.
        changed: What it was resumed with and not started with.
        choices: Names of all choices of the space.
        metrics: Results.
        findings: Tags of what was found.
        concluded: When metrics and findings were worked out, Unix time in milliseconds.
        pairs: (label, label, verdict), for the recipes that have both.
        changes: (label, label, context, change, low, high) of these pairs: the smaller of the two changes in accuracy
            that adding one to the other makes, with its interval, where it is known.
        artifacts: Names of files in the search's folder.
        status: Status of the run; RUNNING while a driver writes it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    data: str
    started: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    concluded: int = 0
    pairs: list[tuple[str, str, str]] = field(default_factory=list)
    changes: list[tuple[str, str, str, float, float | None, float | None]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    status: str = "RUNNING"

    @staticmethod
    def read(folder: Path | None) -> SearchRun | None:
        """What was kept in a search's folder; `None` if there is nothing that can be read."""
        if folder is None:
            return None
        try:
            return TypeAdapter(SearchRun).validate_json((folder / INDEX).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())
            _logger.warning("%s cannot be read (%s); it is written again", folder / INDEX, why)
            return None

    def save(self, folder: Path | None) -> None:
        """Keeps it in the search's folder, if that still exists."""
        if folder is not None and folder.is_dir():
            files.write(folder / INDEX, files.to_json(asdict(self), indent=1) + "\n")

    def begin(self, params: Mapping[str, str], written: Mapping[str, str], folder: Path | None) -> None:
        """Notes what the search is started or resumed with: the first values stay, the others count as changes.

        Args:
            params: What it is started with now.
            written: What the store has, for a search of which nothing was kept.
            folder: Where to keep it; None if no driver starts, but a search is only written again.
        """
        first = self.params or dict(written)
        changed = {name: value for name, value in params.items() if first.get(name, value) != value}
        self.params = dict(params) | first
        self.changed = changed or self.changed
        if folder is not None:
            self.status = "RUNNING"
            self.save(folder)

    def conclude(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Iterable[str],
        replaced: tuple[str, ...],
    ) -> None:
        """Notes results; of tags that begin with `replaced`, only those given now stay."""
        self.concluded = round(time.time() * 1000)
        self.metrics |= {key(name): float(value) for name, value in metrics.items()}
        stay = {name: text for name, text in self.findings.items() if not name.startswith(replaced)}
        self.findings = stay | {key(name): clip(str(text)) for name, text in tags.items()}
        self.artifacts = sorted({*self.artifacts, *artifacts})

    def mark(self, table: pd.DataFrame) -> None:
        """Notes the verdicts of a table of pairs."""
        pairs = {(a, b): verdict for a, b, verdict in self.pairs}
        pairs |= {(str(row["a"]), str(row["b"])): str(row["verdict"]) for row in table.to_dict("records")}
        self.pairs = [(a, b, verdict) for (a, b), verdict in pairs.items()]
        changes = {change[:2]: change for change in self.changes}
        for row in table.to_dict("records"):
            a, b = str(row["a"]), str(row["b"])
            changes.pop((a, b), None)
            known = [name for name in ("b_given_a", "a_given_b") if math.isfinite(row[name])]
            if len(known) == 2:
                worst = min(known, key=lambda name: float(row[name]))
                low, high = (_finite(row.get(f"{worst}{end}")) for end in ("_low", "_high"))
                changes[a, b] = (a, b, str(row.get("context", "")), float(row[worst]), low, high)
        self.changes = list(changes.values())

    def verdicts(self, tricks: Iterable[str]) -> dict[str, str]:
        """Tags of the pairs that a recipe with these tricks has."""
        enabled = set(tricks)
        pairs = [(a, b, verdict) for a, b, verdict in self.pairs if verdict != "not applicable" and {a, b} <= enabled]
        return {key(pair_name(a, b)): verdict for a, b, verdict in pairs} | {"conflicts": conflicts_in(pairs)}

    def of_pair(self, cells: Iterable[tuple[tuple[str, ...], str]]) -> tuple[str, dict[str, float]]:
        """What is known of a recipe that has the two tricks of a pair and nothing else.

        Args:
            cells: (labels, context) of the designed experiment that the recipe is.

        Returns:
            The verdict, and the pair's worst change with its interval as metrics; empty for any other recipe.
        """
        alone = {(frozenset(labels), context) for labels, context in cells}
        verdicts = {(a, b): verdict for a, b, verdict in self.pairs}
        for a, b, context, *numbers in self.changes:
            if (frozenset((a, b)), context) in alone:
                names = ("pair/worst_change", "pair/worst_change_low", "pair/worst_change_high")
                known = {name: number for name, number in zip(names, numbers, strict=True) if number is not None}
                return verdicts[a, b], known
        return "", {}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def conflicts_in(pairs: Iterable[tuple[str, str, str]]) -> str:
    """The pairs of a list that conflict, for a column of the run table.

    >>> conflicts_in([("train/mixup", "train/focal", "conflict"), ("train/mixup", "late/focal", "compatible")])
    'mixup × train/focal'
    >>> conflicts_in([])
    'none'
    """
    listed = list(pairs)
    names = short(label for a, b, _ in listed for label in (a, b))
    return "; ".join(f"{names[a]} × {names[b]}" for a, b, verdict in listed if verdict == "conflict") or NO_CONFLICT


def conflict_tags(table: pd.DataFrame) -> dict[str, str]:
    """Tags of the search run for a table of pairs, for `Tracker.summary`.

    Each pair is a tag "conflict/<a>--<b>" with its verdict.

    Args:
        table: The result of `analysis.conflicts.pairwise`.
    """
    return {pair_name(str(row["a"]), str(row["b"])): str(row["verdict"]) for row in table.to_dict("records")}
