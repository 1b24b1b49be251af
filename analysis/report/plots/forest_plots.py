"""Estimates with their intervals, one line each: pairs, tricks alone, removals, the ablation path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis.formatting import FAINT, INK, VERDICTS, context_words, labels_of, percent, points, seeds, short, span
from analysis.records.schema import NUMBERS, NUMBERS_IN_WORDS
from analysis.report.plots.style import BEST, LINE, lines, safe, style


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
        table: Conflict table.
        margin: Harm that would not matter, drawn as a dotted line.
        metric: Name of the metric on the axis.
    """
    figure = _forest(pairs_info(table), _verdict_looks(), f"points of {metric}")
    if margin:
        figure.add_vline(x=-100 * margin, line={"color": FAINT, "width": 1, "dash": "dot"})
    return figure


def other_searches_info(searches: pd.DataFrame) -> list[Bar]:
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


def other_searches(searches: pd.DataFrame) -> go.Figure:
    """Forest plot of pairs that several searches have."""
    return _forest(other_searches_info(searches), _verdict_looks())


def _verdict_looks() -> dict[str, tuple[str, str, str]]:
    shapes = {
        "conflict": "x", "harmful": "triangle-down", "synergy": "star", "better together": "cross",
        "redundant": "square", "compatible": "circle", "unresolved": "circle-open",
    }  # fmt: skip
    colours = {name: look.colour for name, look in VERDICTS.items()} | {"unresolved": FAINT, "compatible": "#009E73"}
    return {
        name: (colours[name], shape, f"{VERDICTS[name].sign} {VERDICTS[name].name}") for name, shape in shapes.items()
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
        bars: The bars, from the top.
        looks: Kind to colour, shape, and words of the legend.
        axis: Title of the axis.
        show: An estimate in words.
        counted: Whether `Bar.seeds` are seeds.
    """
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
                    f"{safe(b.name)}<br>{show(b.value)} ({show(b.low)} to {show(b.high)})"
                    + f", {seeds(b.seeds)}" * counted
                    for _, b in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    long = any(len(bar.name) > LINE for bar in bars)
    for index, bar in enumerate(bars):
        text = f"<b>{show(bar.value)}</b>  " + "<br>".join(safe(line) for line in lines(bar.name))
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=place[index], yref="y", yshift=8, yanchor="bottom", align="left",
            text=text, showarrow=False, font={"size": 12, "color": INK}, bgcolor="rgba(255,255,255,0.75)", borderpad=0,
        )  # fmt: skip
    style(figure, height=110 + (56 if long else 40) * len(bars))
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
            customdata=[f"{safe(s.name)}: {percent(s.mean)}" + f"<br>{s.gain} points" * bool(s.gain) for s in info],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    for place, step in zip(places, info, strict=True):
        gain = f" <i>{step.gain.split(' ')[0]}</i>" if step.gain else ""
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=place, yref="y", yshift=8, yanchor="bottom", showarrow=False,
            text=f"<b>{percent(step.mean)}</b>{gain}  {safe(step.name)}", font={"size": 12, "color": INK},
            bgcolor="rgba(255,255,255,0.75)", borderpad=0, align="left",
        )  # fmt: skip
    style(figure, height=110 + 46 * len(info))
    figure.update_xaxes(title="accuracy on val, %", fixedrange=True, zeroline=False)
    figure.update_yaxes(range=[-0.5, len(info) - 0.15], visible=False, fixedrange=True)
    figure.update_layout(margin={"l": 8, "r": 8, "t": 8, "b": 50})
    return figure
