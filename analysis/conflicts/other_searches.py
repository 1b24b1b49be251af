"""Does a verdict hold elsewhere? The conflict tables of several searches, pair by pair.

For each pair and each contrast (both harms and the interaction) searches i = 1 … k, on other data, imbalance, network
or length, give an estimate y(i) with its standard error s(i). A random-effects model, y(i) = μ + u(i) + e(i) with u of
variance τ², asks what holds on average and how much searches differ:

    Q = Σ (y(i) − ȳ)²/s(i)²,  I² = max(0, (Q − (k − 1))/Q)
    F = Q/(k − 1) / (1 + 2(k − 2)·h/(k² − 1)),  h = Σ (1 − w(i)/Σw)²/df(i),  w = 1/s²
      ~ F(k − 1, (k² − 1)/(3h)) where searches agree                                  (Welch)
    τ² by DerSimonian and Laird,  μ̂ = Σ w y / Σ w  with  w = 1/(s² + τ²)
    interval μ̂ ± t(k − 1)·√max(1, q)/√Σw,  q = Σ w (y − μ̂)²/(k − 1)      (Hartung, Knapp, Sidik, Jonkman)
    prediction for one more search: μ̂ ± t(k − 2)·√(τ² + var μ̂)             (k ≥ 3)

An s(i) of few degrees of freedom is itself a guess: with 6 of them, Q read as χ²(k − 1) says in 11 % of cases that four
searches differ where they do not, Welch's F in 5 % (tests/analysis/test_across.py).

**Words.** "differs": a contrast's F has p ≤ 0.05 after Bonferroni over the three. "holds in all": every search reaches
the same verdict, and no difference is shown. "open": neither; two verdicts that differ are no difference that is shown,
as the same small harm may be a conflict in an exact search and excluded beyond the margin in a coarse one. "too few":
fewer than two searches that can be judged.

Searches are taken to be independent: two that share a data set share its images and agree more than they should.

Source: DerSimonian & Laird 1986 (Controlled Clinical Trials 7); Hartung & Knapp 2001 (Stat. Med. 20); the bound q ≥ 1:
Knapp & Hartung 2003 (Stat. Med. 22); F: Welch 1951 (Biometrika 38); prediction: Higgins, Thompson & Spiegelhalter 2009
(JRSS A 172); I²: Higgins & Thompson 2002 (Stat. Med. 21).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser
from analysis.records.mlflow_store import address
from analysis.text import csv_text, echo, sentence

Floats = NDArray[np.float64]

CONTRASTS = ("interaction", "b_given_a", "a_given_b")
_NUMBERS = ("", "_low", "_high", "_predicted_low", "_predicted_high", "_tau", "_i2", "_q_p")


class Pooled(NamedTuple):
    """One contrast over several searches; NaN where there are too few.

    Args:
        mean: μ̂.
        low: Lower limit of μ̂.
        high: Upper limit of μ̂.
        predicted_low: Where one more search should lie.
        predicted_high: The same, upper.
        tau: Deviation between searches.
        i2: Share of the variance that is between searches, in [0, 1].
        q_p: P-value of "all searches agree", by Welch's F.
    """

    mean: float
    low: float
    high: float
    predicted_low: float
    predicted_high: float
    tau: float
    i2: float
    q_p: float


def pool(values: Floats, errors: Floats, df: Floats | None = None, level: float = 0.95) -> Pooled:
    """Random-effects mean of estimates with their standard errors.

    Args:
        values: (k,).
        errors: (k,), > 0.
        df: degrees of freedom of the errors, (k,); None: they are known exactly, and Q ~ χ²(k − 1).
        level: of the two-sided intervals.

    >>> found = pool(np.array([-0.02, -0.03, -0.01]), np.array([0.005, 0.005, 0.005]))
    >>> print(" ".join(f"{value:.3f}" for value in found))
    -0.020 -0.045 0.005 -0.152 0.112 0.009 0.750 0.018
    """
    k = len(values)
    if k == 0:
        return Pooled(*[math.nan] * 8)
    fixed = 1 / errors**2
    if k == 1:
        return Pooled(float(values[0]), *[math.nan] * 7)
    centre = float(fixed @ values / fixed.sum())
    q = float(fixed @ (values - centre) ** 2)
    tau2 = max(0.0, (q - (k - 1)) / float(fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (errors**2 + tau2)
    mean = float(weights @ values / weights.sum())
    excess = max(1.0, float(weights @ (values - mean) ** 2) / (k - 1))
    variance = excess / float(weights.sum())
    reach = float(special.stdtrit(k - 1, (1 + level) / 2)) * math.sqrt(variance)
    further = math.nan
    if k >= 3:
        further = float(special.stdtrit(k - 2, (1 + level) / 2)) * math.sqrt(tau2 + variance)
    i2 = max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0
    unsure = 0.0 if df is None else float(((1 - fixed / fixed.sum()) ** 2 / df).sum())
    if unsure > 0:
        welch = q / (k - 1) / (1 + 2 * (k - 2) * unsure / (k**2 - 1))
        p = float(special.fdtrc(k - 1, (k**2 - 1) / (3 * unsure), welch))
    else:
        p = float(special.chdtrc(k - 1, q))
    return Pooled(mean, mean - reach, mean + reach, mean - further, mean + further, math.sqrt(tau2), i2, p)


def by_search(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The pairs that at least two searches have, one row per pair and search.

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
        level: of the two-sided intervals.

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
            "verdicts": ", ".join(f"{verdict} {n}" for verdict, n in counted),
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
        return "differs", f"{name} varies between searches by {100 * pooled[name].tau:.1f} points (p = {p:.2g})"
    verdicts = set(judged["verdict"])
    if len(verdicts) == 1 and verdicts != {"unresolved"}:
        return "holds in all", f"{verdicts.pop()} in {_spoke(len(judged), len(group))}"
    if "unresolved" in verdicts:
        return "open", "no difference between searches is shown, and not every search settles the pair"
    told = [f"{row['verdict']} in {row['search']}" for row in judged.to_dict("records")]
    return "open", f"{', '.join(told)}, but that their effects differ is not shown"


def _spoke(judged: int, of: int) -> str:
    """How many searches spoke.

    >>> _spoke(2, 2), _spoke(2, 3)
    ('2 of 2 searches', '2 of 2 searches that can be judged, of 3')
    """
    return f"{judged} of {judged} searches" + (f" that can be judged, of {of}" if of > judged else "")


def from_store(uri: str) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The table of pairs of every search in an MLflow store that has one.

    Returns:
        Search in words ("name: data, imbalance, network, epochs") to its table, and search to why it has none.

    Raises:
        LoadError: There is no such store.
    """
    from analysis.conflicts import at_looks
    from analysis.records import reader as load

    tables, skipped = {}, {}
    for name in load.searches(uri)["name"]:
        settings = load.settings(uri, name)
        primary = settings.get("primary") or ()
        primary = [pair.strip() for pair in primary.split(",")] if isinstance(primary, str) else list(primary)
        margin = settings.get("margin")
        try:
            _, trials = load.records(uri, name)
            margin = float(margin) if isinstance(margin, int | float) else 0.005
            primary = [pair for pair in primary if pair]
            table = at_looks(trials, margin=margin, primary=primary, firsts=load.looks(uri, name))
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
    """One line per pair, in percentage points; ± is a 95 % interval over searches."""
    lines = []
    for row in table.to_dict("records"):
        parts = [f"{row['a']} × {row['b']}: {row['word']} ({row['why']}); {row['verdicts']}"]
        for name, said in (("b_given_a", "adding the second"), ("a_given_b", "adding the first")):
            if math.isfinite(row[name]):
                low, high = (f"{100 * row[f'{name}{end}']:.1f}" for end in ("_low", "_high"))
                parts.append(f"{said} {100 * row[name]:+.1f} points ({low} to {high}), I² {row[f'{name}_i2']:.0%}")
        lines.append("; ".join(parts))
    return lines
