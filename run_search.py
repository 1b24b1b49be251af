"""The command: `python run_search.py --space spaces/full_combo.py`.

Searches combinations of long-tail tricks and says which recipe is best, which tricks conflict, and how sure
that is. Everything lies in `results/<search>/` and in MLflow afterwards.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    it = argparse.ArgumentParser(
        prog="run_search.py",
        description="Search combinations of long-tail tricks: the best recipe, and which tricks conflict.",
        epilog="Every option that is left out has the value of the data set's standard recipe, or the one in brackets.",
    )
    what = it.add_argument_group("what to search")
    what.add_argument("--space", type=Path, metavar="FILE", help="a space file, e.g. spaces/full_combo.py")
    what.add_argument("--data", metavar="NAME", help="the data set [the space's own, or digits-lt]")
    what.add_argument("--data-root", metavar="DIR", help="its folder, where it is not bundled")
    what.add_argument("--feed", metavar="NAME", help="resident, streamed, or by size [auto]")
    what.add_argument("--imbalance", type=float, metavar="X", help="images of the largest class over the smallest")
    what.add_argument("--val", metavar="KIND", help="balanced, or realistic: with the training images' proportions")
    what.add_argument("--prior", metavar="FILE", help="weights of the classes in use, uniform or train: prior_accuracy")
    what.add_argument("--cost", metavar="FILE", help="matrix of what each mistake costs: expected_cost")
    what.add_argument("--model", metavar="NAME", help="the network, NAME[?pretrained=FILE] or module:function")
    what.add_argument("--objective", metavar="NAME", help="accuracy, harmonic_mean (worst classes) or both [accuracy]")
    what.add_argument("--tricks", action="append", metavar="DIR", help="a folder of further tricks (again for more)")

    much = it.add_argument_group("how much")
    much.add_argument("--trials", type=_count, metavar="N", help="trials of the adaptive arm [40]; +N on --resume")
    much.add_argument("--seeds", type=_count, metavar="N", help="seed blocks of the design arm [5]; +N on --resume")
    much.add_argument("--design", metavar="KIND", help="pairs, factorial or list:FILE [by what the space screens]")
    much.add_argument("--primary", metavar="A×B,C×D", help="pairs declared beforehand, also 'a x b' [none]")
    much.add_argument("--children-per-start", type=int, metavar="N", help="later stages tried per first stage [6]")
    much.add_argument("--no-race", action="store_true", help="do not race the best recipes on fresh seeds")
    much.add_argument("--no-start-points", action="store_true", help="do not train and race published recipes")
    much.add_argument("--tune-baseline", action="store_true", help="find the baseline's learning rate, decay first")
    much.add_argument("--check-seeds", type=int, metavar="N", help="blocks of checks and around the winner [3]")
    much.add_argument("--no-checks", action="store_true", help="the same as --check-seeds 0")
    much.add_argument("--check-full-length", action="store_true", help="the winner's pairs at the final length, too")
    much.add_argument("--time-budget", type=float, metavar="SECONDS", help="end gracefully after so long, in all runs")
    much.add_argument("--gpu-hours", type=float, metavar="X", help="end gracefully after so many (of shares of GPUs)")
    much.add_argument("--epochs-scale", type=float, metavar="X", help="multiplies every stage's epochs [1]")
    much.add_argument("--seed", type=int, metavar="N", help="base of all seeds [0]")

    stop = it.add_argument_group("early stopping (adaptive arm)")
    stop.add_argument("--rungs", metavar="X,Y", help="fractions of a plan at which trials are judged [0.25]")
    stop.add_argument("--reduction-factor", type=float, metavar="η", help="the best 1/η of a cohort go on [4]")
    stop.add_argument("--rung-score", metavar="NAME", help="accuracy, adjusted, class_means or shortened [shortened]")
    stop.add_argument("--explain", action="store_true", help="say why a trial is stopped, as it happens")

    where = it.add_argument_group("where it runs")
    where.add_argument("--cpus-per-trial", type=float, metavar="X", help="[1]")
    where.add_argument("--gpus-per-trial", metavar="X", help="may be a fraction, e.g. 0.25; auto measures [0]")
    where.add_argument("--max-concurrent", type=int, metavar="N", help="trials at a time [as many as fit]")
    where.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster [a local one is started]")

    where.add_argument("--precision", metavar="NAME", help="fp32, or bf16: faster on large images [fp32]")
    where.add_argument("--channels-last", metavar="NAME", help="memory format: on, off, or where it is faster [auto]")
    where.add_argument("--fused-members", metavar="NAME", help="members trained together: on, off or auto [off]")
    where.add_argument("--fused-trials", metavar="NAME", help="seeds of a recipe likewise: on, off or auto [off]")
    where.add_argument("--graph", metavar="NAME", help="on: each step replayed as a CUDA graph [off]")

    keep = it.add_argument_group("what is kept")
    keep.add_argument("--name", metavar="NAME", help="of the search [the space's name and the time]")
    keep.add_argument("--output", metavar="DIR", help="folder of results [results]")
    keep.add_argument("--store", metavar="DIR", help="folder of finished stages [OUTPUT/stages]")
    keep.add_argument("--store-limit", type=_bytes, metavar="SIZE", help="bound of the store, e.g. 20GB [none]")
    keep.add_argument("--no-reuse", action="store_true", help="train every stage of every trial")
    keep.add_argument("--tracking-uri", metavar="URI", help="MLflow store [mlflow.db in this directory]")
    keep.add_argument("--resume", metavar="NAME", help="go on with a search that was interrupted, or add to it")
    keep.add_argument("--settle", action="store_true", help="with --resume: further seeds for unresolved primary pairs")
    keep.add_argument(
        "--settle-budget", type=int, metavar="SEEDS", help="at most so many further seeds, over all pairs [20]"
    )

    it.add_argument("--dry-run", action="store_true", help="show the space, what would run and how long; run nothing")
    it.add_argument("--measure", action="store_true", help="with --dry-run: train for seconds to say how long")
    return it


def _count(text: str) -> int:
    from search.settings import More

    try:
        return More(text) if text.startswith("+") else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None


def _bytes(text: str) -> int:
    from search.settings import byte_count

    return byte_count(text)


GIVEN = (
    "data", "data_root", "imbalance", "prior", "cost", "model", "tricks", "trials", "seeds", "design",
    "children_per_start", "time_budget", "epochs_scale", "seed", "objective", "reduction_factor", "rung_score",
    "cpus_per_trial", "gpus_per_trial", "max_concurrent", "address", "store", "store_limit", "tracking_uri",
    "check_seeds", "gpu_hours", "feed", "precision", "channels_last", "fused_members", "graph", "fused_trials",
)  # fmt: skip
"""Options that are settings of the same name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 done, 1 nothing finished or ended early, 2 cannot be started as asked, 130 interrupted."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    from analysis.text import printable

    console = Console()
    try:
        if options.dry_run:
            from search.dry_run import dry_run

            dry_run(lambda: _search(options, console), console, options.measure)
            return 0
        search = _search(options, console)
        search.explain = options.explain
        result = search.run()
    except ValueError as error:
        if not type(error).__module__.startswith(("search", "spaces", "trainables", "analysis")):
            raise
        print(f"run_search.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_search.py: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from search.run import cannot_write

        why = cannot_write(error)
        if not why:
            raise
        print(f"run_search.py: error: {printable(why)}", file=sys.stderr)
        return 1
    if not result.complete and search.interrupted:
        return 130
    return 1 if search.failed or result.best is None else 0


def _search(options: argparse.Namespace, console: Any) -> Any:
    from search.run import Search
    from search.settings import Settings, SettingsError, gpus, judged
    from search.space_file import load_space

    given = {name: getattr(options, name) for name in GIVEN if getattr(options, name) is not None}
    if options.no_reuse:
        given["reuse"] = False
    if options.no_race:
        given["race"] = False
    if options.no_start_points:
        given["start_points"] = False
    if options.tune_baseline:
        given["tune_baseline"] = True
    if options.check_full_length:
        given["check_full_length"] = True
    if options.no_checks:
        given["check_seeds"] = 0
    if options.rungs is not None:
        try:
            given["rungs"] = tuple(float(part) for part in options.rungs.split(","))
        except ValueError:
            raise SettingsError(f"--rungs must be fractions like 0.5,0.75, got {options.rungs!r}") from None
    if options.primary is not None:
        from search.design import pair_of

        given["primary"] = tuple("×".join(pair_of(text)) for text in options.primary.split(","))
    if "gpus_per_trial" in given:
        given |= gpus(given["gpus_per_trial"])
    if "tricks" in given:
        given["tricks"] = tuple(given["tricks"])
    output = options.output or "results"

    if options.resume is not None:
        if options.val is not None:
            raise SettingsError(f"--val {options.val}: a resumed search keeps its val; leave --val out")
        if options.name not in (None, options.resume):
            raise SettingsError(f"--name {options.name}: a resumed search keeps its name; leave --name out")
        settings = Settings.stored(output, options.resume).changed({"time_budget": None, **given})
        file = options.space or settings.folder / "space.py"
        return Search(load_space(file), settings, file, console, resume=True, settle=_settle(options, settings))

    if options.settle or options.settle_budget is not None:
        raise SettingsError("--settle goes on with a search that is there: give its name with --resume")
    if options.space is None:
        raise SettingsError("--space FILE is needed, e.g. --space spaces/full_combo.py (or --resume NAME)")
    space = load_space(options.space)
    name = options.name or f"{options.space.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    data = given.pop("data", None) or space.data or "digits-lt"
    if options.val is not None:
        data = judged(data, options.val)
    settings = Settings(name=name, space=str(options.space), data=data, output=output, **given)
    return Search(space, settings, options.space, console)


def _settle(options: argparse.Namespace, settings: Any) -> int | None:
    """Further blocks that a pair may get; `None` where the search goes on as planned."""
    from search.settings import SettingsError

    if not options.settle:
        if options.settle_budget is not None:
            raise SettingsError("--settle-budget bounds --settle: give that as well")
        return None
    if options.trials is not None or options.seeds is not None:
        raise SettingsError(
            "--settle runs further blocks of primary pairs and nothing else: leave --trials, --seeds out"
        )
    if not settings.primary:
        raise SettingsError(
            f"--resume {settings.name} --settle: no primary pairs were declared, and choosing them after looking would "
            "void their error rate; declare them when a search starts: --primary a×b"
        )
    budget = 20 if options.settle_budget is None else options.settle_budget
    if budget < 1:
        raise SettingsError(f"--settle-budget must be at least 1, got {budget}")
    return int(budget)


if __name__ == "__main__":
    sys.exit(main())
