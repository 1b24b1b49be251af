"""`longtail-tune papers`, also `python -m search.papers`: trains published tables and compares their numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser
from search.settings import OPTIONS

PASSED_ON = (
    "data", "data_root", "imbalance", "model", "epochs_scale", "seeds", "seed", "tricks", "feed", "precision",
    "channels_last", "fused_members", "fused_trials", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "address",
    "output", "store", "tracking_uri",
)  # fmt: skip
"""Options of a search that the command takes as well."""


def parser(prog: str = "python -m search.papers") -> Parser:
    """The command's options."""
    it = Parser(
        prog,
        description="Train published tables over seed blocks and compare the published numbers with ours. Without "
        "--table, list the tables. The same command again continues what was interrupted.",
        argument_default=argparse.SUPPRESS,
    )
    it.add_argument(
        "--table", metavar="PAPER/TABLE", action="append",
        help="table to train, e.g. bag_of_tricks/10, or a paper for all of its tables; repeat the option for several "
        "(default: list the tables)",
    )  # fmt: skip
    it.add_argument(
        "--column", metavar="NAME", default=None, help="data set whose published numbers are compared, where --data is "
        "none of the table's, e.g. cifar100-lt (default: the first)",
    )  # fmt: skip
    it.add_argument(
        "--pages", metavar="DIR", default="docs/papers", help="folder for the page of each paper (default: docs/papers)"
    )
    it.add_argument("--dry-run", action="store_true", default=False, help="show what would be trained; train nothing")
    options = it.add_argument_group("options of the search of each table")
    for name in PASSED_ON:
        OPTIONS[name].add_to(options)
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.papers") -> int:
    """Runs the command; returns 2 for a table that does not exist and 130 after an interruption."""
    return command_line.run(parser(prog), arguments, "search.commands.papers:run_tables")


if __name__ == "__main__":
    sys.exit(main())
