"""Published tables, trained over seed blocks and compared with the published numbers.

Every row of a table is a recipe of the design arm of one search, so a table has all that a search has: stages are
trained once, an interrupted run continues, MLflow has every trial. What is compared with a paper says under which
conditions: another length, network or data set cannot reproduce a number, only the direction of a difference.
"""

from __future__ import annotations

import argparse
import importlib
import math
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import spaces.papers
from analysis import files
from analysis.records.intervals import bounded_interval
from analysis.records.schema import RECIPE
from analysis.stats.intervals import Estimate
from analysis.text import command, echo
from search.context import SearchContext
from search.option import More, SettingsError
from search.papers import PASSED_ON
from search.request import make_request
from search.run import run
from search.settings import OPTIONS, Settings
from search.upper_bound import __main__ as upper_bound
from search.upper_bound.command import measure
from search.upper_bound.measures import BIASED, Interval, Measured, note, percent
from spaces.domain import Space
from spaces.papers.tables import MEASURES, Fact, Row, Table
from trainables.data import DataError
from trainables.plan import check_space
from trainables.registry import PlanError, did_you_mean

LEVEL = 0.95
"""Of all intervals of a table: each line's own, not over all lines together."""

OWN = {"trials": 0, "race": False, "start_points": False, "check_seeds": 0}
"""Options of the search of a table: nothing but its rows."""

IN_THE_NAME = ("data", "imbalance", "model", "epochs_scale", "seed")
"""Options that are part of the name of a table's search: with another value it is another search."""

WIDEST = 2.0
"""Half-width in points of the widest prediction interval that may confirm a published number."""

NOTHING: Mapping[str, str] = MappingProxyType({})

METRICS = {"error": "accuracy"}
"""The metric of a measure that has another name."""


def tables() -> dict[str, Table]:
    """Every table of `spaces.papers`, by its id."""
    names = sorted(found.name for found in pkgutil.iter_modules(spaces.papers.__path__))
    modules = [importlib.import_module(f"{spaces.papers.__name__}.{name}") for name in names]
    return {table.id: table for module in modules for table in getattr(module, "TABLES", ())}


@dataclass(frozen=True)
class Line:
    """A row of a table, or a fact, as published and as measured; percent, or points for a fact.

    Args:
        title: What the line is about.
        published: The published number; `None` where there is none.
        ours: Mean over the blocks, with its error.
        interval: Mean, lower and upper limit of what is printed, as fractions inside [0, 1]; for a fact NaN.
        published_gain: Published difference to the baseline in points, positive where the row is better.
        gain: The same of ours, paired within blocks.
        verdict: What the comparison says.
        published_bound: The published upper bound; `None` where there is none.
        bound: Our upper bound and relative accuracy; `None` where they were not measured.
    """

    title: str
    published: float | None
    ours: Estimate
    published_gain: float | None
    gain: Estimate
    verdict: str
    interval: Interval = (math.nan, math.nan, math.nan)
    published_bound: float | None = None
    bound: Measured | None = None


@dataclass(frozen=True)
class Comparison:
    """A table beside our numbers.

    Args:
        table: The table.
        column: The column that is compared.
        settings: Of the search that trained it.
        conditions: What differs from the paper, in words; empty where nothing does.
        rows: Its rows.
        facts: Its conclusions.
        blocks: Seed blocks that were asked for.
        lost: Rows that lack blocks, or cannot be trained on these data, and missing upper bounds, in words.
    """

    table: Table
    column: int
    settings: Settings
    conditions: tuple[str, ...]
    rows: tuple[Line, ...]
    facts: tuple[Line, ...]
    blocks: int
    lost: tuple[str, ...]


def column_of(table: Table, data: str | None, imbalance: float | None) -> int:
    """The column that a data set belongs to.

    Args:
        table: The table.
        data: Name of a data set; `None` for that of the first column with this imbalance.
        imbalance: Of the data; `None` for that of the first column with these data.

    Returns:
        Its number; that of the first column with these data where the imbalance is another, and of the first of all
        where no column has these data.
    """
    of_data = [number for number, setting in enumerate(table.settings) if data in (None, setting.data)] or [0]
    same = [number for number in of_data if imbalance in (None, table.settings[number].imbalance)]
    return (same or of_data)[0]


def compare(
    table: Table,
    column: int,
    settings: Settings,
    model: str,
    margin: float,
    trials: pd.DataFrame,
    refused: Mapping[str, str] = NOTHING,
    bounds: Mapping[str, Measured] | None = None,
    no_bounds: str = "",
) -> Comparison:
    """Sets a table beside the trials of its search.

    Args:
        table: The table.
        column: Of its numbers.
        settings: Of the search.
        model: The network that was trained.
        margin: Difference that matters, in [0, 1]; a conclusion of "practically 0" holds within it.
        trials: As `analysis.records.reader.frame` has them.
        refused: Why rows cannot be trained on these data, by their names.
        bounds: Upper bounds and relative accuracies by the names of rows.
        no_bounds: Why they were not measured, in words.
    """
    conditions = _conditions(table, column, settings, model)
    trained = [row for row in table.trained(column) if row.name not in refused]
    values = _values(table, trials).reindex(columns=[row.name for row in trained])
    measured, published = bounds or {}, table.bounds or {}
    rows = [
        replace(
            _row(table, row, column, values, conditions),
            published_bound=published.get(row.name),
            bound=measured.get(row.name),
        )
        for row in trained
    ]
    facts = [
        _fact(table, fact, column, values, margin) for fact in table.facts if set(fact.weights) <= {*values.columns}
    ]
    lost = [
        f"{row.title}: {int(values[row.name].notna().sum())} of {settings.seeds} seeds"
        for row in trained
        if values[row.name].notna().sum() < settings.seeds
    ]
    lost += [f"{row.title}: {refused[row.name]}" for row in table.rows if row.name in refused]
    lost += [f"upper bounds were not measured: {no_bounds}"] if no_bounds else []
    return Comparison(
        table, column, settings, tuple(conditions), tuple(rows), tuple(facts), settings.seeds, tuple(lost)
    )  # fmt: skip


def _conditions(table: Table, column: int, settings: Settings, model: str) -> list[str]:
    published = table.settings[column]
    found = []
    if settings.data != published.data or settings.imbalance not in (None, published.imbalance):
        imbalance = "" if settings.imbalance is None else f" at imbalance {settings.imbalance:g}"
        found.append(f"other data ({settings.data}{imbalance}, published: {published.title})")
    if model != published.model:
        found.append(f"other network ({model}, published: {published.model})")
    if settings.epochs_scale != 1:
        found.append(f"not at equal length ({settings.epochs_scale:g} of the published epochs)")
    return found


def _values(table: Table, trials: pd.DataFrame) -> pd.DataFrame:
    """The table's measure in percent, one row a seed, one column a recipe; NaN where a trial has none."""
    metric = f"final/{METRICS.get(table.measure, table.measure)}"
    if metric not in trials.columns:
        return pd.DataFrame()
    design = trials[(trials["arm"] == "design") & (trials["outcome"] == "finished") & (trials["context"] == "")]
    return (100 * design[metric]).groupby([design["seed"], _names(table, design)]).mean().unstack()


def _names(table: Table, trials: pd.DataFrame) -> pd.Series:
    """The name of the row that each trial belongs to."""
    return trials["tricks"].map(lambda tricks: "+".join(tricks).removeprefix(RECIPE) or table.rows[0].name)


def estimate(values: Iterable[float]) -> Estimate:
    """Mean of independent blocks with Student's error.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.value, round(found.error, 4), found.df
    (2.0, 0.5774, 2)
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < 2:
        return Estimate(float(known.mean()) if len(known) else math.nan, math.nan, math.nan, blocks=len(known))
    error = float(known.std(ddof=1) / math.sqrt(len(known)))
    return Estimate(float(known.mean()), max(error, 1e-12), len(known) - 1, blocks=len(known))


def _row(table: Table, row: Row, column: int, values: pd.DataFrame, conditions: Sequence[str]) -> Line:
    baseline = table.rows[0]
    ours = estimate(values[row.name])
    gain = estimate(values[row.name] - values[baseline.name])
    published, reference = row.published[column], baseline.published[column]
    sign = MEASURES[table.measure]
    published_gain = None if published is None or reference is None else sign * (published - reference)
    interval = bounded_interval((values[row.name].dropna() / 100).tolist(), LEVEL)
    shown = ours
    if table.measure == "error":
        shown, interval = ours._replace(value=100 - ours.value), (1 - interval[0], 1 - interval[2], 1 - interval[1])
    words = [] if row is baseline else [direction(gain, published_gain)]
    if published is None:
        words = ["no published number"]
    elif not conditions and not math.isnan(ours.error):
        words.insert(0, judge_number(published, shown))
    gains = None if row is baseline else published_gain, gain
    return Line(row.title, published, shown, *gains, ", ".join(words), interval)


def judge_number(published: float, ours: Estimate) -> str:
    """How a published number compares with the prediction interval of a single further run.

    >>> ours = Estimate(45.8, 0.2, 4, blocks=5)
    >>> judge_number(46.0, ours), judge_number(50.0, ours)
    ('reproduced', 'not reproduced')
    >>> judge_number(46.0, estimate([40.0, 40.7]))
    'number not resolved'
    """
    reach = stats.t.ppf((1 + LEVEL) / 2, ours.df) * ours.error * math.sqrt(ours.blocks + 1)
    if abs(published - ours.value) > reach:
        return "not reproduced"
    return "reproduced" if reach <= WIDEST else "number not resolved"


def direction(ours: Estimate, published: float | None) -> str:
    """How our difference compares with a published one.

    >>> direction(Estimate(2.0, 0.5, 4), 1.0), direction(Estimate(-2.0, 0.5, 4), 1.0)
    ('same direction', 'other direction')
    >>> direction(Estimate(0.4, 0.5, 4), 1.0)
    'not resolved'
    """
    if published is None:
        return "no published number"
    if math.isnan(ours.error):
        return "not resolved"
    low, high = ours.interval(LEVEL)
    if low <= 0 <= high or published == 0:
        return "not resolved"
    return "same direction" if (ours.value > 0) == (published > 0) else "other direction"


def _fact(table: Table, fact: Fact, column: int, values: pd.DataFrame, margin: float) -> Line:
    ours = estimate(sum(weight * values[name] for name, weight in fact.weights.items()))
    published = table.value(fact, column)
    if math.isnan(ours.error):
        verdict = "not resolved"
    elif fact.sign:
        verdict = {"same direction": "holds"}.get(found := direction(ours, float(fact.sign)), found)
    else:
        low, high = ours.interval(LEVEL)
        inside, outside = -100 * margin <= low and high <= 100 * margin, high < -100 * margin or low > 100 * margin
        verdict = "holds" if inside else "does not hold" if outside else "not resolved"
    return Line(fact.text, published, ours, published, ours, verdict)


# --- the page ---------------------------------------------------------------------------------------------


def page(paper: str, compared: Sequence[Comparison], line: str) -> str:
    """The page of a paper, as `docs/papers/` holds it.

    Args:
        paper: What stands before the slash of the tables' ids.
        compared: Its tables.
        line: The command that made the page.
    """
    lines = [
        f"# {paper.replace('_', ' ').capitalize()}: published and measured", "",
        "Every row was trained on the same seed blocks. Numbers are in percent; gains are in points, positive where "
        f"the row is better than the baseline. Intervals hold {100 * LEVEL:.0f} % each; "
        "they come from Student's t over the blocks, those of percentages by Wilson's method, which keeps them within "
        f"0 and 100 %. A number is **reproduced** where it lies in our {100 * LEVEL:.0f} % prediction interval of a "
        f"single run, which may be at most ±{WIDEST:g} points wide, and only at the paper's length, network and data. "
        "Ours are measured on the search's val at the end of training, the papers' on test; a val that is cut from the "
        "training images leaves fewer of them than the papers had.", "",
        f"    {line}", "",
    ]  # fmt: skip
    for one in compared:
        lines += _section(one)
    return "\n".join(lines)


def _section(one: Comparison) -> Iterable[str]:
    table, settings = one.table, one.settings
    name = table.measure.replace("_", " ")
    yield from (f"## {table.id}: {table.title}", "", f"{table.source}. Column: {table.settings[one.column].title}.", "")
    yield f"Measured over {one.blocks} seed block{'s' * (one.blocks > 1)}, search `{settings.name}`."
    conditions = "; ".join(one.conditions)
    yield (
        f"Conditions: **{conditions}**. Only directions are comparable." if conditions else "Conditions: as published."
    )
    if one.lost:
        yield f"Incomplete: {'; '.join(one.lost)}."
    heads = ["recipe", f"published {name}", "ours", "published gain", "our gain", "verdict"]
    if table.bounds is not None:
        heads += ["published upper bound", f"our {BIASED}"]
        heads += ["published relative accuracy", "our relative accuracy", "note"]
    yield from ("", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for row in one.rows:
        gain = _points(row.gain) if row.published_gain is not None or row is not one.rows[0] else "–"
        cells = [row.title, _number(row.published), percent(row.interval), _signed(row.published_gain), gain]
        cells += [row.verdict or "–", *(_bound(row) if table.bounds is not None else ())]
        yield f"| {' | '.join(cells)} |"
    if one.facts:
        yield from ("", "| the paper concludes | published | ours | verdict |", "|---|---|---|---|")
        for fact in one.facts:
            yield f"| {fact.title} | {_signed(fact.published)} | {_points(fact.ours)} | {fact.verdict} |"
    yield ""
    yield from (f"- {note}" for note in table.notes)
    yield ""


def _bound(row: Line) -> Iterator[str]:
    """Upper bound and relative accuracy of a row, published and ours, and what is to be known of ours."""
    published = None
    if row.published is not None and row.published_bound is not None:
        published = 100 * row.published / row.published_bound
    ours = row.bound
    yield from (_number(row.published_bound), "–" if ours is None else percent(ours.upper))
    yield from (_number(published), "–" if ours is None else percent(ours.relative))
    yield "–" if ours is None else note(ours)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _points(found: Estimate) -> str:
    if math.isnan(found.error):
        return "–" if math.isnan(found.value) else f"{found.value:+.1f} (one seed)"
    low, high = found.interval(LEVEL)
    return f"{found.value:+.1f} ({low:+.1f} to {high:+.1f})"


# --- the command ------------------------------------------------------------------------------------------


def run_tables(options: argparse.Namespace) -> int:
    """Lists, previews or trains tables and writes their pages; returns 130 after an interruption."""
    given = vars(options)
    known = tables()
    chosen = _chosen(given.get("table", ()), known)
    if not chosen:
        echo(_listing(known.values()))
        return 0
    searches = {name: given[name] for name in PASSED_ON if name in given}
    if options.column is not None:
        _check_column(chosen, options.column)
        searches["column"] = options.column
    if options.dry_run:
        echo("\n".join(_outlook(table, searches) for table in chosen))
        return 0
    pages: dict[str, list[Comparison]] = {}
    interrupted = False
    for table in chosen:
        found, interrupted = _train(table, searches)
        pages.setdefault(table.id.partition("/")[0], []).append(found)
        echo("\n".join(_section(found)))
        if interrupted:  # what has been trained gets its page all the same
            break
    for paper, compared in pages.items():
        file = Path(options.pages) / f"{paper}.md"
        words = [word for table in compared for word in ("--table", table.table.id)]
        flags = {name: option.flag for name, option in OPTIONS.items()} | {"column": "--column"}
        for name, value in searches.items():
            for one in value if isinstance(value, tuple | list) else [value]:
                words += [flags[name], f"{one:g}" if isinstance(one, float) else str(one)]
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, page(paper, compared, command("longtail-tune", "papers", *words)))
        echo(f"Written: {file}")
    return 130 if interrupted else 0


def _chosen(asked: Sequence[str], known: Mapping[str, Table]) -> list[Table]:
    found: dict[str, Table] = {}
    for name in asked:
        of_name = {key: table for key, table in known.items() if key == name or key.startswith(f"{name}/")}
        if not of_name:
            papers = {key.partition("/")[0] for key in known}
            raise SettingsError(f"--table {name}: {did_you_mean(name, [*known, *papers])}")
        found |= of_name
    return list(found.values())


def _check_column(chosen: Iterable[Table], column: str) -> None:
    """Raises a `SettingsError` unless every table has a column of these data."""
    for table in chosen:
        known = {setting.data for setting in table.settings}
        if column not in known:
            raise SettingsError(f"--column {column}: {table.id} has {', '.join(sorted(known))}")


def _listing(known: Iterable[Table]) -> str:
    rows = [(table.id, str(len(table.rows)), table.title, table.settings[0].title) for table in known]
    rows.insert(0, ("table", "rows", "what it shows", "first column"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _search(table: Table, given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The column that is compared, and the options of the table's search."""
    given = dict(given)
    column = column_of(table, given.pop("column", given.get("data")), given.get("imbalance"))
    setting = table.settings[column]
    options = {"data": setting.data, "model": setting.model, **given}
    if options["data"] == setting.data and setting.imbalance is not None:
        options.setdefault("imbalance", setting.imbalance)
    scale = f"-x{options['epochs_scale']:g}" if options.get("epochs_scale", 1.0) != 1 else ""
    imbalance = f"-{options['imbalance']:g}" if options.get("imbalance") else ""
    data, model = (re.sub(r"[^\w.-]", "-", options[name]) for name in ("data", "model"))
    model = "" if options["model"] == setting.model else f"-{model}"
    seed = f"-seed{options['seed']}" if options.get("seed") else ""
    return column, options | {"name": f"{table.id.replace('/', '-')}-{data}{imbalance}{model}{scale}{seed}"} | OWN


def _outlook(table: Table, given: Mapping[str, Any]) -> str:
    column, options = _search(table, given)
    space, refused = _trainable(table, column, options)
    settings = make_request({"space": space, **options}).settings
    design = SearchContext.make(space, settings).factory.design
    trials, epochs = len(design.cells) * settings.seeds, design.epochs * settings.seeds
    twice = "" if table.bounds is None else "; then the same on balanced data, for upper bounds"
    return "\n".join(
        [f"{table.id}: {trials} trials, at most {epochs} epochs, search {settings.name}{twice}"]
        + [f"  left out: {name}: {why}" for name, why in refused.items()]
    )


def _trainable(table: Table, column: int, options: Mapping[str, Any]) -> tuple[Space, dict[str, str]]:
    """The space of the rows that these data can train, and why they cannot train the others, by their names."""
    baseline = Space(table.rows[0].stages)
    standard = SearchContext.make(baseline, make_request({"space": baseline, **options}).settings).standard
    refused = {}
    for row in table.trained(column):
        try:
            check_space(Space(row.stages), standard)
        except PlanError as error:
            refused[row.name] = str(error)
    return table.space(column, without=refused), refused


def _train(table: Table, given: Mapping[str, Any]) -> tuple[Comparison, bool]:
    """Runs or continues the searches of a table; returns the comparison, and whether they were interrupted."""
    column, options = _search(table, given)
    space, refused = _trainable(table, column, options)
    settings = make_request({"space": space, **options}).settings
    echo(f"\n{table.id}: {table.title}\n")
    if settings.folder.is_dir():
        more = settings.seeds - Settings.stored(settings.output, settings.name).seeds
        # the search refuses what cannot change in it
        now = {name: value for name, value in given.items() if name not in (*IN_THE_NAME, "seeds", "output", "column")}
        grown = {"seeds": More(more)} if more > 0 else {}
        where = {"name": settings.name, "output": settings.output}
        result = run(space, **now, **grown, **where, resume=True)
    else:
        result = run(space, **options)
    settings = Settings.stored(settings.output, settings.name)
    context = SearchContext.make(space, settings)
    interrupted, bounds, no_bounds = result.interrupted, None, ""
    if table.bounds is not None and not interrupted:
        bounds, no_bounds = _bounds(table, settings, result.trials, given)
        interrupted = bounds is None and not no_bounds
    margin = context.standard.margin
    compared = compare(table, column, settings, context.model, margin, result.trials, refused, bounds, no_bounds)
    return compared, interrupted


def _bounds(
    table: Table, settings: Settings, trials: pd.DataFrame, given: Mapping[str, Any]
) -> tuple[dict[str, Measured] | None, str]:
    """Upper bounds and relative accuracies by the names of rows.

    Returns:
        The measures, `None` where the trainings on balanced data were interrupted or cannot be had; why not, or "".
    """
    done = trials[trials["outcome"] == "finished"]
    titles = dict(zip(done["title"], _names(table, done), strict=True))
    options = {name: given[name] for name in upper_bound.PASSED_ON if name in given}
    try:
        found = measure(settings, list(titles), **options)
    except (DataError, SettingsError) as error:
        return None, str(error)
    return (None if found is None else {titles[one.title]: one for one in found}), ""
