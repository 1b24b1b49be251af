"""`python -m analysis.report`: what a search found, as one HTML page that needs no network.

`write` makes the page from tables in memory, so that a search can do it as it ends; the command reads them from
MLflow. Numbers are fractions everywhere but here, where people read percent and points.
"""

from __future__ import annotations

import argparse
import html
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import load, page, plots
from analysis.plots import VERDICTS, percent, points, seeds, span
from analysis.record import BASELINE, RecordError, interval

MARGIN = 0.01
"""Harm that would not matter, where a search did not say."""

MOST_RECIPES = 12
MOST_NAMED = 6

_ARM_WORDS = {
    "confirm": "fresh, they chose nothing",
    "race": "fresh, but those by which it won the race, so the number flatters a little",
    "design": "those by which it was chosen, so the number flatters; no race on fresh seeds has been run",
    "adaptive": "those by which it was chosen, so the number flatters; no race on fresh seeds has been run",
}
_SECONDARY = {"final/harmonic_mean": "harmonic mean", "final/few": "few-shot classes"}
_SEED_WORDS = {"confirm": "confirmed", "race": "race", "design": "design", "adaptive": "adaptive"}


class Found(NamedTuple):
    """Everything the page is made of."""

    trials: pd.DataFrame
    ranking: pd.DataFrame
    best: str
    baseline: str
    metric: str
    conflicts: pd.DataFrame | None
    effects: pd.DataFrame | None
    curves: pd.DataFrame | None
    margin: float
    missing: str
    about: dict[str, Any]


# --------------------------------------------------------------------------------------------- entrances


def write(
    path: str | Path,
    trials: pd.DataFrame,
    *,
    curves: pd.DataFrame | None = None,
    conflicts: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    best: str | None = None,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    primary: Iterable[Sequence[str] | str] = (),
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of one search.

    Args:
        path: Of the HTML file; an existing one is replaced.
        trials: `analysis.load.frame(records)`, or what `analysis.load.records` gives.
        curves: `analysis.load.curve_frame(records)`, or of `analysis.load.curves`; of the recipes that are drawn.
        conflicts: Table of pairs; computed from `trials` where None.
        effects: Effects alone; computed from `trials` where None.
        best: Id of the recipe that is called best; the first of `analysis.load.ranking` where None.
        metric: Column that everything is judged by, of the val split.
        margin: Harm that would not matter, a fraction.
        primary: Pairs that were declared beforehand.
        about: Where it comes from, shown at the end as it stands: command, store, versions, commit, ….

    Returns:
        The path.

    Raises:
        RecordError: The metric is of the test split, or `best` is not among the trials.
    """
    found = gather(
        trials, curves=curves, conflicts=conflicts, effects=effects, best=best, metric=metric, margin=margin,
        primary=primary, about=about,
    )  # fmt: skip
    target = Path(path)
    target.write_text(render(found), encoding="utf-8")
    return target


def gather(
    trials: pd.DataFrame,
    *,
    curves: pd.DataFrame | None = None,
    conflicts: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    best: str | None = None,
    metric: str = "final/accuracy",
    margin: float = MARGIN,
    primary: Iterable[Sequence[str] | str] = (),
    about: Mapping[str, Any] | None = None,
) -> Found:
    """Complete what the page is made of; arguments as for `write`."""
    ranking = load.ranking(trials, metric)
    if best is not None and best not in set(ranking["recipe"]):
        raise RecordError(f"recipe {best!r} cannot be called best: it has no finished trial")
    leader = best or (str(ranking["recipe"].iloc[0]) if len(ranking) else "")
    missing = "" if (trials["arm"] == "design").any() else "the design arm has not run, and it alone can show conflicts"
    if (conflicts is None or effects is None) and not missing:
        from analysis.conflicts import effects as alone
        from analysis.conflicts import pairwise

        try:
            effects = alone(trials, metric) if effects is None else effects
            conflicts = pairwise(trials, metric, margin, primary=primary) if conflicts is None else conflicts
        except ValueError as error:
            missing = str(error)
    return Found(
        trials, ranking, leader, load.baseline(trials), metric, _filled(conflicts), _filled(effects), _filled(curves),
        margin, missing, dict(about or {}),
    )  # fmt: skip


def _filled(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if table is None or table.empty else table


def from_store(uri: str, search: str | None = None) -> tuple[str, Found]:
    """What the page of a search in an MLflow store is made of.

    Returns:
        The name of the search that was read, and its contents.

    Raises:
        LoadError: There is no such store or search.
    """
    info = load.find(uri, search)
    name, trials = load.records(uri, info.name)
    settings = {key: load.parsed(text) for key, text in info.params.items()}
    primary = settings.get("primary") or ()
    if isinstance(primary, str):
        primary = [pair.strip() for pair in primary.split(",") if pair.strip()]
    started = datetime.fromtimestamp(info.started, tz=UTC)
    about = {
        "MLflow store": uri,
        "MLflow run": info.run_id,
        "search started": f"{started:%Y-%m-%d %H:%M} UTC",
        "status": info.status.lower(),
        **{key: settings[key] for key in sorted(settings)},
    }
    margin = settings.get("margin")
    found = gather(
        trials, margin=float(margin) if isinstance(margin, int | float) else MARGIN, primary=primary, about=about
    )
    drawn = trials[trials["recipe"].isin([found.best, found.baseline]) & (trials["outcome"] == "finished")]
    return name, found._replace(curves=_filled(load.curves(uri, drawn)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of a search; 2 where that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Write what a search found as one HTML page."
    )
    parser.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    parser.add_argument("--tracking-uri", metavar="URI", help="the MLflow store (default: mlflow.db in this directory)")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    uri = options.tracking_uri or load.default_uri()
    try:
        name, found = from_store(uri, options.search)
        Path(options.out).write_text(render(found), encoding="utf-8")
    except (load.LoadError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out {options.out} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"report of search {name} ({len(found.trials)} trials in {uri}): {options.out}")
    return 0


# --------------------------------------------------------------------------------------------- the answer


def answer(found: Found) -> list[tuple[str, str]]:
    """The findings in a few sentences of plain text, each under its heading: the top of the page."""
    parts = [("Best recipe", _best_words(found))]
    table = found.conflicts
    if table is None:
        return [*parts, ("Which pairs", _no_table(found))]
    applicable = table[table["verdict"] != "not applicable"]
    total = len(applicable)
    names = plots.short(plots.labels_of(table))

    def rows(*verdicts: str) -> list[dict[str, Any]]:
        return [row for row in applicable.to_dict("records") if row["verdict"] in verdicts]

    def pair(row: Mapping[str, Any]) -> str:
        return f"{names[row['a']]} × {names[row['b']]}"

    def harm(row: Mapping[str, Any]) -> str:
        worse = min(("b_given_a", "a_given_b"), key=lambda name: row[name])
        flip = "; helps alone, hurts here" if row["sign_flip"] else ""
        what = f"; {row['action']}" if row["verdict"] == "harmful" else ""
        return f"{pair(row)} ({points(row[worse])} points, {points(row[f'{worse}_low'])} to "\
            f"{points(row[f'{worse}_high'])}{what}{flip})"  # fmt: skip

    def listed(chosen: list[dict[str, Any]], each: Callable[[Mapping[str, Any]], str], none: str) -> str:
        if not chosen:
            return none
        more = f", and {len(chosen) - MOST_NAMED} more in the table" if len(chosen) > MOST_NAMED else ""
        return f"{len(chosen)} of {total} pairs: {', '.join(each(row) for row in chosen[:MOST_NAMED])}{more}."

    avoid = sorted(rows("conflict", "harmful"), key=lambda row: min(row["b_given_a"], row["a_given_b"]))
    parts.append(("Avoid together", listed(avoid, harm, "No pair is shown to harm.")))
    if rows("synergy"):
        parts.append(("Use together", listed(rows("synergy"), pair, "")))
    if rows("redundant"):
        parts.append(("One is enough", listed(rows("redundant"), pair, "")))
    margin = f"shown to cost less than {points(found.margin).lstrip('+')} points either way"
    parts.append(("Free", listed(rows("compatible"), pair, f"No pair is {margin}.")))
    unknown = listed(rows("unresolved"), pair, "None.")
    if rows("unresolved"):
        counts = sorted({int(row["n_seeds"]) for row in applicable.to_dict("records")})
        unknown += f" {seeds(counts[-1])} did not settle them; unknown is not harmless."
    parts.append(("Unknown", unknown))
    return parts


def _best_words(found: Found) -> str:
    if not found.best:
        return "Unknown: no trial has finished yet."
    row = _row(found.ranking, found.best)
    title = "the baseline" if found.best == found.baseline else row["title"]
    seen = f"{percent(row['mean'])} accuracy on val ({_bounds(row)}{seeds(row['seeds'])}, {_ARM_WORDS[row['arm']]})"
    if found.best == found.baseline:
        return f"No recipe is ahead of the baseline, which has {seen}."
    words = f"{title}, {seen}. "
    if not row["gain_seeds"]:
        words += "What it gains over the baseline is unknown: they share no seed."
    else:
        gain = span(row["gain"], row["gain_low"], row["gain_high"]).replace(" (", " points (", 1)
        words += f"Over the baseline: {gain}; paired over {seeds(row['gain_seeds'])}."
        if not row["gain_low"] > 0:
            words += " That it is better than the baseline is not shown."
    if found.baseline:
        ratio = row["images"] / _row(found.ranking, found.baseline)["images"]
        if ratio > 1.05:
            words += f" It trains on {ratio:.1f} times the images that the baseline sees."
    if row["diverged"]:
        words += f" {row['diverged']} of its trials diverged."
    return words + _test_words(found)


def _test_words(found: Found) -> str:
    if "test/accuracy" not in found.trials:
        return ""
    read = found.trials[found.trials["outcome"] == "finished"].dropna(subset=["test/accuracy"])
    words = []
    for recipe, name in ((found.best, "it"), (found.baseline, "the baseline")):
        values = read[read["recipe"] == recipe]["test/accuracy"].tolist()
        if values:
            mean, low, high = interval(values)
            bounds = f"{percent(low)} to {percent(high)}, " if math.isfinite(low) else ""
            words.append(f"{name} has {percent(mean)} ({bounds}{seeds(len(values))})")
    return f" On the test split, read once, {' and '.join(words)}." if words else ""


def _bounds(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["low"]):
        return "no interval, "
    return f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f}, "


def _no_table(found: Found) -> str:
    return f"Unknown: no pair could be judged ({found.missing or 'the design arm has no pair of tricks'})."


def _row(ranking: pd.DataFrame, recipe: str) -> dict[str, Any]:
    return {str(k): v for k, v in ranking[ranking["recipe"] == recipe].iloc[0].to_dict().items()}


# --------------------------------------------------------------------------------------------- the page


def render(found: Found) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    sections = [
        ("recipes", "Best recipes", _recipes(found)),
        ("pairs", "Which tricks conflict", _pairs(found)),
        ("alone", "Each trick alone", _alone(found)),
        ("curves", "Learning curves", _curves(found)),
        ("classes", "Recall of every class", _classes(found)),
        ("search", "How the search went", _progress(found)),
        ("cost", "What it cost", _cost(found)),
        ("verdicts", "How to read a verdict", _verdicts(found)),
        ("provenance", "Where this comes from", _provenance(found)),
    ]
    name = str(found.trials["search"].iloc[0]) if len(found.trials) else str(found.about.get("search", ""))
    return page.PAGE.substitute(
        title=_safe(f"Search {name}" if name else "A search without trials"),
        context=_context(found),
        answer="\n".join(f"<div><dt>{_safe(head)}</dt><dd>{_wrap(text)}</dd></div>" for head, text in answer(found)),
        links=" ".join(f'<a href="#{key}">{_safe(title)}</a>' for key, title, _ in sections),
        sections="\n".join(page.SECTION.substitute(id=k, title=_safe(t), body=body) for k, t, body in sections),
        style=page.STYLE,
        script=page.SCRIPT,
        plotly=get_plotlyjs(),
    )


def _context(found: Found) -> str:
    if found.trials.empty:
        return "No trial has been logged."
    first = found.trials.iloc[0]
    lengths = found.trials[found.trials["recipe"] == found.baseline]["epochs"]
    epochs = float(lengths.iloc[0]) if len(lengths) else float(found.trials["epochs"].median())
    counts = first["counts"]
    sizes = f", {len(counts)} classes of {max(counts)} to {min(counts)} training images" if counts else ""
    return _safe(
        f"{first['data']}, imbalance {first['imbalance']:g}{sizes}; {first['model']}; {epochs:g} epochs. All of this "
        "is context: verdicts and gains hold for it, at this schedule length, and may differ elsewhere. Accuracy is "
        "the mean of the classes' recalls on balanced val images; points are percentage points; intervals are 95 % "
        "over seeds."
    )


def _recipes(found: Found) -> str:
    if found.ranking.empty:
        return _note("No trial has finished, so there is no recipe to rank.")
    shown = found.ranking.head(MOST_RECIPES)
    if found.baseline and found.baseline not in set(shown["recipe"]):
        shown = pd.concat([shown, found.ranking[found.ranking["recipe"] == found.baseline]])
    ranks = {recipe: rank for rank, recipe in enumerate(found.ranking["recipe"], 1)}
    secondary = [name for name in _SECONDARY if name in found.trials and name != found.metric]
    heads = ["rank", "recipe", "accuracy, %", "gain over the baseline, points"]
    heads += [f"{_SECONDARY[name]}, %" for name in secondary] + ["seeds", "images seen"]
    body = []
    for row in shown.to_dict("records"):
        name = row["title"] + (" (the baseline)" if row["recipe"] == found.baseline != BASELINE else "")
        name = row["title"] if row["title"] == BASELINE else name
        own = _speaking(found, row["recipe"])
        gain = "" if row["recipe"] == found.baseline else _effect(row["gain"], row["gain_low"], row["gain_high"])
        if gain and row["gain_seeds"] not in (0, row["seeds"]):
            gain += f"<span class=faint>{seeds(row['gain_seeds'])} in common</span>"
        cells = [
            _number(str(ranks[row["recipe"]]), ranks[row["recipe"]]),
            f'<td class="name">{_wrap(name)}<small>{_safe(row["recipe"])}</small></td>',
            _number(_percent_span(row["mean"], row["low"], row["high"]), row["mean"]),
            _number(gain or "–", row["gain"]),
        ]
        for column in secondary:
            mean, low, high = interval(own[column].dropna().tolist())
            cells.append(_number(_percent_span(mean, low, high), mean))
        lost = f", {row['diverged']} diverged" if row["diverged"] else ""
        cells.append(_number(f"{row['seeds']}<span class=faint>{_SEED_WORDS[row['arm']]}{lost}</span>", row["seeds"]))
        cells.append(_number(f"{int(row['images']):,}", row["images"]))
        body.append(f"<tr>{''.join(cells)}</tr>")
    words = (
        f"<p>The first {MOST_RECIPES} and the baseline, of {len(found.ranking)} that have finished. Confirmed recipes "
        "come first, then those that raced on fresh seeds, then the rest, whose means flatter because they were looked "
        "at when they were chosen. Compare at equal images seen.</p>"
    )
    raced = found.ranking["arm"].isin(["race", "confirm"]).any()
    note = (
        ""
        if raced
        else _note("No race on fresh seeds has been run: the order below is the order of luck and skill together.")
    )
    return words + note + _table(heads, body, "recipes", _csv(found.ranking), "recipes.csv")


def _pairs(found: Found) -> str:
    table = found.conflicts
    if table is None:
        return _note(_no_table(found))
    counts = table["verdict"].value_counts()
    legend = "".join(
        f"<li>{_sign(name)} {name} ({counts[name]}){': ' + look.action if look.action else ''}</li>"
        for name, look in VERDICTS.items()
        if counts.get(name, 0)
    )
    heads = [
        "pair", "verdict", "adding the second to the first, points", "adding the first to the second, points",
        "interaction, points", "adjusted p", "seeds", "why",
    ]  # fmt: skip
    order = {name: index for index, name in enumerate(VERDICTS)}
    ordered = sorted(table.to_dict("records"), key=lambda row: (order[row["verdict"]], _least(row)))
    body = []
    for row in ordered:
        primary = "<small>declared beforehand</small>" if row["primary"] else ""
        sure = row["verdict"] in ("conflict", "harmful")
        flip = "sign flip: helps alone, hurts here" if sure else "perhaps a sign flip: shown only before adjusting p"
        flip = f"<small>{flip}</small>" if row["sign_flip"] else ""
        na = row["verdict"] == "not applicable"
        cells = [
            f'<td class="name">{_wrap(row["a"])} × {_wrap(row["b"])}{primary}</td>',
            f'<td class="verdict" data-value="{order[row["verdict"]]}">{_sign(row["verdict"])} <b>{row["verdict"]}</b>'
            f"<br>{'' if na else _wrap(str(row['action']))}{flip}</td>",
        ]
        for column in ("b_given_a", "a_given_b", "interaction"):
            text = "–" if na else _effect(row[column], row[f"{column}_low"], row[f"{column}_high"])
            cells.append(_number(text, row[column]))
        p = row["adjusted_p"]
        p_words = "–" if not math.isfinite(p) else ("< 0.001" if p < 0.001 else f"{p:.3f}")
        cells.append(_number(_safe(p_words), p))
        cells.append(_number(str(int(row["n_seeds"])), row["n_seeds"]))
        cells.append(f'<td class="long">{_wrap(str(row["reason"]))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = (
        "Each cell is a pair: its verdict by colour and sign, and the worse of its two harms in points (adding one "
        "trick to the other). The diagonal, framed, is each trick alone. Point at a cell, or touch it, for intervals."
    )
    return (
        f'<ul class="legend">{legend}</ul>'
        + _key(table)
        + _figure(plots.heat_map(table, found.effects), "conflicts", caption, "narrow")
        + _table(heads, body, "conflicts", _csv(table), "conflicts.csv")
        + "<p class=faint>Intervals are 95 %, unadjusted; p-values are adjusted for the number of pairs (Holm over "
        "the pairs declared beforehand, Benjamini-Hochberg over the others) and belong to the verdict's own test. The "
        "CSV holds every number as a fraction.</p>"
        + _figure(
            plots.pairs(table, found.margin),
            "harms",
            "What adding one trick to another does, worst first. Left of the line it harms. The dotted line is the "
            "margin: a harm smaller than that would not matter.",
            "narrow",
        )
    )


def _key(table: pd.DataFrame) -> str:
    """What the letters of the heat map mean, for screens too narrow for names on its axis."""
    labels = plots.labels_of(table)
    items = "".join(f"<li><b>{plots.letter(i)}</b> {_wrap(label)}</li>" for i, label in enumerate(labels))
    return f'<ul class="legend key">{items}</ul>'


def _least(row: Mapping[str, Any]) -> float:
    harms = [row[name] for name in ("b_given_a", "a_given_b") if math.isfinite(row[name])]
    return min(harms, default=math.inf)


def _alone(found: Found) -> str:
    if found.effects is None:
        reason = found.missing or "the design arm ran no trick alone"
        return _note(f"Unknown: the effect of a trick alone could not be measured ({reason}).")
    counts = sorted({int(n) for n in found.effects["n_seeds"]})
    caption = (
        f"What each trick does alone, against the same recipe without it, over {counts[0]}"
        + (f" to {counts[-1]}" if counts[-1] != counts[0] else "")
        + " seeds. An interval that holds 0 means that it is not known whether the trick helps."
    )
    return _figure(plots.effects(found.effects), "effects", caption, "narrow")


def _names(found: Found) -> dict[str, str]:
    names = {}
    if found.best and found.best != found.baseline:
        names[found.best] = "best recipe"
    if found.baseline:
        names[found.baseline] = BASELINE
    return names


def _speaking(found: Found, recipe: str) -> pd.DataFrame:
    """Finished trials of the arm that speaks for a recipe."""
    done = found.trials[(found.trials["outcome"] == "finished") & (found.trials["recipe"] == recipe)]
    for arm in load.ESTIMATES:
        if (done["arm"] == arm).any():
            return done[done["arm"] == arm]
    return done


def _curves(found: Found) -> str:
    if found.curves is None:
        return _note("No learning curves were logged.")
    names = _names(found)
    kept = pd.concat([_speaking(found, recipe) for recipe in names]) if names else found.trials.iloc[:0]
    info = plots.curves_info(found.curves[found.curves["trial"].isin(kept["trial"])], names)
    if not info:
        return _note("Neither the best recipe nor the baseline has a learning curve.")
    counts = ", ".join(f"{curve.name}: {seeds(len(curve.seeds))}" for curve in info)
    caption = (
        f"Accuracy on val over the epochs of the plan: the mean as a thick line, every seed as a thin one ({counts})."
    )
    return _figure(plots.learning_curves(info), "curves", caption) + _absent(info, names, "curve")


def _absent(info: Sequence[Any], names: Mapping[str, str], what: str) -> str:
    shown = {one.name for one in info}
    lacking = [name for name in names.values() if name not in shown]
    return _note(f"No {what} of {' and '.join(lacking)}.") if lacking else ""


def _classes(found: Found) -> str:
    names = _names(found)
    kept = pd.concat([_speaking(found, recipe) for recipe in names]) if names else found.trials.iloc[:0]
    info = plots.recalls_info(kept, names)
    if not info:
        return _note(
            "No recall of single classes was logged, or there are too many classes to keep each as a metric; "
            "the file record.json of every MLflow run has them."
        )
    counts = ", ".join(f"{recall.name}: {seeds(recall.seeds)}" for recall in info)
    caption = f"From the most to the least frequent class; mean, and 95 % interval over several seeds ({counts})."
    return _figure(plots.recalls(info), "recalls", caption) + _absent(info, names, "recall")


def _progress(found: Found) -> str:
    if found.ranking.empty:
        return _note("No trial has finished.")
    caption = (
        "Every finished trial, one seed of one recipe, in the order of their end. A single trial is luck and skill "
        "together: the highest mark is not the best recipe."
    )
    return _figure(plots.progress(found.trials, found.metric), "progress", caption)


def _cost(found: Found) -> str:
    trials = found.trials
    if trials.empty:
        return _note("No trial has been logged.")
    planned, trained = trials["epochs"].sum(), trials["epochs_trained"].sum()
    spent, saved = trials["seconds"].sum(), trials["seconds_saved"].sum()
    share = (planned - trained) / planned if planned else float("nan")
    heads = [
        "arm",
        "trials",
        "finished",
        "stopped early",
        "diverged",
        "failed",
        "epochs trained",
        "epochs re-used",
        "time",
    ]
    body = []
    for arm, rows in trials.groupby("arm", sort=False):
        outcomes = rows["outcome"].value_counts()
        numbers = [len(rows), *(int(outcomes.get(name, 0)) for name in ("finished", "stopped", "diverged", "failed"))]
        cells = [f'<td class="name">{_safe(str(arm))}</td>'] + [_number(str(n), n) for n in numbers]
        cells.append(_number(f"{rows['epochs_trained'].sum():,.0f}", rows["epochs_trained"].sum()))
        reused = rows["epochs"].sum() - rows["epochs_trained"].sum()
        cells.append(_number(f"{reused:,.0f}", reused))
        cells.append(_number(_duration(rows["seconds"].sum()), rows["seconds"].sum()))
        body.append(f"<tr>{''.join(cells)}</tr>")
    words = (
        f"<p>{len(trials)} trials have {planned:,.0f} epochs between them; {trained:,.0f} were trained, "
        f"{planned - trained:,.0f} ({percent(share, 0)}) came from stages that other trials had trained already. That "
        f"is {_duration(spent)} of trial time, and about {_duration(saved)} saved.</p>"
    )
    return words + _table(heads, body, "cost")


def _verdicts(found: Found) -> str:
    rows = "".join(
        f'<tr><td class="name">{_sign(name)} {name}</td><td class="long">{_safe(look.words)}</td>'
        f"<td>{_safe(look.action) or '–'}</td></tr>"
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


def _provenance(found: Found) -> str:
    trials = found.trials
    items: dict[str, Any] = dict(found.about)
    if len(trials):
        context = ", ".join(sorted({c for c in trials[trials["arm"] == "design"]["context"] if c}))
        if context:
            items["context of the design"] = context
        items["trials logged"] = len(trials)
        items["seeds of the design"] = (
            ", ".join(map(str, sorted(set(trials[trials["arm"] == "design"]["seed"])))) or "none"
        )
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
    rows = "".join(f"<dt>{_safe(str(k))}</dt><dd>{_wrap(str(v))}</dd>" for k, v in items.items() if v not in (None, ""))
    return f'<dl class="plain">{rows}</dl>'


# --------------------------------------------------------------------------------------------- pieces


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _wrap(text: str) -> str:
    """Escaped, and allowed to break after / and _, which long labels need on a phone."""
    return _safe(text).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _note(text: str) -> str:
    return f'<p class="note">{_wrap(text)}</p>'


def _sign(verdict: str) -> str:
    look = VERDICTS[verdict]
    return (
        f'<span class="sign" style="background:{look.colour};color:{look.ink}" aria-hidden="true">'
        f"{look.sign or '&nbsp;'}</span>"
    )


def _number(text: str, value: Any) -> str:
    """A cell that sorts by its value; an unknown one sorts last. `text` is HTML already."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f'<td class="number" data-value="{value if known else ""}">{text}</td>'


def _effect(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    bounds = f"{points(low)} to {points(high)}" if math.isfinite(low) and math.isfinite(high) else "no interval"
    return f"{points(value)}<span class=faint>{bounds}</span>"


def _percent_span(mean: float, low: float, high: float) -> str:
    if not math.isfinite(mean):
        return "unknown"
    bounds = f"{100 * low:.1f} to {100 * high:.1f}" if math.isfinite(low) and math.isfinite(high) else "no interval"
    return f"{100 * mean:.1f}<span class=faint>{bounds}</span>"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _csv(table: pd.DataFrame) -> str:
    kept = table.drop(columns=[name for name in ("run_id",) if name in table])
    if "tricks" in kept:
        kept = kept.assign(tricks=[" + ".join(tricks) for tricks in kept["tricks"]])
    return str(kept.to_csv(index=False, lineterminator="\n"))


def _table(heads: Sequence[str], rows: Sequence[str], name: str, csv: str = "", file: str = "") -> str:
    """A table that sorts by a click on a heading, with buttons that copy and save it as CSV."""
    head = "".join(f'<th scope="col"><button type="button">{_safe(text)}</button></th>' for text in heads)
    tools = ""
    if csv:
        tools = (
            f'<p class="tools"><button type="button" class="copy" data-source="csv-{name}">copy as CSV</button> '
            f'<button type="button" class="save" data-source="csv-{name}" data-name="{_safe(file)}">save as CSV'
            "</button></p>"
            f'<textarea id="csv-{name}" hidden readonly aria-label="{name} as CSV">{_safe(csv)}</textarea>'
        )
    return (
        f'<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{tools}"
    )


def _figure(figure: Any, name: str, caption: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}">{plots.to_html(figure, name)}'
        f"<figcaption>{_safe(caption)} The camera saves the picture.</figcaption></figure>"
    )


if __name__ == "__main__":
    sys.exit(main())
