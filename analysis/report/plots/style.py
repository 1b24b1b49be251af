"""What the figures of the report share: fonts, axes, escaping.

Each figure is two functions: `<name>_info` gives plain data (fractions, in the order in which they are drawn),
which is what tests look at; `<name>` draws it with plotly, in percent and points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.formatting import INK
from analysis.text import html_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID = "#e3e6ea"
BEST, PLAIN = "#0072B2", "#5b6470"
LINE = 44
"""Letters of a name that fit on one line of a phone."""


def lines(name: str) -> list[str]:
    """A long name in two lines, broken at the space nearest to its middle."""
    spaces = [index for index, sign in enumerate(name) if sign == " "]
    if len(name) <= LINE or not spaces:
        return [name]
    cut = min(spaces, key=lambda index: abs(index - len(name) / 2))
    return [name[:cut], name[cut + 1 :]]


def safe(text: str) -> str:
    """Plotly reads a little HTML in its texts."""
    return html_text(text, quote=False)


def style(figure: go.Figure, height: int) -> None:
    """Fonts, margins, grid and legend of every figure."""
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
