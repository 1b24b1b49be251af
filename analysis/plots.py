"""Figures of the report.

Each figure is two functions: `<name>_info` gives plain data (fractions, in the order in which they are drawn),
which is what tests look at; `<name>` draws it with plotly, in percent and points. Colours are those of Okabe and
Ito, some darker or lighter so that text can be read on them; people of every colour vision tell them apart (checked by
`tests/analysis/test_page.py`), and no colour stands without a sign or a shape.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from analysis.record import ARMS, NUMBERS, NUMBERS_IN_WORDS, interval

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
        "✕", "#C24E00", "#ffffff", "avoid together",
        "Adding one to the other costs accuracy, and more than the two differ by themselves: both the harm and the "
        "interaction are shown to be below zero.",
    ),
    "harmful": Look(
        "!", "#E69F00", INK, "avoid the one that harms",
        "Adding one to the other costs accuracy. Whether the pair is to blame, or that trick alone, is open: the "
        "interaction is not shown.",
    ),
    "synergy": Look(
        "+", "#0072B2", "#ffffff", "use together",
        "Both together are shown to be better than either alone and than neither, and by more than their two gains add "
        "up to.",
    ),
    "redundant": Look(
        "=", "#CC79A7", INK, "one is enough",
        "Together they gain less than the sum of both, on two scales, but no harm is shown: it costs compute, not "
        "accuracy.",
    ),
    "compatible": Look(
        "✓", "#7DD3B5", INK, "free", "Any harm, in either direction, is shown to be smaller than the margin."
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

MARKERS = {
    "tune": "triangle-up", "design": "circle", "check": "circle-open", "adaptive": "diamond", "race": "square",
    "confirm": "star", "around": "cross", "nominated": "x",
}  # fmt: skip
COLOURS = {
    "tune": "#CC79A7", "design": "#0072B2", "check": "#0072B2", "adaptive": "#E69F00", "race": "#D55E00",
    "confirm": "#009E73", "around": "#56B4E9", "nominated": INK,
}  # fmt: skip


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


def heat_map_png(table: pd.DataFrame, effects: pd.DataFrame | None = None, title: str = "") -> bytes:
    """The same as a picture, for places that show no page: MLflow's list of artifacts.

    Args:
        table: Of pairs.
        effects: Of the tricks alone, for the diagonal.
        title: Above the picture: the context.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    info = heat_map_info(table, effects)
    size = len(info.labels)
    widest = max((len(name) for name in info.names), default=0)
    figure = Figure(figsize=(1.6 + 0.09 * widest + 0.85 * size, 1.9 + 0.7 * size), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for cell in info.cells:
        look = VERDICTS.get(cell.verdict)
        face, ink = ("#ffffff", INK) if look is None else (look.colour, look.ink)
        edge = "#7b8592" if cell.verdict in ("alone", "not applicable") else face
        place = (cell.column - 0.47, cell.row - 0.47)
        axes.add_patch(Rectangle(place, 0.94, 0.94, facecolor=face, edgecolor=edge, linewidth=0.8))
        known = math.isfinite(cell.harm) and cell.verdict != "not applicable"
        text = "\n".join(part for part in (cell.sign, points(cell.harm) if known else "") if part)
        # the font that matplotlib brings has all signs
        axes.text(cell.column, cell.row, text, ha="center", va="center", color=ink, fontsize=9, family="DejaVu Sans")
    axes.set(xlim=(-0.6, size - 0.4), ylim=(size - 0.4, -0.6), aspect="equal")
    axes.set_xticks(range(size), [letter(index) for index in range(size)])
    axes.set_yticks(range(size), [f"{name}  {letter(index)}" for index, name in enumerate(info.names)])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    present = [name for name in VERDICTS if any(cell.verdict == name for cell in info.cells)]
    handles = [
        Patch(facecolor=VERDICTS[name].colour, edgecolor="#7b8592", label=f"{VERDICTS[name].sign} {name}")
        for name in present
    ]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png", bbox_inches="tight", facecolor="#ffffff")
    return written.getvalue()


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
        where = context_words(row["context"]) if repeated else ""
        name = names[row["trick"]] + (f" ({where})" if where else "")
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


def pairs(table: pd.DataFrame, margin: float | None = None, metric: str = "accuracy") -> go.Figure:
    """Forest plot of both harms of every pair.

    Args:
        table: Of pairs.
        margin: Harm that would not matter, drawn as a dotted line.
        metric: What is judged, in words.
    """
    figure = _forest(pairs_info(table), _verdict_looks(), f"points of {metric}")
    if margin:
        figure.add_vline(x=-100 * margin, line={"color": FAINT, "width": 1, "dash": "dot"})
    return figure


def elsewhere_info(searches: pd.DataFrame) -> list[Bar]:
    """The worse harm of each pair in each search, pair by pair; `kind` is the verdict there."""
    names = short(labels_of(searches))
    bars = []
    for row in searches.to_dict("records"):
        harms = {name: row[name] for name in ("b_given_a", "a_given_b") if math.isfinite(row[name])}
        if not harms:
            continue
        worse = min(harms, key=lambda name: harms[name])
        name = f"{names[row['a']]} × {names[row['b']]}, {row['search']}"
        low, high = row[f"{worse}_low"], row[f"{worse}_high"]
        bars.append(Bar(name, row[worse], low, high, int(row["n_seeds"]), row["verdict"]))
    return bars


def elsewhere(searches: pd.DataFrame) -> go.Figure:
    """Forest plot of pairs that several searches have."""
    return _forest(elsewhere_info(searches), _verdict_looks())


def _verdict_looks() -> dict[str, tuple[str, str, str]]:
    shapes = ("x", "triangle-down", "cross", "square", "circle", "circle-open")
    colours = {name: look.colour for name, look in VERDICTS.items()} | {"unresolved": FAINT, "compatible": "#009E73"}
    return {
        name: (colours[name], shape, f"{VERDICTS[name].sign} {name}")
        for name, shape in zip(VERDICTS, shapes, strict=False)
    }


def _forest(
    bars: Sequence[Bar],
    looks: Mapping[str, tuple[str, str, str]],
    axis: str = "points of accuracy",
    show: Callable[[float], str] = points,
    counted: bool = True,
) -> go.Figure:
    """One line per bar, its text above it, so that long names fit on a phone.

    Args:
        bars: From the top.
        looks: Kind to colour, shape, and words of the legend.
        axis: Title of the axis.
        show: An estimate in words.
        counted: Whether `Bar.seeds` are seeds.
    """
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
                    f"{_safe(b.name)}<br>{show(b.value)} ({show(b.low)} to {show(b.high)})"
                    + f", {seeds(b.seeds)}" * counted
                    for _, b in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    long = any(len(bar.name) > LINE for bar in bars)
    for index, bar in enumerate(bars):
        text = f"<b>{show(bar.value)}</b>  " + "<br>".join(_safe(line) for line in _lines(bar.name))
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=place[index], yref="y", yshift=8, yanchor="bottom", align="left",
            text=text, showarrow=False, font={"size": 12, "color": INK}, bgcolor="rgba(255,255,255,0.75)", borderpad=0,
        )  # fmt: skip
    _style(figure, height=110 + (56 if long else 40) * len(bars))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title=axis, zeroline=False, fixedrange=True)
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


def shares_info(table: pd.DataFrame) -> list[Bar]:
    """Importance of each factor, the largest first; `kind` is "more" than chance or "chance"."""
    return [
        Bar(row["factor"], row["share"], row["low"], row["high"], int(row["levels"]), kind)
        for row in table.to_dict("records")
        for kind in ("more" if row["matters"] else "chance",)
    ]


def shares(table: pd.DataFrame, most: int = 15) -> go.Figure:
    """Importances as a forest; the dotted line is what chance alone may give."""
    looks = {
        "more": (BEST, "circle", "more than chance may give"),
        "chance": (FAINT, "circle-open", "not shown to be more"),
    }
    figure = _forest(shares_info(table)[:most], looks, "share, %", lambda value: percent(value, 0), False)
    if len(table):
        figure.add_vline(x=100 * float(table["chance"].iloc[0]), line={"color": FAINT, "width": 1, "dash": "dot"})
    return figure


def removals_info(table: pd.DataFrame) -> list[Bar]:
    """What the best recipe loses without one trick, or two: `kind` is the word of the table."""
    names = short(label for removed in table["removed"] for label in removed)
    bars = [
        Bar(
            "without " + " and ".join(names[label] for label in row["removed"]), -row["loss"], -row["loss_high"],
            -row["loss_low"], int(row["n_seeds"]), row["word"],
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
    return sorted(bars, key=lambda bar: (bar.value, bar.name))


def removals(table: pd.DataFrame, margin: float | None = None) -> go.Figure:
    """Forest plot of what is lost without a trick."""
    looks = {
        "needed": ("#D55E00", "x", "needed"),
        "may be removed": ("#009E73", "circle", "may be removed"),
        "unknown": (FAINT, "circle-open", "unknown"),
    }
    figure = _forest(removals_info(table), looks)
    if margin:
        figure.add_vline(x=-100 * margin, line={"color": FAINT, "width": 1, "dash": "dot"})
    return figure


class Step(NamedTuple):
    """A step of the path from the baseline to the best recipe; fractions."""

    name: str
    mean: float
    low: float
    high: float
    gain: str


def path_info(table: pd.DataFrame) -> list[Step]:
    """The steps in order: the accuracy reached, and what the step gained."""
    steps = []
    names = short(label for added in table["added"] for label in added) | {NUMBERS: NUMBERS_IN_WORDS}
    for row in table.to_dict("records"):
        added = " + ".join(names[label] for label in row["added"])
        gain = span(row["gain"], row["gain_low"], row["gain_high"]) if row["step"] else ""
        steps.append(Step(f"+ {added}" if row["step"] else "baseline", row["mean"], row["low"], row["high"], gain))
    return steps


def path(table: pd.DataFrame) -> go.Figure:
    """The ablation path, the baseline at the top: one line per step, its text above it."""
    import plotly.graph_objects as go

    info = path_info(table)
    places = list(range(len(info) - 1, -1, -1))
    known = all(math.isfinite(step.low) and math.isfinite(step.high) for step in info)
    figure = go.Figure(
        go.Scatter(
            x=[100 * step.mean for step in info], y=places, mode="lines+markers",
            line={"color": BEST, "width": 2}, marker={"size": 10, "color": BEST}, showlegend=False,
            error_x={
                "type": "data", "symmetric": False, "color": BEST, "thickness": 2, "width": 4,
                "array": [100 * (min(step.high, 1) - step.mean) for step in info],
                "arrayminus": [100 * (step.mean - max(step.low, 0)) for step in info],
            } if known else None,
            customdata=[f"{_safe(s.name)}: {percent(s.mean)}" + f"<br>{s.gain} points" * bool(s.gain) for s in info],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    for place, step in zip(places, info, strict=True):
        gain = f" <i>{step.gain.split(' ')[0]}</i>" if step.gain else ""
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=place, yref="y", yshift=8, yanchor="bottom", showarrow=False,
            text=f"<b>{percent(step.mean)}</b>{gain}  {_safe(step.name)}", font={"size": 12, "color": INK},
            bgcolor="rgba(255,255,255,0.75)", borderpad=0, align="left",
        )  # fmt: skip
    _style(figure, height=110 + 46 * len(info))
    figure.update_xaxes(title="accuracy on val, %", fixedrange=True, zeroline=False)
    figure.update_yaxes(range=[-0.5, len(info) - 0.15], visible=False, fixedrange=True)
    figure.update_layout(margin={"l": 8, "r": 8, "t": 8, "b": 50})
    return figure


class Trade(NamedTuple):
    """A recipe in accuracy and harmonic mean; fractions."""

    title: str
    accuracy: tuple[float, float, float]
    harmonic_mean: tuple[float, float, float]
    kind: str


def front_info(table: pd.DataFrame) -> list[Trade]:
    """Recipes as `analysis.pareto.front` gives them; `kind` is "knee", "front" or "beaten"."""
    return [
        Trade(
            row["title"],
            (row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
            (row["harmonic_mean"], row["harmonic_mean_low"], row["harmonic_mean_high"]),
            "knee" if row["knee"] else "front" if row["on_front"] else "beaten",
        )
        for row in table.to_dict("records")
    ]


def front(table: pd.DataFrame) -> go.Figure:
    """Accuracy against harmonic mean, the front as a line, intervals on its recipes."""
    import plotly.graph_objects as go

    info = front_info(table)
    figure = go.Figure()
    line = sorted((t for t in info if t.kind != "beaten"), key=lambda trade: trade.accuracy[0])
    figure.add_trace(
        go.Scatter(
            x=[100 * t.accuracy[0] for t in line], y=[100 * t.harmonic_mean[0] for t in line], mode="lines",
            line={"color": BEST, "width": 1.5, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        )
    )  # fmt: skip
    looks = {
        "beaten": (FAINT, "circle-open", 7, "another recipe is at least as good in both"),
        "front": (BEST, "circle", 10, "on the front"),
        "knee": ("#D55E00", "star", 14, "its knee"),
    }
    for kind, (colour, symbol, size, words) in looks.items():
        mine = [trade for trade in info if trade.kind == kind]
        if not mine:
            continue
        errors = {
            axis: {
                "type": "data", "symmetric": False, "color": colour, "thickness": 1, "width": 3,
                "array": [_reach(getattr(t, name), 2) for t in mine],
                "arrayminus": [_reach(getattr(t, name), 1) for t in mine],
            }
            for axis, name in (("error_x", "accuracy"), ("error_y", "harmonic_mean"))
        } if kind != "beaten" else {}  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[100 * t.accuracy[0] for t in mine], y=[100 * t.harmonic_mean[0] for t in mine], mode="markers",
                name=words, marker={"color": colour, "symbol": symbol, "size": size}, **errors,
                customdata=[
                    f"{_safe(t.title)}<br>accuracy {_span(t.accuracy)}<br>harmonic mean {_span(t.harmonic_mean)}"
                    for t in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    _style(figure, height=440)
    figure.update_xaxes(title="accuracy on val, %", fixedrange=True)
    figure.update_yaxes(title="smoothed harmonic mean of recalls, %", fixedrange=True)
    return figure


def _reach(numbers: tuple[float, float, float], end: int) -> float:
    """Length of an error bar in percent, within [0, 100]; 0 where there is no interval."""
    bound = numbers[end]
    return 100 * abs(min(max(bound, 0.0), 1.0) - numbers[0]) if math.isfinite(bound) else 0.0


def _span(numbers: tuple[float, float, float]) -> str:
    mean, low, high = numbers
    bounds = f" ({percent(max(low, 0.0))} to {percent(min(high, 1.0))})" if math.isfinite(low) else ""
    return percent(mean) + bounds


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
    """A figure as a part of a page that has plotly.js already; the page has buttons that save it."""
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    height = f"{figure.layout.height:.0f}px"
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config, default_width="100%",
            default_height=height,
        )
    )  # fmt: skip
