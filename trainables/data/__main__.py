"""`python -m trainables.data describe NAME`: what a data set is, before anything is trained on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.text import echo, lenient_output, sentence
from trainables.data import DataError, names
from trainables.data.catalogue import PREFIXES


def parser() -> argparse.ArgumentParser:
    """The options."""
    own = ", ".join(f"{prefix}:{'PATH' if prefix == 'folder' else 'FILE'}" for prefix in PREFIXES)
    it = argparse.ArgumentParser(prog="python -m trainables.data", description=__doc__)
    command = it.add_subparsers(dest="command", required=True).add_parser(
        "describe", help="counts, groups, splits, problems and the profile",
        description="Looks at every image: counts, many/medium/few, splits, imbalance, unreadable images, duplicates "
        "across splits, classes with too few images for a balanced val. Exit code 2 where the data cannot be used.",
    )  # fmt: skip
    command.add_argument("name", metavar="NAME", help=f"one of {', '.join(names())}; or {own}")
    command.add_argument("--data-root", metavar="DIR", help="folder that holds the data, if they are not bundled")
    command.add_argument(
        "--imbalance", metavar="X", type=float,
        help="size of the largest class divided by that of the smallest (default: the data set's standard value)",
    )  # fmt: skip
    command.add_argument(
        "--split-seed", metavar="N", type=int, default=0, help="seed of the split to describe (default: 0)"
    )
    command.add_argument(
        "--final", action="store_true", help="describe the data of final training, with val folded back into train"
    )
    command.add_argument(
        "--html", metavar="FILE", type=Path, help="interactive page to write the profile to (default: none)"
    )
    return it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 done, 2 cannot be done as asked."""
    lenient_output()
    options = parser().parse_args(arguments)
    from analysis.console import Console
    from trainables.data.describe import describe, figure, show

    try:
        if options.split_seed < 0:
            raise DataError(f"--split-seed must be at least 0, got {options.split_seed}")
        found = describe(
            options.name, root=options.data_root, imbalance=options.imbalance, split_seed=options.split_seed,
            fold_val=options.final,
        )  # fmt: skip
        show(found, Console())
        if options.html is not None:
            figure(found).write_html(options.html, include_plotlyjs=True)
            echo(f"\nwritten to {sentence(options.html)}")
        if not found.fingerprint:
            raise DataError(f"{options.name}: cannot be trained on as it is; the problems above say why and what helps")
    except (DataError, OSError) as error:
        echo(f"trainables.data: error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
