"""`longtail-tune search`, also `python run_search.py`: searches a space."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser
from analysis.text import echo, sentence
from search.execution.disk import cannot_write
from search.execution.interrupts import RUN_AGAIN, Interrupts, TimeIsUp
from search.settings import ALL_OPTIONS, GROUPS


def parser(prog: str = "python -m search") -> Parser:
    """The options of `search.settings`; those that are not given are absent from what it parses."""
    it = Parser(
        prog, argument_default=argparse.SUPPRESS,
        description="Search combinations of long-tail tricks for the best recipe, and report which tricks conflict.",
    )  # fmt: skip
    for title in GROUPS:
        group = it.add_argument_group(title)
        for known in ALL_OPTIONS.values():
            if known.group == title:
                known.add_to(group)
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search") -> int:
    """Runs the command; 0 done, 1 nothing finished or ended early, 2 cannot be started as asked, 130 interrupted.

    SIGUSR1, which says that a job's time is nearly up, gives 75.
    """
    it = parser(prog)

    def body(options: argparse.Namespace) -> int:
        work = "preview" if getattr(options, "dry_run", False) else "search"
        with Interrupts():
            try:
                return int(command_line.load(f"search.commands.{work}:run")(options))
            except TimeIsUp:
                echo(f"\n{it.prog}: SIGUSR1 came before a trial had ended", file=sys.stderr)
                return RUN_AGAIN
            except Exception as error:
                why = "" if isinstance(error, ValueError) else cannot_write(error)
                if not why:
                    raise
                echo(f"{it.prog}: error: {sentence(why)}", file=sys.stderr)
                return 1

    return command_line.run(it, arguments, body, expected=())


if __name__ == "__main__":
    sys.exit(main())
