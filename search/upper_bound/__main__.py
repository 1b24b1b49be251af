"""`longtail-tune upper-bound`, also `python -m search.upper_bound`: upper bound and relative accuracy of a search."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser
from search.settings import OPTIONS

PASSED_ON = ("cpus_per_trial", "gpus_per_trial", "max_concurrent", "address", "tracking_uri")
"""Options of the search on balanced data that may differ from those of the search that is measured."""


def parser(prog: str = "python -m search.upper_bound") -> Parser:
    """The command's options."""
    it = Parser(
        prog,
        description="Train the recipes of a finished search on a balanced training set of the same size, and print "
        "the upper bound and the relative accuracy of each. The same command again continues what was interrupted.",
        argument_default=argparse.SUPPRESS,
    )
    it.add_argument(
        "--search", metavar="NAME", default=None, help="the search that is measured (default: the latest one)"
    )
    it.add_argument("--output", metavar="DIR", default="results", help="folder of results (default: %(default)s)")
    it.add_argument(
        "--recipe", metavar="TITLE", action="append", default=[],
        help="measure this recipe beside the baseline; repeat the option for several (default: the recipes of the "
        "design that have one trick on, and the best recipe)",
    )  # fmt: skip
    it.add_argument(
        "--page", metavar="FILE", default=None, help="also write the table to this Markdown file (default: none)"
    )
    it.add_argument("--dry-run", action="store_true", default=False, help="show what would be trained; train nothing")
    options = it.add_argument_group("options of the search on balanced data")
    for name in PASSED_ON:
        OPTIONS[name].add_to(options)
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.upper_bound") -> int:
    """Runs the command; returns 2 where there is no balanced set to train on and 130 after an interruption."""
    return command_line.run(parser(prog), arguments, "search.upper_bound.command:run_command")


if __name__ == "__main__":
    sys.exit(main())
