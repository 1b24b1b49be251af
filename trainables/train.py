"""`python -m trainables.train best.yaml`: final training of an exported recipe.

Trains the recipe at full length on all the data that may be trained on (val folded back in), over fresh
seeds, and measures on test. Leaves, for the best-documented use, the weights, an exported program, an MLflow model
that `mlflow models predict` serves, the recipe, a table of recalls per class and a model card; the run is in MLflow.
Ctrl-C loses nothing: `--resume` goes on, with the same weights in the end as if nothing had happened. With
`--as-searched` it does what the search did instead, val kept, and says whether the result falls where the search
predicted.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.records.mlflow_store import shown
from analysis.text import command, echo, lenient_output, sentence
from trainables.data.catalogue import DataError
from trainables.evaluation.deployment import DeploymentError, read
from trainables.final import data_identity
from trainables.final.recipe import TrainError, lengthened, read_recipe, to_full_length
from trainables.models import MODELS, ModelError, build, check_on, identity
from trainables.pipeline.storage import StoreFull
from trainables.plan.model import Plan
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
    # what goes on must be asked for the same again
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
    from analysis.console import Console, styled
    from trainables.final.leaves import stages_of

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
    recipe["data"] = _data_of(options, recipe, root)
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
        return _compare(console, recipe, _as_searched(console, options, recipe, plan, root, numbers))
    return _train(console, options, recipe, plan, root, numbers)


def _data_of(options: argparse.Namespace, recipe: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """The recipe's data with their identity; of a training that is taken up again they must be those it began with."""
    from trainables.final.training import Folder

    if options.resume:
        own, folder = recipe["data"], Folder(options.out)
        folder.noted()  # before the data are read
        return folder.check_data(data_identity.identity(own["name"], root, own["imbalance"]))
    return data_identity.checked(options.recipe, recipe, root, new_data=options.new_data, repeats=options.as_searched)


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
        raise TrainError("--as-searched keeps nothing that --resume could go on with; leave one of them out")


def _load(recipe: Mapping[str, Any], root: str | None, seed: int, fold_val: bool) -> Any:
    from trainables.data import load

    own = recipe["data"]
    return load(own["name"], root=root, imbalance=own["imbalance"], split_seed=seed, fold_val=fold_val)


def _threads(options: argparse.Namespace) -> None:
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(options.threads)


def _train(
    console: Any, options: argparse.Namespace, recipe: dict[str, Any], plan: Plan, root: str | None, seeds: list[int]
) -> int:
    """Trains every seed, and leaves what is to be left; 130 where it was stopped."""
    import torch

    from analysis.console import styled
    from trainables.final import leaves, served, tracking
    from trainables.final.network import RECIPE
    from trainables.final.training import Every, Folder, Stop, Stopped, device_name, pipeline_of, train

    def tell(line: str) -> None:
        console.print(styled(sentence(line)), soft_wrap=True)

    _threads(options)
    how = leaves.How(device_name(), options.precision or "fp32", options.accumulate, options.workers)
    every = Every(60 * options.save_minutes, options.save_epochs)
    # what cannot be loaded must not leave a folder
    fingerprints = [_load(recipe, root, seed, True).fingerprint for seed in seeds[1:]]
    data = _load(recipe, root, seeds[0], True)
    fingerprints = [data.fingerprint, *fingerprints]
    cut = data_identity.left_out(recipe["data"], root, len(data.train_labels))
    if cut:
        recipe["data"]["left_out"] = cut
        tell(
            f"data: {cut} training images are left out by the imbalance of {recipe['data']['imbalance']:g} that the "
            "search asked for; --new-data trains on all"
        )
    deployment = read(options.prior, options.cost, data.class_names)
    shape = tuple(map(int, data.train_images.shape[1:]))
    check_on(recipe["model"], classes=data.classes, shape=shape)
    if options.program and recipe["model"] not in MODELS:
        network = build(recipe["model"], classes=data.classes, channels=shape[0], generator=torch.Generator())
        try:
            served.rehearse(network, shape)
        except served.NotExported as error:
            raise TrainError(
                f"{recipe['model']}: {error}; mend that, or leave the program out with --no-program"
            ) from error
    settings: dict[str, Any] = {
        "recipe": recipe["recipe"], "plan": plan.to_dict(), "model": identity(recipe["model"]),
        "data": recipe["data"], "seeds": seeds, "fingerprints": fingerprints, **asdict(how),
        # last: what is none of the above is the code, a library or a network's file
        "code": pipeline_of(recipe, plan, seeds[0], data, how, None, every).keys[-1][-1],
    }  # fmt: skip
    folder = Folder(options.out)
    if options.resume:
        settings = folder.go_on(settings)
    else:
        folder.start(settings)
    run = tracking.Run(
        options.tracking_uri,
        recipe["data"]["name"],
        f"final {recipe['title']}"[:200],
        {"level": "final", "recipe": recipe["recipe"], "source_search": str(recipe["provenance"].get("search", ""))},
        _params(recipe, plan, seeds, how, data),
        settings.get("run"),
    )
    if run.run_id is not None:
        folder.note({**settings, "run": run.run_id})
    finished = []
    status = "FAILED"
    try:
        with Stop(tell) as stop, _bars(console) as progress:
            for number, seed in enumerate(seeds):
                data = data if number == 0 else _load(recipe, root, seed, True)
                if data.fingerprint != fingerprints[number]:
                    raise TrainError(
                        "the data have changed while they were trained on; take the old data again, then go on with: "
                        + options.again
                    )
                bar = progress.add_task(f"seed {number + 1}/{len(seeds)}", total=1.0)
                show = _shower(progress, bar, f"seed {number + 1}/{len(seeds)}", run, seed, plan)
                if how.workers == 1:
                    pipeline = pipeline_of(recipe, plan, seed, data, how, folder.store, every)
                    finished.append(train(pipeline, seed, every, lambda: stop.asked, show))
                else:
                    from trainables.final.workers import train_together

                    finished.append(
                        train_together(
                            recipe, plan, seed, data, root, how, folder, every, lambda: stop.asked, show,
                            options.threads, options.address,
                        )
                    )  # fmt: skip
                progress.remove_task(bar)
        measured, missing = leaves.keep(recipe, plan, finished, how, options.out, deployment, options.program)
        programs = [] if missing else [served.PROGRAM, served.SERVED]
        left = [*programs, RECIPE, leaves.TABLE, leaves.MEASURED, leaves.CARD]
        run.metrics(_summary(measured))
        run.files(options.out, [name for name in left if name != served.PROGRAM])  # the MLflow model holds it
        status = "FINISHED"
    except (Stopped, KeyboardInterrupt):
        status = "KILLED"
        console.print(styled(f"stopped; continue with: {options.again}"), soft_wrap=True)
        return 130
    finally:
        run.close(status)
    folder.clear()
    for one in measured:
        accuracy = 100 * one["metrics"]["test/accuracy"]
        part = leaves.part_of_classes(data, sentence)
        over = f"{accuracy:.1f} %{f' {part}' if part else ''}"
        said = f"  seed {one['seed']}: accuracy on test {over}, {one['seconds']:.1f} s, "
        console.print(styled(said + sentence(options.out / one["file"])), soft_wrap=True)
    console.print(styled(sentence(f"written to {options.out}: weights, {', '.join(left)}")), soft_wrap=True)
    if options.program and missing:
        console.print(styled(sentence(f"there is no {served.PROGRAM}: {missing}")), soft_wrap=True)
    return 0


def _bars(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*shown, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)


def _shower(progress: Any, bar: Any, title: str, run: Any, seed: int, plan: Plan) -> Any:
    def show(done: float, stage: str, epoch: int, loss: float) -> None:
        spoken = f"{title}  {sentence(stage)} epoch {epoch}" + (f"  loss {loss:.3f}" if math.isfinite(loss) else "")
        progress.update(bar, completed=done, description=spoken)
        if math.isfinite(loss):
            run.metrics({f"seed{seed}/train_loss": loss}, round(done * plan.epochs))

    return show


def _params(recipe: Mapping[str, Any], plan: Plan, seeds: Sequence[int], how: Any, data: Any) -> dict[str, Any]:
    """What is shown of the run in MLflow."""
    from trainables.final.leaves import named

    params: dict[str, Any] = {
        "data": recipe["data"]["name"], "imbalance": data.imbalance, "model": named(recipe["model"]),
        "seeds": ", ".join(map(str, seeds)), "epochs": plan.epochs, **asdict(how),
    }  # fmt: skip
    for stage in plan.stages:
        tricks = ", ".join(trick.name for trick in stage.tricks) or "plain"
        params |= {f"{stage.name}/tricks": tricks, f"{stage.name}/epochs": stage.epochs, f"{stage.name}/lr": stage.lr}
    return params


def _summary(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over seeds, and every seed's own."""
    keys = [key for key in measured[0]["metrics"] if all(math.isfinite(run["metrics"][key]) for run in measured)]
    means = {key: sum(run["metrics"][key] for run in measured) / len(measured) for key in keys}
    return means | {f"seed{run['seed']}/{key}": run["metrics"][key] for run in measured for key in keys}


def _as_searched(
    console: Any, options: argparse.Namespace, recipe: Mapping[str, Any], plan: Plan, root: str | None, seeds: list[int]
) -> list[Any]:
    """Trains every seed as the search did; nothing is kept."""
    from trainables.final import leaves
    from trainables.final.training import Every, device_name, pipeline_of, train
    from trainables.training.numerics import Numerics

    _threads(options)
    numerics = Numerics.of(recipe["numerics"])
    finished = []
    with _bars(console) as progress:
        for number, seed in enumerate(seeds):
            bar = progress.add_task(f"seed {number + 1}/{len(seeds)}", total=1.0)
            data, how = _load(recipe, root, seed, False), leaves.How(device_name(), numerics.precision)
            pipeline = pipeline_of(recipe, plan, seed, data, how, None, Every(), evaluate=True, numerics=numerics)
            finished.append(
                train(
                    pipeline, seed, Every(), lambda: False,
                    lambda done, *more, bar=bar: progress.update(bar, completed=done),
                )
            )  # fmt: skip
            progress.remove_task(bar)
    return finished


def _compare(console: Any, recipe: Mapping[str, Any], finished: Sequence[Any]) -> int:
    """Whether the mean of fresh runs falls in the search's prediction interval."""
    from scipy import stats

    values = [one.pipeline.result()[0]["final/accuracy"] for one in finished]
    earlier = recipe["measured"]["values"]
    mean = sum(values) / len(values)
    for one, value in zip(finished, values, strict=True):
        console.print(f"  seed {one.seed}: accuracy on val {100 * value:.1f} %, {one.seconds:.1f} s", highlight=False)
    if len(earlier) < 2:
        console.print("The search has one run of this recipe: it predicts nothing. Export one that raced.")
        return 1
    before = sum(earlier) / len(earlier)
    spread = math.sqrt(sum((value - before) ** 2 for value in earlier) / (len(earlier) - 1))
    half = float(stats.t.ppf(0.975, len(earlier) - 1)) * spread * math.sqrt(1 / len(earlier) + 1 / len(values))
    inside = before - half <= mean <= before + half
    low, high = max(0.0, before - half), min(1.0, before + half)
    console.print(
        f"mean of {len(values)} fresh seeds {100 * mean:.1f} %; predicted from the search's {len(earlier)} seeds: "
        f"{100 * low:.1f} to {100 * high:.1f} % (95 %): {'inside' if inside else 'OUTSIDE'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0 if inside else 1


if __name__ == "__main__":
    sys.exit(main())
