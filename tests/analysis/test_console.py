"""The console: text appears as it is, in a terminal, a pipe, and one that lacks characters."""

import io
import time

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from analysis.console import Console, styled

HOSTILE = "[v2] [red]x[/red] [/nope] :smile: \x1b]0;title\x07\x1b[31m \u202e | $(id) 0x10"
SHOWN = r"[v2] [red]x[/red] [/nope] :smile: \x1b]0;title\x07\x1b[31m \u202e | $(id) 0x10"


def printed(*renderables, **options) -> str:
    file = io.StringIO()
    console = Console(file=file, **options)
    for renderable in renderables:
        console.print(renderable)
    return file.getvalue()


def table() -> Table:
    made = Table(title=HOSTILE)
    made.add_column(HOSTILE)
    made.add_row(HOSTILE)
    made.add_row(styled(HOSTILE, "red"))
    return made


def tree() -> Tree:
    made = Tree(HOSTILE)
    made.add(styled(HOSTILE, "bold"))
    return made


@pytest.mark.parametrize("make, count", [(str, 1), (table, 4), (tree, 2), (lambda: styled(HOSTILE, "red"), 1)])
def test_nothing_is_read_as_markup_and_nothing_acts(make, count):
    said = printed(HOSTILE if make is str else make())
    assert said.count(SHOWN) == count
    assert said.replace("\n", "").isprintable()


def test_a_text_that_was_made_elsewhere_does_not_act_either():
    assert printed(Text(HOSTILE)) == SHOWN.replace(r"\x07", "") + "\n"  # which Rich itself leaves out


def test_in_a_terminal_only_our_own_styles_act():
    said = printed(styled(HOSTILE, "red"), force_terminal=True, color_system="standard", width=200)
    assert said == f"\x1b[31m{SHOWN}\x1b[0m\n"
    assert printed(HOSTILE, force_terminal=True, color_system="standard", width=200) == f"{SHOWN}\n"


def test_a_live_display_does_not_act():
    file = io.StringIO()
    with Live(table(), console=Console(file=file, force_terminal=True, width=200), refresh_per_second=50):
        time.sleep(0.1)
    assert SHOWN in file.getvalue() and "\x1b]0;" not in file.getvalue() and "\u202e" not in file.getvalue()


def test_a_pipe_gets_whole_lines(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "words and a_long_name " * 30
    assert printed(long) == f"{long}\n"
    (row,) = (line for line in printed(table()).splitlines() if line.startswith("┃"))
    assert SHOWN in row
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, printed(long).splitlines())) <= 40


def test_a_terminal_that_lacks_characters(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    console = Console()
    for renderable in (table(), tree(), "東 × …"):
        console.print(renderable)
    stream.flush()
    assert raw.getvalue().endswith(b"\\u6771 x ...\n")
