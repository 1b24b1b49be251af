"""`python -m trainables.stage_store`: lists, verifies and cleans the store of finished stages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import command_line
from analysis.command_line import Parser, byte_count

if TYPE_CHECKING:
    pass


def parser(prog: str = "python -m trainables.stage_store") -> Parser:
    """The command's options."""
    it = Parser(prog, description="List, verify and clean the store of finished stages.")
    it.add_argument(
        "command", choices=("list", "verify", "clean"), nargs="?", default="list", help="what to do (default: list)"
    )
    it.add_argument(
        "--store", metavar="DIR", default="results/stages",
        help="folder or URL of the store (default: results/stages)",
    )  # fmt: skip
    it.add_argument(
        "--store-limit", metavar="SIZE", type=byte_count,
        help="with clean: maximum size to keep, e.g. 500MB (default: no limit)",
    )  # fmt: skip
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.stage_store") -> int:
    """Runs the command; 1 where `verify` finds something damaged, 2 where the store cannot be read."""
    return command_line.run(parser(prog), arguments, "trainables.pipeline.housekeeping:run")


if __name__ == "__main__":
    sys.exit(main())
