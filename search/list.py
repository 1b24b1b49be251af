"""`longtail-tune list`, also `python -m search.list`: lists the searches in an MLflow store."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser


def parser(prog: str = "python -m search.list") -> Parser:
    """The command's options."""
    it = Parser(prog, description="List the searches in an MLflow store, newest first.")
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument("--output", metavar="DIR", help="folder of results (default: that of each search)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.list") -> int:
    """Prints the table; 2 where the store cannot be read."""
    return command_line.run(parser(prog), arguments, "search.commands.list:show")


if __name__ == "__main__":
    sys.exit(main())
