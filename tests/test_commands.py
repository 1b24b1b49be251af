"""All commands: help in one form, and output that no terminal breaks on."""

import importlib
import io
import re
import subprocess
import sys

import pytest

from analysis.command_line import Parser
from search import cli
from search.cli import COMMANDS

MODULES = (
    "run_search", "search", "search.cli", "search.export", "search.list", "search.explain", "search.sync",
    "analysis.report", "analysis.across", "trainables.train", "trainables.data", "trainables.stage_store",
    "trainables.registry",
)  # fmt: skip
"""What `python -m` runs."""

WITHOUT_DEFAULT = {"--space", "--resume", "--data-root"}
"""Options that are absent where they are not given."""


def parser_of(command: str) -> Parser:
    return importlib.import_module(COMMANDS[command][0]).parser(f"longtail-tune {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_defaults_in_the_usual_form(command):
    parser = parser_of(command)
    assert parser.prog == f"longtail-tune {command}" and str(parser.description).endswith(".")
    for action in parser._actions:
        name = "/".join(action.option_strings) or action.dest
        assert action.help, f"{name} has no help"
        shown = parser._get_formatter()._expand_help(action)
        # what follows a name is a part of it: NAME[?option=…]
        assert not re.search(r"(?<!\w)\[", shown), f"{name}: {shown}"
        if action.option_strings and action.nargs != 0 and not action.required:
            if action.option_strings[-1] in WITHOUT_DEFAULT:
                continue
            assert re.search(r"\(default: [^)]+\)$", shown), f"{name}: {shown}"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_is_misspelt_is_one_sentence(command, capsys):
    needed = ["x"] if command in ("train", "describe", "aggregate") else []
    assert cli.main([command, *needed, "--helq"]) == 2
    said = "there is no option --helq: did you mean --help?"
    assert capsys.readouterr().err == f"longtail-tune {command}: error: {said}\n"


def test_a_command_that_is_misspelt(capsys):
    assert cli.main(["serch"]) == 2
    assert capsys.readouterr().err.endswith("got 'serch': did you mean 'search'?\n")
    assert cli.main([]) == 0 and "describe" in capsys.readouterr().out


@pytest.mark.parametrize("module", MODULES)
def test_every_module_runs_as_a_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("usage: ")


class Terminal:
    """A standard output that has only some characters and refuses the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self._raw = io.BytesIO()
        self._stream = io.TextIOWrapper(self._raw, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", self._stream)

    @property
    def shown(self) -> bytes:
        return self._raw.getvalue()


ENCODINGS = pytest.mark.parametrize("encoding", ["ascii", "latin-1"])


@ENCODINGS
@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_a_terminal_that_lacks_characters(command, encoding, monkeypatch):
    terminal = Terminal(monkeypatch, encoding)
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0 and b"usage: " in terminal.shown


@ENCODINGS
def test_output_in_a_terminal_that_lacks_characters(encoding, tmp_path, monkeypatch):
    import run_search
    from trainables import registry
    from trainables.data.__main__ import main as data

    terminal = Terminal(monkeypatch, encoding)
    monkeypatch.chdir(tmp_path)
    assert data(["describe", "digits-lt"]) == 0
    assert b"####" in terminal.shown and b"\\u2588" not in terminal.shown
    space = importlib.import_module("spaces.full_combo").__file__
    assert run_search.main(["--space", str(space), "--dry-run", "--trials", "2"]) == 0
    assert b"0.002 ... 0.2" in terminal.shown
    assert registry.main([]) == 0
    assert b"| `cost_sensitive` |" in terminal.shown
