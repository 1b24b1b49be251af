"""What everything on the page holds for: data, network, length, other tricks, and which images were judged."""

from __future__ import annotations

import pandas as pd

from analysis.formatting import coverage
from analysis.report.findings import Findings


def context(findings: Findings) -> str:
    """Data, network, length and other tricks, in a sentence."""
    trials = findings.trials
    if trials.empty:
        return "No trial has been logged."
    first = trials.iloc[0]
    lengths = trials[trials["recipe"] == findings.baseline]["epochs"]
    epochs = float(lengths.iloc[0]) if len(lengths) else float(trials["epochs"].median())
    counts = first["counts"]
    sizes = f", {len(counts)} classes of {max(counts)} to {min(counts)} training images" if counts else ""
    scale = findings.about.get("epochs_scale", 1.0)
    shortened = isinstance(scale, int | float) and scale != 1
    length = f"{epochs:g} epochs" + (f" ({100 * scale:g} % of the standard length)" if shortened else "")
    return (
        f"{first['data']}, imbalance {first['imbalance']:g}{sizes}; {first['model']}; {length}; "
        f"{_other_tricks(findings)}. Verdicts and gains hold in this context, at this schedule length, and may differ "
        "elsewhere."
    )


def units(findings: Findings) -> str:
    """What accuracy, points and intervals are, in a few sentences."""
    trials = findings.trials
    counts, _ = val_of(trials)
    val = "val images"
    if counts:
        fewest, most = min(counts), max(counts)
        val = f"{most:,} val images of each class" if fewest == most else f"{fewest:,} to {most:,} val images a class"
    sentences = [
        f"Accuracy is the mean of the classes' recalls on {val}; points are percentage points; intervals are 95 % over "
        "seeds, those of accuracies by Wilson's method, which keeps them within 0 and 100 % and accounts for how few "
        "images there are."
    ]
    if part := classes_judged(trials):
        sentences.append(f"{part}.")
    if "final/classes_in_worst" in trials and trials["final/classes_in_worst"].notna().any():
        sentences.append(
            f"The harmonic mean and the lowest recall are over {int(trials['final/classes_in_worst'].max())} of "
            f"{len(counts) or 'the'} classes, those with enough val images for a recall of their own."
        )
    return " ".join(sentences)


def classes_judged(trials: pd.DataFrame) -> str:
    """Which classes an accuracy on val is not about; "" where it is about all of them."""
    return coverage(*val_of(trials))


def val_of(trials: pd.DataFrame) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Val images of each class, and the names of the classes; empty where the trials do not say."""
    known: list[tuple[int, ...]] = []
    for row in trials.to_dict("records"):
        counts, names = row.get("val_counts", ()), row.get("class_names", ())
        if len(counts) and len(names) == len(counts):
            return tuple(counts), tuple(names)
        known += [tuple(counts)] * bool(len(counts))
    return (known[0], ()) if known else ((), ())


def _other_tricks(findings: Findings) -> str:
    """What else was on while a pair was judged."""
    design = findings.design
    if design.empty:
        return "no design arm"
    plain = design[design["tricks"].map(len) == 0]
    choices = dict(plain.iloc[0]["choices"]) if len(plain) else {}
    first = str(choices.get("stages", "")).split(" > ")[0]
    numbers = [
        f"{words} {choices[f'{first}/{name}']:g}"
        for name, words in (("lr", "learning rate"), ("weight_decay", "weight decay"))
        if isinstance(choices.get(f"{first}/{name}"), int | float)
    ]
    fitted = findings.conflicts is not None and findings.conflicts["exploratory"].any()
    words = "other tricks off as fitted to the factorial" if fitted else "no other trick on"
    if numbers:
        words += f" ({', '.join(numbers)} in the first stage)"
    stages = sorted({part for text in design["context"] if text for part in str(text).split("+")} - {"factorial"})
    return words + (f"; pairs with {', '.join(stages)} at equal length" if stages else "")
