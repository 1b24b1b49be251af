"""Figures of recipes and trials: accuracy against the worst classes, learning curves, recalls, progress."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis.formatting import FAINT, INK, percent_span, seeds
from analysis.records.intervals import bounded_interval
from analysis.records.schema import ARMS
from analysis.report.plots.style import BEST, PLAIN, safe, style

MARKERS = {
    "tune": "triangle-up", "design": "circle", "check": "circle-open", "adaptive": "diamond", "race": "square",
    "confirm": "star", "around": "cross", "nominated": "x",
}  # fmt: skip
COLOURS = {
    "tune": "#CC79A7", "design": "#0072B2", "check": "#0072B2", "adaptive": "#E69F00", "race": "#D55E00",
    "confirm": "#009E73", "around": "#56B4E9", "nominated": INK,
}  # fmt: skip


class Trade(NamedTuple):
    """A recipe in accuracy and harmonic mean; fractions."""

    title: str
    accuracy: tuple[float, float, float]
    harmonic_mean: tuple[float, float, float]
    kind: str


def front_info(table: pd.DataFrame) -> list[Trade]:
    """Recipes as `analysis.recipes.pareto.front` gives them; `kind` is "knee", "front" or "beaten"."""
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
                    f"{safe(t.title)}<br>accuracy {percent_span(*t.accuracy)}<br>"
                    f"harmonic mean {percent_span(*t.harmonic_mean)}"
                    for t in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    style(figure, height=440)
    figure.update_xaxes(title="accuracy on val, %", fixedrange=True)
    figure.update_yaxes(title="smoothed harmonic mean of recalls, %", fixedrange=True)
    return figure


def _reach(numbers: tuple[float, float, float], end: int) -> float:
    """Length of an error bar in percent; 0 where there is no interval."""
    bound = numbers[end]
    return 100 * abs(bound - numbers[0]) if math.isfinite(bound) else 0.0


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
        curves: Table of learning curves (`analysis.records.reader.curves`).
        recipes: Id of a recipe to the name it is drawn under.
        metric: The metric that is drawn.
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
                line={"color": colour, "width": 3, "dash": dash}, name=safe(curve.name),
                hovertemplate=f"mean of {seeds(len(curve.seeds))}, epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
            )
        )  # fmt: skip
    style(figure, height=380)
    figure.update_xaxes(title="epoch", fixedrange=True)
    figure.update_yaxes(title="accuracy on val, %", fixedrange=True)
    return figure


SHOWN = 14
"""Letters of a class's name at the axis."""


class Recall(NamedTuple):
    """Recall of every class of one recipe, the most frequent class first; fractions, NaN where it is not known."""

    name: str
    classes: list[int]
    names: list[str]
    counts: list[int]
    val_counts: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int


def recalls_info(trials: pd.DataFrame, recipes: Mapping[str, str]) -> list[Recall]:
    """Per-class recall, mean and 95 % interval over the seeds of one recipe.

    Args:
        trials: Rows that speak for the recipes.
        recipes: Id of a recipe to the name it is drawn under.
    """
    found = []
    columns = [name for name in trials.columns if name.startswith("recall/")]
    for recipe, name in recipes.items():
        mine = trials[trials["recipe"] == recipe].dropna(subset=columns, how="all")
        if mine.empty or not columns:
            continue
        first, size = mine.iloc[0], len(columns)
        # what records do not say of every class, they do not say
        counts, val_counts, names = (
            list(first[field]) if field in first and len(first[field]) == size else []
            for field in ("counts", "val_counts", "class_names")
        )
        order = [int(column.split("/")[1]) for column in columns]
        if counts:
            order.sort(key=lambda index: (-counts[index], index))
        same = "correct" in mine and bool(mine["correct"].map(len).any())
        stats = [
            bounded_interval(
                mine[f"recall/{index}"].dropna().tolist(),
                images=val_counts[index] if val_counts else 0,
                same_images=same,
            )
            for index in order
        ]
        mean, low, high = ([row[part] for row in stats] for part in range(3))
        found.append(
            Recall(
                name,
                order,
                [names[index] if names else f"class {index}" for index in order],
                [int(counts[index]) for index in order if counts],
                [int(val_counts[index]) for index in order if val_counts],
                mean,
                low,
                high,
                len(mine),
            )
        )
    return found


def recalls(info: Sequence[Recall]) -> go.Figure:
    """Recall by class, from the most to the least frequent."""
    figure = go.Figure()
    shift = 0.12
    few = bool(info) and len(info[0].classes) <= 30
    for index, (recall, (colour, symbol)) in enumerate(
        zip(info, ((BEST, "circle"), (PLAIN, "diamond-open")), strict=False)
    ):
        x = [place + (shift if index else -shift) * few for place in range(len(recall.classes))]
        each = list(zip(recall.mean, recall.low, recall.high, strict=True))
        known = few and any(math.isfinite(low) for low in recall.low)
        sizes: Sequence[int | str] = recall.counts or ["?"] * len(recall.classes)
        figure.add_trace(
            go.Scatter(
                x=x, y=[100 * v for v in recall.mean], name=safe(recall.name),
                mode="lines+markers" if few else "lines",
                line={"color": colour, "width": 2, "dash": "dash" if index else "solid"},
                marker={"symbol": symbol, "size": 9},
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour,
                    "array": [_reach(numbers, 2) for numbers in each],
                    "arrayminus": [_reach(numbers, 1) for numbers in each],
                } if known else None,
                customdata=[
                    f"{safe(class_name)}, {count} training images: {percent_span(*numbers)}"
                    for class_name, count, numbers in zip(recall.names, sizes, each, strict=True)
                ],
                hovertemplate=f"%{{customdata}}, {seeds(recall.seeds)}<extra></extra>",
            )
        )  # fmt: skip
    style(figure, height=400)
    if info:
        first = info[0]
        step = max(1, math.ceil(len(first.classes) / 12))
        places = list(range(0, len(first.classes), step))
        named = [name if len(name) <= SHOWN else f"{name[: SHOWN - 1]}…" for name in (first.names[p] for p in places)]
        ticks = [
            f"<b>{safe(name)}</b>" + (f"<br>{first.counts[p]}" if first.counts else "")
            for name, p in zip(named, places, strict=True)
        ]
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
    info = progress_info(trials, metric)
    figure = go.Figure()
    for arm in (*ARMS, *sorted(set(info.arm) - set(ARMS))):
        mine = [index for index, name in enumerate(info.arm) if name == arm]
        if mine:
            figure.add_trace(
                go.Scatter(
                    x=[info.order[i] for i in mine], y=[100 * info.score[i] for i in mine], mode="markers", name=arm,
                    marker={"symbol": MARKERS.get(arm, "hexagon"), "color": COLOURS.get(arm, FAINT), "size": 8},
                    customdata=[safe(info.title[i]) for i in mine],
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
    style(figure, height=380)
    figure.update_xaxes(title="trial, in the order of their end", fixedrange=True)
    figure.update_yaxes(title="accuracy on val, %", fixedrange=True)
    return figure
