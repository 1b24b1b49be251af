"""`longtail-tune worker NAME`: trains trials of a search through its folder, without Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m search.workers") -> Parser:
    """The command's options, but for those behind `--`."""
    it = Parser(
        prog,
        description="Train trials of a search whose folder this machine shares, without Ray. Where the search has no "
        "driver, one of its workers starts one: it resumes the search, or starts it with the options of "
        "`longtail-tune search` behind `--`.",
    )
    it.add_argument("search", metavar="NAME", help="the search")
    it.add_argument("--output", default="results", metavar="DIR", help="folder of results (default: %(default)s)")
    it.add_argument(
        "--processes", type=_count, metavar="N",
        help="trials to train at a time (default: as many as the CPUs and GPUs of this job allow)",
    )  # fmt: skip
    it.set_defaults(prog=prog)
    return it


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m search.workers") -> int:
    """Works until the search has ended.

    Returns:
        0 if it is complete, 1 if it ended early, 2 if it cannot be worked for, 75 after SIGUSR1, 130 after any other
        interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    it = parser(prog)
    it.set_defaults(start=given[end + 1 :])
    return command_line.run(it, given[:end], "search.commands.worker:run")


if __name__ == "__main__":
    sys.exit(main())
