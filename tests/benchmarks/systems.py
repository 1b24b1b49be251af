"""The survey's systems on an eighth of CIFAR-10-LT, each beside its own baselines, paired by seed block.

A small network (resnet8 of half the width), 20 epochs in batches of 64 where the papers have 200 and 400, and
625 … 6 training images a class (imbalance 100); val is 200 test images a class. Each recipe is that of
`spaces.recipes`, shortened as a whole. Its baselines have its learning rate, schedule, weight decay and augmentation,
and as many passes of every image through the network (twice the epochs beside methods of two views):

* `cross-entropy`: one plain classifier;
* `balanced softmax`: the same with the balanced softmax, which is most of what some published tables show;
* `LDAM-DRW`, for RSG: its recipe without the generated samples.

A block draws its own images and its own initial weights, the same for all recipes. Intervals are Student's over the
blocks, 95 %, each for its own line. What is measured is kept in `--folder`; the same command again continues.

    OMP_NUM_THREADS=1 LONGTAIL_SHARED=DIR python tests/benchmarks/systems.py --out docs/systems.md
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from tricks_alone import Results, gain, interval, trial_key

from spaces.recipes import Published, published_systems
from trainables.data import LongTailed, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan, StagePlan, TrickPlan, build, check, defaults
from trainables.registry import make, numbers_of
from trainables.training.seeding import generator

ROOT = Path(__file__).resolve().parents[2]
MODEL, EPOCHS, BATCH = "resnet8?width=8", 20, 64
STANDARD = replace(standard("cifar10-lt"), epochs=EPOCHS, lr=0.05, batch_size=BATCH, eval_every=EPOCHS, model=MODEL)
SHARE, VAL = 1 / 8, 200
FIRST_SEED = 30_000
"""Of the blocks."""


@functools.lru_cache(maxsize=1)
def pack() -> Mapping[str, Any]:
    """CIFAR-10-LT as it was published, imbalance 100."""
    folder = Path(os.environ.get("LONGTAIL_SHARED", ROOT.parent / "shared")) / "data"
    if not (folder / "unpack.py").is_file():
        sys.exit(f"systems: CIFAR-10-LT is not in {folder}; set LONGTAIL_SHARED")
    found: Mapping[str, Any] = runpy.run_path(str(folder / "unpack.py"))["load"](folder / "cifar10_lt_if100.npz")
    return found


def data(seed: int) -> LongTailed:
    """The images of a block."""
    draws = generator(seed, "systems")

    def some(split: str, share: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.from_numpy(pack()[f"y_{split}"]).long()
        rows = []
        for label in range(10):
            own = (labels == label).nonzero()[:, 0]
            kept = VAL if share is None else int(share * len(own))
            rows.append(own[torch.randperm(len(own), generator=draws)[:kept]])
        chosen = torch.cat(rows)
        return torch.from_numpy(pack()[f"x_{split}"]).permute(0, 3, 1, 2)[chosen].contiguous(), labels[chosen]

    train, val = some("train", SHARE), some("test", None)
    return LongTailed(
        "cifar10-lt/8", 10, tuple(map(str, pack()["classes"])), 100.0, seed, *train, *val, *val,
        torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010]), 4, True,
    )  # fmt: skip


def plan_of(one: Published, without: Sequence[str] = ()) -> Plan:
    return build(one.space, defaults([label for label in one.labels if label not in without]), STANDARD).plan


def baseline(plan: Plan, *names: str) -> Plan:
    """A plan with its augmentation of one view alone, other tricks instead, and as many passes of each image."""
    views = max((getattr(one.made(), "makes_views", 1) for one in plan.stages[0].tricks), default=1)

    def stage(number: int, of: StagePlan) -> StagePlan:
        kept = [one for one in of.on("augment") if one.numbers.get("view") in (None, 0)]
        other = [TrickPlan(name, numbers_of(make(name)), kept=number > 0) for name in names]
        return replace(of, epochs=views * of.epochs, eval_every=views * of.eval_every, tricks=(*kept, *other))

    made = Plan(tuple(stage(number, of) for number, of in enumerate(plan.stages)))
    check(made)
    return made


def rows() -> list[tuple[str, dict[str, Plan]]]:
    """Every system with its baselines: name to plan, the system first."""
    found = []
    for one in published_systems(STANDARD.lr):
        plan = plan_of(one)
        plans = {one.title: plan, "cross-entropy": baseline(plan)}
        plans["balanced softmax"] = baseline(plan, "balanced_softmax")
        if one.name == "rsg":
            plans["LDAM-DRW"] = plan_of(one, without=["rsg/rsg"])
        found.append((one.title, plans))
    return found


def trial(task: tuple[Plan, int, str]) -> dict[str, float]:
    """Accuracy on val of a plan in one seed block, and the images that it was trained on."""
    plan, seed, store = task
    torch.set_num_threads(1)
    trained = Pipeline(plan, data(seed), MODEL, seed, torch.device("cpu"), store=StageStore(store))
    trained.run()
    return {"accuracy": trained.result()[0]["final/accuracy"], "images": trained.cost.images}


def measure(plans: Sequence[Plan], seeds: Sequence[int], processes: int, results: Results) -> None:
    """Measures what is missing, block by block."""
    missing = [(plan, seed) for seed in seeds for plan in plans if trial_key(plan, seed) not in results]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(trial, [(plan, seed, results.store) for plan, seed in missing])
        for (plan, seed), values in zip(missing, found, strict=True):
            results.add(trial_key(plan, seed), values)


def lines(table: Sequence[tuple[str, Mapping[str, Plan]]], seeds: Sequence[int], results: Results) -> Iterator[str]:
    """The table in Markdown, in percent and points."""
    yield "| system | accuracy on val, % | baseline | its accuracy | gain, points [95 %] |"
    yield "|---|---|---|---|---|"
    for title, plans in table:
        values = {name: 100 * results.of_trials(plan, seeds, "accuracy") for name, plan in plans.items()}
        own = values.pop(title)
        for name, other in values.items():
            yield (
                f"| {title} | {own.mean():.1f} ± {interval(own):.1f} | {name} | {other.mean():.1f} ± "
                f"{interval(other):.1f} | {gain(own - other)} |"
            )


HEAD = """\
# The survey's systems beside their own baselines

An eighth of CIFAR-10-LT (625 … 6 training images a class, imbalance 100), 32 × 32 pixels; resnet8 of half the width;
{epochs} epochs in batches of {batch}, where the papers have 200 and 400 epochs and resnet32; val is {val} test images a
class. {seeds} seed blocks, each with its own images. Gains are paired by block; intervals are Student's, 95 % each, and
bold where they exclude 0. **At this length and size a gain or a loss says little about a published number**: the table
shows the direction in which each system moves away from its own baseline, and where it loses.

Every baseline has the learning rate, schedule, weight decay and augmentation of the system beside it, and puts each
image through the network as often: twice the epochs beside GPaCo and PaCo. *LDAM-DRW* is RSG's own recipe without the
generated samples.
"""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seed blocks, at least 2 (default: 5)")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument(
        "--folder", type=Path, default=Path("results/systems"), help="where measurements and stages are kept"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    table, results = rows(), Results(options.folder)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    plans = {plan.id: plan for _, of in table for plan in of.values()}
    measure(list(plans.values()), seeds, options.processes, results)
    text = list(lines(table, seeds, results))
    print("\n".join(text))
    if options.out is not None:
        more = "" if options.seeds == 5 else f" --seeds {options.seeds}"
        made = (
            f"Made by `LONGTAIL_SHARED=DIR python tests/benchmarks/systems.py --out {options.out}{more}`, where "
            f"`DIR/data` holds `unpack.py` and `cifar10_lt_if100.npz` (torch {torch.__version__}); the same command "
            "again continues what was interrupted."
        )
        head = HEAD.format(epochs=EPOCHS, batch=BATCH, val=VAL, seeds=options.seeds)
        options.out.write_text("\n".join([head, made, "", *text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
