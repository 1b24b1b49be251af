"""How numbers, labels and verdicts are printed, on the screen, in the report and in every sentence.

Fractions become percent and points here, and nowhere before; a verdict has a sign, a colour and a name. Colours are
those of Okabe and Ito, some darker or lighter so that text can be read on them; people of every colour vision tell them
apart (checked by `tests/analysis/test_page.py`), and no colour stands without a sign or a shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.text import printable

if TYPE_CHECKING:
    import pandas as pd

INK, FAINT = "#1b1f24", "#5b6470"

MINUS = "\N{MINUS SIGN}"

MOST_SEEDS = 100
"""Beyond this number of further seeds, only "more than" is said."""


@dataclass(frozen=True)
class VerdictStyle:
    """How a verdict is shown.

    Args:
        sign: One character, so that colour is never needed.
        colour: Background colour in the report.
        ink: Text colour on it.
        terminal: Rich style on the screen.
        name: Name that people read in place of the key.
        words: When the verdict is given, for people who have not read the method.
    """

    sign: str
    colour: str
    ink: str
    terminal: str
    name: str
    words: str


VERDICTS = {
    "conflict": VerdictStyle(
        "✕", "#C24E00", "#ffffff", "bold red", "conflict",
        "Adding one trick to the other hurts, and their effects overlap: the interaction is below zero in accuracy and "
        "in log-odds. Avoid the two together.",
    ),
    "harmful": VerdictStyle(
        "!", "#E69F00", INK, "red", "one of them hurts",
        "Adding one trick to the other hurts, but it is not shown that the pair is to blame: that trick may hurt by "
        "itself. Its effect alone stands beside it.",
    ),
    "synergy": VerdictStyle(
        "★", "#0072B2", "#ffffff", "bold green", "synergy",
        "Adding each trick to the other helps, and both together gain more than the sum of their effects, in accuracy "
        "and in log-odds.",
    ),
    "better together": VerdictStyle(
        "+", "#56B4E9", INK, "bold green", "better together",
        "Adding each trick to the other helps, and both together beat the recipe without them.",
    ),
    "redundant": VerdictStyle(
        "=", "#CC79A7", INK, "yellow", "one is enough",
        "Their effects overlap, in accuracy and in log-odds, and no loss is shown: the second one costs compute, not "
        "accuracy.",
    ),
    "compatible": VerdictStyle(
        "✓", "#98D0A8", INK, "green", "safe to combine",
        "A loss as large as the margin is ruled out in both directions (at 5 % a pair).",
    ),
    "unresolved": VerdictStyle(
        "?", "#eceff2", INK, "dim", "not known yet",
        "The seeds so far show none of the above. It does not mean that the pair is harmless: the reason says what "
        "each direction could still be, and how many more seeds would settle the pair.",
    ),
    "not applicable": VerdictStyle(
        "", "#ffffff", FAINT, "dim", "cannot be combined",
        "The two exclude each other, or one of the four combinations was not run.",
    ),
}  # fmt: skip
"""Verdict -> its style, in the order in which people want to read them."""

DIRECTION_NAMES = {"helps": "helps", "hurts": "hurts", "no loss": "no loss", "unknown": "not known yet"}
"""What adding one trick to another does: key -> what people read."""


def settled(table: pd.DataFrame) -> str:
    """How many directions and pairs of a conflict table have an answer, in a sentence; "" without any pair."""
    rows = table[table["verdict"] != "not applicable"]
    if rows.empty:
        return ""
    directions = sum(int((rows[f"{name}_verdict"] != "unknown").sum()) for name in ("b_given_a", "a_given_b"))
    known = int((rows["verdict"] != "unresolved").sum())
    return f"{directions} of {2 * len(rows)} directions and {known} of {len(rows)} pairs have an answer."


def cost_of_the_rest(table: pd.DataFrame, trials: pd.DataFrame) -> str:
    """What it would cost to settle half of the unresolved pairs, in a sentence; "" where there are none.

    Args:
        table: Conflict table.
        trials: Table of trials; the design arm says how many trials a seed block has and how long they take.
    """
    rows = table[table["verdict"] == "unresolved"]
    if rows.empty:
        return ""
    known = sorted(int(more) for more in rows["more_seeds"].dropna() if more < MOST_SEEDS)
    some = "it" if len(rows) == 1 else "at least half of them"
    if 2 * len(known) < len(rows):
        if rows["more_seeds"].isna().any():
            return f"How many further seed blocks would settle {some} cannot be said yet."
        return f"More than {MOST_SEEDS} further seed blocks would be needed to settle {some}."
    blocks = known[(len(rows) - 1) // 2]
    design = trials[trials["arm"] == "design"]
    share = blocks / max(design["seed"].nunique(), 1)
    time = f" and {duration(share * design['seconds'].sum())} of training" if "seconds" in design else ""
    return (
        f"Another {counted(blocks, 'seed block')} (--seeds +{blocks}: about "
        f"{share * len(design):,.0f} trials{time}) would settle {some}."
    )


def points(value: float, digits: int = 1) -> str:
    """A difference of fractions in points, with its sign.

    >>> points(0.2234), points(-0.005), points(float("nan"))
    ('+22.3', '−0.5', 'unknown')
    """
    if not math.isfinite(value):
        return "unknown"
    text = f"{100 * value:+.{digits}f}"
    return (f"{0:.{digits}f}" if float(text) == 0 else text).replace("-", MINUS)


def magnitude(value: float) -> str:
    """A size in points, without a sign.

    >>> magnitude(0.02), magnitude(-0.0149)
    ('2.0', '1.5')
    """
    return points(abs(value)).removeprefix("+")


def percent(value: float, digits: int = 1) -> str:
    """A fraction in percent.

    >>> percent(0.6591), percent(float("nan"))
    ('65.9 %', 'unknown')
    """
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "unknown"


def bounds(low: float, high: float) -> str:
    """The limits of a difference in points.

    >>> bounds(-0.19, 0.25), bounds(float("nan"), 0.1)
    ('−19.0 to +25.0', 'no interval')
    """
    return f"{points(low)} to {points(high)}" if math.isfinite(low) and math.isfinite(high) else "no interval"


def span(value: float, low: float, high: float, unit: str = "") -> str:
    """A difference in points with its interval.

    >>> span(0.22, 0.19, 0.25), span(0.22, float("nan"), float("nan"), " points")
    ('+22.0 (+19.0 to +25.0)', '+22.0 points (no interval)')
    """
    return f"{points(value)}{unit} ({bounds(low, high)})" if math.isfinite(value) else "unknown"


def percent_bounds(low: float, high: float) -> str:
    """The limits of a fraction in percent.

    >>> percent_bounds(0.19, 0.25), percent_bounds(float("nan"), 0.1)
    ('19.0 to 25.0', 'no interval')
    """
    return f"{100 * low:.1f} to {100 * high:.1f}" if math.isfinite(low) and math.isfinite(high) else "no interval"


def percent_span(value: float, low: float, high: float) -> str:
    """A fraction in percent with its interval.

    >>> percent_span(0.22, 0.19, 0.25)
    '22.0 % (19.0 to 25.0)'
    """
    return f"{percent(value)} ({percent_bounds(low, high)})" if math.isfinite(value) else "unknown"


def plus_minus(value: float, low: float, high: float) -> str:
    """A difference in points with half the width of its interval, for narrow columns.

    >>> plus_minus(0.22, 0.19, 0.25), plus_minus(0.22, float("nan"), float("nan"))
    ('+22.0 ± 3.0', '+22.0')
    """
    if not math.isfinite(value):
        return "–"
    return points(value) + (f" ± {50 * (high - low):.1f}" if math.isfinite(high - low) else "")


def p_text(value: float) -> str:
    """A p-value.

    >>> p_text(0.0004), p_text(0.0344), p_text(float("nan"))
    ('< 0.001', '0.034', '–')
    """
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def coverage(counts: Sequence[int], class_names: Sequence[str] = (), split: str = "val", shown: int = 8) -> str:
    """Which classes an accuracy is not about, in a sentence; "" where it is about all of them.

    Args:
        counts: Images of each class in the split; empty where unknown.
        class_names: Name of each class; numbers stand in where absent.
        split: "val" or "test".
        shown: Names at most.

    >>> coverage([6, 3, 0, 0], ["ant", "bee", "cat", "dog"])
    '2 of 4 classes have no val image: cat, dog. Accuracy on val is the mean recall of the other 2'
    >>> coverage([6, 3])
    ''
    """
    absent = [label for label, count in enumerate(counts) if not count]
    if not absent:
        return ""
    names = class_names if len(class_names) == len(counts) else [f"class {label}" for label in range(len(counts))]
    named = ", ".join(printable(names[label], keep="") for label in absent[:shown]) + (", …" if absent[shown:] else "")
    return (
        f"{len(absent)} of {len(counts)} classes {'has' if len(absent) == 1 else 'have'} no {split} image: {named}. "
        f"Accuracy on {split} is the mean recall of the other {len(counts) - len(absent)}"
    )


def short(labels: Iterable[str]) -> dict[str, str]:
    """The trick's name alone wherever it says which label is meant.

    >>> short(["first/mixup", "first/focal", "later/focal", "classifier"])
    {'first/mixup': 'mixup', 'first/focal': 'first/focal', 'later/focal': 'later/focal', 'classifier': 'classifier'}
    """
    labels = list(dict.fromkeys(labels))
    names = [label.rpartition("/")[2] for label in labels]
    return {label: name if names.count(name) == 1 else label for label, name in zip(labels, names, strict=True)}


def context_words(context: str) -> str:
    """The context of a design's cells in words; "" for the plain one.

    >>> context_words("factorial+balanced"), context_words("deferred"), context_words("")
    ('in the factorial, balanced at equal length', 'deferred at equal length', '')
    """
    stages = [part for part in context.split("+") if part not in ("", "factorial")]
    words = ["in the factorial"] * ("factorial" in context.split("+"))
    return ", ".join(words + [f"{' and '.join(stages)} at equal length"] * bool(stages))


def letter(index: int) -> str:
    """A, B, …, Z, AA, …

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'AA')
    """
    return (letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def worse_harm(row: Mapping[str, Any]) -> float:
    """The worse of a pair's two harms; infinity where neither is known."""
    return min((row[name] for name in ("b_given_a", "a_given_b") if math.isfinite(row[name])), default=math.inf)


def labels_of(table: pd.DataFrame) -> list[str]:
    """Every label of a table of pairs, in the order of their first appearance."""
    return list(dict.fromkeys(label for row in table.to_dict("records") for label in (row["a"], row["b"])))


def counted(number: float, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "trial"), counted(5, "trial")
    ('1 trial', '5 trials')
    """
    return f"{int(number)} {noun}{'s' * (int(number) != 1)}"


def seeds(number: float) -> str:
    """A number of seeds."""
    return counted(number, "seed")


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


METRICS = {
    "final/accuracy": "accuracy", "final/few": "few-shot accuracy",
    "final/smoothed_harmonic_mean": "smoothed harmonic mean", "final/harmonic_mean": "harmonic mean",
}  # fmt: skip


def metric_name(metric: str) -> str:
    """A metric in words.

    >>> metric_name("final/few"), metric_name("final/geometric_mean")
    ('few-shot accuracy', 'geometric mean')
    """
    return METRICS.get(metric, metric.rpartition("/")[2].replace("_", " "))
