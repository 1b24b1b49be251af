"""Text from elsewhere, as a terminal, a shell, a spreadsheet and a Markdown table get it."""

import argparse
import csv
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from analysis import text


@pytest.mark.parametrize("sign", ["\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066", "\u200f", "\u2028", "\ud800"])
def test_signs_that_act_are_shown(sign):
    shown = text.printable(f"a{sign}b")
    assert sign not in shown
    assert shown.startswith("a\\") and shown.endswith("b")


def test_letters_of_all_languages_stay():
    assert text.printable("Zürich, 東京, עברית, 👍") == "Zürich, 東京, עברית, 👍"


def test_a_shell_reads_back_what_was_meant():
    name = "x'; echo $(id) `id` [v2] \\ ü"
    assert subprocess.check_output(["sh", "-c", text.command("printf", "%s", name)], text=True) == name


@pytest.mark.parametrize("cell", ["＝1", "\n=1", "=HYPERLINK(1)", "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\t=1"])
def test_formulas_become_text(cell):
    assert text.csv_cell(cell) == f"'{cell}"


def test_a_shell_reads_back_what_a_terminal_must_not_see():
    name = b"bell\x07 esc\x1b[31m \xe2\x80\xae'\\ latin \xe4 line\nend"
    shown = text.command("printf", "%s", os.fsdecode(name))
    assert shown.isprintable()
    assert subprocess.check_output(["bash", "-c", shown]) == name


def test_a_name_that_begins_with_a_dash_is_no_option(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume")
    parser.add_argument("file", type=Path)
    line = text.command(*text.option("--resume", "-x y"), Path("-out/best.yaml"))
    read = parser.parse_args(shlex.split(line))
    assert (read.resume, read.file) == ("-x y", Path("-out/best.yaml"))


def test_no_line_can_be_forged():
    assert text.sentence("a\nerror: b\u2028c\x85d\r\ne\x1b[2J") == "a error: b c d e\\x1b[2J"


def test_a_table_as_csv_holds_numbers_as_they_were_and_no_formula():
    table = pd.DataFrame({
        "=name": ["=1+1", 'ü, "x"', "-0.5", "esc\x1b[0m"],
        "more": pd.Series([1, None, 3, 4], dtype=object),
        "mixed": [7, None, "+x", 2.5],
        "share": [0.1, np.nan, -0.25, 1e-9],
        "on": [True, False, True, False],
        "list": [("=a",), (), ("b", "c"), ()],
    })  # fmt: skip
    rows = list(csv.reader(io.StringIO(text.csv_text(table))))
    assert rows == [
        ["'=name", "more", "mixed", "share", "on", "list"],
        ["'=1+1", "1", "7", "0.1", "True", "('=a',)"],
        ['ü, "x"', "", "", "", "False", "()"],
        ["-0.5", "3", "'+x", "-0.25", "True", "('b', 'c')"],
        ["esc\\x1b[0m", "4", "2.5", "1e-09", "False", "()"],
    ]
    assert table["=name"][0] == "=1+1", "the table itself is unchanged"


HOSTILE = "a|b *c* _d_ `e` <f> [g](http://h) ~~i~~ &lt; $j$ https://k www.l.m n@o.p \\ # q\n# r\x1b"


def test_markdown_reads_plain_text():
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    cell = text.markdown_cell(HOSTILE)
    (*_, block, _) = parsed.parse(f"text {cell}")
    assert {child.type for child in block.children} == {"text"}
    assert "".join(child.content for child in block.children) == f"text {text.sentence(HOSTILE)}"
    cells = [token for token in parsed.parse(f"| a | b |\n|---|---|\n| {cell} | x |\n") if token.type == "inline"]
    assert [token.content for token in cells][-1] == "x" and len(cells) == 4
    # what makes a link of an address wherever it stands
    assert not re.search(r"https?://|www\.|\w@\w", cell)


def test_html_holds_plain_text():
    shown = text.html_text("</script><b a='1' b=\"2\">&amp;\u202e")
    assert not set(shown) & set("<>\"'\u202e") and "&amp;amp;" in shown


def test_a_latin_1_terminal_gets_an_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    text.lenient_output(stream, object())
    stream.write("東 ü")
    stream.flush()
    assert raw.getvalue() == b"\\u6771 \xfc"


def test_our_own_signs_stay_readable_where_a_terminal_lacks_them():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    text.lenient_output(stream)
    text.echo("a × b … 1 → 2 ± 3 █", "\x1b[31m", file=stream)
    stream.flush()
    assert raw.getvalue() == b"a x b ... 1 -> 2 +/- 3 #\n\\x1b[31m\n"
