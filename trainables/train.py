"""`python -m trainables.train best.yaml`: final training of an exported recipe.

Trains the recipe at full length on all the data that may be trained on (val folded back in), over fresh seeds, and
measures on test. Leaves, for the best-documented use, the weights, an exported program, an MLflow model that `mlflow
models predict` serves, the recipe, a table of recalls per class and a model card; the run is in MLflow. Ctrl-C loses
nothing: `--resume` continues, and ends with the same weights as an uninterrupted training. `--as-searched` trains as
the search did, val held out, and says whether the result falls where the search predicted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import command_line
from analysis.command_line import TRACKING_URI, Parser
from analysis.records.mlflow_store import shown
from trainables.training.numerics import PRECISIONS


def parser(prog: str = "python -m trainables.train") -> Parser:
    """The command's options."""
    it = Parser(prog, description="Train the final model of an exported recipe, at full length on all its data.")
    it.add_argument("recipe", type=Path, help="recipe file, written by a search or by python -m search.export")
    it.add_argument(
        "--as-searched", action="store_true",
        help="train as the search did, with val held out, and compare the result with the search's prediction",
    )  # fmt: skip

    what = it.add_argument_group("what is trained")
    what.add_argument(
        "--seeds", metavar="N", type=int, help="number of fresh seeds to train (default: 1, or 5 with --as-searched)"
    )
    what.add_argument(
        "--epochs-scale", metavar="X", type=float, default=1.0,
        help="factor that multiplies the full length of training (default: 1)",
    )  # fmt: skip
    what.add_argument("--data-root", metavar="DIR", help="folder that holds the data (default: the recipe's)")
    what.add_argument(
        "--prior", metavar="FILE",
        help="class prior in deployment: uniform, train, or a CSV file; reports prior_accuracy (default: none)",
    )  # fmt: skip
    what.add_argument(
        "--cost", metavar="FILE", help="CSV matrix of what each mistake costs; reports expected_cost (default: none)"
    )
    what.add_argument(
        "--model", metavar="NAME", help="another network, e.g. 'resnet50?pretrained=FILE' (default: the recipe's)"
    )
    what.add_argument(
        "--tricks", metavar="DIR", action="append",
        help="folder with your own tricks; repeat the option for several folders (default: the recipe's)",
    )  # fmt: skip
    what.add_argument(
        "--trust", action="store_true",
        help="run the code that the recipe names, which is shown with its hash first (default: refuse it)",
    )  # fmt: skip
    what.add_argument(
        "--new-data", action="store_true",
        help="train on all images although the data have changed since the search (default: refuse changed data)",
    )  # fmt: skip

    how = it.add_argument_group("how")
    how.add_argument(
        "--precision", choices=PRECISIONS,
        help="precision of convolutions (default: fp32, or the search's with --as-searched)",
    )  # fmt: skip
    how.add_argument(
        "--accumulate", metavar="N", type=int, default=1,
        help="split each batch into N parts and accumulate their gradients (default: 1)",
    )  # fmt: skip
    how.add_argument(
        "--workers", metavar="N", type=int, default=1, help="number of processes that share each batch (default: 1)"
    )
    how.add_argument(
        "--address", metavar="HOST:PORT", help="Ray cluster for these processes (default: start a local one)"
    )
    how.add_argument(
        "--threads", metavar="N", type=int, default=1, help="threads on a CPU (default: 1, as in a search)"
    )

    sure = it.add_argument_group("calibration and abstention")
    sure.add_argument(
        "--calibrate", action="store_true",
        help="hold val out of the training, fit temperature and implied prior on it, and serve probabilities for "
        "--prior, or for equal class frequencies (default: train on val, serve the softmax)",
    )  # fmt: skip
    sure.add_argument(
        "--abstain", metavar="RISK", type=float,
        help="also find on val, for each class, the lowest probability above which at most this share of the answers "
        "is wrong, e.g. 0.05; implies --calibrate (default: always answer)",
    )  # fmt: skip

    keep = it.add_argument_group("what is kept")
    keep.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("trained"), help="folder for the model (default: trained)"
    )
    keep.add_argument(
        "--no-program", dest="program", action="store_false",
        help="export neither the program model.pt2 nor the MLflow model",
    )  # fmt: skip
    keep.add_argument("--resume", action="store_true", help="continue the unfinished training in --out")
    keep.add_argument(
        "--save-minutes", metavar="X", type=float, default=1.0, help="minutes between checkpoints (default: 1)"
    )
    keep.add_argument(
        "--save-epochs", metavar="N", type=int, default=0,
        help="also save a checkpoint every N epochs (default: 0, which saves none)",
    )  # fmt: skip
    keep.add_argument("--tracking-uri", metavar="URI", help=TRACKING_URI.replace("store", "store, or none"))
    return it


def main(arguments: Sequence[str] | None = None, prog: str = "python -m trainables.train") -> int:
    """Trains; 2 where that cannot be done, 1 where `--as-searched` falls outside the prediction, 130 stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    it = parser(prog)
    it.set_defaults(words=[*prog.split(), *map(shown, given)])
    return command_line.run(it, given, "trainables.final.command:train")


if __name__ == "__main__":
    sys.exit(main())
