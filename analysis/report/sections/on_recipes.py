"""Sections about recipes: the ranking, what the best one needs, each trick alone, which choices matter, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.formatting import coverage, seeds
from analysis.records import reader as load
from analysis.records.schema import BASELINE, NUMBERS, NUMBERS_IN_WORDS
from analysis.report.html import csv, effect, figure, note, number, p_value, percent_span, safe, table, wrap
from analysis.report.plots import curves as plots
from analysis.report.plots import forest_plots as forests

if TYPE_CHECKING:
    from analysis.report.page import Found

MOST_RECIPES = 12
MOST_CLASSES = 200
"""Rows of a table on the page."""

SECONDARY = {"final/harmonic_mean": "harmonic mean", "final/few": "few-shot classes"}
_SEED_WORDS = {
    "confirm": "confirmed", "race": "race", "design": "design", "adaptive": "adaptive", "around": "around the best",
    "tune": "tuning", "check": "check", "nominated": "nominated",
}  # fmt: skip


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
            number(percent_span(row["mean"], row["low"], row["high"]), row["mean"]),
            number(gain or "–", row["gain"]),
        ]
        for column in secondary:
            mean, low, high = load.mean_interval(own, column)
            cells.append(number(percent_span(mean, low, high), mean))
        lost = f", {row['diverged']} diverged" if row["diverged"] else ""
        arm = _SEED_WORDS.get(row["arm"], row["arm"])
        cells.append(number(f"{row['seeds']}<span class=faint>{safe(arm)}{lost}</span>", row["seeds"]))
        cells.append(number(f"{int(row['images']):,}", row["images"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    words = (
        f"<p>The first {MOST_RECIPES} and the baseline, of {len(found.ranking)} that have finished. The confirmed "
        "recipe comes first, then those that raced on fresh seeds, the most seeds first (the baseline among them), "
        "then the rest, whose means are optimistic because they took part in the choice. Compare at equal images "
        "seen.</p>"
    )
    raced = found.ranking["arm"].isin(["race", "confirm"]).any()
    warning = "" if raced else note("No race on fresh seeds has been run, so chance has a part in the order below.")
    return words + warning + table(heads, body, "recipes", csv(found.ranking), "recipes.csv")


def around(found: Found) -> str:
    """What may be removed from the best recipe, what depends on what, and the path up to it from the baseline."""
    if not (found.trials["arm"] == "around").any():
        return note(
            "Not known: the best recipe was not run with some of its tricks removed, so what it needs is open. A "
            "search does that at its end."
        )
    from analysis.recipes.ablation import path, removals

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
        + number(percent_span(row["mean"], row["low"], row["high"]), row["mean"])
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
        + figure(forests.path(steps), "path", caption, "narrow")
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
        + figure(forests.removals(gone, found.margin), "removals", caption, "narrow")
        + "<p>Dependency of two tricks: above 0 they are worth more beside each other, below 0 one stands in for the "
        "other.</p>" + table(heads, body, "removals", csv(gone), "removals.csv")
    )


def front(found: Found) -> str:
    """Accuracy against the harmonic mean of recalls, where val is large enough for that."""
    from analysis.recipes.pareto import front as on_front
    from analysis.recipes.pareto import too_few

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
            number(percent_span(row[name], row[f"{name}_low"], row[f"{name}_high"]), row[name])
            for name in ("accuracy", "harmonic_mean")
        )
        + number(
            f"{row['seeds']}<span class=faint>{safe(_SEED_WORDS.get(row['arm'], row['arm']))}</span>", row["seeds"]
        )
        + "</tr>"
        for row in shown.to_dict("records")
    ]
    caption = (
        "Every recipe by its accuracy and by the harmonic mean of smoothed recalls, which the worst classes decide. No "
        "other recipe is at least as good in both as one on the front; bars are 95 % intervals, so a recipe near the "
        "front may belong to it. The knee is farthest above the line between the two ends."
    )
    return figure(plots.front(trades), "front", caption) + table(heads, body, "front", csv(trades), "front.csv")


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
    return figure(forests.effects(found.effects), "effects", caption, "narrow")


def importance(found: Found) -> str:
    """Which choices and numbers moved the score, where the data allow to say so."""
    from analysis.recipes.importance import EVALUATORS, all_of

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
        parts.append(
            f"<h3>{safe(arm.capitalize())} arm</h3>" + figure(forests.shares(first.table), f"shares-{arm}", caption)
        )
        heads = ["choice or number", "kind", "family", "options"]
        heads += [f"{one.evaluator}, share" for one in mine] + ["more than chance", "decides as well"]
        others = [one.table.set_index("factor") for one in mine]
        body = []
        for row in first.table.to_dict("records"):
            cells = [
                f'<td class="name">{wrap(row["factor"])}</td>', f"<td>{safe(row['kind'])}</td>",
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
    part = coverage(info[0].val_counts, info[0].names)
    return (
        (note(f"{part}. Classes without a recall have no mark below.") if part else "")
        + figure(plots.recalls(info), "recalls", caption)
        + _class_table(info)
        + _absent(info, names, "recall")
    )


def _class_table(info: Sequence[plots.Recall]) -> str:
    """The recalls by the classes' names."""
    first = info[0]
    rows = []
    body = []
    for place, name in enumerate(first.names):
        row: dict[str, Any] = {"label": first.classes[place], "class": name}
        cells = [f'<td class="name">{wrap(name)}</td>']
        for what, numbers in (("training images", first.counts), ("val images", first.val_counts)):
            row[what] = numbers[place] if numbers else None
            cells.append(number(f"{numbers[place]:,}" if numbers else "–", numbers[place] if numbers else math.nan))
        for recall in info:
            mean, low, high = recall.mean[place], recall.low[place], recall.high[place]
            row |= {f"{recall.name}, recall": mean, f"{recall.name}, low": low, f"{recall.name}, high": high}
            cells.append(number(percent_span(mean, low, high), mean))
        rows.append(row)
        if place < MOST_CLASSES:
            body.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["class", "training images", "val images", *(f"recall of the {recall.name}, %" for recall in info)]
    more = note(f"The first {MOST_CLASSES} of {len(rows)} classes; the CSV has all.") if rows[MOST_CLASSES:] else ""
    return more + table(heads, body, "classes", csv(pd.DataFrame(rows)), "classes.csv")
