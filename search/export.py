"""`longtail-tune export`, also `python -m search.export`: exports a recipe of a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser
from analysis.recipes.pareto import PICKS


def parser(prog: str = "python -m search.export") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Export a recipe of a search as a file that trains the final model.")
    it.add_argument("--search", metavar="NAME", help="the search (default: the latest)")
    it.add_argument("--rank", metavar="N", type=int, default=1, help="rank of the recipe; 1 is the best (default: 1)")
    it.add_argument("--recipe", metavar="ID", help="id of the recipe, instead of its rank (default: none)")
    it.add_argument(
        "--pick", choices=PICKS,
        help="a recipe on the Pareto front of accuracy and harmonic mean, instead of a rank (default: none)",
    )  # fmt: skip
    it.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("best.yaml"), help="file to write (default: best.yaml)"
    )
    it.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI)
    it.add_argument(
        "--accept-changes", action="store_true",
        help="export although data or code have changed since the search, and note it in the file (default: refuse)",
    )  # fmt: skip
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.export") -> int:
    """Exports; 2 where that cannot be done."""
    return command_line.run(parser(prog), arguments, "search.commands.export:run")


if __name__ == "__main__":
    sys.exit(main())
