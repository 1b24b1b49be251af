"""The report of a search whose every name is hostile has the elements, and acts, as that of one with plain names."""

import csv
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from analysis.conflicts.other_searches import OtherSearches, across, by_search
from analysis.records import reader
from analysis.records.schema import Record
from analysis.report import html, page
from analysis.report.findings import gather
from analysis.text import FORMULA, printable


class Page(HTMLParser):
    """Counts elements with all their attributes, and gathers what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.read: list[str] = []
        self.tables: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag, attributes):
        if tag != "wbr":
            # figures are higher where names are longer
            self.elements[re.sub(r"height:\d+px", "height", f"{tag} {attributes}")] += 1
        self._inside = tag
        if tag == "textarea":
            self.tables.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "textarea":
            self.tables[-1] += data
        elif self._inside not in ("script", "style"):
            self.read.append(data)


def written(made: list[Record], names: tuple[str, ...]) -> str:
    trials = reader.frame(made)
    *_, search, reason, kind = names
    about = {"data_notes": "\n".join(names), reason: kind, "tracking_uri": search, "command": list(names)}
    found = gather(trials, curves=reader.curves(reader.frame(made)), margin=0.02, about=about)
    tables = {f"{name}{number}": found.conflicts for number, name in enumerate((search, kind))}
    elsewhere = OtherSearches(across(tables), by_search(tables), {reason: kind})
    return page.render(gather(
        trials, curves=reader.curves(reader.frame(made)), margin=0.02, about=about, other_searches=elsewhere,
    ))  # fmt: skip


@pytest.fixture(scope="module")
def figures() -> list[str]:
    """The texts of all figures of the hostile page."""
    return []


@pytest.fixture(scope="module")
def pages(figures, hostile) -> dict[str, Page]:
    drawn = []
    to_html = html.to_html

    def drawing(figure, name):
        drawn.append(figure)
        return to_html(figure, name)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "to_html", drawing)
        for kind, names in (("plain", hostile.PLAIN), ("hostile", hostile.HOSTILE)):
            drawn.clear()
            found[kind] = Page()
            found[kind].feed(written(hostile.records(names), names))
            found[kind].close()
    assert len(drawn) > 8
    for figure in drawn:
        figures += texts(json.loads(figure.to_json()))
    return found


def texts(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in texts(part)]


def test_no_element_and_no_attribute_comes_from_the_data(pages):
    assert pages["hostile"].elements == pages["plain"].elements
    assert sum(pages["plain"].elements.values()) > 500


def test_every_name_is_read_as_it_is(pages, hostile):
    read = "".join(pages["hostile"].read)
    for name in map(printable, hostile.HOSTILE):
        assert name in read, name
    assert printable(read) == read


def test_figures_hold_no_markup_but_our_own(pages, figures):
    ours = re.compile(r"</?(b|i|br|extra)>")
    assert not [text for text in figures if "<" in ours.sub("", text)]
    whole = "\n".join(figures)
    assert "&lt;/script&gt;" in whole and printable(whole) == whole


def test_no_cell_of_a_table_that_is_copied_is_a_formula(pages, hostile):
    tables = [list(csv.reader(io.StringIO(table))) for table in pages["hostile"].tables]
    assert len(tables) > 8
    cells = [cell for rows in tables for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not number(cell)]
    assert f"'{hostile.HOSTILE[1]}" in cells
    assert printable("".join(cells)) == "".join(cells)


def number(cell: str) -> bool:
    try:
        return float(cell) is not None
    except ValueError:
        return False


def test_what_the_data_left_out_stands_before_the_first_result(pages, hostile):
    first = "".join(pages["hostile"].read).partition("Avoid together")[0].partition("Data")[2]
    assert all(printable(name) in first for name in hostile.HOSTILE)


def test_the_notes_are_a_list_and_absent_without_any(hostile):
    trials = reader.frame(hostile.records())
    shown = page.render(gather(trials, about={"data_notes": "3 images are left out\nval is cut"}))
    assert '<div class="note"><b>Data</b><ul><li>3 images are left out</li><li>val is cut</li></ul></div>' in shown
    assert 'class="note"><b>Data' not in page.render(gather(trials))


def test_the_picture_of_hostile_names_is_drawn(hostile):
    from analysis.conflicts import pairwise
    from analysis.report.plots.heat_map_picture import heat_map_png

    table = pairwise(reader.frame(hostile.records()), margin=0.02)
    assert heat_map_png(table, title="\n".join(hostile.HOSTILE)).startswith(b"\x89PNG")
