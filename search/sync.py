"""`longtail-tune sync`, also `python -m search.sync`: writes searches into MLflow again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m search.sync") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Write searches into MLflow again, from their journals.")
    it.add_argument("names", nargs="*", metavar="NAME", help="the searches")
    it.add_argument("--all", action="store_true", help="every search in the folder of results")
    it.add_argument("--output", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    it.add_argument("--tracking-uri", metavar="URI", help="MLflow store (default: that of each search)")
    it.set_defaults(prog=prog)
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.sync") -> int:
    """Writes searches into MLflow again; returns 2 if that is not possible for one of them."""
    return command_line.run(parser(prog), arguments, "search.commands.sync:run")


if __name__ == "__main__":
    sys.exit(main())
