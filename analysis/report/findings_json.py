"""`findings.json`: what a search found, for programs.

The file is UTF-8 JSON with one object. Accuracies and effects are fractions (0.01 is one point); what is not known is
null. Keys are only ever added; a change of their meaning raises `version`.

| key | content |
|---|---|
| `version` | 1 |
| `search`, `data`, `model`, `imbalance`, `metric`, `margin` | what was searched, and what it was judged by |
| `complete` | whether the search ran to its end |
| `health` | reasons not to believe it, whole sentences; empty where there are none |
| `verdicts` | one object a pair, see below |
| `best` | `recipe`, `title`, `accuracy` and `gain` over the baseline (`mean`, `low`, `high`), `seeds`, `arm`; or null |
| `early_ends` | early ends of the adaptive arm: `asked`, `saved` (proposals), `stagnant`, `ahead`, `gain`, `margin` |
| `tables` | tables of the search's phases by name, one object a row, e.g. `nominated`, `removals`, `path` |
| `provenance` | settings of the search, and `fingerprints` of the data by seed block |

A pair has `a`, `b`, `verdict` (a key of `formatting.VERDICTS`), `name` (what people read), `action`, `declared`,
`sign_flip`, `robust` (null where it was not checked), `directions` (two objects with `added`, `to`, `effect`, `low`,
`high`, `verdict`), `interaction` (`effect`, `low`, `high`), `p_value`, `adjusted_p`, `seeds`, `more_seeds` (0 where the
pair is settled), `exploratory` and `reason`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.formatting import VERDICTS

VERSION = 1


def document(
    trials: pd.DataFrame,
    conflicts: pd.DataFrame | None,
    best: Mapping[str, Any] | None,
    *,
    health: Sequence[str] = (),
    complete: bool = True,
    margin: float,
    metric: str = "final/accuracy",
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of the file; see the module.

    Args:
        trials: Table of trials.
        conflicts: Table of pairs; `None` where the design arm cannot be judged.
        best: The exported recipe (`search.export.document`).
        health: Reasons not to believe the search (`analysis.report.health.warnings`).
        complete: Whether the search ran to its end.
        margin: Difference that matters, a fraction.
        metric: Column that everything is judged by.
        provenance: Settings and versions.
    """
    first = trials.iloc[0] if len(trials) else {}
    marks: dict[str, str] = {}
    if len(trials):
        marks = {str(seed): str(mark) for seed, mark in trials.groupby("split_seed")["fingerprint"].first().items()}
    return {
        "version": VERSION,
        **{name: _plain(first.get(name)) for name in ("search", "data", "model", "imbalance")},
        "metric": metric,
        "margin": margin,
        "complete": complete,
        "health": list(health),
        "verdicts": [] if conflicts is None else [_pair(row) for row in conflicts.to_dict("records")],
        "best": None if best is None else _best(best),
        "provenance": {**(provenance or {}), "fingerprints": marks},
    }


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    holds = row.get("holds", "")
    directions = [
        {
            "added": row[added], "to": row[base], "effect": _plain(row[name]), "low": _plain(row[f"{name}_low"]),
            "high": _plain(row[f"{name}_high"]), "verdict": row[f"{name}_verdict"],
        }
        for name, added, base in (("b_given_a", "b", "a"), ("a_given_b", "a", "b"))
    ]  # fmt: skip
    return {
        "a": row["a"],
        "b": row["b"],
        "verdict": row["verdict"],
        "name": VERDICTS[row["verdict"]].name,
        "action": row["action"],
        "declared": bool(row["primary"]),
        "sign_flip": bool(row["sign_flip"]),
        "robust": holds == "robust" if holds else None,
        "directions": directions,
        "interaction": {
            "effect": _plain(row["interaction"]),
            "low": _plain(row["interaction_low"]),
            "high": _plain(row["interaction_high"]),
        },
        "p_value": _plain(row["p_value"]),
        "adjusted_p": _plain(row["adjusted_p"]),
        "seeds": int(row["n_seeds"]),
        "more_seeds": _plain(row["more_seeds"]),
        "exploratory": bool(row["exploratory"]),
        "reason": row["reason"],
    }


def _best(best: Mapping[str, Any]) -> dict[str, Any]:
    measured = best["measured"]
    return {
        "recipe": best["recipe"],
        "title": best["title"],
        "accuracy": {"mean": measured["mean"], "low": measured["low"], "high": measured["high"]},
        "gain": {name: measured["gain_over_baseline"][name] for name in ("mean", "low", "high")},
        "seeds": list(measured["seeds"]),
        "arm": measured["arm"],
    }


def _plain(value: Any) -> Any:
    """A number or text as JSON has it; null for what is not known."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
