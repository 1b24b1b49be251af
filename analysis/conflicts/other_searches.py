"""Does a verdict hold elsewhere? The conflict tables of several searches, pair by pair.

Each direction and the interaction of a pair are pooled over searches by a random-effects model
(`analysis.stats.meta`). Verdicts across searches:

- "differs": Welch's F of one of the three contrasts has p ≤ 0.05 after Bonferroni's correction.
- "holds in all": every search reaches the same verdict, and no difference is shown.
- "open": neither. Two different verdicts do not show a difference: the same small harm may be a conflict in a precise
  search and below the margin in a coarse one.
- "too few": fewer than two searches that can be judged.

Searches count as independent; two that share a data set share its images and agree more than they should.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser
from analysis.conflicts.search_verdicts import margin_of, verdict_table
from analysis.formatting import VERDICTS, percent, points, span
from analysis.records import reader
from analysis.records.mlflow_store import address
from analysis.stats.meta import Pooled, pool
from analysis.text import csv_text, echo, sentence

CONTRASTS = {
    "interaction": "the interaction",
    "b_given_a": "the effect of adding the second",
    "a_given_b": "the effect of adding the first",
}
"""Contrast -> what people read."""

_NUMBERS = ("", "_low", "_high", "_predicted_low", "_predicted_high", "_tau", "_i2", "_q_p")


class OtherSearches(NamedTuple):
    """The same pairs in several searches.

    Args:
        pooled: One row per pair, see `across`.
        searches: One row per pair and search, see `by_search`.
        skipped: Name of a search that could not be judged -> why.
    """

    pooled: pd.DataFrame
    searches: pd.DataFrame
    skipped: dict[str, str]


def compare(uri: str, name: str, trials: pd.DataFrame, table: pd.DataFrame | None) -> OtherSearches | None:
    """Compares a search's pairs with those of every other search in a store.

    Args:
        uri: MLflow store.
        name: The search.
        trials: Its table of trials.
        table: Its conflict table; `None` where it could not be judged.

    Returns:
        `None` where no other search has a pair in common with this one.

    Raises:
        LoadError: There is no such store.
    """
    if table is None or set(reader.searches(uri)["name"]) <= {name}:
        return None
    tables, skipped = from_store(uri)
    tables = {other: each for other, each in tables.items() if not other.startswith(f"{name}: ")}
    tables = {f"{name}: {context_of(trials)}": table} | tables
    skipped.pop(name, None)
    each = by_search(tables)
    return OtherSearches(across(tables), each, skipped) if len(each) else None


def by_search(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns the pairs that at least two searches have, one row per pair and search.

    Args:
        tables: Name of a search (or its context in words) to its table of `analysis.conflicts.pairwise`.

    Returns:
        a, b, search, context, verdict, n_seeds, then each contrast with _se, _df, _low and _high (fractions but _df).
    """
    columns = ["a", "b", "search", "context", "verdict", "n_seeds"]
    columns += [f"{name}{end}" for name in CONTRASTS for end in ("", "_se", "_df", "_low", "_high")]
    known = [table.assign(search=name) for name, table in tables.items() if len(table)]
    if not known:
        return pd.DataFrame(columns=columns)
    rows = pd.concat([table[columns] for table in known], ignore_index=True)
    rows = rows[rows["verdict"] != "not applicable"]
    shared = rows.groupby(["a", "b"])["search"].transform("size") >= 2
    return rows[shared].sort_values(["a", "b"], kind="stable", ignore_index=True)


def across(tables: Mapping[str, pd.DataFrame], level: float = 0.95) -> pd.DataFrame:
    """One row per pair that at least two searches have: what holds on average, and whether searches differ.

    Args:
        tables: Name of a search (or its context in words) to its table of `analysis.conflicts.pairwise`.
        level: Confidence level of the two-sided intervals.

    Returns:
        a, b, n_searches (judged), searches, verdicts ("conflict 2, unresolved 1"), word (see the module), why; for each
        of interaction, b_given_a and a_given_b: the random-effects mean, _low, _high, _predicted_low, _predicted_high,
        _tau, _i2 and _q_p.
    """
    rows = []
    for (a, b), group in by_search(tables).groupby(["a", "b"], sort=False):
        judged = group[group[[f"{name}_se" for name in CONTRASTS]].notna().all(axis=1)]
        numbers = {name: judged[[name, f"{name}_se", f"{name}_df"]].to_numpy(float).T for name in CONTRASTS}
        pooled = {name: pool(values, errors, df, level) for name, (values, errors, df) in numbers.items()}
        word, why = _word(group, judged, pooled)
        counted = Counter(group["verdict"]).most_common()
        row: dict[str, Any] = {
            "a": a,
            "b": b,
            "n_searches": len(judged),
            "searches": ", ".join(judged["search"]),
            "verdicts": ", ".join(f"{VERDICTS[verdict].name} {n}" for verdict, n in counted),
            "word": word,
            "why": why,
        }
        for name, found in pooled.items():
            row |= {f"{name}{end}": value for end, value in zip(_NUMBERS, found, strict=True)}
        rows.append(row)
    columns = ["a", "b", "n_searches", "searches", "verdicts", "word", "why"]
    return pd.DataFrame(rows, columns=columns + [f"{name}{end}" for name in CONTRASTS for end in _NUMBERS])


def _word(group: pd.DataFrame, judged: pd.DataFrame, pooled: Mapping[str, Pooled]) -> tuple[str, str]:
    if len(judged) < 2:
        return "too few", f"{len(judged)} of {len(group)} searches can be judged"
    p = min(1.0, len(pooled) * min(found.q_p for found in pooled.values()))
    if p <= 0.05:
        name = min(pooled, key=lambda name: pooled[name].q_p)
        spread = points(pooled[name].tau).lstrip("+")
        return "differs", f"{CONTRASTS[name]} varies between searches by {spread} points (p = {p:.2g})"
    verdicts = set(judged["verdict"])
    if len(verdicts) == 1 and verdicts != {"unresolved"}:
        return "holds in all", f"{VERDICTS[verdicts.pop()].name} in {_spoke(len(judged), len(group))}"
    if "unresolved" in verdicts:
        return "open", "not every search settles the pair, and no difference between searches is shown"
    each = [f"{VERDICTS[row['verdict']].name} in {row['search']}" for row in judged.to_dict("records")]
    return "open", f"{', '.join(each)}; a difference between their effects is not shown"


def _spoke(judged: int, searches: int) -> str:
    """How many searches could be judged.

    >>> _spoke(2, 2), _spoke(2, 3)
    ('2 of 2 searches', '2 of 2 searches that can be judged, of 3')
    """
    return f"{judged} of {judged} searches" + (f" that can be judged, of {searches}" if searches > judged else "")


def from_store(uri: str) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The table of pairs of every search in an MLflow store that has one.

    Returns:
        Search in words ("name: data, imbalance, network, epochs") to its table, and search to why it has none.

    Raises:
        LoadError: There is no such store.
    """
    tables, skipped = {}, {}
    for name in reader.searches(uri)["name"]:
        settings = reader.settings(uri, name)
        try:
            _, trials = reader.records(uri, name)
            table = verdict_table(
                trials,
                margin=margin_of(settings),
                primary=settings.get("primary") or (),
                firsts=reader.looks(uri, name),
            )
        except ValueError as error:
            skipped[name] = str(error)
            continue
        tables[f"{name}: {context_of(trials)}"] = table
    return tables, skipped


def context_of(trials: pd.DataFrame) -> str:
    """Data, imbalance, network and epochs of a search's design arm, in words.

    >>> row = {"arm": "design", "tricks": (), "data": "digits-lt", "imbalance": 50.0, "model": "resnet8"}
    >>> context_of(pd.DataFrame([row | {"epochs": 30.0}]))
    'digits-lt, imbalance 50, resnet8, 30 epochs'
    """
    plain = trials[(trials["arm"] == "design") & (trials["tricks"].map(len) == 0)]
    row = (plain if len(plain) else trials).iloc[0]
    return f"{row['data']}, imbalance {row['imbalance']:.3g}, {row['model']}, {row['epochs']:g} epochs"


def parser(prog: str = "python -m analysis.across") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Tell whether a verdict holds in the other searches of a store, in one table.")
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument("--out", metavar="FILE", help="CSV file to write the table to (default: none)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m analysis.across") -> int:
    """Prints what the searches of a store say together; 2 where that cannot be done."""
    return command_line.run(parser(prog), arguments, _across)


def _across(options: argparse.Namespace) -> int:
    uri = address(options.tracking_uri)
    tables, skipped = from_store(uri)
    table = across(tables)
    if options.out:
        command_line.write(options.out, csv_text(table))
    for name, why in skipped.items():
        echo(sentence(f"left out {name}: {why}"), file=sys.stderr)
    counted = {0: "no search", 1: "one search"}.get(
        len(tables), f"{len(tables)} searches, no two with a pair in common,"
    )
    nothing = f"nothing to compare: {uri} has {counted} with a conflict table"
    echo(*(map(sentence, words(table)) if len(table) else [sentence(nothing)]))
    return 0


def words(table: pd.DataFrame) -> list[str]:
    """One line per pair, in percentage points with 95 % intervals over searches."""
    lines = []
    for row in table.to_dict("records"):
        parts = [f"{row['a']} × {row['b']}: {row['word']} ({row['why']}); {row['verdicts']}"]
        for name, added in (("b_given_a", "the second"), ("a_given_b", "the first")):
            if math.isfinite(row[name]):
                effect = span(row[name], row[f"{name}_low"], row[f"{name}_high"])
                parts.append(f"adding {added}: {effect}, I² {percent(row[f'{name}_i2'], 0)}")
        lines.append("; ".join(parts))
    return lines
