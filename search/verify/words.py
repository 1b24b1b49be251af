"""Numbers of a search as its verification and its reproduction tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.records.schema import BASELINE

SHOWN = 5
"""Names of one kind that are told."""


def best_in_words(best: Mapping[str, Any] | None) -> list[str]:
    """What was measured of an exported recipe; empty where there is none."""
    if best is None:
        return []
    measured = best["measured"]
    gain = measured["gain_over_baseline"]
    words = f"recipe {best['recipe']} reaches {span(measured)} % on val over {count(len(measured['seeds']), 'seed')}"
    arm = " that chose nothing" if measured["arm"] == "confirm" else f" of the arm {measured['arm']}, which chose it"
    return [words + arm + (f", {span(gain)} points above the baseline" if best["title"] != BASELINE else "")]


def span(numbers: Mapping[str, Any]) -> str:
    """Mean and interval in percent.

    >>> span({"mean": 0.712, "low": 0.68, "high": 0.74}), span({"mean": 0.5, "low": None, "high": None})
    ('71.2 (68.0 to 74.0)', '50.0')
    """
    if numbers.get("mean") is None:
        return "unknown"
    mean = f"{100 * numbers['mean']:.1f}"
    low, high = numbers.get("low"), numbers.get("high")
    return mean if low is None or high is None else f"{mean} ({100 * low:.1f} to {100 * high:.1f})"


def count(number: int, what: str) -> str:
    """A number with its noun.

    >>> count(1, "trial"), count(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
