"""`longtail-tune explain`, also `python -m search.explain`: says why trials were stopped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m search.explain") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Say why trials were stopped, or how one trial ranked at every rung.")
    it.add_argument("trial", nargs="?", metavar="TRIAL", help="one trial, e.g. adaptive-0007 (default: all stopped)")
    it.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    it.add_argument("--output", default="results", metavar="DIR", help="folder of results (default: %(default)s)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.explain") -> int:
    """Explains; 2 where that cannot be done."""
    return command_line.run(parser(prog), arguments, "search.commands.explain:show")


if __name__ == "__main__":
    sys.exit(main())
