"""How every command of the project behaves: help on any terminal, one sentence for an error, the same exit codes."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from analysis import files
from analysis.text import echo, lenient_output, sentence

PACKAGES = ("analysis", "search", "spaces", "trainables")

TRACKING_URI = "MLflow store (default: MLFLOW_TRACKING_URI, or mlflow.db in this directory)"
"""Help of the option `--tracking-uri` of the commands that read a store."""


class UsageError(ValueError):
    """A command line that cannot be parsed, or a file of it that cannot be written."""


class Parser(argparse.ArgumentParser):
    """A parser that refuses a command line in one sentence, without repeating its whole usage.

    Args:
        prog: Name of the command, as the user typed it.
        **options: Of `argparse.ArgumentParser`.

    >>> parser = Parser("demo")
    >>> _ = parser.add_argument("--trials", type=int)
    >>> parser.parse_args(["--trails", "3"])
    Traceback (most recent call last):
    analysis.command_line.UsageError: there is no option --trails: did you mean --trials?
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog=prog, **options)
        self._words: list[str] = []

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses the words of a command line; a misspelt option comes before one that is missing."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises a `UsageError`; a misspelt option is answered with the nearest one."""
        known = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        if "are required" in message:
            words = (word.partition("=")[0] for word in self._words if word.startswith("--"))
            strange = next((word for word in words if not any(flag.startswith(word) for flag in known)), None)
            unknown = re.match("(.+)", strange) if strange else None
        if unknown:
            near = difflib.get_close_matches(unknown[1], known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the options"
            raise UsageError(f"there is no option {unknown[1]}: {hint}")
        choice = re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            allowed = re.findall(r"[\w-]+", choice[3])
            near = difflib.get_close_matches(choice[2], allowed, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{choice[1]} must be one of {', '.join(allowed)}, got {choice[2]!r}{hint}")
        raise UsageError(re.sub(r"^argument (\S+): must ", r"\1 must ", message))


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    body: str | Callable[[argparse.Namespace], int],
    expected: tuple[type[Exception], ...] = (OSError,),
) -> int:
    """Parses a command line and runs what it asks for.

    Args:
        parser: Of the command; its `prog` begins every message.
        arguments: Words of the command line; those of the process if absent.
        body: Does the work and returns the exit code; by its place, see `load`, where that takes long to import.
        expected: Errors that are answered in one sentence, like those of the project's own classes.

    Returns:
        What `body` returns; 2 where it refuses what was asked, 130 after Ctrl-C.
    """
    lenient_output()
    try:
        options = parser.parse_args(arguments)
        return int((load(body) if isinstance(body, str) else body)(options))
    except Exception as error:
        ours = isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in PACKAGES
        if not ours and not isinstance(error, expected):
            raise
        echo(f"{parser.prog}: error: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        echo(f"\n{parser.prog}: interrupted", file=sys.stderr)
        return 130


def load(place: str) -> Callable[..., Any]:
    """The function at a place, e.g. "search.commands.list:show".

    The one place where a command imports what does its work, after its line has been parsed: `--help`, and a refusal of
    the line, wait for no torch, Ray, Optuna or MLflow, and the modules behind a command import at their top.
    """
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def write(path: str, text: str) -> None:
    """Writes the file that the option `--out` names.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        files.write(path, text)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror or error}") from error


def byte_count(text: str) -> int:
    """Bytes from 1000, 500MB, 20GB, 1TB.

    Raises:
        argparse.ArgumentTypeError: The text is no size.

    >>> byte_count("1.5GB")
    1500000000
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    number, factor = text.strip().upper(), 1
    for unit, size in units.items():
        if number.endswith(unit):
            number, factor = number[: -len(unit)], size
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a size like 500MB or 20GB, got {text!r}")
    return int(value)
