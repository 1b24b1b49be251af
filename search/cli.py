"""`longtail-tune`: every command of the project as a subcommand, and the page that documents them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from analysis import command_line
from analysis.command_line import Parser
from analysis.text import echo
from search.settings import ALL_OPTIONS, NOW

PROG = "longtail-tune"

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "search": ("search.__main__", "search combinations of tricks for the best recipe, and report conflicts"),
        "worker": ("search.workers.__main__", "train trials of a search through a shared folder, without Ray"),
        "train": ("trainables.train", "train the final model of an exported recipe"),
        "export": ("search.export", "export a recipe of a search"),
        "report": ("analysis.report.page", "write what a search found as one HTML page"),
        "list": ("search.list", "list the searches in an MLflow store"),
        "watch": ("search.console.watch", "serve a page that shows a search as it runs"),
        "explain": ("search.explain", "say why trials were stopped"),
        "verify": ("search.verify.__main__", "verify what a search left, or compare two searches"),
        "sync": ("search.sync", "write searches into MLflow again, from their journals"),
        "aggregate": ("trainables.evaluation.aggregate", "weight a trained network's experts on unlabelled images"),
        "describe": ("trainables.data.__main__", "show what a data set is, before anything is trained on it"),
        "embed": ("trainables.embed", "compute the features of a data set with a pretrained network"),
        "papers": ("search.papers", "train published tables and compare their numbers with ours"),
        "upper-bound": ("search.upper_bound.__main__", "measure recipes against the same ones on balanced data"),
        "registry": ("trainables.registry", "list every trick"),
        "store": ("trainables.stage_store", "list, verify and clean the store of finished stages"),
        "across": ("analysis.conflicts.other_searches", "tell whether a verdict holds in other searches"),
    }
)
"""Subcommand to the module that has its `parser` and `main`, and its line in `--help`."""

MARKDOWN = f"{PROG} --markdown > docs/cli.md"


def parser() -> Parser:
    """The program's parser; a subcommand parses its own words, so that only its module is imported."""
    it = Parser(PROG, description="Find which long-tail tricks to combine.")
    it.add_argument("--markdown", action="store_true", help="print the options of all commands as a Markdown page")
    commands = it.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (_, line) in COMMANDS.items():
        commands.add_parser(name, prog=f"{PROG} {name}", help=line)
    return it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        name, *words = given
        return int(importlib.import_module(COMMANDS[name][0]).main(words, prog=f"{PROG} {name}"))
    return command_line.run(parser(), given, _other)


def _other(options: argparse.Namespace) -> int:
    if options.markdown:
        echo(markdown())
    else:
        parser().print_help()
    return 0


def markdown() -> str:
    """The options of every command, as `docs/cli.md` holds them."""
    lines = [
        "# Commands", "", f"All commands are subcommands of `{PROG}`. This page is generated: `{MARKDOWN}`.", "",
        "| command | |", "|---|---|", *(f"| [`{name}`](#{name}) | {line} |" for name, (_, line) in COMMANDS.items()),
    ]  # fmt: skip
    for name, (module, _) in COMMANDS.items():
        lines += _section(name, importlib.import_module(module).parser(f"{PROG} {name}"))
    return "\n".join(lines)


def _section(name: str, it: argparse.ArgumentParser) -> Iterator[str]:
    """A command with its options, a table for each group."""
    yield from ("", f"## {name}", "", str(it.description))
    if name == "search":
        yield from (
            "", "From Python, `search.run(space, **options)` takes the same options by the names of the last column.",
            "The column before it says whether a search that is resumed may be given another value.",
        )  # fmt: skip
    for group in it._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if not actions:
            continue
        extra = " with `--resume` | in Python |" if name == "search" else ""
        yield from ("", f"### {name}: {group.title}", "", f"| option | meaning |{extra}")
        yield "|---|---|" + ("---|---|" if extra else "")
        for action in actions:
            yield f"| {_spelt(action)} | {_cell(it, action)} |" + (_of_search(action) if extra else "")


def _spelt(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(map(str, action.choices or (action.dest,))))
    words = [*action.option_strings[-1:], *([value] if value else [])]
    return f"`{' '.join(words)}`".replace("|", "\\|")


def _cell(it: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = it._get_formatter()._expand_help(action)
    return text.replace("|", "\\|").replace("<", "\\<")


def _of_search(action: argparse.Action) -> str:
    known = ALL_OPTIONS[action.dest]
    resumed = "" if known.group == NOW else known.on_resume.value
    name = f"{known.name}={action.const!r}" if action.nargs == 0 else known.name
    return f" {resumed} | {'' if known.command_only else f'`{name}`'} |"


if __name__ == "__main__":
    sys.exit(main())
