"""`python -m trainables.train best.yaml`: final training of an exported recipe.

Trains the recipe at full length on all the data that may be trained on (val folded back in), over fresh
seeds, and measures on test. Leaves, for the best-documented use, the weights, an exported program, an MLflow model
that `mlflow models predict` serves, the recipe, a table of recalls per class and a model card; the run is in MLflow.
Ctrl-C loses nothing: `--resume` continues, with the same weights in the end as if nothing had happened. With
`--as-searched` it does what the search did instead, val kept, and says whether the result falls where the search
predicted.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.console import Console, styled
from analysis.records.mlflow_store import shown
from analysis.text import command, echo, lenient_output, sentence
from trainables.data.catalogue import DataError
from trainables.deployment import DeploymentError
from trainables.final.command import compare_with_search, data_of, train_as_searched, train_recipe
from trainables.final.model_card import stages_of
from trainables.final.recipe import TrainError, lengthened, read_recipe, to_full_length
from trainables.models import ModelError
from trainables.pipeline.storage import StoreFull
from trainables.plan import Plan
from trainables.registry import PlanError
from trainables.training.numerics import PRECISIONS
from trainables.training.stage_run import Diverged

__all__ = ["FRESH_SEED", "TrainError", "lengthened", "main", "read_recipe"]

FRESH_SEED = 5_000
"""Seeds of final training; no arm of a search uses them."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with where there is no room."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    it = argparse.ArgumentParser(prog="python -m trainables.train", description=__doc__.split("\n\n")[0])
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
    keep.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store, or none (default: MLFLOW_TRACKING_URI, or mlflow.db in this directory)",
    )
    return it


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; 2 where that cannot be done, 1 where `--as-searched` falls outside the prediction, 130 stopped."""
    lenient_output()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    lenient_output()
    # MLflow reports its use, and looks for newer versions, also where nothing is recorded
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # a resumed training needs the same options again
    told = [shown(word) for word in given]
    options.again = command("python", "-m", "trainables.train", *told, *([] if options.resume else ["--resume"]))
    try:
        return _main(options)
    except (TrainError, PlanError, DataError, DeploymentError, ModelError, Diverged, OSError, StoreFull) as error:
        if isinstance(error, StoreFull) or (isinstance(error, OSError) and error.errno in FULL):
            said = f"the disk of {sentence(options.out)} is full; make room, then continue with: {options.again}"
        else:
            said = sentence(error)
        echo(f"trainables.train: error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        echo("\ntrainables.train: interrupted", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace) -> int:
    console = Console()

    def tell(line: str) -> None:
        console.print(styled(sentence(line)), soft_wrap=True)

    recipe = read_recipe(options.recipe, tuple(options.tricks or ()), options.model, options.trust, tell)
    plan = Plan.from_dict(recipe["plan"])
    _check(options)
    root = recipe["provenance"].get("data_root")
    if options.data_root is not None:  # absolute: workers may run in another folder
        root = str(Path(options.data_root).expanduser().resolve())
        recipe["provenance"]["data_root"] = root
    recipe["data"] = data_of(options, recipe, root)
    if recipe["data"].get("since_search"):
        tell(f"data: {recipe['data']['since_search']}")
    seeds = options.seeds if options.seeds is not None else (5 if options.as_searched else 1)
    if not options.as_searched:
        plan = lengthened(plan, options.epochs_scale * to_full_length(recipe, root))
    kind = "as searched, val kept" if options.as_searched else "no val held out"
    many = "1 seed" if seeds == 1 else f"{seeds} seeds"
    title = sentence(f"recipe {recipe['recipe']}: {recipe['title']}")
    console.print(styled(f"{title}\n{stages_of(plan)}\n{many}, {kind}"))
    numbers = [FRESH_SEED + number for number in range(seeds)]
    if options.as_searched:
        return compare_with_search(console, recipe, train_as_searched(console, options, recipe, plan, root, numbers))
    return train_recipe(console, options, recipe, plan, root, numbers)


def _check(options: argparse.Namespace) -> None:
    if options.seeds is not None and options.seeds < 1:
        raise TrainError(f"--seeds must be at least 1, got {options.seeds}")
    if not 0 < options.epochs_scale < math.inf:
        raise TrainError(f"--epochs-scale must be a number above 0, got {options.epochs_scale}")
    for name in ("threads", "accumulate", "workers"):
        if getattr(options, name) < 1:
            raise TrainError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.as_searched and options.accumulate * options.workers > 1:
        raise TrainError(
            "--as-searched repeats what the search did, with whole batches; leave --accumulate and --workers out"
        )
    if options.as_searched and options.precision is not None:
        raise TrainError("--as-searched repeats what the search did, in its precision; leave --precision out")
    if not 0 <= options.save_minutes < math.inf:
        raise TrainError(f"--save-minutes must be a number of at least 0, got {options.save_minutes}")
    if options.save_epochs < 0:
        raise TrainError(f"--save-epochs must be at least 0, got {options.save_epochs}")
    if options.as_searched and options.epochs_scale != 1:
        raise TrainError("--as-searched repeats what the search did, at its length; leave --epochs-scale out")
    if options.as_searched and (options.prior is not None or options.cost is not None):
        raise TrainError("--as-searched compares accuracy alone; leave --prior and --cost out")
    if options.as_searched and options.new_data:
        raise TrainError("--as-searched repeats what the search did, on its data; leave --new-data out")
    if options.as_searched and options.resume:
        raise TrainError("--as-searched keeps nothing that --resume could continue; leave one of them out")


if __name__ == "__main__":
    sys.exit(main())
