"""`longtail-tune verify`, also `python -m search.verify`: whether what a search left can be believed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m search.verify") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Verify a search: seeds, test readings, decisions, data, code, recipe and tables.")
    it.add_argument("search", metavar="SEARCH", help="name of the search, or its folder")
    it.add_argument("--output", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    it.add_argument(
        "--against", metavar="FOLDER", type=Path, help="compare with the search in this folder (default: none)"
    )
    it.set_defaults(prog=prog)
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.verify") -> int:
    """Verifies; 1 where the search is refused or contradicts the other one, 2 where it cannot be read."""
    return command_line.run(parser(prog), arguments, "search.verify.command:run")


if __name__ == "__main__":
    sys.exit(main())
