"""The first screen of the report, and the same findings in a few sentences for MLflow.

It answers which tricks to use together, which to avoid, and what is not known and would cost how much; then which
recipe is best, and in which context all of this holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.conflicts.robustness import NOT_RUN
from analysis.formatting import (
    DIRECTION_NAMES,
    VERDICTS,
    cost_of_the_rest,
    counted,
    labels_of,
    magnitude,
    percent,
    percent_bounds,
    seeds,
    settled,
    short,
    span,
    worse_harm,
)  # fmt: skip
from analysis.records.reader import mean_interval
from analysis.report.context import classes_judged
from analysis.report.findings import Findings
from analysis.report.html import anchor

MOST_NAMED = 6
"""Pairs of a list that are named in a sentence."""

OF_THE_CHOICE = "the same by which it was chosen, so the number is optimistic"
SEEDS_OF = {
    "confirm": "fresh, with no part in the choice",
    "race": "fresh, but it won the race by them, so the number is slightly optimistic",
    "design": f"{OF_THE_CHOICE}; no race on fresh seeds has been run",
    "adaptive": f"{OF_THE_CHOICE}; no race on fresh seeds has been run",
}


class Card(NamedTuple):
    """One of the lists of pairs at the top.

    Args:
        heading: What to do with the pairs.
        verdict: Verdict whose sign and colour it has.
        words: A sentence below the heading.
        pairs: Each pair, and its numbers.
        tally: Noun after the number of pairs in the line above all cards; "" leaves the card out of it.
        column: Column of the first screen.
        shown: Pairs that are seen at once; the others unfold.
    """

    heading: str
    verdict: str
    words: str
    pairs: tuple[tuple[str, str], ...] = ()
    tally: str = ""
    column: int = 0
    shown: int = 5

    @property
    def id(self) -> str:
        """The element's id."""
        return f"list-{anchor(self.heading)}"

    @property
    def colour(self) -> str:
        """The colour of its edge."""
        return "#aab2bd" if self.verdict == "unresolved" else VERDICTS[self.verdict].colour


def cards(findings: Findings) -> list[Card]:
    """Which pairs to use, which to avoid and which are unknown: plain lists, each pair with its numbers."""
    table = findings.conflicts
    if table is None:
        return [Card("Not known yet", "unresolved", no_table(findings))]
    rows = [row for row in table.to_dict("records") if row["verdict"] != "not applicable"]
    names = short(labels_of(table))

    def card(heading: str, verdicts: Sequence[str], tally: str, words: str, none: str, column: int) -> Card:
        mine = sorted((row for row in rows if row["verdict"] in verdicts), key=worse_harm)
        pairs = tuple((f"{names[row['a']]} × {names[row['b']]}", pair_words(row, names)) for row in mine)
        text = f"{len(mine)} of {len(rows)} pairs. {words}" if mine else none
        return Card(heading, verdicts[0], text, pairs, tally, column)

    loss = f"a loss of {magnitude(findings.margin)} points or more"
    return [
        card(
            "Use together", ("better together", "synergy"), "better together",
            "Adding each to the other helps, and both together beat the recipe without them.",
            "No pair is shown to be better than each alone.",
            0,
        ),
        card(
            "Safe, or one is enough", ("compatible", "redundant"), "safe",
            f"Intervals exclude {loss}, or the effects overlap without a loss.",
            f"For no pair do intervals exclude {loss} in both directions.", 0,
        ),
        card(
            "Avoid together", ("conflict",), "to avoid",
            "Adding one to the other hurts because their effects overlap.", "No pair is shown to be in conflict.", 1,
        ),
        card(
            "One of them hurts", ("harmful",), "with one that hurts",
            "Adding one trick hurts; whether the pair or that trick alone is to blame is open.",
            "No further trick is shown to hurt beside another.", 1,
        ),
        card(
            "Not known yet", ("unresolved",), "not known yet",
            f"{settled(table)} {cost_of_the_rest(table, findings.trials)}", "Every pair has an answer.", 2,
        ),
    ]  # fmt: skip


def no_table(findings: Findings) -> str:
    """Why no pair could be judged."""
    return f"Unknown: no pair could be judged ({findings.problem or 'the design arm has no pair of tricks'})."


def pair_words(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The numbers of a pair on a card."""
    verdict = row["verdict"]
    if verdict in ("conflict", "harmful"):
        return "; ".join([*_hurts(row, names), *_robustness(row)])
    if verdict in ("synergy", "better together"):
        weaker = min(("b_given_a", "a_given_b"), key=lambda name: row[name])
        return "; ".join([f"at least {_effect(row, weaker)} over either alone", *_robustness(row)])
    if verdict == "redundant":
        kept = str(row["action"]).partition(": ")[2]
        return f"{names[kept]} is enough" if kept in names else "one is enough"
    if verdict == "unresolved":
        return "; ".join(_open(row, names)) or excluded_loss(row["excluded_harm"]) or str(row["reason"])
    return excluded_loss(row["excluded_harm"])


def excluded_loss(loss: float) -> str:
    """The largest loss that the intervals of a pair allow; "" where it is not known.

    >>> excluded_loss(0.014), excluded_loss(0.0002), excluded_loss(float("nan"))
    ('a loss of 1.4 points at most', 'no loss', '')
    """
    if not math.isfinite(loss):
        return ""
    size = magnitude(loss)
    return "no loss" if float(size) == 0 else f"a loss of {size} points at most"


def _effect(row: Mapping[str, Any], name: str) -> str:
    return span(row[name], row[f"{name}_low"], row[f"{name}_high"], " points")


def _added(row: Mapping[str, Any], direction: str, names: Mapping[str, str]) -> str:
    added, base = ("b", "a") if direction == "b_given_a" else ("a", "b")
    return f"{names[row[added]]} added to {names[row[base]]}"


def _hurts(row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """The directions that are shown to hurt, the worst first: all of a harmful pair, the worst of a conflict."""
    ordered = sorted(("b_given_a", "a_given_b"), key=lambda name: row[name])
    shown = [name for name in ordered if row[f"{name}_verdict"] == "hurts"] or ordered[:1]
    words = []
    for name in shown if row["verdict"] == "harmful" else shown[:1]:
        flips = row["sign_flip"] and row[f"alone_{'b' if name == 'b_given_a' else 'a'}_low"] > 0
        words.append(f"{_added(row, name, names)}: {_effect(row, name)}" + "; it helps alone" * bool(flips))
    return words


def _open(row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What is known of a pair without a verdict, and how many seeds would settle it."""
    words = [
        f"{_added(row, name, names)}: {DIRECTION_NAMES[row[f'{name}_verdict']]}"
        for name in ("b_given_a", "a_given_b")
        if row[f"{name}_verdict"] != "unknown"
    ]
    more = row["more_seeds"]
    if not pd.isna(more) and 0 < int(more) < 100:
        words.append(f"about {counted(more, 'more seed')}")
    return words


def _robustness(row: Mapping[str, Any]) -> list[str]:
    """Whether a verdict was confirmed at other learning rates, as a clause."""
    holds, why = row.get("holds", ""), row.get("holds_why", "")
    if why == NOT_RUN:
        return ["not tested at other learning rates"]
    if why.startswith("too few seeds"):
        return ["too few seeds at other learning rates to say whether it holds there"]
    return [f"robust: {why}" if holds == "robust" else why] if holds else []


def answer(findings: Findings) -> list[tuple[str, str]]:
    """The findings in a few sentences of plain text, each under its heading."""
    parts = [("Before you believe it", " ".join(findings.health))] if findings.health else []
    for card in cards(findings):
        named = [f"{pair} ({words})" if words else pair for pair, words in card.pairs[:MOST_NAMED]]
        more = f"; and {len(card.pairs) - MOST_NAMED} more in the table" if len(card.pairs) > MOST_NAMED else ""
        parts.append((card.heading, card.words + (f" {'; '.join(named)}{more}." if named else "")))
    return [*parts, ("Best recipe", best_recipe(findings))]


# --------------------------------------------------------------------------------------------- best recipe


def best_recipe(findings: Findings) -> str:
    """The best recipe, how good it is and by which seeds, in a few sentences."""
    if not findings.best:
        return "Unknown: no trial has finished yet."
    rows = {row["recipe"]: row for row in findings.ranking.to_dict("records")}
    row = rows[findings.best]
    known = f"95 % interval {percent_bounds(row['low'], row['high'])}" if math.isfinite(row["low"]) else "no interval"
    measured = f"{percent(row['mean'])} accuracy on val ({known}, {seeds(row['seeds'])}, {SEEDS_OF[row['arm']]})"
    part = classes_judged(findings.trials)
    sentences = [f"{part}."] * bool(part)
    if findings.best == findings.baseline:
        return " ".join([f"No recipe is ahead of the baseline, which has {measured}.", *sentences])
    gain = "Its gain over the baseline is unknown: they share no seed."
    if row["gain_seeds"]:
        effect = span(row["gain"], row["gain_low"], row["gain_high"], " points")
        gain = f"Over the baseline: {effect}; paired over {seeds(row['gain_seeds'])}."
        if not row["gain_low"] > 0:
            gain += " That it is better than the baseline is not shown."
    sentences = [f"{row['title']}, {measured}.", gain, *sentences]
    if findings.baseline in rows and (ratio := row["images"] / rows[findings.baseline]["images"]) > 1.05:
        sentences.append(f"It trains on {ratio:.1f} times the images that the baseline sees.")
    if row["diverged"]:
        sentences.append(f"{row['diverged']} of its trials diverged.")
    return " ".join([*sentences, *_test_split(findings)])


def _test_split(findings: Findings) -> list[str]:
    """What the test split says of the confirmed winner and the baseline, in a sentence."""
    if "test/accuracy" not in findings.trials:
        return []
    read = findings.trials[findings.trials["outcome"] == "finished"].dropna(subset=["test/accuracy"])
    words = []
    for recipe, name in ((findings.best, "it"), (findings.baseline, "the baseline")):
        rows = read[read["recipe"] == recipe]
        if len(rows):
            mean, low, high = mean_interval(rows, "test/accuracy")
            known = f"{percent_bounds(low, high)}, " if math.isfinite(low) else ""
            words.append(f"{name} has {percent(mean)} ({known}{seeds(len(rows))})")
    if not words:
        return []
    winners = read["recipe"].nunique() - 1  # each confirmed winner is measured with the baseline
    often = "read once" if winners < 2 else f"read for {winners} winners, one after the other"
    part = ""
    if "test/classes_judged" in read and (number := read["test/classes_judged"].dropna()).size:
        part = f", over the {int(number.iloc[0])} classes that have test images"
    return [f"On the test split, {often}{part}, {' and '.join(words)}."]
