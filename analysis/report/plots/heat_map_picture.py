"""The heat map of all pairs as a picture, for MLflow."""

from __future__ import annotations

import io
import math
import warnings

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.formatting import INK, VERDICTS, letter, points
from analysis.report.plots.heat_map import heat_map_info
from analysis.text import printable


def heat_map_png(table: pd.DataFrame, effects: pd.DataFrame | None = None, title: str = "") -> bytes:
    """The same as a picture, for places that show no page: MLflow's list of artifacts.

    Args:
        table: Conflict table.
        effects: Effects of the tricks alone, for the diagonal.
        title: Above the picture: the context.
    """
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
    ticks = [f"{printable(name)}  {letter(index)}" for index, name in enumerate(info.names)]
    # a name with dollar signs is no formula
    axes.set_yticks(range(size), ticks, parse_math=False)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title(printable(title), fontsize=9, loc="left", parse_math=False)
    present = [name for name in VERDICTS if any(cell.verdict == name for cell in info.cells)]
    handles = [
        Patch(
            facecolor=VERDICTS[name].colour, edgecolor="#7b8592", label=f"{VERDICTS[name].sign} {VERDICTS[name].name}"
        )
        for name in present
    ]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is shown as a box
        figure.savefig(written, format="png", bbox_inches="tight", facecolor="#ffffff")
    return written.getvalue()
