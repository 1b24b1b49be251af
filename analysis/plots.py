"""Figures of the report.

Each figure is two functions: `<name>_info` gives plain data (fractions, in the order in which they are drawn),
which is what tests look at; `<name>` draws it with plotly, in percent and points. Colours are those of Okabe and
Ito, which people of every colour vision tell apart, and no colour stands without a sign or a shape.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from analysis.record import ARMS, interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, FAINT, GRID = "#1b1f24", "#5b6470", "#e3e6ea"
BEST, PLAIN = "#0072B2", "#5b6470"
LINE = 44
"""Letters of a name that fit on one line of a phone."""

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Look:
    """How a verdict looks and what it says.

    Args:
        sign: One character, so that colour is never needed.
        colour: Of the cell.
        ink: Of the text on it.
        action: What to do.
        words: When it is given, for people who have not read the design.
    """

    sign: str
    colour: str
    ink: str
    action: str
    words: str


VERDICTS = {
    "conflict": Look(
        "✕", "#D55E00", "#ffffff", "avoid together",
        "Adding one to the other costs accuracy, and more than the two differ by themselves: both the harm and the "
        "interaction are shown to be below zero.",
    ),
    "harmful": Look(
        MINUS, "#E69F00", INK, "avoid the one that harms",
        "Adding one to the other costs accuracy. Whether the pair is to blame, or that trick alone, is open: the "
        "interaction is not shown.",
    ),
    "synergy": Look(
        "+", "#0072B2", "#ffffff", "use together",
        "Both together are shown to be better than either alone and than neither.",
    ),
    "redundant": Look(
        "=", "#CC79A7", INK, "one is enough",
        "Together they gain less than the sum of both, on two scales, but no harm is shown: it costs compute, not "
        "accuracy.",
    ),
    "compatible": Look(
        "✓", "#9AD8C4", INK, "free", "Any harm, in either direction, is shown to be smaller than the margin."
    ),
    "unresolved": Look(
        "?", "#eceff2", INK, "unknown",
        "The seeds so far show none of the above. It does not mean that the pair is harmless: the reason says how much "
        "harm is excluded, and how many more seeds would settle it.",
    ),
    "not applicable": Look(
        "", "#ffffff", FAINT, "", "The two exclude each other, or one of the four combinations was not run."
    ),
}  # fmt: skip

MARKERS = {"design": "circle", "adaptive": "diamond", "race": "square", "confirm": "star"}
COLOURS = {"design": "#0072B2", "adaptive": "#E69F00", "race": "#D55E00", "confirm": "#009E73"}


def points(value: float, digits: int = 1) -> str:
    """A difference of fractions in points, with its sign.

    >>> points(0.2234), points(-0.005), points(float("nan"))
    ('+22.3', '−0.5', 'unknown')
    """
    if not math.isfinite(value):
        return "unknown"
    text = f"{100 * value:+.{digits}f}"
    return (f"{0:.{digits}f}" if float(text) == 0 else text).replace("-", MINUS)


def percent(value: float, digits: int = 1) -> str:
    """A fraction in percent.

    >>> percent(0.6591), percent(float("nan"))
    ('65.9 %', 'unknown')
    """
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "unknown"


def span(value: float, low: float, high: float) -> str:
    """A difference in points with its interval.

    >>> span(0.22, 0.19, 0.25), span(0.22, float("nan"), float("nan"))
    ('+22.0 (+19.0 to +25.0)', '+22.0 (no interval)')
    """
    if not math.isfinite(value):
        return "unknown"
    bounds = f"{points(low)} to {points(high)}" if math.isfinite(low) and math.isfinite(high) else "no interval"
    return f"{points(value)} ({bounds})"


def short(labels: Iterable[str]) -> dict[str, str]:
    """The trick's name alone wherever it says which label is meant.

    >>> short(["first/mixup", "first/focal", "later/focal", "classifier"])
    {'first/mixup': 'mixup', 'first/focal': 'first/focal', 'later/focal': 'later/focal', 'classifier': 'classifier'}
    """
    labels = list(dict.fromkeys(labels))
    names = [label.rpartition("/")[2] for label in labels]
    return {label: name if names.count(name) == 1 else label for label, name in zip(labels, names, strict=True)}


def letter(index: int) -> str:
    """A, B, …, Z, AA, …

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'AA')
    """
    return (letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def labels_of(table: pd.DataFrame) -> list[str]:
    """Every label of a table of pairs, in the order of their first appearance."""
    return list(dict.fromkeys(label for row in table.to_dict("records") for label in (row["a"], row["b"])))


# --------------------------------------------------------------------------------------------- heat map


class Cell(NamedTuple):
    """One cell of the heat map: a pair, or on the diagonal (`verdict` "alone") one trick alone."""

    row: int
    column: int
    verdict: str
    sign: str
    harm: float
    interaction: float
    hover: str


class HeatMap(NamedTuple):
    """The lower triangle of all pairs, with the effects alone on its diagonal."""

    labels: list[str]
    names: list[str]
    cells: list[Cell]


def heat_map_info(table: pd.DataFrame, effects: pd.DataFrame | None = None) -> HeatMap:
    """Cells of the conflict heat map.

    `harm` is the smaller of the pair's two harms, the number that decides; fractions.
    """
    labels = labels_of(table)
    names = short(labels)
    place = {label: index for index, label in enumerate(labels)}
    cells = []
    # measured in several contexts, a trick is shown in the one that adds least to the baseline
    rows = [] if effects is None else sorted(effects.to_dict("records"), key=lambda row: -len(row["context"]))
    alone = {row["trick"]: row for row in rows}
    for label, index in place.items():
        row = alone.get(label)
        value = float("nan") if row is None else row["effect"]
        hover = f"<b>{_safe(label)}</b> alone<br>"
        hover += (
            "not measured" if row is None else f"{span(value, row['low'], row['high'])} points, {seeds(row['n_seeds'])}"
        )
        cells.append(Cell(index, index, "alone", "", value, float("nan"), hover))
    for pair in table.to_dict("records"):
        column, row = sorted((place[pair["a"]], place[pair["b"]]))
        harms = [h for h in (pair["b_given_a"], pair["a_given_b"]) if math.isfinite(h)]
        harm = min(harms) if len(harms) == 2 else float("nan")
        sign = VERDICTS[pair["verdict"]].sign
        cells.append(Cell(row, column, pair["verdict"], sign, harm, pair["interaction"], _pair_hover(pair, names)))
    return HeatMap(labels, [names[label] for label in labels], cells)


def _pair_hover(pair: Mapping[str, Any], names: Mapping[str, str]) -> str:
    a, b = _safe(names[pair["a"]]), _safe(names[pair["b"]])
    look = VERDICTS[pair["verdict"]]
    lines = [f"<b>{_safe(pair['a'])}</b> × <b>{_safe(pair['b'])}</b>"]
    lines.append(f"{look.sign} {pair['verdict']}: {_safe(str(pair['action']))}".strip())
    if pair["verdict"] != "not applicable":
        lines.append(f"adding {b} to {a}: {_pair_span(pair, 'b_given_a')}")
        lines.append(f"adding {a} to {b}: {_pair_span(pair, 'a_given_b')}")
        lines.append(f"interaction: {_pair_span(pair, 'interaction')}")
        lines.append(f"points, 95 % intervals, {seeds(pair['n_seeds'])}")
    return "<br>".join(lines)


def _pair_span(pair: Mapping[str, Any], name: str) -> str:
    return span(pair[name], pair[f"{name}_low"], pair[f"{name}_high"])


def seeds(count: float) -> str:
    """A number of seeds in words.

    >>> seeds(1), seeds(5)
    ('1 seed', '5 seeds')
    """
    return f"{int(count)} seed{'' if int(count) == 1 else 's'}"


def heat_map(table: pd.DataFrame, effects: pd.DataFrame | None = None) -> go.Figure:
    """Verdict by colour and sign, estimate in points in the cell, intervals on hover."""
    import plotly.graph_objects as go

    info = heat_map_info(table, effects)
    size = len(info.labels)
    kinds = [*VERDICTS, "alone"]
    colours = [look.colour for look in VERDICTS.values()] + ["#ffffff"]
    z: list[list[float | None]] = [[None] * size for _ in range(size)]
    hover = [[""] * size for _ in range(size)]
    texts = {name: [[""] * size for _ in range(size)] for name in ("harm", "interaction")}
    for cell in info.cells:
        z[cell.row][cell.column] = kinds.index(cell.verdict)
        hover[cell.row][cell.column] = cell.hover
        for name in texts:
            value = cell.harm if cell.verdict == "alone" else getattr(cell, name)
            number = points(value) if math.isfinite(value) and cell.verdict != "not applicable" else ""
            texts[name][cell.row][cell.column] = f"<b>{cell.sign}</b><br>{number}" if cell.sign else number
    scale = [(step / len(kinds), colours[kind]) for kind in range(len(kinds)) for step in (kind, kind + 1)]
    letters = [letter(index) for index in range(size)]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=letters, y=letters, text=texts["harm"], texttemplate="%{text}", customdata=hover,
            hovertemplate="%{customdata}<extra></extra>", hoverongaps=False, colorscale=scale, zmin=-0.5,
            zmax=len(kinds) - 0.5, showscale=False, xgap=3, ygap=3, textfont={"size": 12},
        )
    )  # fmt: skip
    ticks = [f"{_safe(name)}  <b>{sign}</b>" for name, sign in zip(info.names, letters, strict=True)]
    _style(figure, height=110 + 52 * size)
    figure.update_xaxes(side="bottom", showgrid=False, tickfont={"size": 13}, fixedrange=True, ticks="")
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        tickvals=letters,
        ticktext=ticks,
        fixedrange=True,
        ticks="",
        automargin=True,
    )
    for index in range(size):
        edge = {"x0": index - 0.47, "x1": index + 0.47, "y0": index - 0.47, "y1": index + 0.47}
        figure.add_shape(
            type="rect", line={"color": "#7b8592", "width": 1}, fillcolor="rgba(0,0,0,0)", opacity=1, **edge
        )
    buttons = [
        {"label": label, "method": "restyle", "args": [{"text": [texts[name]]}]}
        for name, label in (("harm", "worse harm"), ("interaction", "interaction"))
    ]
    figure.update_layout(
        margin={"t": 48, "l": 8, "r": 8, "b": 30},
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1,
             "yanchor": "bottom", "pad": {"b": 8}, "font": {"size": 12}, "bgcolor": "#ffffff", "bordercolor": "#aab2bd"}
        ],
    )  # fmt: skip
    return figure


# --------------------------------------------------------------------------------------------- forests


class Bar(NamedTuple):
    """An estimate with its interval, as fractions."""

    name: str
    value: float
    low: float
    high: float
    seeds: int
    kind: str


def effects_info(effects: pd.DataFrame) -> list[Bar]:
    """Effect of each trick alone, the largest gain first."""
    names = short(effects["trick"])
    contexts = effects["trick"].duplicated(keep=False)
    bars = []
    for row, repeated in zip(effects.to_dict("records"), contexts, strict=True):
        name = names[row["trick"]] + (f" (in {row['context']})" if repeated and row["context"] else "")
        bars.append(
            Bar(name, row["effect"], row["low"], row["high"], int(row["n_seeds"]), _kind(row["low"], row["high"]))
        )
    return sorted(bars, key=lambda bar: (-bar.value if math.isfinite(bar.value) else math.inf, bar.name))


def _kind(low: float, high: float) -> str:
    if low > 0:
        return "helps"
    return "hurts" if high < 0 else "unresolved"


def pairs_info(table: pd.DataFrame) -> list[Bar]:
    """Both harms of every applicable pair, the worst first; `kind` is the pair's verdict."""
    names = short(labels_of(table))
    bars = []
    for pair in table.to_dict("records"):
        if pair["verdict"] == "not applicable":
            continue
        for column, added, base in (("b_given_a", pair["b"], pair["a"]), ("a_given_b", pair["a"], pair["b"])):
            name = f"{names[added]} added to {names[base]}"
            low, high = pair[f"{column}_low"], pair[f"{column}_high"]
            bars.append(Bar(name, pair[column], low, high, int(pair["n_seeds"]), pair["verdict"]))
    return sorted(bars, key=lambda bar: (bar.value if math.isfinite(bar.value) else math.inf, bar.name))


def effects(table: pd.DataFrame) -> go.Figure:
    """Forest plot of the tricks alone."""
    looks = {
        "helps": ("#0072B2", "circle", "shown to help"),
        "hurts": ("#D55E00", "x", "shown to hurt"),
        "unresolved": (FAINT, "circle-open", "unknown: the interval holds 0"),
    }
    return _forest(effects_info(table), looks)


def pairs(table: pd.DataFrame, margin: float | None = None) -> go.Figure:
    """Forest plot of both harms of every pair.

    Args:
        table: Of pairs.
        margin: Harm that would not matter, drawn as a dotted line.
    """
    shapes = ("x", "triangle-down", "cross", "square", "circle", "circle-open")
    colours = {name: look.colour for name, look in VERDICTS.items()} | {"unresolved": FAINT, "compatible": "#009E73"}
    looks = {
        name: (colours[name], shape, f"{VERDICTS[name].sign} {name}")
        for name, shape in zip(VERDICTS, shapes, strict=False)
    }
    figure = _forest(pairs_info(table), looks)
    if margin:
        figure.add_vline(x=-100 * margin, line={"color": FAINT, "width": 1, "dash": "dot"})
    return figure


def _forest(bars: Sequence[Bar], looks: Mapping[str, tuple[str, str, str]]) -> go.Figure:
    """One line per bar, its text above it, so that long names fit on a phone."""
    import plotly.graph_objects as go

    figure = go.Figure()
    place = {index: len(bars) - 1 - index for index in range(len(bars))}
    for kind, (colour, symbol, words) in looks.items():
        mine = [(place[i], bar) for i, bar in enumerate(bars) if bar.kind == kind and math.isfinite(bar.value)]
        if not mine:
            continue
        known = [math.isfinite(bar.low) and math.isfinite(bar.high) for _, bar in mine]
        figure.add_trace(
            go.Scatter(
                x=[100 * bar.value for _, bar in mine], y=[y for y, _ in mine], mode="markers", name=words,
                marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2, "color": colour}},
                error_x={
                    "type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 4,
                    "array": [100 * (b.high - b.value) if k else 0 for (_, b), k in zip(mine, known, strict=True)],
                    "arrayminus": [100 * (b.value - b.low) if k else 0 for (_, b), k in zip(mine, known, strict=True)],
                },
                customdata=[
                    f"{_safe(b.name)}<br>{span(b.value, b.low, b.high)} points, {seeds(b.seeds)}" for _, b in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    long = any(len(bar.name) > LINE for bar in bars)
    for index, bar in enumerate(bars):
        text = f"<b>{points(bar.value)}</b>  " + "<br>".join(_safe(line) for line in _lines(bar.name))
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=place[index], yref="y", yshift=8, yanchor="bottom", align="left",
            text=text, showarrow=False, font={"size": 12, "color": INK}, bgcolor="rgba(255,255,255,0.75)", borderpad=0,
        )  # fmt: skip
    _style(figure, height=110 + (56 if long else 40) * len(bars))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title="points of accuracy", zeroline=False, fixedrange=True)
    figure.update_yaxes(
        range=[-0.5, len(bars) - 0.15],
        showticklabels=False,
        showgrid=False,
        zeroline=False,
        fixedrange=True,
        visible=False,
    )
    figure.update_layout(showlegend=True, margin={"l": 8, "r": 8, "t": 8, "b": 50})
    return figure


# --------------------------------------------------------------------------------------------- curves


class Curve(NamedTuple):
    """A learning curve: per seed, and the mean over the seeds that reached an epoch."""

    name: str
    epochs: list[int]
    mean: list[float]
    seeds: dict[int, tuple[list[int], list[float]]]


def curves_info(curves: pd.DataFrame, recipes: Mapping[str, str], metric: str = "accuracy") -> list[Curve]:
    """Curves of a few recipes.

    Args:
        curves: Of `analysis.load.curves`.
        recipes: Id of a recipe to the name it is drawn under.
        metric: Which metric.
    """
    found = []
    for recipe, name in recipes.items():
        mine = curves[(curves["recipe"] == recipe) & (curves["metric"] == metric)]
        if mine.empty:
            continue
        mean = mine.groupby("epoch")["value"].mean()
        each = {
            int(seed): (group["epoch"].astype(int).tolist(), group["value"].tolist())
            for seed, group in mine.sort_values("epoch").groupby("seed")
        }
        found.append(Curve(name, [int(epoch) for epoch in mean.index], mean.tolist(), each))
    return found


def learning_curves(info: Sequence[Curve]) -> go.Figure:
    """Mean over seeds as a thick line, every seed as a thin one."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for curve, (colour, dash) in zip(info, ((BEST, "solid"), (PLAIN, "dash"), ("#D55E00", "dot")), strict=False):
        for seed, (epochs, values) in curve.seeds.items():
            figure.add_trace(
                go.Scatter(
                    x=epochs, y=[100 * v for v in values], mode="lines", opacity=0.35,
                    line={"color": colour, "width": 1, "dash": dash}, showlegend=False, legendgroup=curve.name,
                    hovertemplate=f"seed {seed}, epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
                )
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=curve.epochs, y=[100 * v for v in curve.mean], mode="lines", legendgroup=curve.name,
                line={"color": colour, "width": 3, "dash": dash}, name=_safe(curve.name),
                hovertemplate=f"mean of {seeds(len(curve.seeds))}, epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
            )
        )  # fmt: skip
    _style(figure, height=380)
    figure.update_xaxes(title="epoch", fixedrange=True)
    figure.update_yaxes(title="accuracy on val, %", fixedrange=True)
    return figure


class Recall(NamedTuple):
    """Recall of every class of one recipe, the most frequent class first; fractions."""

    name: str
    classes: list[int]
    counts: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int


def recalls_info(trials: pd.DataFrame, recipes: Mapping[str, str]) -> list[Recall]:
    """Per-class recall, mean and 95 % t interval over the seeds of one recipe.

    Args:
        trials: Rows that speak for the recipes.
        recipes: Id of a recipe to the name it is drawn under.
    """
    found = []
    columns = [name for name in trials.columns if name.startswith("recall/")]
    for recipe, name in recipes.items():
        mine = trials[trials["recipe"] == recipe].dropna(subset=columns)
        if mine.empty or not columns:
            continue
        counts = mine["counts"].iloc[0]
        order = [int(column.split("/")[1]) for column in columns]
        if len(counts) == len(columns):
            order.sort(key=lambda index: (-counts[index], index))
        stats = [interval(mine[f"recall/{index}"].tolist()) for index in order]
        sizes = [int(counts[index]) for index in order] if len(counts) == len(columns) else []
        mean, low, high = ([row[part] for row in stats] for part in range(3))
        found.append(Recall(name, order, sizes, mean, low, high, len(mine)))
    return found


def recalls(info: Sequence[Recall]) -> go.Figure:
    """Recall by class, from the most to the least frequent."""
    import plotly.graph_objects as go

    figure = go.Figure()
    shift = 0.12
    few = bool(info) and len(info[0].classes) <= 30
    for index, (recall, (colour, symbol)) in enumerate(
        zip(info, ((BEST, "circle"), (PLAIN, "diamond-open")), strict=False)
    ):
        x = [place + (shift if index else -shift) * few for place in range(len(recall.classes))]
        known = few and all(math.isfinite(low) for low in recall.low)
        sizes: Sequence[int | str] = recall.counts or ["?"] * len(recall.classes)
        figure.add_trace(
            go.Scatter(
                x=x, y=[100 * v for v in recall.mean], name=_safe(recall.name),
                mode="lines+markers" if few else "lines",
                line={"color": colour, "width": 2, "dash": "dash" if index else "solid"},
                marker={"symbol": symbol, "size": 9},
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour,
                    "array": [100 * (min(h, 1) - m) for m, h in zip(recall.mean, recall.high, strict=True)],
                    "arrayminus": [100 * (m - max(lo, 0)) for m, lo in zip(recall.mean, recall.low, strict=True)],
                } if known else None,
                customdata=[
                    f"class {c}, {n} training images: {percent(m)}"
                    + (f" ({percent(max(lo, 0))} to {percent(min(h, 1))})" if math.isfinite(lo) else "")
                    for c, n, m, lo, h in zip(recall.classes, sizes, recall.mean, recall.low, recall.high, strict=True)
                ],
                hovertemplate=f"%{{customdata}}, {seeds(recall.seeds)}<extra></extra>",
            )
        )  # fmt: skip
    _style(figure, height=400)
    if info:
        first = info[0]
        step = max(1, math.ceil(len(first.classes) / 12))
        places = list(range(0, len(first.classes), step))
        ticks = [f"<b>{first.classes[p]}</b>" + (f"<br>{first.counts[p]}" if first.counts else "") for p in places]
        figure.update_xaxes(tickvals=places, ticktext=ticks, tickangle=0)
    figure.update_xaxes(title="class, and its training images below", showgrid=False, fixedrange=True)
    figure.update_yaxes(title="recall on val, %", range=[-2, 102], fixedrange=True)
    return figure


# --------------------------------------------------------------------------------------------- progress


class Progress(NamedTuple):
    """Finished trials in the order of their end, and the best score until then; fractions."""

    order: list[int]
    score: list[float]
    arm: list[str]
    title: list[str]
    best: list[float]


def progress_info(trials: pd.DataFrame, metric: str = "final/accuracy") -> Progress:
    """Score by the order in which trials ended; those that did not finish leave gaps."""
    ended = trials.assign(ended=trials["started"] + trials["seconds"]).sort_values(["ended", "trial"])
    order: list[int] = []
    score: list[float] = []
    best: list[float] = []
    arm: list[str] = []
    title: list[str] = []
    for index, row in enumerate(ended.to_dict("records"), 1):
        value = row.get(metric, float("nan"))
        if row["outcome"] != "finished" or not math.isfinite(value):
            continue
        order.append(index)
        score.append(value)
        arm.append(row["arm"])
        title.append(row["title"])
        best.append(max(value, best[-1] if best else value))
    return Progress(order, score, arm, title, best)


def progress(trials: pd.DataFrame, metric: str = "final/accuracy") -> go.Figure:
    """Every finished trial as a mark, its arm by shape, and the best single trial so far as a line."""
    import plotly.graph_objects as go

    info = progress_info(trials, metric)
    figure = go.Figure()
    for arm in ARMS:
        mine = [index for index, name in enumerate(info.arm) if name == arm]
        if mine:
            figure.add_trace(
                go.Scatter(
                    x=[info.order[i] for i in mine], y=[100 * info.score[i] for i in mine], mode="markers", name=arm,
                    marker={"symbol": MARKERS[arm], "color": COLOURS[arm], "size": 8},
                    customdata=[_safe(info.title[i]) for i in mine],
                    hovertemplate="trial %{x}: %{y:.1f} %<br>%{customdata}<extra></extra>",
                )
            )  # fmt: skip
    line = {"color": INK, "width": 1.5, "shape": "hv"}
    figure.add_trace(
        go.Scatter(
            x=info.order, y=[100 * v for v in info.best], mode="lines", name="best single trial so far", line=line,
            hoverinfo="skip",
        )
    )  # fmt: skip
    _style(figure, height=380)
    figure.update_xaxes(title="trial, in the order of their end", fixedrange=True)
    figure.update_yaxes(title="accuracy on val, %", fixedrange=True)
    return figure


# --------------------------------------------------------------------------------------------- drawing


def _lines(name: str) -> list[str]:
    """A long name in two lines, broken at the space nearest to its middle."""
    spaces = [index for index, sign in enumerate(name) if sign == " "]
    if len(name) <= LINE or not spaces:
        return [name]
    cut = min(spaces, key=lambda index: abs(index - len(name) / 2))
    return [name[:cut], name[cut + 1 :]]


def _safe(text: str) -> str:
    """Plotly reads a little HTML in its texts."""
    return html.escape(text, quote=False)


def _style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="simple_white", height=height, autosize=True, dragmode=False, paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff", font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 56, "r": 12, "t": 12, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left", "font": {"size": 12}},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#aab2bd", "font": {"family": FONT, "size": 13, "color": INK},
                    "align": "left"},
    )  # fmt: skip
    figure.update_xaxes(gridcolor=GRID, showgrid=True, linecolor="#aab2bd", tickcolor="#aab2bd", title_standoff=8)
    figure.update_yaxes(gridcolor=GRID, showgrid=True, linecolor="#aab2bd", tickcolor="#aab2bd", title_standoff=8)


def to_html(figure: go.Figure, name: str) -> str:
    """A figure as a part of a page that has plotly.js already; it can be saved as a picture from its button."""
    config = {
        "responsive": True,
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"format": "svg", "filename": name},
    }
    height = f"{figure.layout.height:.0f}px"
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config, default_width="100%",
            default_height=height,
        )
    )  # fmt: skip
