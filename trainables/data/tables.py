"""Tables as people have them: CSV text with commas, semicolons or tabs. Light: nothing here imports torch."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SEPARATORS = (",", ";", "\t")
"""Separators of cells; the first that fits is used."""


class TableError(ValueError):
    """A table that cannot be read; the message does not name the file."""


def read_rows(file: Path, comment: str = "") -> list[tuple[int, list[str]]]:
    """Reads the non-empty lines of a table: the number of each line, and its cells without surrounding spaces.

    The separator is the first of comma, semicolon and tab by which every line has the same number of cells, two at
    least; where none is such, the first by which the first line has several.

    Args:
        file: Text in UTF-8, with or without a byte-order mark, any line ends; a cell may stand in double quotes.
        comment: What a line begins with that is left out; "" leaves no line out.

    Returns:
        (line, cells) of each line; a line of empty cells counts as empty.

    Raises:
        TableError: The file cannot be read, or is no such text; the reason is the system's or the parser's own.
    """
    raw = b""
    try:
        raw = file.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        what = f"it is not text in UTF-8, see line {raw.count(bytes([10]), 0, error.start) + 1}"
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            what = "it is text in UTF-16"
        elif raw.startswith(b"PK"):
            what = "it is a spreadsheet or another packed file"
        raise TableError(f"{what}; save it as CSV in UTF-8") from error
    if "\0" in text:
        raise TableError("it holds zero bytes, so it is not text; save it as CSV in UTF-8")
    if comment:
        text = re.sub(rf"^{re.escape(comment)}.*$", "", text, flags=re.MULTILINE)
    several: list[list[tuple[int, list[str]]]] = []
    problem: TableError | None = None
    for separator in SEPARATORS:
        try:
            rows = _split(text, separator)
        except TableError as error:
            problem = problem or error
            continue
        if len({len(cells) for _, cells in rows}) == 1 and len(rows[0][1]) > 1:
            return rows
        several += [rows] * (bool(rows) and len(rows[0][1]) > 1)
    if several:
        return several[0]
    if problem is not None:
        raise problem
    return rows


def _split(text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise TableError(f"line {reader.line_num}: {error}") from error
    return rows


def shorten(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, followed by an ellipsis if there are more.

    >>> shorten(["a", "b", "c"], shown=2)
    'a, b, …'
    """
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, in their order.

    >>> repeated(["a", "b", "a"])
    ['a']
    """
    return [name for name, count in Counter(names).items() if count > 1]
