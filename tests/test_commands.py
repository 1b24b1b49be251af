"""All commands: help in one form, and output that no terminal breaks on."""

import argparse
import importlib
import io
import re
import sys
from collections.abc import Iterator

import pytest

COMMANDS = (
    "run_search", "search.export", "search.list", "search.explain", "analysis.report.__main__", "analysis.across",
    "trainables.train", "trainables.data.__main__", "trainables.stage_store",
)  # fmt: skip

WITHOUT_DEFAULT = {"--space", "--resume", "--data-root"}
"""Options that are needed, or absent where they are not given."""


class Parsing(Exception):
    """A parser that is about to read its arguments."""


@pytest.fixture(params=COMMANDS)
def parsers(request, monkeypatch) -> list[argparse.ArgumentParser]:
    """A command's parser and those of its subcommands."""

    def tell(self, *arguments):
        raise Parsing(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", tell)
    with pytest.raises(Parsing) as caught:
        importlib.import_module(request.param).main([])
    return list(within(caught.value.args[0]))


def within(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from within(inner)


def test_help_names_defaults_in_the_usual_form(parsers):
    for parser in parsers:
        for action in parser._actions:
            name = "/".join(action.option_strings) or action.dest
            if isinstance(action, argparse._SubParsersAction):
                continue
            assert action.help, f"{name} has no help"
            shown = parser._get_formatter()._expand_help(action)
            # what follows a name is a part of it: NAME[?option=…]
            assert not re.search(r"(?<!\w)\[", shown), f"{name}: {shown}"
            if action.option_strings and action.nargs != 0 and action.option_strings[-1] not in WITHOUT_DEFAULT:
                assert re.search(r"\(default: [^)]+\)$", shown), f"{name}: {shown}"


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
        importlib.import_module(command).main(["--help"])
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
    registry.main()
    assert b"| `cost_sensitive` |" in terminal.shown
