"""`longtail-tune aggregate`, also `python -m trainables.evaluation.aggregate`: SADE's aggregation at test time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import Parser


def parser(prog: str = "python -m trainables.evaluation.aggregate") -> Parser:
    """The command's options."""
    it = Parser(
        prog,
        description="Weight the experts of a trained network by how consistent they are on the unlabelled test images "
        "(SADE), and measure the result on the same images. No search and no training reads these weights.",
    )
    it.add_argument("folder", type=Path, metavar="FOLDER", help="what the final training of a recipe left")
    it.add_argument("--seed", metavar="N", type=int, help="seed of the training (default: the first one there is)")
    it.add_argument("--data", metavar="NAME", help="data set whose test images are the target (default: the recipe's)")
    it.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder that holds the data, those of --data if it is given (default: the recipe's)",
    )
    it.add_argument("--epochs", metavar="N", type=int, default=5, help="passes over the images (default: %(default)s)")
    it.add_argument(
        "--tricks",
        metavar="DIR",
        action="append",
        default=[],
        help="folder with your own tricks; repeat the option for several folders (default: the recipe's)",
    )
    it.add_argument("--trust", action="store_true", help="run the code that the recipe names (default: refuse it)")
    it.add_argument(
        "--out", metavar="FILE", type=Path, help="also write weights and metrics as JSON to this file (default: none)"
    )
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.evaluation.aggregate") -> int:
    """Runs the command; returns 2 where the network has no experts or the target has no images."""
    return command_line.run(parser(prog), arguments, "trainables.evaluation.test_time:run")


if __name__ == "__main__":
    sys.exit(main())
