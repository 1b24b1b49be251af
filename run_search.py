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

from analysis.text import echo, lenient_output, sentence


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    it = argparse.ArgumentParser(
        prog="run_search.py",
        description="Search combinations of long-tail tricks for the best recipe, and report which tricks conflict.",
        epilog="Where no default is given, an option that is left out takes the value of the data set's standard "
        "recipe.",
    )
    what = it.add_argument_group("what to search")
    what.add_argument("--space", type=Path, metavar="FILE", help="space file, e.g. spaces/full_combo.py")
    what.add_argument("--data", metavar="NAME", help="data set (default: the space's own, otherwise digits-lt)")
    what.add_argument("--data-root", metavar="DIR", help="folder that holds the data, if they are not bundled")
    what.add_argument(
        "--feed", metavar="NAME",
        help="how images reach training: resident, streamed, or auto, which decides by their size (default: auto)",
    )  # fmt: skip
    what.add_argument(
        "--imbalance", metavar="X", type=float,
        help="size of the largest class divided by that of the smallest (default: the data set's standard value)",
    )  # fmt: skip
    what.add_argument(
        "--val", metavar="KIND",
        help="validation split: balanced, or realistic, with the class proportions of training (default: balanced)",
    )  # fmt: skip
    what.add_argument(
        "--prior", metavar="FILE",
        help="class prior in deployment: uniform, train, or a CSV file; reports prior_accuracy (default: none)",
    )  # fmt: skip
    what.add_argument(
        "--cost", metavar="FILE", help="CSV matrix of what each mistake costs; reports expected_cost (default: none)"
    )
    what.add_argument(
        "--model", metavar="NAME",
        help="network: NAME[?pretrained=FILE] or module:function (default: the space's own, otherwise the data set's)",
    )  # fmt: skip
    what.add_argument(
        "--objective", metavar="NAME",
        help="what is maximised: accuracy, harmonic_mean, which favours the worst classes, or both (default: accuracy)",
    )  # fmt: skip
    what.add_argument(
        "--tricks", metavar="DIR", action="append",
        help="folder with your own tricks; repeat the option for several folders (default: none)",
    )  # fmt: skip

    much = it.add_argument_group("how much")
    much.add_argument(
        "--trials", metavar="N", type=_count,
        help="trials of the adaptive arm; with --resume, +N adds N more (default: 40)",
    )  # fmt: skip
    much.add_argument(
        "--seeds", metavar="N", type=_count,
        help="seed blocks of the design arm; with --resume, +N adds N more (default: 5)",
    )  # fmt: skip
    much.add_argument(
        "--design", metavar="KIND",
        help="pairs, factorial, which is exploratory, or list:FILE (default: pairs)",
    )  # fmt: skip
    much.add_argument(
        "--primary", metavar="A×B,C×D", help="pairs to declare before the search; 'a x b' works too (default: none)"
    )
    much.add_argument(
        "--children-per-start", metavar="N", type=int,
        help="variants of the later stages to try for each first stage (default: 6)",
    )  # fmt: skip
    much.add_argument("--no-race", action="store_true", help="do not race the best recipes on fresh seeds")
    much.add_argument("--no-start-points", action="store_true", help="do not train and race the published recipes")
    much.add_argument(
        "--tune-baseline", action="store_true", help="first tune the learning rate and weight decay of the baseline"
    )
    much.add_argument(
        "--check-seeds", metavar="N", type=int,
        help="seeds for the robustness checks and for the ablation of the best recipe (default: 3)",
    )  # fmt: skip
    much.add_argument("--no-checks", action="store_true", help="same as --check-seeds 0")
    much.add_argument(
        "--check-full-length", action="store_true",
        help="also check the pairs of the best recipe at the length of final training",
    )  # fmt: skip
    much.add_argument(
        "--time-budget", metavar="SECONDS", type=float,
        help="end gracefully after this time, summed over all runs of the search (default: no limit)",
    )  # fmt: skip
    much.add_argument(
        "--gpu-hours", metavar="X", type=float,
        help="end gracefully after this many GPU hours; half a GPU counts half (default: no limit)",
    )  # fmt: skip
    much.add_argument(
        "--epochs-scale", metavar="X", type=float, help="factor that multiplies the epochs of every stage (default: 1)"
    )
    much.add_argument("--seed", metavar="N", type=int, help="base of all random seeds (default: 0)")

    stop = it.add_argument_group("early stopping (adaptive arm)")
    stop.add_argument("--rungs", metavar="X,Y", help="fractions of a plan at which trials are judged (default: 0.25)")
    stop.add_argument(
        "--reduction-factor", metavar="η", type=float,
        help="the best 1/η of a cohort continue after a rung (default: 4)",
    )  # fmt: skip
    stop.add_argument(
        "--rung-score", metavar="NAME",
        help="score to compare at a rung: accuracy, adjusted, class_means or shortened (default: shortened)",
    )  # fmt: skip
    stop.add_argument("--explain", action="store_true", help="say why a trial is stopped, as it happens")

    where = it.add_argument_group("where it runs")
    where.add_argument("--cpus-per-trial", metavar="X", type=float, help="CPUs that each trial gets (default: 1)")
    where.add_argument(
        "--gpus-per-trial", metavar="X",
        help="GPUs that each trial gets: a number, a fraction such as 0.25, or auto, which measures it (default: 0)",
    )  # fmt: skip
    where.add_argument(
        "--max-concurrent", metavar="N", type=int,
        help="maximum number of trials that run at the same time (default: all that fit)",
    )  # fmt: skip
    where.add_argument(
        "--address", metavar="HOST:PORT", help="Ray cluster to join (default: start a local one for this search)"
    )
    where.add_argument("--precision", metavar="NAME", help="fp32, or bf16: faster on large images (default: fp32)")
    where.add_argument(
        "--channels-last", metavar="NAME",
        help="channels-last memory format: on, off, or auto, which uses it where it is faster (default: auto)",
    )  # fmt: skip
    where.add_argument(
        "--fused-members", metavar="NAME", help="train the members of a stage together: on, off or auto (default: off)"
    )
    where.add_argument(
        "--fused-trials", metavar="NAME", help="train the seeds of a recipe together: on, off or auto (default: off)"
    )
    where.add_argument(
        "--graph", metavar="NAME", help="on or off: replay each training step as a CUDA graph (default: off)"
    )

    keep = it.add_argument_group("what is kept")
    keep.add_argument("--name", metavar="NAME", help="name of the search (default: name of the space and the time)")
    keep.add_argument("--output", metavar="DIR", help="folder for the results (default: results)")
    keep.add_argument("--store", metavar="DIR", help="folder for finished stages (default: OUTPUT/stages)")
    keep.add_argument(
        "--store-limit", metavar="SIZE", type=_bytes, help="maximum size of that folder, e.g. 20GB (default: no limit)"
    )
    keep.add_argument("--no-reuse", action="store_true", help="train every stage of every trial, re-using none")
    keep.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store, or none (default: MLFLOW_TRACKING_URI, or mlflow.db in this directory)",
    )
    keep.add_argument("--resume", metavar="NAME", help="continue an interrupted search, or add to a finished one")
    keep.add_argument(
        "--accept-changes", action="store_true",
        help="with --resume: if data, space or code have changed, start NAME-2 on fresh seeds (default: refuse)",
    )  # fmt: skip
    keep.add_argument(
        "--settle", action="store_true", help="with --resume: run further seeds for unresolved primary pairs"
    )
    keep.add_argument(
        "--settle-budget", metavar="SEEDS", type=int,
        help="with --settle: maximum number of further seeds over all pairs (default: 20)",
    )  # fmt: skip

    it.add_argument(
        "--dry-run", action="store_true", help="show the space, what would run and how long it would take; run nothing"
    )
    it.add_argument(
        "--measure", action="store_true", help="with --dry-run: train for some seconds to estimate the duration"
    )
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
    lenient_output()
    options = parser().parse_args(arguments)
    try:
        from search.execution.interrupts import Interrupts

        with Interrupts():
            return _run(options)
    except ValueError as error:
        if not type(error).__module__.startswith(("search", "spaces", "trainables", "analysis")):
            raise
        echo(f"run_search.py: error: {sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        echo("run_search.py: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        from search.execution.disk import cannot_write

        why = cannot_write(error)
        if not why:
            raise
        echo(f"run_search.py: error: {sentence(why)}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    from analysis.console import Console

    console = Console()
    if options.dry_run:
        from search.dry_run import dry_run

        dry_run(lambda: _order(options), console, options.measure)
        return 0
    from search.run import launch

    result = launch(_order(options), console)
    if result.interrupted:
        return 130
    return 1 if result.failed or result.best is None else 0


def _order(options: argparse.Namespace) -> Any:
    from search.run import Launch
    from search.settings import Settings, SettingsError, gpus, judged
    from search.space_file import load_space
    from search.workspace import kept_space

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
        from search.design.labels import pair_of

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
        space, file = (load_space(options.space), options.space) if options.space else kept_space(settings)
        settle, accept = _settle(options, settings), options.accept_changes
        if settle is not None and accept:
            raise SettingsError(
                "--settle extends this search, --accept-changes starts a new one: give only one of them"
            )
        return Launch(space, settings, file, True, settle, accept, options.explain)

    if options.accept_changes:
        raise SettingsError("--accept-changes continues a search that exists: name it with --resume")
    if options.settle or options.settle_budget is not None:
        raise SettingsError("--settle adds to a search that exists: name it with --resume")
    if options.space is None:
        raise SettingsError("--space FILE is needed, e.g. --space spaces/full_combo.py (or --resume NAME)")
    space = load_space(options.space)
    name = options.name or f"{options.space.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    data = given.pop("data", None) or space.data or "digits-lt"
    if options.val is not None:
        data = judged(data, options.val)
    settings = Settings(name=name, space=str(options.space), data=data, output=output, **given)
    return Launch(space, settings, options.space, explain=options.explain)


def _settle(options: argparse.Namespace, settings: Any) -> int | None:
    """Further blocks that a pair may get; `None` where the search continues as planned."""
    from search.settings import SettingsError

    if not options.settle:
        if options.settle_budget is not None:
            raise SettingsError("--settle-budget limits --settle, which must be given as well")
        return None
    if options.trials is not None or options.seeds is not None:
        raise SettingsError(
            "--settle runs further blocks of primary pairs and nothing else: leave --trials and --seeds out"
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
