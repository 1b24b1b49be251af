"""What a notebook shows of a search."""

import re
from pathlib import Path

from analysis.conflicts import pairwise
from analysis.formatting import VERDICTS
from analysis.records import reader
from analysis.report.findings import gather
from analysis.report.notebook import styled_conflicts
from search.outcome import SearchResult
from tests.analysis.test_report import design, race, words


def result(**changes) -> SearchResult:
    trials = reader.frame(design() + race())
    table = pairwise(trials, margin=0.02)
    found = gather(trials, conflicts=table, margin=0.02)
    fields = {"findings": found, "conflicts": table} | changes
    return SearchResult(
        "<demo>", Path("results/demo"), True, trials, fields["conflicts"], None, {}, (0.0, 0.0),
        findings=fields["findings"],
    )  # fmt: skip


def test_a_notebook_shows_the_cards_the_best_recipe_and_the_pairs():
    html = result()._repr_html_()
    shown = words(html)
    assert "Search &lt;demo&gt;" in html and "<script" not in html
    assert "Avoid together" in shown and "Best recipe." in shown and "class_balanced × cost_sensitive" in shown
    assert VERDICTS["conflict"].colour in html


def test_the_conflict_table_has_the_colour_of_each_verdict():
    table = pairwise(reader.frame(design()), margin=0.02)
    html = styled_conflicts(table).to_html()
    rules = dict(re.findall(r"#T_\w+?_row(\d+)_col0[^{]*\{\s*background-color: ([#\w]+)", html))
    verdicts = sorted(table["verdict"], key=list(VERDICTS).index)
    names = re.findall(r'col0"[^>]*>([^<]+)</td>', html)
    assert names == [VERDICTS[verdict].name for verdict in verdicts]
    assert rules["0"] == VERDICTS["conflict"].colour
    hostile = table.assign(a="<b>x</b>/<i>")
    assert "<i>" not in styled_conflicts(hostile).to_html()


def test_a_search_without_a_table_or_a_report_says_so():
    assert "no report could be made" in result(findings=None)._repr_html_()
    assert result(conflicts=None).styled_conflicts is None
