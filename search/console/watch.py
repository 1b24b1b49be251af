"""`longtail-tune watch NAME`: a page that shows a search as it runs, from its journal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m search.console.watch") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Serve a page on this machine that shows a search as it runs.")
    it.add_argument("search", nargs="?", metavar="NAME", help="the search (default: the latest)")
    it.add_argument("--output", default="results", metavar="DIR", help="folder of results (default: %(default)s)")
    it.add_argument("--port", type=int, default=8010, metavar="N", help="port, 0 for a free one (default: %(default)s)")
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.console.watch") -> int:
    """Serves until Ctrl-C; 2 where there is nothing to show."""
    return command_line.run(parser(prog), arguments, "search.commands.watch:serve")


if __name__ == "__main__":
    sys.exit(main())
