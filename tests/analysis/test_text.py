"""Text from elsewhere, as a terminal, a shell, a spreadsheet and a Markdown table get it."""

import io
import subprocess

import pytest

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


@pytest.mark.parametrize("cell", ["=HYPERLINK(1)", "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\t=1"])
def test_formulas_become_text(cell):
    assert text.csv_cell(cell) == f"'{cell}"


def test_a_latin_1_terminal_gets_an_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    text.lenient_output(stream, object())
    stream.write("東 ü")
    stream.flush()
    assert raw.getvalue() == b"\\u6771 \xfc"
