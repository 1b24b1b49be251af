"""`python -m trainables.data describe NAME`: what a data set is, before anything is trained on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    command.add_argument("--data-root", metavar="DIR", help="folder of the data, where it is not bundled")
    command.add_argument("--imbalance", metavar="X", type=float, help="largest class over smallest [the data set's]")
    command.add_argument("--split-seed", metavar="N", type=int, default=0, help="which split to describe [0]")
    command.add_argument("--final", action="store_true", help="the final training's data: val folded back")
    command.add_argument("--html", metavar="FILE", type=Path, help="also write the profile as an interactive page")
    return it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 done, 2 cannot be done as asked."""
    options = parser().parse_args(arguments)
    from rich.console import Console

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
            print(f"\nwritten to {options.html}")
        if not found.fingerprint:
            raise DataError(f"{options.name}: cannot be trained on as it is; the problems above say why and what helps")
    except (DataError, OSError) as error:
        print(f"trainables.data: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
