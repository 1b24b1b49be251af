"""The heat map of all pairs: as a figure of the page, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from analysis.formatting import VERDICTS, labels_of, letter, points, seeds, short, span
from analysis.report.plots.style import safe, style


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
        hover = f"<b>{safe(label)}</b> alone<br>"
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
    a, b = safe(names[pair["a"]]), safe(names[pair["b"]])
    look = VERDICTS[pair["verdict"]]
    lines = [f"<b>{safe(pair['a'])}</b> × <b>{safe(pair['b'])}</b>"]
    lines.append(f"{look.sign} {look.name}: {safe(str(pair['action']))}".strip())
    if pair["verdict"] != "not applicable":
        lines.append(f"adding {b} to {a}: {_pair_span(pair, 'b_given_a')}")
        lines.append(f"adding {a} to {b}: {_pair_span(pair, 'a_given_b')}")
        lines.append(f"interaction: {_pair_span(pair, 'interaction')}")
        lines.append(f"points, 95 % intervals, {seeds(pair['n_seeds'])}")
    return "<br>".join(lines)


def _pair_span(pair: Mapping[str, Any], name: str) -> str:
    return span(pair[name], pair[f"{name}_low"], pair[f"{name}_high"])


def heat_map(table: pd.DataFrame, effects: pd.DataFrame | None = None) -> go.Figure:
    """Verdict by colour and sign, estimate in points in the cell, intervals on hover."""
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
    ticks = [f"{safe(name)}  <b>{sign}</b>" for name, sign in zip(info.names, letters, strict=True)]
    style(figure, height=110 + 52 * size)
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
