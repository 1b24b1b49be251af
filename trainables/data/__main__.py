"""`python -m trainables.data describe NAME`: what a data set is, before anything is trained on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import Parser
from trainables.data import names
from trainables.data.catalogue import PREFIXES


def parser(prog: str = "python -m trainables.data describe") -> Parser:
    """The command's options."""
    own = ", ".join(f"{prefix}:{'PATH' if prefix == 'folder' else 'FILE'}" for prefix in PREFIXES)
    it = Parser(
        prog,
        description="Look at every image of a data set and show its counts, groups (many, medium, few), splits, "
        "imbalance, unreadable images, duplicates across splits, and classes with too few images for a balanced val. "
        "The exit code is 2 where the data cannot be used.",
    )  # fmt: skip
    it.add_argument("name", metavar="NAME", help=f"one of {', '.join(names())}; or {own}")
    it.add_argument("--data-root", metavar="DIR", help="folder that holds the data, if they are not bundled")
    it.add_argument(
        "--imbalance", metavar="X", type=float,
        help="size of the largest class divided by that of the smallest (default: the data set's standard value)",
    )  # fmt: skip
    it.add_argument("--split-seed", metavar="N", type=int, default=0, help="seed of the split to describe (default: 0)")
    it.add_argument(
        "--final", action="store_true", help="describe the data of final training, with val folded back into train"
    )
    it.add_argument(
        "--html", metavar="FILE", type=Path, help="interactive page to write the profile to (default: none)"
    )
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.data describe") -> int:
    """Describes a data set; 0 done, 2 cannot be done as asked."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # the module has one command, which `longtail-tune describe` has named already
    return command_line.run(
        parser(prog), given[1:] if given[:1] == ["describe"] else given, "trainables.data.describe:run"
    )


if __name__ == "__main__":
    sys.exit(main())
