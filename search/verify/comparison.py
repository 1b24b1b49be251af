"""Whether two searches agree: their trials to the last digit, or what they found within its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

from search.scheduling.journal import Journal
from search.settings import SettingsError
from search.verify.claims import Verification
from search.verify.words import count, listed, span
from search.workspace import identity
from search.workspace.identity import Identity
from trainables.final.recipe import parse_recipe

LEVEL = 0.95


@dataclass
class Agreement:
    """How two searches compare.

    Args:
        said: What was compared, each a sentence.
        contradictions: What cannot both be true, each a sentence; empty where the searches agree.
    """

    said: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def compare(found: Verification, folder: Path) -> Agreement:
    """Compares a search with the one whose results lie in a folder.

    Args:
        found: The search.
        folder: Of the other search; it may be a copy from elsewhere.

    Raises:
        ValueError: There is no search in the folder, or it cannot be read.
    """
    if not (folder / "journal.jsonl").is_file():
        raise SettingsError(f"--against {folder}: there is no journal.jsonl of a search in it")
    records = Journal(folder / "journal.jsonl").records()
    agreement = Agreement()
    other = Identity.read(folder)
    if found.identity is not None and other is not None:
        agreement.said += [f"not the same: {change}" for change in identity.changes(other, found.identity)]
    common = [
        (found.records[name], record)
        for name, record in records.items()
        if name in found.records
        and (record.recipe, record.seed, record.setting)
        == (found.records[name].recipe, found.records[name].seed, found.records[name].setting)
    ]
    same = sum(_equal(ours.metrics, theirs.metrics) for ours, theirs in common)
    agreement.said.append(
        f"{same} of {count(len(common), 'trial')} that both have "
        + ("give the same metrics to the last digit" if same else "give the same metrics")
    )
    _compare_best(agreement, found, _best(folder))
    _compare_pairs(agreement, found.conflicts, _pairs(folder))
    return agreement


def _equal(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(a[name] == b[name] or (a[name] != a[name] and b[name] != b[name]) for name in a)


def _compare_best(agreement: Agreement, found: Verification, theirs: Mapping[str, Any] | None) -> None:
    """Accuracy and gain of the best recipes, each within what both intervals leave open."""
    ours = found.best
    if ours is None or theirs is None:
        agreement.said.append("a best recipe is not compared: one of both searches has none")
        return
    if ours["recipe"] != theirs["recipe"]:
        agreement.said.append(f"the best recipes are {ours['recipe']} here and {theirs['recipe']} there")
    for what, name in (("accuracy of the best recipe", None), ("gain over the baseline", "gain_over_baseline")):
        here, there = (best["measured"] if name is None else best["measured"][name] for best in (ours, theirs))
        words = f"{what}: {span(here)} here, {span(there)} there"
        # where each search has its own best recipe, what they gain is what both have found
        decisive = name is not None or ours["recipe"] == theirs["recipe"]
        if decisive and apart(_interval(here), _interval(there)):
            agreement.contradictions.append(f"{words}, which differ by more than their intervals allow")
        else:
            agreement.said.append(words)


def _interval(numbers: Mapping[str, Any]) -> tuple[float, float, float]:
    mean, low, high = (math.nan if numbers.get(key) is None else float(numbers[key]) for key in ("mean", "low", "high"))
    return mean, low, high


def _compare_pairs(agreement: Agreement, ours: pd.DataFrame | None, theirs: pd.DataFrame | None) -> None:
    """Interactions of the pairs that both have judged; the level is shared among them (Bonferroni)."""
    if ours is None or theirs is None or not len(theirs):
        return
    names = ["a", "b", "interaction", "interaction_low", "interaction_high"]
    both = ours[names].merge(theirs[names], on=["a", "b"], suffixes=("", "_there"))
    rows = both.dropna().to_dict("records")
    wrong = []
    for row in rows:
        here, there = (tuple(row[f"{name}{suffix}"] for name in names[2:]) for suffix in ("", "_there"))
        if apart(here, there, len(rows)):
            wrong.append(f"{row['a']} × {row['b']}")
    if rows:
        agreement.said.append(
            f"{len(rows) - len(wrong)} of {count(len(rows), 'interaction')} agree within their intervals"
        )
    if wrong:
        agreement.contradictions.append(f"the interaction of {listed(wrong)} is another one")


def apart(a: tuple[float, ...], b: tuple[float, ...], comparisons: int = 1) -> bool:
    """Whether two independent estimates, each (mean, low, high) at 95 %, differ by more than chance.

    |a − b| > z √(hₐ² + h_b²) / z₀, with the half widths h, z₀ the 97.5 % point of the normal distribution and z that of
    1 − 0.025 / comparisons.

    >>> apart((0.70, 0.68, 0.72), (0.74, 0.72, 0.76)), apart((0.70, 0.68, 0.72), (0.72, 0.70, 0.74))
    (True, False)
    """
    halves = [(high - low) / 2 for _, low, high in (a, b)]
    if any(map(math.isnan, halves)):
        return False
    normal = NormalDist()
    tail = (1 - LEVEL) / 2
    wider = normal.inv_cdf(1 - tail / comparisons) / normal.inv_cdf(1 - tail)
    return abs(a[0] - b[0]) > wider * math.hypot(*halves)


def _best(folder: Path) -> dict[str, Any] | None:
    """The recipe in a folder; `None` where there is none."""
    file = folder / "best.yaml"
    if not file.is_file():
        return None
    content = parse_recipe(file)
    try:
        found = content["measured"], content["measured"]["gain_over_baseline"]
        numbers = [part[name] for part in found for name in ("mean", "low", "high")]
        _ = content["recipe"], content["title"]
    except (KeyError, TypeError) as error:
        raise SettingsError(f"--against {folder}: {file} lacks {error}; export it again") from error
    if not all(number is None or isinstance(number, (int, float)) for number in numbers):
        raise SettingsError(f"--against {folder}: {file} has a measured value that is no number; export it again")
    return content


def _pairs(folder: Path) -> pd.DataFrame | None:
    file = folder / "conflicts.csv"
    try:
        return pd.read_csv(file) if file.is_file() else None
    except (OSError, ValueError) as error:
        raise SettingsError(f"--against {folder}: {file} cannot be read ({error})") from error
