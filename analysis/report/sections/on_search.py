"""Sections about the search as a whole: its context, how it went, what it cost, how to read it, where it comes from."""

from __future__ import annotations

import math
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.formatting import VERDICTS, coverage, duration, percent, points
from analysis.report.html import csv, figure, note, number, safe, sign, table, wrap
from analysis.report.html import notices as page_notices
from analysis.report.plots import curves as plots

if TYPE_CHECKING:
    from analysis.report.page import Found

MOST_STOPS = 200


def context(found: Found) -> str:
    """Data, network, length, other tricks: what everything on the page holds for."""
    if found.trials.empty:
        return "No trial has been logged."
    first = found.trials.iloc[0]
    lengths = found.trials[found.trials["recipe"] == found.baseline]["epochs"]
    epochs = float(lengths.iloc[0]) if len(lengths) else float(found.trials["epochs"].median())
    counts = first["counts"]
    sizes = f", {len(counts)} classes of {max(counts)} to {min(counts)} training images" if counts else ""
    scale = found.about.get("epochs_scale", 1.0)
    shortened = isinstance(scale, int | float) and scale != 1
    length = f"{epochs:g} epochs" + (f" ({100 * scale:g} % of the standard length)" if shortened else "")
    others = _others(found)
    return safe(
        f"{first['data']}, imbalance {first['imbalance']:g}{sizes}; {first['model']}; {length}; {others}. Verdicts and "
        "gains hold in this context, at this schedule length, and may differ elsewhere."
    )


def notices(found: Found) -> str:
    """What speaks against believing the search, and what the data left out or assumed."""
    data = str(found.about.get("data_notes") or "").splitlines()
    return page_notices("Before you believe it", found.health) + page_notices("Data", data)


def judged(trials: pd.DataFrame) -> str:
    """Which classes an accuracy on val is not about; "" where it is about all of them."""
    return coverage(*val_of(trials))


def val_of(trials: pd.DataFrame) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Val images of each class, and the names of the classes; empty where the trials do not say."""
    found: list[tuple[int, ...]] = []
    for row in trials.to_dict("records"):
        counts, names = row.get("val_counts", ()), row.get("class_names", ())
        if len(counts) and len(names) == len(counts):
            return tuple(counts), tuple(names)
        found += [tuple(counts)] * bool(len(counts))
    return (found[0], ()) if found else ((), ())


def units(found: Found) -> str:
    """What accuracy, points and intervals are."""
    counts, _ = val_of(found.trials)
    val = "val images"
    if counts:
        even = min(counts) == max(counts)
        val = (
            f"{counts[0]:,} val images of each class"
            if even
            else f"{min(counts):,} to {max(counts):,} val images a class"
        )
    part = judged(found.trials)
    left_out = ""
    if "final/classes_in_worst" in found.trials and found.trials["final/classes_in_worst"].notna().any():
        number = int(found.trials["final/classes_in_worst"].max())
        left_out = (
            f" The harmonic mean and the lowest recall are over {number} of {len(counts) or 'the'} classes, those with "
            "enough val images for a recall of their own."
        )
    return safe(
        f"Accuracy is the mean of the classes' recalls on {val}; points are percentage points; intervals are 95 % over "
        "seeds, those of accuracies by Wilson's method, which keeps them within 0 and 100 % and knows how few images "
        f"there are.{f' {part}.' if part else ''}{left_out}"
    )


def _others(found: Found) -> str:
    """What else was on while a pair was judged."""
    design = found.trials[found.trials["arm"] == "design"]
    if design.empty:
        return "no design arm"
    plain = design[design["tricks"].map(len) == 0]
    numbers = dict(plain.iloc[0]["choices"]) if len(plain) else {}
    told = [
        f"{key.rpartition('/')[2].replace('_', ' ').replace('lr', 'learning rate')} {numbers[key]:g}"
        for key in (f"{str(numbers.get('stages', '')).split(' > ')[0]}/{name}" for name in ("lr", "weight_decay"))
        if isinstance(numbers.get(key), int | float)
    ]
    made_up = sorted({part for text in design["context"] if text for part in str(text).split("+")} - {"factorial"})
    words = "no other trick on" + (f" ({', '.join(told)} in the first stage)" if told else "")
    if found.conflicts is not None and found.conflicts["exploratory"].any():
        words = words.replace("no other trick on", "other tricks off as fitted to the factorial")
    return words + (f"; pairs with {', '.join(made_up)} at equal length" if made_up else "")


def progress(found: Found) -> str:
    """Every trial in the order of its end, and why some were stopped."""
    if found.ranking.empty:
        return note("No trial has finished.")
    caption = (
        "Every finished trial (one recipe, one seed) in the order in which they ended. Single-trial scores are noisy: "
        "the highest point need not be the best recipe."
    )
    return figure(plots.progress(found.trials, found.metric), "progress", caption) + _stops(found)


def _stops(found: Found) -> str:
    """Why trials were stopped: the scheduler's decisions in numbers."""
    stopped = found.trials[found.trials["outcome"] == "stopped"]
    if stopped.empty:
        return ""
    heads = ["recipe", "stopped at", "its score, %", "the cut, %", "among", "compared with", "score"]
    body = []
    for row in stopped.head(MOST_STOPS).to_dict("records"):
        stop = row["stop"] if isinstance(row.get("stop"), dict) else {}
        title = f'<td class="name">{wrap(row["title"])}<small>seed {row["seed"]}, {safe(row["trial"])}</small></td>'
        if not stop:
            body.append(
                f'<tr>{title}<td class="long" colspan="6">{wrap(row["reason"]) or "no reason was logged"}</td></tr>'
            )
            continue
        value, cut = float(stop.get("value", math.nan)), float(stop.get("cut", math.nan))
        rung, among = float(stop.get("rung", math.nan)), stop.get("among", math.nan)
        cells = [
            title, number(f"{100 * rung:g} % of its plan", rung), number(percent(value).removesuffix(" %"), value),
            number(percent(cut).removesuffix(" %"), cut), number(str(among), among),
            f'<td class="long">{wrap(_cohort(stop.get("cohort", "")))}</td>',
            f"<td>{wrap(str(stop.get('score', '')))}</td>",
        ]  # fmt: skip
        body.append(f"<tr>{''.join(cells)}</tr>")
    listed = pd.DataFrame(
        [
            {"trial": r["trial"], "recipe": r["recipe"], "title": r["title"], "seed": r["seed"], "reason": r["reason"]}
            | (r["stop"] if isinstance(r.get("stop"), dict) else {})
            for r in stopped.to_dict("records")
        ]
    )
    more = f" The first {MOST_STOPS} of {len(stopped)}; the CSV has all." if len(stopped) > MOST_STOPS else ""
    return (
        f"<h3>Why {len(stopped)} trials were stopped</h3><p>A trial is stopped where its score at a share of its own "
        "plan is below the cut of those in the same stage with the same stages still to come, at the same share."
        f"{more}</p>" + table(heads, body, "stops", csv(listed), "stops.csv")
    )


def _cohort(cohort: Any) -> str:
    return " > ".join(map(str, cohort)) if isinstance(cohort, list | tuple) else str(cohort)


def cost(found: Found) -> str:
    """What was trained, re-used and stopped, by arm."""
    trials = found.trials
    if trials.empty:
        return note("No trial has been logged.")
    planned, trained = trials["epochs"].sum(), trials["epochs_trained"].sum()
    spent, saved = trials["seconds"].sum(), trials["seconds_saved"].sum()
    share = (planned - trained) / planned if planned else float("nan")
    heads = [
        "arm", "trials", "finished", "stopped early", "diverged", "failed", "epochs trained", "epochs re-used", "time",
    ]  # fmt: skip
    body = []
    for arm, rows in trials.groupby("arm", sort=False):
        outcomes = rows["outcome"].value_counts()
        numbers = [len(rows), *(int(outcomes.get(name, 0)) for name in ("finished", "stopped", "diverged", "failed"))]
        cells = [f'<td class="name">{safe(str(arm))}</td>'] + [number(str(n), n) for n in numbers]
        cells.append(number(f"{rows['epochs_trained'].sum():,.0f}", rows["epochs_trained"].sum()))
        reused = rows["epochs"].sum() - rows["epochs_trained"].sum()
        cells.append(number(f"{reused:,.0f}", reused))
        cells.append(number(duration(rows["seconds"].sum()), rows["seconds"].sum()))
        body.append(f"<tr>{''.join(cells)}</tr>")
    gpus = trials["gpus"] if "gpus" in trials else pd.Series(0.0, index=trials.index)
    hours = float((trials["seconds"] * gpus.fillna(0.0)).sum()) / 3600
    on_gpu = f" On GPUs, shares counted: {hours:.1f} hours." if hours else ""
    words = (
        f"<p>{len(trials)} trials have {planned:,.0f} epochs between them; {trained:,.0f} were trained, "
        f"{planned - trained:,.0f} ({percent(share, 0)}) came from stages that other trials had trained already. That "
        f"is {duration(spent)} of trial time, and about {duration(saved)} saved.{on_gpu}</p>"
    )
    return words + table(heads, body, "cost", csv(_cost_table(trials)), "cost.csv")


def _cost_table(trials: pd.DataFrame) -> pd.DataFrame:
    sums = trials.groupby("arm", sort=False)[["epochs", "epochs_trained", "images", "seconds", "seconds_saved"]].sum()
    counts = trials.groupby(["arm", "outcome"], sort=False).size().unstack(fill_value=0)
    return counts.join(sums).reset_index()


def verdicts(found: Found) -> str:
    """What the verdicts mean."""
    rows = "".join(
        f'<tr><td class="name">{sign(key)} {safe(look.name)}</td><td class="long">{safe(look.words)}</td></tr>'
        for key, look in VERDICTS.items()
    )
    return (
        "<p>For two tricks there are four recipes: with neither, with one, with the other, with both, everything else "
        "equal. All four are trained on the same seeds, so differences are taken within a seed. Each <b>direction</b> "
        "is what adding one trick to the other does: it helps or hurts where the interval excludes 0 after the "
        "correction for the number of tests; a loss as large as the margin is ruled out; or it is not known yet. The "
        "<b>interaction</b> is how far both together are from the sum of their effects. The first verdict that holds "
        f"is given; the margin is {points(found.margin).lstrip('+')} points. Only the design arm, which is never "
        "stopped early, is judged: what an adaptive search kept is too lucky to compare.</p>"
        '<div class="scroll"><table><thead><tr><th>verdict</th><th>when</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def provenance(found: Found) -> str:
    """Where the page comes from."""
    trials = found.trials
    items: dict[str, Any] = dict(found.about)
    if len(trials):
        design = trials[trials["arm"] == "design"]
        contexts = ", ".join(sorted({c for c in design["context"] if c}))
        if contexts:
            items["context of the design"] = contexts
        items["trials logged"] = len(trials)
        items["seeds of the design"] = ", ".join(map(str, sorted(set(design["seed"])))) or "none"
        items["data and splits"] = ", ".join(sorted({str(mark)[:16] for mark in trials["fingerprint"]})[:8])
        lost = trials[trials["outcome"].isin(["diverged", "failed"])]
        for outcome, rows in lost.groupby("outcome"):
            reasons = list(
                dict.fromkeys(f"{r['title']}, seed {r['seed']}: {r['reason']}" for r in rows.to_dict("records"))
            )
            items[f"{outcome} trials"] = "; ".join(reasons[:5]) + (
                f"; and {len(reasons) - 5} more" if reasons[5:] else ""
            )
    items["page written"] = f"{datetime.now(tz=UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}"
    items.pop("data_notes", None)  # shown at the top
    rows = "".join(f"<dt>{safe(str(k))}</dt><dd>{wrap(str(v))}</dd>" for k, v in items.items() if v not in (None, ""))
    return f'<dl class="plain">{rows}</dl>'
