"""Sections about pairs of tricks: the verdicts, pairs nominated by the adaptive arm, the same pairs elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.formatting import DIRECTIONS, VERDICTS, labels_of, letter, metric_name, percent, points
from analysis.report.html import csv, effect, figure, note, number, p_value, safe, sign, table, wrap
from analysis.report.plots import forest_plots as forests
from analysis.report.plots.heat_map import heat_map

if TYPE_CHECKING:
    from analysis.report.page import Found


def pairs(found: Found) -> str:
    """The conflict tables, one per metric, with a switch between them."""
    if found.conflicts is None:
        return note(no_table(found))
    tables = {found.metric: found.conflicts, **found.others}
    if len(tables) == 1:
        return _missing_metrics(found) + _judged(found, found.metric, found.conflicts) + _images(found)
    options = ""
    for metric in tables:
        decides = metric == found.metric
        options += (
            f'<label><input type="radio" name="metric" value="{safe(metric)}"{" checked" if decides else ""}> '
            f"{safe(metric_name(metric))}{' (decides)' if decides else ''}</label>"
        )
    blocks = "".join(
        f'<div data-metric="{safe(metric)}"{"" if metric == found.metric else " hidden"}>'
        f"{_judged(found, metric, judged)}</div>"
        for metric, judged in tables.items()
    )
    return (
        f'<fieldset class="switch"><legend>Judged by</legend>{options}</fieldset>'
        + _missing_metrics(found)
        + blocks
        + _images(found)
    )


def _missing_metrics(found: Found) -> str:
    return "".join(note(f"No table by {metric_name(metric)}: {why}") for metric, why in found.skipped.items())


def _judged(found: Found, metric: str, judged: pd.DataFrame) -> str:
    decides = metric == found.metric
    suffix = "" if decides else "-" + metric.rpartition("/")[2]
    counts = judged["verdict"].value_counts()
    legend = "".join(
        f"<li>{sign(name)} {look.name} ({counts[name]})</li>" for name, look in VERDICTS.items() if counts.get(name, 0)
    )
    heads = [
        "pair", "verdict", "adding the second to the first, points", "adding the first to the second, points",
        "interaction, points", "adjusted p", "seeds", "why",
    ]  # fmt: skip
    order = {name: index for index, name in enumerate(VERDICTS)}
    ordered = sorted(judged.to_dict("records"), key=lambda row: (order[row["verdict"]], least(row)))
    body = []
    for row in ordered:
        primary = "<small>declared beforehand</small>" if row["primary"] else ""
        flip = "<small>sign flip: helps alone, hurts here</small>" if row["sign_flip"] else ""
        na = row["verdict"] == "not applicable"
        held = f"<small>{safe(found.held[row['a'], row['b']])}</small>" if (row["a"], row["b"]) in found.held else ""
        cells = [
            f'<td class="name">{wrap(row["a"])} × {wrap(row["b"])}{primary}</td>',
            f'<td class="verdict" data-value="{order[row["verdict"]]}">{_named(row["verdict"])}'
            f"<br>{'' if na else wrap(str(row['action']))}{flip}{held if decides else ''}</td>",
        ]
        for column in ("b_given_a", "a_given_b", "interaction"):
            text = "–" if na else effect(row[column], row[f"{column}_low"], row[f"{column}_high"])
            word = DIRECTIONS.get(str(row.get(f"{column}_verdict", "")), "")
            cells.append(number(f"<b>{word}</b><br>{text}" if word and not na else text, row[column]))
        cells.append(p_value(row["adjusted_p"]))
        cells.append(number(str(int(row["n_seeds"])), row["n_seeds"]))
        cells.append(f'<td class="long">{_folded(str(row["reason"]))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    known = found.notes.get(metric, "")
    what = "" if decides else f" Judged by {metric_name(metric)}, which decides nothing here: it is a second look."
    caption = (
        "Each cell is a pair: its verdict by colour and sign, and the worse of its two harms in points (adding one "
        "trick to the other). The diagonal, framed, is each trick alone. Point at a cell, or touch it, for intervals."
        f"{what}"
    )
    return (
        (note(f"{known[0].upper()}{known[1:]}.") if known else "")
        + f'<ul class="legend">{legend}</ul>'
        + _key(judged)
        + figure(heat_map(judged, found.effects if decides else None), f"conflicts{suffix}", caption, "narrow")
        + table(heads, body, f"conflicts{suffix}", csv(judged), f"conflicts{suffix}.csv")
        + "<p class=faint>Intervals are 95 %, unadjusted; p-values are adjusted for the number of pairs (Holm over "
        "the pairs declared beforehand, Benjamini-Hochberg over the others) and belong to the verdict's own test. The "
        "CSV holds every number as a fraction.</p>"
        + figure(
            forests.pairs(judged, found.margin, metric_name(metric)),
            f"harms{suffix}",
            f"What adding one trick to another does to {metric_name(metric)}, worst first. Left of the line it harms. "
            "The dotted line is the margin: a harm smaller than that would not matter.",
            "narrow",
        )
    )


def _named(verdict: str) -> str:
    """A verdict's sign and name."""
    return f"{sign(verdict)} <b>{VERDICTS[verdict].name}</b>"


def _folded(reason: str) -> str:
    """A reason of which the part about the pair is shown, and the rest on demand."""
    parts = reason.split("; ")
    if len(parts) < 2:
        return wrap(reason)
    first = parts[2] if len(parts) > 2 and parts[0].startswith("adding ") else parts[0]
    items = "".join(f"<li>{wrap(part)}</li>" for part in parts)
    return f"<details><summary>{wrap(first)}</summary><ul>{items}</ul></details>"


def _key(judged: pd.DataFrame) -> str:
    """What the letters of the heat map mean, for screens too narrow for names on its axis."""
    labels = labels_of(judged)
    items = "".join(f"<li><b>{letter(i)}</b> {wrap(label)}</li>" for i, label in enumerate(labels))
    return f'<ul class="legend key">{items}</ul>'


def _images(found: Found) -> str:
    """Whether intervals hold for new images, and by what."""
    return f"<p class=faint>{_images_words(found)}</p>"


def _images_words(found: Found) -> str:
    table = found.conflicts
    design = found.trials[found.trials["arm"] == "design"]
    if table is not None and "val_images" in table and (table["val_images"].fillna(0) > 0).any():
        judged = table[table["val_images"].fillna(0) > 0]
        low, high = judged["images_share"].min(), judged["images_share"].max()
        return (
            f"Val is the same {int(judged['val_images'].max()):,} images in every block: their share of the variance, "
            f"{percent(low, 0)} to {percent(high, 0)} of an interaction's, is estimated from which images each trial "
            "got right and added to every interval, so that it holds for new images."
        )
    if design["split_seed"].nunique() < design["seed"].nunique():
        return (
            "Val is the same in every block, and the records do not say which images each trial got right: intervals "
            "hold for these images and are too narrow for new ones."
        )
    return "Every block has its own split: intervals speak of new seeds and new splits of these data."


def least(row: Mapping[str, Any]) -> float:
    """The worse of a pair's two harms; infinity where neither is known."""
    harms = [row[name] for name in ("b_given_a", "a_given_b") if math.isfinite(row[name])]
    return min(harms, default=math.inf)


def no_table(found: Found) -> str:
    """Why no pair could be judged."""
    return f"Unknown: no pair could be judged ({found.missing or 'the design arm has no pair of tricks'})."


def nominated(found: Found) -> str:
    """Pairs that the adaptive arm suggested, on fresh seeds."""
    if found.nominated is None:
        return ""
    heads = ["pair", "verdict", "adding the second to the first, points", "adding the first to the second, points",
             "interaction, points", "seeds", "why"]  # fmt: skip
    body = []
    for row in found.nominated.to_dict("records"):
        cells = [
            f'<td class="name">{wrap(row["a"])} × {wrap(row["b"])}</td>',
            f'<td class="verdict">{_named(row["verdict"])}<br>{wrap(str(row["action"]))}</td>',
        ]
        for column in ("b_given_a", "a_given_b", "interaction"):
            cells.append(number(effect(row[column], row[f"{column}_low"], row[f"{column}_high"]), row[column]))
        cells.append(number(str(int(row["n_seeds"])), row["n_seeds"]))
        cells.append(f'<td class="long">{wrap(str(row["reason"]))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        "<h3>Pairs that the adaptive arm suggested</h3><p>The adaptive arm's own numbers are those of survivors and "
        "may only nominate. These pairs were then measured with all four cells on fresh seeds, and are judged by those "
        "alone.</p>" + table(heads, body, "nominated", csv(found.nominated), "nominated.csv")
    )


def elsewhere(found: Found) -> str:
    """One table over the searches of a store: does a verdict hold for other data?"""
    if found.elsewhere is None:
        return note(
            "Not known: the store holds no other search with these pairs. A search on other data, another imbalance or "
            "network writes into the same store; then python -m analysis.report shows one table across them."
        )
    pooled, each, skipped = found.elsewhere
    words = (
        f"<p>{each['search'].nunique()} searches of the store have pairs in common. For each pair: the mean over "
        "searches (random effects, so that searches may differ), whether they do, and where one more search should "
        "lie. I² is the share of the variance that is between searches. Searches on the same data share their images "
        "and agree more than they should.</p>"
    )
    heads = [
        "pair", "does it hold?", "adding the second to the first, points", "adding the first to the second, points",
        "interaction, points", "I² of the interaction", "one more search, interaction", "searches",
    ]  # fmt: skip
    body = []
    order = ("differs", "holds in all", "open", "too few")
    for row in sorted(pooled.to_dict("records"), key=lambda row: (order.index(row["word"]), least(row))):
        predicted = "not known" if not math.isfinite(row["interaction_predicted_low"]) else (
            f"{points(row['interaction_predicted_low'])} to {points(row['interaction_predicted_high'])}"
        )  # fmt: skip
        place, held = order.index(row["word"]), f"<b>{safe(row['word'])}</b>: {safe(row['verdicts'])}"
        cells = [
            f'<td class="name">{wrap(row["a"])} × {wrap(row["b"])}</td>',
            f'<td class="long" data-value="{place}">{held}<small>{wrap(_spoken(row["why"]))}</small></td>',
        ]
        for name in ("b_given_a", "a_given_b", "interaction"):
            cells.append(number(effect(row[name], row[f"{name}_low"], row[f"{name}_high"]), row[name]))
        cells.append(number(percent(row["interaction_i2"], 0), row["interaction_i2"]))
        cells.append(number(predicted, row["interaction_predicted_low"]))
        cells.append(number(str(row["n_searches"]), row["n_searches"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = "The worse of a pair's two harms in each search, pair by pair: its verdict by shape and colour."
    left = "".join(note(f"Left out, {name}: {why}") for name, why in skipped.items())
    return (
        words
        + table(heads, body, "elsewhere", csv(pooled), "elsewhere.csv")
        + figure(forests.elsewhere(each), "elsewhere", caption, "narrow")
        + _searches(each)
        + left
    )


def _spoken(why: str) -> str:
    """Names of contrasts in words."""
    said = why.replace("b_given_a", "what adding the second does")
    return said.replace("a_given_b", "what adding the first does").replace(
        "interaction varies", "the interaction varies"
    )


def _searches(each: pd.DataFrame) -> str:
    heads = ["pair", "search", "verdict", "adding the second to the first, points",
             "adding the first to the second, points", "interaction, points", "seeds"]  # fmt: skip
    body = []
    for row in each.to_dict("records"):
        cells = [f'<td class="name">{wrap(row["a"])} × {wrap(row["b"])}</td>',
                 f'<td class="long">{wrap(row["search"])}</td>',
                 f'<td class="verdict">{sign(row["verdict"])} {VERDICTS[row["verdict"]].name}</td>']  # fmt: skip
        for name in ("b_given_a", "a_given_b", "interaction"):
            cells.append(number(effect(row[name], row[f"{name}_low"], row[f"{name}_high"]), row[name]))
        cells.append(number(str(int(row["n_seeds"])), row["n_seeds"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    return "<h3>Search by search</h3>" + table(heads, body, "searches", csv(each), "searches.csv")
