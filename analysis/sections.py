"""The sections of the report, one function each: what a search found to HTML.

Numbers are fractions in the tables and in CSV; people read percent and points.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import load, plots
from analysis.page import csv, effect, figure, note, number, p_value, percent_span, safe, sign, table, wrap
from analysis.plots import VERDICTS, percent, points, seeds
from analysis.record import BASELINE, NUMBERS, NUMBERS_IN_WORDS, bounded_interval

if TYPE_CHECKING:
    from analysis.report import Found

MOST_RECIPES = 12
MOST_STOPS = 200

SECONDARY = {"final/harmonic_mean": "harmonic mean", "final/few": "few-shot classes"}
_SEED_WORDS = {
    "confirm": "confirmed", "race": "race", "design": "design", "adaptive": "adaptive", "around": "around the best",
    "tune": "tuning", "check": "check", "nominated": "nominated",
}  # fmt: skip


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


def units(found: Found) -> str:
    """What accuracy, points and intervals are."""
    val = "val images" if "val=realistic" in str(found.trials["data"].max()) else "balanced val images"
    return safe(
        f"Accuracy is the mean of the classes' recalls on {val}; points are percentage points; intervals are 95 % over "
        "seeds."
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
    averaged = found.conflicts is not None and "averaged_over" in found.conflicts
    if averaged and found.conflicts is not None and (found.conflicts["averaged_over"].map(_is_several)).any():
        words = words.replace("no other trick on", "other tricks of the factorial on and off in equal parts")
    return words + (f"; pairs with {', '.join(made_up)} at equal length" if made_up else "")


def _is_several(value: Any) -> bool:
    return isinstance(value, int | float) and value > 1


# --------------------------------------------------------------------------------------------- recipes


def recipes(found: Found) -> str:
    """The ranking."""
    if found.ranking.empty:
        return note("No trial has finished, so there is no recipe to rank.")
    shown = found.ranking.head(MOST_RECIPES)
    if found.baseline and found.baseline not in set(shown["recipe"]):
        shown = pd.concat([shown, found.ranking[found.ranking["recipe"] == found.baseline]])
    ranks = {recipe: rank for rank, recipe in enumerate(found.ranking["recipe"], 1)}
    secondary = [name for name in SECONDARY if name in found.trials and name != found.metric]
    heads = ["rank", "recipe", "accuracy, %", "gain over the baseline, points"]
    heads += [f"{SECONDARY[name]}, %" for name in secondary] + ["seeds", "images seen"]
    body = []
    for row in shown.to_dict("records"):
        name = row["title"] + (" (the baseline)" if row["recipe"] == found.baseline != BASELINE else "")
        name = row["title"] if row["title"] == BASELINE else name
        own = speaking(found, row["recipe"])
        gain = "" if row["recipe"] == found.baseline else effect(row["gain"], row["gain_low"], row["gain_high"])
        if gain and row["gain_seeds"] not in (0, row["seeds"]):
            gain += f"<span class=faint>{seeds(row['gain_seeds'])} in common</span>"
        cells = [
            number(str(ranks[row["recipe"]]), ranks[row["recipe"]]),
            f'<td class="name">{wrap(name)}<small>{safe(row["recipe"])}</small></td>',
            number(percent_span(row["mean"], max(row["low"], 0.0), min(row["high"], 1.0)), row["mean"]),
            number(gain or "–", row["gain"]),
        ]
        for column in secondary:
            mean, low, high = bounded_interval(own[column].dropna().tolist())
            cells.append(number(percent_span(mean, low, high), mean))
        lost = f", {row['diverged']} diverged" if row["diverged"] else ""
        arm = _SEED_WORDS.get(row["arm"], row["arm"])
        cells.append(number(f"{row['seeds']}<span class=faint>{arm}{lost}</span>", row["seeds"]))
        cells.append(number(f"{int(row['images']):,}", row["images"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    words = (
        f"<p>The first {MOST_RECIPES} and the baseline, of {len(found.ranking)} that have finished. The confirmed "
        "recipe comes first, then those that raced on fresh seeds, the most seeds first (the baseline among them), "
        "then the rest, whose means flatter because they were looked at when they were chosen. Compare at equal images "
        "seen.</p>"
    )
    raced = found.ranking["arm"].isin(["race", "confirm"]).any()
    warning = (
        ""
        if raced
        else note("No race on fresh seeds has been run: the order below is the order of luck and skill together.")
    )
    return words + warning + table(heads, body, "recipes", csv(found.ranking), "recipes.csv")


# --------------------------------------------------------------------------------------------- pairs


def pairs(found: Found) -> str:
    """The conflict tables, one per metric, with a switch between them."""
    if found.conflicts is None:
        return note(no_table(found))
    tables = {found.metric: found.conflicts, **found.others}
    if len(tables) == 1:
        return _missing_metrics(found) + _judged(found, found.metric, found.conflicts) + _noise(found)
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
        + _noise(found)
    )


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


def _missing_metrics(found: Found) -> str:
    return "".join(note(f"No table by {metric_name(metric)}: {why}") for metric, why in found.skipped.items())


def _judged(found: Found, metric: str, judged: pd.DataFrame) -> str:
    decides = metric == found.metric
    suffix = "" if decides else "-" + metric.rpartition("/")[2]
    counts = judged["verdict"].value_counts()
    legend = "".join(
        f"<li>{sign(name)} {name} ({counts[name]}){': ' + look.action if look.action else ''}</li>"
        for name, look in VERDICTS.items()
        if counts.get(name, 0)
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
            f'<td class="verdict" data-value="{order[row["verdict"]]}">{sign(row["verdict"])} <b>{row["verdict"]}</b>'
            f"<br>{'' if na else wrap(str(row['action']))}{flip}{held if decides else ''}</td>",
        ]
        for column in ("b_given_a", "a_given_b", "interaction"):
            text = "–" if na else effect(row[column], row[f"{column}_low"], row[f"{column}_high"])
            cells.append(number(text, row[column]))
        cells.append(p_value(row["adjusted_p"]))
        cells.append(number(str(int(row["n_seeds"])), row["n_seeds"]))
        cells.append(f'<td class="long">{wrap(str(row["reason"]))}</td>')
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
        + figure(plots.heat_map(judged, found.effects if decides else None), f"conflicts{suffix}", caption, "narrow")
        + table(heads, body, f"conflicts{suffix}", csv(judged), f"conflicts{suffix}.csv")
        + "<p class=faint>Intervals are 95 %, unadjusted; p-values are adjusted for the number of pairs (Holm over "
        "the pairs declared beforehand, Benjamini-Hochberg over the others) and belong to the verdict's own test. The "
        "CSV holds every number as a fraction.</p>"
        + figure(
            plots.pairs(judged, found.margin, metric_name(metric)),
            f"harms{suffix}",
            f"What adding one trick to another does to {metric_name(metric)}, worst first. Left of the line it harms. "
            "The dotted line is the margin: a harm smaller than that would not matter.",
            "narrow",
        )
    )


def _key(judged: pd.DataFrame) -> str:
    """What the letters of the heat map mean, for screens too narrow for names on its axis."""
    labels = plots.labels_of(judged)
    items = "".join(f"<li><b>{plots.letter(i)}</b> {wrap(label)}</li>" for i, label in enumerate(labels))
    return f'<ul class="legend key">{items}</ul>'


def _noise(found: Found) -> str:
    """How alike the cells of a block are, and whether one fixed val adds its images' share."""
    try:
        from analysis.conflicts import block_correlation

        rows = block_correlation(found.trials, found.metric)
    except ValueError:
        return ""
    parts = []
    for row in rows.to_dict("records"):
        if not math.isfinite(row["correlation"]):
            continue
        bounds = ""
        if math.isfinite(row.get("correlation_low", math.nan)):
            bounds = f" ({_signed(row['correlation_low'])} to {_signed(row['correlation_high'])})"
        where = plots.context_words(row["context"]) or "plain cells"
        parts.append(
            f"{where}: correlation {_signed(row['correlation'])}{bounds} between the cells of a block, deviation of "
            f"one trial within its block {points(row['deviation']).lstrip('+')} points, over {int(row['n_cells'])} "
            f"cells and {seeds(row['n_seeds'])}"
        )
    if not parts:
        return ""
    return f"<p class=faint>Blocks: {wrap('; '.join(parts))}. {_images(found)}</p>"


def _signed(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", plots.MINUS)


def _images(found: Found) -> str:
    """Whether intervals hold for new images, and by what."""
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
    return "Every block has its own split, so that intervals hold for new images too."


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
            f'<td class="verdict">{sign(row["verdict"])} <b>{row["verdict"]}</b><br>{wrap(str(row["action"]))}</td>',
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
        + figure(plots.elsewhere(each), "elsewhere", caption, "narrow")
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
                 f'<td class="verdict">{sign(row["verdict"])} {row["verdict"]}</td>']  # fmt: skip
        for name in ("b_given_a", "a_given_b", "interaction"):
            cells.append(number(effect(row[name], row[f"{name}_low"], row[f"{name}_high"]), row[name]))
        cells.append(number(str(int(row["n_seeds"])), row["n_seeds"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    return "<h3>Search by search</h3>" + table(heads, body, "searches", csv(each), "searches.csv")


def around(found: Found) -> str:
    """What may be removed from the best recipe, what depends on what, and the path up to it from the baseline."""
    if not (found.trials["arm"] == "around").any():
        return note(
            "Not known: the best recipe was not run with some of its tricks removed, so what it needs is open. A "
            "search does that at its end."
        )
    from analysis.around import path, removals

    steps, gone = path(found.trials, found.metric), removals(found.trials, found.metric, found.margin)
    words = (
        "<p>The best recipe was trained again with some of its tricks removed, all on the same fresh seeds, down to "
        "the baseline. Differences are paired by seed; p-values are Holm-adjusted.</p>"
    )
    return words + _path(steps) + _removals(found, gone)


def _spelled(added: Sequence[str]) -> list[str]:
    return [NUMBERS_IN_WORDS if label == NUMBERS else label for label in added]


def _path(steps: pd.DataFrame) -> str:
    if steps.empty:
        return note("The path from the baseline to the best recipe is not complete.")
    heads = ["step", "added", "accuracy, %", "gain of the step, points", "gain over the baseline, points", "seeds"]
    body = [
        "<tr>"
        + number(str(row["step"]), row["step"])
        + f'<td class="name">{wrap(" + ".join(_spelled(row["added"]))) or BASELINE}</td>'
        + number(percent_span(row["mean"], max(row["low"], 0.0), min(row["high"], 1.0)), row["mean"])
        + number(effect(row["gain"], row["gain_low"], row["gain_high"]) if row["step"] else "–", row["gain"])
        + number(effect(row["total"], row["total_low"], row["total_high"]) if row["step"] else "–", row["total"])
        + number(str(row["n_seeds"]), row["n_seeds"])
        + "</tr>"
        for row in steps.to_dict("records")
    ]
    caption = (
        "From the baseline to the best recipe, one trick at a time, every step a real run over the same seeds: the "
        "mean and its 95 % interval. The order was chosen by these numbers, from the best recipe down: another order "
        "gives other steps, and what a step adds may look a little small. The intervals of single means are wider than "
        "those of the gains, which are paired."
    )
    return (
        "<h3>From the baseline to the best recipe</h3>"
        + figure(plots.path(steps), "path", caption, "narrow")
        + table(heads, body, "path", csv(steps), "path.csv")
    )


def _removals(found: Found, gone: pd.DataFrame) -> str:
    if gone.empty:
        return note("No trick was removed from the best recipe alone.")
    heads = ["without", "lost, points", "adjusted p", "may it be removed?", "dependency, points", "which", "seeds"]
    body = []
    for row in gone.to_dict("records"):
        known = math.isfinite(row["dependency"])
        depends = effect(row["dependency"], row["dependency_low"], row["dependency_high"]) if known else "–"
        cells = [
            f'<td class="name">{wrap(" and ".join(row["removed"]))}</td>',
            number(effect(row["loss"], row["loss_low"], row["loss_high"]), row["loss"]),
            p_value(row["adjusted_p"]),
            f"<td><b>{safe(row['word'])}</b></td>",
            number(depends, row["dependency"]),
            f"<td>{safe(row['depends']) or ('not shown' if known else '')}</td>",
            number(str(row["n_seeds"]), row["n_seeds"]),
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = (
        "What the best recipe does without one or two of its tricks, against the whole, paired by seed. The dotted "
        "line is the margin. Unknown is not free: the seeds do not show a loss, and do not exclude one."
    )
    return (
        "<h3>What may be removed, and what depends on what</h3>"
        + figure(plots.removals(gone, found.margin), "removals", caption, "narrow")
        + "<p>Dependency of two tricks: above 0 they are worth more beside each other, below 0 one stands in for the "
        "other.</p>" + table(heads, body, "removals", csv(gone), "removals.csv")
    )


def front(found: Found) -> str:
    """Accuracy against the harmonic mean of recalls, where val is large enough for that."""
    from analysis.pareto import front as on_front
    from analysis.pareto import too_few

    if found.ranking.empty:
        return note("No trial has finished.")
    first = found.trials.iloc[0]
    counts = first["val_counts"]
    if not counts:
        return note("The records do not say how many val images each class has, so no Pareto front is drawn.")
    problem = too_few("The Pareto front", str(first["data"]), counts)
    if problem:
        return note(f"{problem}.")
    trades = on_front(found.trials)
    shown = trades[trades["on_front"]]
    heads = ["recipe on the front", "accuracy, %", "smoothed harmonic mean, %", "seeds"]
    body = [
        f'<tr><td class="name">{wrap(row["title"])}{"<small>the knee</small>" if row["knee"] else ""}'
        f"<small>{safe(row['recipe'])}</small></td>"
        + "".join(
            number(percent_span(row[name], max(row[f"{name}_low"], 0.0), min(row[f"{name}_high"], 1.0)), row[name])
            for name in ("accuracy", "harmonic_mean")
        )
        + number(f"{row['seeds']}<span class=faint>{_SEED_WORDS.get(row['arm'], row['arm'])}</span>", row["seeds"])
        + "</tr>"
        for row in shown.to_dict("records")
    ]
    caption = (
        "Every recipe by its accuracy and by the harmonic mean of smoothed recalls, which the worst classes decide. No "
        "other recipe is at least as good in both as one on the front; bars are 95 % intervals, so a recipe near the "
        "front may belong to it. The knee is farthest above the line between the two ends."
    )
    return figure(plots.front(trades), "front", caption) + table(heads, body, "front", csv(trades), "front.csv")


# ----------------------------------------------------------------------------------------- tricks alone, importance


def alone(found: Found) -> str:
    """Each trick alone."""
    if found.effects is None:
        reason = found.missing or "the design arm ran no trick alone"
        return note(f"Unknown: the effect of a trick alone could not be measured ({reason}).")
    counts = sorted({int(n) for n in found.effects["n_seeds"]})
    caption = (
        f"What each trick does alone, against the same recipe without it, over {counts[0]}"
        + (f" to {counts[-1]}" if counts[-1] != counts[0] else "")
        + " seeds. An interval that holds 0 means that it is not known whether the trick helps."
    )
    return figure(plots.effects(found.effects), "effects", caption, "narrow")


def importance(found: Found) -> str:
    """Which choices and numbers moved the score, where the data allow to say so."""
    from analysis.importance import EVALUATORS, all_of

    if found.trials.empty:
        return note("Unknown: no trial has been logged.")
    rated = all_of(found.trials, found.metric)
    spoken = [one for one in rated if not one.problem]
    words = (
        "<p>How much each choice moved the score over the recipes that were tried, as a share of all; which option is "
        "better is in the tables above. Shares at or below the dotted line are what chance alone may give.</p>"
    )
    parts = []
    for arm in dict.fromkeys(one.arm for one in spoken):
        mine = [one for one in spoken if one.arm == arm]
        first = mine[0]
        note_text = f" {first.note[0].upper() + first.note[1:]}." if first.note else ""
        caption = (
            f"{first.evaluator} ({EVALUATORS[first.evaluator].what}) over {first.recipes} recipes of the {arm} arm; "
            f"bars hold 95 % of the draws over resampled seeds.{note_text}"
        )
        parts.append(f"<h3>{arm.capitalize()} arm</h3>" + figure(plots.shares(first.table), f"shares-{arm}", caption))
        heads = ["choice or number", "kind", "family", "options"]
        heads += [f"{one.evaluator}, share" for one in mine] + ["more than chance", "decides as well"]
        others = [one.table.set_index("factor") for one in mine]
        body = []
        for row in first.table.to_dict("records"):
            cells = [
                f'<td class="name">{wrap(row["factor"])}</td>', f"<td>{row['kind']}</td>",
                f"<td>{safe(row['family']) or '–'}</td>", number(str(row["levels"]), row["levels"]),
            ]  # fmt: skip
            for each in others:
                if row["factor"] not in each.index:
                    cells.append(number("–", math.nan))
                    continue
                its = each.loc[row["factor"]]
                text = f"{its['share']:.2f}<span class=faint>{its['low']:.2f} to {its['high']:.2f}</span>"
                cells.append(number(text, float(its["share"])))
            agreed = [bool(each.loc[row["factor"], "matters"]) for each in others if row["factor"] in each.index]
            said = "yes" if all(agreed) else ("not by all" if any(agreed) else "not shown")
            cells.append(f"<td>{said}</td>")
            cells.append(f'<td class="long">{wrap(", ".join(row["also"])) or "–"}</td>')
            body.append(f"<tr>{''.join(cells)}</tr>")
        whole = pd.concat([one.table.assign(evaluator=one.evaluator, arm=one.arm) for one in mine], ignore_index=True)
        parts.append(table(heads, body, f"importance-{arm}", csv(whole), f"importance-{arm}.csv"))
    silent = "".join(
        f"<li>{safe(one.evaluator)}, {safe(one.arm)} arm: {safe(one.problem)}.</li>" for one in rated if one.problem
    )
    nothing = note("Which choices matter is not known from these data.") if not spoken else ""
    return words + nothing + "".join(parts) + (f"<p>Not known, and why:</p><ul>{silent}</ul>" if silent else "")


# --------------------------------------------------------------------------------------------- trials


def _names(found: Found) -> dict[str, str]:
    names = {}
    if found.best and found.best != found.baseline:
        names[found.best] = "best recipe"
    if found.baseline:
        names[found.baseline] = BASELINE
    return names


def speaking(found: Found, recipe: str) -> pd.DataFrame:
    """Finished trials of the arm that speaks for a recipe."""
    done = found.trials[(found.trials["outcome"] == "finished") & (found.trials["recipe"] == recipe)]
    for arm in load.ESTIMATES:
        if (done["arm"] == arm).any():
            return done[done["arm"] == arm]
    return done


def curves(found: Found) -> str:
    """Learning curves of the best recipe and the baseline."""
    if found.curves is None:
        return note("No learning curves were logged.")
    names = _names(found)
    kept = pd.concat([speaking(found, recipe) for recipe in names]) if names else found.trials.iloc[:0]
    info = plots.curves_info(found.curves[found.curves["trial"].isin(kept["trial"])], names)
    if not info:
        return note("Neither the best recipe nor the baseline has a learning curve.")
    counts = ", ".join(f"{curve.name}: {seeds(len(curve.seeds))}" for curve in info)
    caption = (
        f"Accuracy on val over the epochs of the plan: the mean as a thick line, every seed as a thin one ({counts})."
    )
    return figure(plots.learning_curves(info), "curves", caption) + _absent(info, names, "curve")


def _absent(info: Sequence[Any], names: Mapping[str, str], what: str) -> str:
    shown = {one.name for one in info}
    lacking = [name for name in names.values() if name not in shown]
    return note(f"No {what} of {' and '.join(lacking)}.") if lacking else ""


def classes(found: Found) -> str:
    """Recall of every class."""
    names = _names(found)
    kept = pd.concat([speaking(found, recipe) for recipe in names]) if names else found.trials.iloc[:0]
    info = plots.recalls_info(kept, names)
    if not info:
        return note(
            "No recall of single classes was logged, or there are too many classes to keep each as a metric; "
            "the file record.json of every MLflow run has them."
        )
    counts = ", ".join(f"{recall.name}: {seeds(recall.seeds)}" for recall in info)
    caption = f"From the most to the least frequent class; mean, and 95 % interval over several seeds ({counts})."
    return figure(plots.recalls(info), "recalls", caption) + _absent(info, names, "recall")


def progress(found: Found) -> str:
    """Every trial in the order of its end, and why some were stopped."""
    if found.ranking.empty:
        return note("No trial has finished.")
    caption = (
        "Every finished trial, one seed of one recipe, in the order of their end. A single trial is luck and skill "
        "together: the highest mark is not the best recipe."
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
        f'<tr><td class="name">{sign(name)} {name}</td><td class="long">{safe(look.words)}</td>'
        f"<td>{safe(look.action) or '–'}</td></tr>"
        for name, look in VERDICTS.items()
    )
    return (
        "<p>For two tricks there are four recipes: with neither, with one, with the other, with both, everything else "
        "equal. All four are trained on the same seeds, so differences are taken within a seed. <b>Harm</b> is what "
        "adding one trick to the other does; <b>interaction</b> is how far both together are from the sum of their "
        f"effects. The first verdict that holds is given; the margin is {points(found.margin).lstrip('+')} points. "
        "Only the design arm, which is never stopped early, is judged: what an adaptive search kept is too lucky to "
        "compare.</p>"
        '<div class="scroll"><table><thead><tr><th>verdict</th><th>when</th><th>what to do</th></tr></thead>'
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
    rows = "".join(f"<dt>{safe(str(k))}</dt><dd>{wrap(str(v))}</dd>" for k, v in items.items() if v not in (None, ""))
    return f'<dl class="plain">{rows}</dl>'


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
