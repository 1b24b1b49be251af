"""The pieces of the report's HTML: each calls a macro of `templates/macros.html`, which escapes every text.

Nothing on the page is fetched: fonts are the reader's own, plotly.js is inlined once, style and script are files here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.formatting import DIRECTION_NAMES, VERDICTS, bounds, p_text, percent_bounds, points
from analysis.report.plots.style import to_html
from analysis.text import csv_text, html_text

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent

LONG_WORD = re.compile(r"[^\s/]{25,}")
"""Does not fit into a column of a phone."""


def wrap(text: object) -> Markup:
    """Escapes a text and allows it to break after /, and within long words after _, which labels need on a phone."""
    escaped = LONG_WORD.sub(lambda word: word.group().replace("_", "_<wbr>"), html_text(text))
    return Markup(escaped.replace("/", "/<wbr>"))  # escaped above


def shown(text: object) -> object:
    """A text with its control characters shown and escaped; HTML stays as it is."""
    return text if isinstance(text, Markup) else Markup(html_text(text))  # escaped


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, finalize=shown, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
TEMPLATES.filters |= {"wrap": wrap, "style": VERDICTS.__getitem__}
MACROS: Any = TEMPLATES.get_template("macros.html").module


class Cell(NamedTuple):
    """A cell of a table, from top to bottom.

    Args:
        text: Its text.
        notes: Lines in small type below.
        kind: CSS class.
        value: Sort key of the column; "" sorts last, `None` sorts by the text.
        word: A word in bold type above the text.
        verdict: Verdict whose sign stands first.
        more: Lines that unfold below the text.
        span: Columns that it takes.
    """

    text: str = ""
    notes: Sequence[str] = ()
    kind: str = ""
    value: float | str | None = None
    word: str = ""
    verdict: str = ""
    more: Sequence[str] = ()
    span: int = 1


def name(text: str, *notes: str) -> Cell:
    """A cell that names the row."""
    return Cell(text, notes, "name")


def long(text: str, *notes: str) -> Cell:
    """A cell of running text."""
    return Cell(text, notes, "long")


def number(text: str, value: Any, *notes: str) -> Cell:
    """A cell that sorts by its value; an unknown one sorts last."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return Cell(text, notes, "number", value if known else "")


def count(value: Any, *notes: str) -> Cell:
    """A cell with a whole number."""
    return number(f"{int(value):,}", int(value), *notes)


def effect(value: float, low: float, high: float, *notes: str, word: str = "") -> Cell:
    """A difference in points above its interval."""
    if not math.isfinite(value):
        return number("unknown", value)
    return number(points(value), value, bounds(low, high), *notes)._replace(word=word)


CONTRAST_HEADS = (
    "adding the second to the first, points", "adding the first to the second, points", "interaction, points",
)  # fmt: skip


def contrasts(row: Any) -> list[Cell]:
    """Both directions of a pair and its interaction, under `CONTRAST_HEADS`; directions with their verdict."""
    if row["verdict"] == "not applicable":
        return [number("–", math.nan)] * 3
    words = [DIRECTION_NAMES.get(str(row.get(f"{name}_verdict", "")), "") for name in ("b_given_a", "a_given_b")]
    return [
        effect(row[name], row[f"{name}_low"], row[f"{name}_high"], word=word)
        for name, word in zip(("b_given_a", "a_given_b", "interaction"), [*words, ""], strict=True)
    ]


def rate(mean: float, low: float, high: float) -> Cell:
    """A fraction in percent above its interval."""
    if not math.isfinite(mean):
        return number("unknown", mean)
    return number(f"{100 * mean:.1f}", mean, percent_bounds(low, high))


def p_value(value: float) -> Cell:
    """A p-value."""
    return number(p_text(value), value)


def csv(table: pd.DataFrame) -> str:
    """A table as text, without what only a store can use."""
    kept = table.drop(columns=[name for name in ("run_id",) if name in table])
    for column in ("tricks", "also", "added", "removed"):
        if column in kept:
            kept = kept.assign(**{column: [" + ".join(each) for each in kept[column]]})
    return csv_text(kept)


def anchor(text: str) -> str:
    """A name as a part of ids, which plotly puts into its script as they are.

    >>> anchor("Not known yet"), anchor("conflicts-few")
    ('not-known-yet', 'conflicts-few')
    """
    return re.sub(r"[^\w-]", "-", text.lower())


def stack(*parts: Markup | str) -> Markup:
    """HTML pieces, one below the other; an empty text is none."""
    return Markup("\n").join(part for part in parts if part)


def note(text: str) -> Markup:
    """A sentence that must not be missed; nothing where it is empty."""
    return Markup(MACROS.note(text) if text else "")


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph, of a CSS class."""
    return Markup(MACROS.paragraph(text, kind))


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], name: str, content: pd.DataFrame | None) -> Markup:
    """A table that sorts by a click on a heading, with buttons that copy it and save it as CSV.

    Args:
        heads: Headings of the columns.
        rows: Their cells.
        name: Name of the table on this page, and of the file.
        content: The same with all digits; no buttons where absent.
    """
    return Markup(MACROS.table(heads, list(rows), anchor(name), "" if content is None else csv(content)))


def figure(drawn: Any, name: str, caption: str, kind: str = "narrow") -> Markup:
    """A plotly figure with its caption, and buttons that save it.

    Args:
        drawn: The figure.
        name: Name of the figure on this page, and of the file.
        caption: Plain text.
        kind: CSS class.
    """
    plot = Markup(to_html(drawn, anchor(name)))  # texts of figures are escaped where they are drawn
    return Markup(MACROS.figure(plot, anchor(name), caption, kind))
