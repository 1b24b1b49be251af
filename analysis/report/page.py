"""`python -m analysis.report`: what a search found, as one HTML page that needs no network.

`write` makes the page from tables in memory, so that a search can do it as it ends; the command reads them from
MLflow. Numbers are fractions everywhere but here, where people read percent and points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import command_line, files
from analysis.command_line import TRACKING_URI, Parser
from analysis.formatting import DIRECTIONS, labels_of, percent, points, seeds, settled, short, span
from analysis.records import reader as load
from analysis.records.mlflow_store import address
from analysis.records.schema import RecordError
from analysis.report import html as page
from analysis.report import sections
from analysis.report.health import warnings
from analysis.text import echo, sentence

MARGIN = 0.01
"""Harm that would not matter, where a search did not say."""

MOST_NAMED = 6

OTHERS = ("final/few", "final/smoothed_harmonic_mean")
"""Metrics that pairs are judged by beside the one that decides."""

_ARM_WORDS = {
    "confirm": "fresh, they chose nothing",
    "race": "fresh, but it won the race by them, so the number is slightly optimistic",
    "design": "those by which it was chosen, so the number is optimistic; no race on fresh seeds has been run",
    "adaptive": "those by which it was chosen, so the number is optimistic; no race on fresh seeds has been run",
}


@dataclass(frozen=True)
class Found:
    """Everything the page is made of.

    Args:
        trials: Table of trials.
        ranking: Of recipes.
        best: Id of the recipe that is called best.
        baseline: Id of the baseline.
        metric: That decides.
        conflicts: Table of pairs by it.
        effects: Of each trick alone.
        curves: Of the recipes that are drawn.
        margin: Harm that would not matter.
        missing: Why there is no table of pairs.
        about: Where it comes from.
        others: Tables of pairs by further metrics.
        skipped: Metrics without such a table, and why.
        nominated: Pairs that the adaptive arm suggested, judged on fresh seeds.
        held: Pair to whether its verdict held at other settings, in words.
        elsewhere: The same pairs in several searches of a store.
        notes: Metric to what a reader of its table must know.
        health: Reasons not to believe the search (`analysis.report.health`).
    """

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
    others: dict[str, pd.DataFrame] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    nominated: pd.DataFrame | None = None
    held: dict[tuple[str, str], str] = field(default_factory=dict)
    elsewhere: Elsewhere | None = None
    notes: dict[str, str] = field(default_factory=dict)
    health: tuple[str, ...] = ()


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
    elsewhere: Elsewhere | None = None,
    firsts: Sequence[int] = (),
) -> Path:
    """Write the report of one search.

    Args:
        path: Of the HTML file; an existing one is replaced.
        trials: `reader.frame(records)`, or what `reader.records` gives.
        curves: `reader.curve_frame(records)`, or of `reader.curves`; of the recipes that are drawn.
        conflicts: Table of pairs; computed from `trials` where None.
        effects: Effects alone; computed from `trials` where None.
        best: Id of the recipe that is called best; the first of `analysis.records.reader.ranking` where None.
        metric: Column that everything is judged by, of the val split.
        margin: Harm that would not matter, a fraction.
        primary: Pairs that were declared beforehand.
        about: Where it comes from, shown at the end as it stands: command, store, versions, commit, ….
        elsewhere: Of `over_searches`.
        firsts: First seed block of each further look at the primary pairs, see `analysis.conflicts.at_looks`.

    Returns:
        The path.

    Raises:
        RecordError: The metric is of the test split, or `best` is not among the trials.
    """
    found = gather(
        trials, curves=curves, conflicts=conflicts, effects=effects, best=best, metric=metric, margin=margin,
        primary=primary, about=about, elsewhere=elsewhere, firsts=firsts,
    )  # fmt: skip
    target = Path(path)
    files.write(target, render(found))
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
    elsewhere: Elsewhere | None = None,
    firsts: Sequence[int] = (),
) -> Found:
    """Complete what the page is made of; arguments as for `write`."""
    from analysis.conflicts.candidates import judged

    pairs = declared(primary)
    ranking = load.ranking(trials, metric)
    if best is not None and best not in set(ranking["recipe"]):
        raise RecordError(f"recipe {best!r} cannot be called best: it has no finished trial")
    leader = best or (str(ranking["recipe"].iloc[0]) if len(ranking) else "")
    missing = "" if (trials["arm"] == "design").any() else "the design arm has not run, and it alone can show conflicts"
    if (conflicts is None or effects is None) and not missing:
        from analysis.conflicts import at_looks
        from analysis.conflicts import effects as alone

        try:
            effects = alone(trials, metric) if effects is None else effects
            if conflicts is None:
                conflicts = at_looks(trials, metric, margin, primary=pairs, firsts=firsts)
        except ValueError as error:
            missing = str(error)
    found = Found(
        trials, ranking, leader, load.baseline(trials), metric, _filled(conflicts), _filled(effects), _filled(curves),
        margin, missing, dict(about or {}), nominated=_filled(judged(trials, metric, margin)), elsewhere=elsewhere,
        health=tuple(warnings(trials, effects, margin, metric=metric, winner=leader or None)),
    )  # fmt: skip
    if found.conflicts is None or missing:
        return found
    from analysis.conflicts import tables

    others = tables(trials, margin, metric, others=OTHERS, primary=pairs)
    return replace(
        found,
        others={name: table for name, table in others.items() if name != metric},
        skipped={name: why for name, why in others.skipped.items() if name in trials},
        notes=dict(others.notes),
        held=_held(trials, found.conflicts, metric, margin),
    )


def declared(primary: Iterable[Sequence[str] | str] | str) -> list[Sequence[str] | str]:
    """Pairs as a list, also where they come as one text, as MLflow keeps them.

    >>> declared("a×b, c×d"), declared([("a", "b")])
    (['a×b', 'c×d'], [('a', 'b')])
    """
    if isinstance(primary, str):
        return [pair.strip() for pair in primary.split(",") if pair.strip()]
    return list(primary)


SETTINGS = {
    "lr/3 and lr*3": "other learning rates", "lr/3": "a third of the learning rate",
    "lr*3": "three times the learning rate",
}  # fmt: skip
NOWHERE_ELSE = "not run at other learning rates"


def _held(trials: pd.DataFrame, table: pd.DataFrame, metric: str, margin: float) -> dict[tuple[str, str], str]:
    """Whether verdicts that would be acted upon came out again where their cells were run in another setting."""
    from analysis.conflicts.robustness import settings_agree

    words = {}
    for row in settings_agree(table, trials, metric, margin).to_dict("records"):
        why = row["why"]
        for setting, name in SETTINGS.items():
            why = why.replace(setting, name)
        words[row["a"], row["b"]] = f"{row['word']}: {why}"
    return words


class Elsewhere(NamedTuple):
    """The same pairs in several searches.

    Args:
        pooled: One row per pair, of `analysis.conflicts.other_searches.across`.
        searches: One row per pair and search, of `analysis.conflicts.other_searches.by_search`.
        skipped: Searches that could not be judged, and why.
    """

    pooled: pd.DataFrame
    searches: pd.DataFrame
    skipped: dict[str, str]


def over_searches(uri: str, name: str, trials: pd.DataFrame, table: pd.DataFrame | None) -> Elsewhere | None:
    """This search's pairs beside those of every other search in the store; `None` where there is no other.

    Raises:
        LoadError: There is no such store.
    """
    from analysis.conflicts import other_searches as across

    if table is None or set(load.searches(uri)["name"]) <= {name}:
        return None
    tables, skipped = across.from_store(uri)
    tables = {other: each for other, each in tables.items() if not other.startswith(f"{name}: ")}
    tables = {f"{name}: {across.context_of(trials)}": table} | tables
    skipped.pop(name, None)
    each = across.by_search(tables)
    return Elsewhere(across.across(tables), each, skipped) if len(each) else None


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
        trials,
        margin=float(margin) if isinstance(margin, int | float) else MARGIN,
        primary=settings.get("primary") or (),
        about=about,
        firsts=load.looks(uri, name),
    )
    drawn = trials[trials["recipe"].isin([found.best, found.baseline]) & (trials["outcome"] == "finished")]
    elsewhere = over_searches(uri, name, trials, found.conflicts)
    return name, replace(found, curves=_filled(load.curves(uri, drawn)), elsewhere=elsewhere)


def parser(prog: str = "python -m analysis.report") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Write what a search found as one HTML page.")
    it.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument("--out", metavar="FILE", default="report.html", help="page to write (default: %(default)s)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m analysis.report") -> int:
    """Writes the page of a search; 2 where that cannot be done."""
    return command_line.run(parser(prog), arguments, _report)


def _report(options: argparse.Namespace) -> int:
    uri = address(options.tracking_uri)
    name, found = from_store(uri, options.search)
    command_line.write(options.out, render(found))
    echo(sentence(f"report of search {name} ({len(found.trials)} trials in {uri}): {options.out}"))
    return 0


# --------------------------------------------------------------------------------------------- the answer


def cards(found: Found) -> list[page.Card]:
    """Which pairs to avoid, which are free, which are unknown: plain lists, each pair with its numbers."""
    table = found.conflicts
    if table is None:
        return [page.Card("Not known yet", "unresolved", sections.no_table(found), ())]
    rows = [row for row in table.to_dict("records") if row["verdict"] != "not applicable"]
    names = short(labels_of(table))

    def listed(heading: str, verdicts: Sequence[str], tally: str, words: str, none: str = "") -> page.Card:
        mine = sorted((row for row in rows if row["verdict"] in verdicts), key=sections.least)
        items = tuple((f"{names[row['a']]} × {names[row['b']]}", _numbers(row, names, found)) for row in mine)
        text = f"{len(mine)} of {len(rows)} pairs. {words}" if mine else none
        return page.Card(heading, verdicts[0], text, items, tally)

    small = f"{points(found.margin).lstrip('+')} points or more"
    return [
        listed(
            "Use together", ("better together", "synergy"), "better together",
            "Adding each to the other helps, and both beat neither.", "No pair is shown to be better than each alone.",
        ),
        listed(
            "Avoid together", ("conflict",), "to avoid together",
            "Adding one to the other hurts, and their effects overlap: both are shown.",
            "No pair is shown to be in conflict.",
        ),
        listed(
            "One of them hurts", ("harmful",), "of which one hurts",
            "Adding one trick hurts; whether the pair or that trick alone is to blame is open.",
            "No further trick is shown to hurt beside another.",
        ),
        listed(
            "Safe, or one is enough", ("compatible", "redundant"), "safe to combine",
            f"A loss of {small} is ruled out, or the effects overlap without a loss.",
            f"For no pair a loss of {small} is ruled out both ways.",
        ),
        listed("Not known yet", ("unresolved",), "not known yet", settled(table), "Every pair has an answer."),
    ]  # fmt: skip


def _numbers(row: Mapping[str, Any], names: Mapping[str, str], found: Found) -> str:
    """What the lists say beside a pair."""
    verdict = row["verdict"]
    effect = _effect(row, min(("b_given_a", "a_given_b"), key=lambda name: row[name]))
    excluded = f"a loss above {points(row['excluded_harm']).lstrip('+')} points is ruled out"
    if verdict in ("conflict", "harmful"):
        return f"{_hurts(row, names)}{_held_words(row, found)}"
    if verdict in ("synergy", "better together"):
        return f"at least {effect} over either alone{_held_words(row, found)}"
    if verdict == "redundant":
        kept = str(row["action"]).partition(": ")[2]
        return f"{names[kept]} is enough" if kept in names else "one is enough"
    if verdict == "unresolved":
        told = []
        for name in ("b_given_a", "a_given_b"):
            added, base = (row["b"], row["a"]) if name == "b_given_a" else (row["a"], row["b"])
            if row[f"{name}_verdict"] != "unknown":
                told.append(f"{names[added]} added to {names[base]}: {DIRECTIONS[row[f'{name}_verdict']]}")
        more = row["more_seeds"]
        known = more is not None and not pd.isna(more) and 0 < int(more) < 100
        told += [f"about {seeds(int(more))} more would settle it"] if known else []
        return "; ".join(told) or (excluded if math.isfinite(row["excluded_harm"]) else str(row["reason"]))
    return excluded


def _effect(row: Mapping[str, Any], name: str) -> str:
    return f"{points(row[name])} points ({points(row[f'{name}_low'])} to {points(row[f'{name}_high'])})"


def _hurts(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The directions that are shown to hurt, the worst first: of a harmful pair all, of a conflict the worst."""
    ordered = sorted(("b_given_a", "a_given_b"), key=lambda name: row[name])
    shown = [name for name in ordered if row[f"{name}_verdict"] == "hurts"] or ordered[:1]
    told = []
    for name in shown if row["verdict"] == "harmful" else shown[:1]:
        added, base = ("b", "a") if name == "b_given_a" else ("a", "b")
        flip = "; it helps alone" if row["sign_flip"] and row[f"alone_{added}_low"] > 0 else ""
        told.append(f"{names[row[added]]} added to {names[row[base]]}: {_effect(row, name)}{flip}")
    return "; ".join(told)


def _held_words(row: Mapping[str, Any], found: Found) -> str:
    held = found.held.get((row["a"], row["b"]), "")
    if held.endswith(NOWHERE_ELSE):
        return "; not tested at other learning rates"
    if "not run far enough" in held:
        return "; too few seeds at other learning rates to say whether it holds there"
    return f"; {held}" if held else ""


def answer(found: Found) -> list[tuple[str, str]]:
    """The findings in a few sentences of plain text, each under its heading."""
    parts = []
    for card in cards(found):
        named = [f"{pair} ({words})" if words else pair for pair, words in card.items[:MOST_NAMED]]
        more = f"; and {len(card.items) - MOST_NAMED} more in the table" if len(card.items) > MOST_NAMED else ""
        parts.append((card.heading, card.words + (f" {'; '.join(named)}{more}." if named else "")))
    if found.health:
        parts.insert(0, ("Before you believe it", " ".join(found.health)))
    return [*parts, ("Best recipe", _best_words(found))]


def _best_words(found: Found) -> str:
    if not found.best:
        return "Unknown: no trial has finished yet."
    row = _row(found.ranking, found.best)
    title = "the baseline" if found.best == found.baseline else row["title"]
    seen = f"{percent(row['mean'])} accuracy on val ({_bounds(row)}{seeds(row['seeds'])}, {_ARM_WORDS[row['arm']]})"
    part = f" {judged}." if (judged := sections.judged(found.trials)) else ""
    if found.best == found.baseline:
        return f"No recipe is ahead of the baseline, which has {seen}.{part}"
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
    return words + part + _test_words(found)


def _test_words(found: Found) -> str:
    if "test/accuracy" not in found.trials:
        return ""
    read = found.trials[found.trials["outcome"] == "finished"].dropna(subset=["test/accuracy"])
    words = []
    for recipe, name in ((found.best, "it"), (found.baseline, "the baseline")):
        own = read[read["recipe"] == recipe]
        if len(own):
            mean, low, high = load.mean_interval(own, "test/accuracy")
            bounds = f"{percent(low)} to {percent(high)}, " if math.isfinite(low) else ""
            words.append(f"{name} has {percent(mean)} ({bounds}{seeds(len(own))})")
    winners = read["recipe"].nunique() - 1  # each confirmed winner is measured beside the baseline
    often = "read once" if winners < 2 else f"read for {winners} winners, one after the other"
    part = ""
    if "test/classes_judged" in read and (number := read["test/classes_judged"].dropna()).size:
        part = f", over the {int(number.iloc[0])} classes that have test images"
    return f" On the test split, {often}{part}, {' and '.join(words)}." if words else ""


def _bounds(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["low"]):
        return "no interval, "
    return f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f}, "


def _row(ranking: pd.DataFrame, recipe: str) -> dict[str, Any]:
    return {str(k): v for k, v in ranking[ranking["recipe"] == recipe].iloc[0].to_dict().items()}


# --------------------------------------------------------------------------------------------- the page


def render(found: Found) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    bodies = [
        ("pairs", "Which tricks conflict", sections.pairs(found) + sections.nominated(found)),
        ("elsewhere", "Does it hold elsewhere?", sections.elsewhere(found)),
        ("recipes", "Best recipes", sections.recipes(found)),
        ("around", "What the best recipe needs", sections.around(found)),
        ("front", "Accuracy against the worst classes", sections.front(found)),
        ("alone", "Each trick alone", sections.alone(found)),
        ("importance", "Which choices matter", sections.importance(found)),
        ("curves", "Learning curves", sections.curves(found)),
        ("classes", "Recall of every class", sections.classes(found)),
        ("search", "How the search went", sections.progress(found)),
        ("cost", "What it cost", sections.cost(found)),
        ("verdicts", "How to read a verdict", sections.verdicts(found)),
        ("provenance", "Where this comes from", sections.provenance(found)),
    ]
    name = str(found.trials["search"].iloc[0]) if len(found.trials) else str(found.about.get("search", ""))
    lists = cards(found)
    return page.PAGE.substitute(
        title=page.safe(f"Search {name}" if name else "A search without trials"),
        context=sections.context(found),
        notices=sections.notices(found),
        tally=page.tally(lists),
        minute="\n".join(page.card(card) for card in lists),
        answer=f"<div><dt>Best recipe</dt><dd>{page.wrap(_best_words(found))}</dd></div>",
        units=sections.units(found),
        links=" ".join(f'<a href="#{key}">{page.safe(title)}</a>' for key, title, _ in bodies),
        sections="\n".join(page.SECTION.substitute(id=k, title=page.safe(t), body=body) for k, t, body in bodies),
        style=page.STYLE,
        script=page.SCRIPT,
        plotly=get_plotlyjs(),
    )
