"""Which score should decide at a rung, measured on recorded trials.

    python tests/benchmarks/rung_scores.py record --data digits-lt --out digits.jsonl
    python tests/benchmarks/rung_scores.py replay digits.jsonl [--out docs/rung_scores.md]

`record` trains random recipes of `spaces/full_combo.py` to their end, with every score on the way, and each of them
again as a whole plan shortened to every rung. `replay` searches these records again and again without training:
recipes in random order go through the stopping rule itself (`search.scheduler.Halving`), a few at a time, until
the budget of epochs is spent.

Kendall's τ_b is between the score at a rung and the final accuracy, over recipes. Regret is the best final accuracy
of all recorded recipes less that of the search's winner (its best trial that came to its end). All searches have the
same budget of epochs, members multiplied, nothing re-used.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from analysis.record import interval

ROOT = Path(__file__).parents[2]
SHARES = (0.25, 0.5, 0.75)
ON_THE_WAY = ("accuracy", "adjusted", "class_means")

# --- record -----------------------------------------------------------------------------------------------


def recipes(standard: Any, number: int, children: int) -> list[Any]:
    """Random plans of the space, as the sampler proposes them before it knows anything."""
    from search.preview import _at_random
    from search.sampler import siblings
    from search.space_file import load_space
    from trainables.plan import build
    from trainables.registry import PlanError

    space, draws = load_space(ROOT / "spaces" / "full_combo.py"), random.Random(1)
    plans: list[Any] = []
    starts: list[dict[str, Any]] = []
    while len(plans) < number:
        if len(plans) % children == 0:
            starts = []
        try:
            recipe = build(space, _at_random(draws, starts[len(plans) % len(starts)] if starts else {}), standard)
        except PlanError:
            continue
        starts = starts or siblings(space, standard, 1.0, recipe)
        plans.append(recipe.plan)
    return plans


def cifar(split_seed: int) -> Any:
    """A fifth of CIFAR-10-LT at 16×16: 1000 … 10 images, imbalance 100; val is 100 test images per class."""
    import torch

    from trainables.data import LongTailed
    from trainables.seeding import generator

    folder = Path(os.environ.get("LONGTAIL_SHARED", ROOT.parent / "shared")) / "data"
    if not (folder / "unpack.py").is_file():
        sys.exit(f"rung_scores: CIFAR-10-LT is not in {folder}; set LONGTAIL_SHARED")
    code: dict[str, Any] = {"__file__": str(folder / "unpack.py"), "__name__": "unpack"}
    exec(compile((folder / "unpack.py").read_text(), "unpack.py", "exec"), code)
    pack = code["load"](folder / "cifar10_lt_if100.npz")
    draws = generator(split_seed, "rung scores")

    def some(split: str, share: float | None, each: int = 0) -> tuple[Any, Any]:
        labels = torch.from_numpy(pack[f"y_{split}"]).long()
        rows = []
        for label in range(10):
            own = (labels == label).nonzero()[:, 0]
            kept = each if share is None else round(share * len(own))
            rows.append(own[torch.randperm(len(own), generator=draws)[:kept]])
        chosen = torch.cat(rows)
        images = torch.from_numpy(pack[f"x_{split}"]).permute(0, 3, 1, 2)[chosen].float()
        return torch.nn.functional.avg_pool2d(images, 2).round().byte(), labels[chosen]

    train, val = some("train", 0.2), some("test", None, 100)
    return LongTailed(
        "cifar10-lt/5", 10, tuple(map(str, pack["classes"])), 100.0, split_seed, *train, *val, *val,
        torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010]), 2, True,
    )  # fmt: skip


def record(options: argparse.Namespace) -> None:
    """Trains what is not in the file yet; a line is a recipe."""
    import torch

    from trainables.data import load, standard
    from trainables.pipeline import Diverged, Pipeline
    from trainables.plan import Plan
    from trainables.stage_store import StageStore

    torch.set_num_threads(1)
    if options.data == "digits-lt":
        data = [load("digits-lt", split_seed=seed) for seed in range(1 + options.fresh)]
        rules = dataclasses.replace(standard("digits-lt"), eval_every=1)
    else:
        data = [cifar(seed) for seed in range(1 + options.fresh)]
        rules = dataclasses.replace(standard("cifar10-lt"), epochs=options.epochs, eval_every=3, batch_size=64)
    store = None if options.store is None else StageStore(options.store)
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []

    def trained(plan: Plan, seed: int = 0) -> tuple[Any, bool]:
        pipeline = Pipeline(plan, data[seed], "resnet8", seed, torch.device("cpu"), store)
        try:
            pipeline.run()
        except Diverged:
            return pipeline, False
        return pipeline, True

    for number, plan in enumerate(recipes(rules, options.recipes, options.children)):
        if any(line["number"] == number for line in known):
            continue
        began = time.perf_counter()
        full, done = trained(plan)
        line: dict[str, Any] = {
            "number": number,
            "kinds": " > ".join(stage.name for stage in plan.stages),
            "cost": plan.cost,
            "final": round(full.result()[0]["final/accuracy"], 5) if done else None,
            "fresh": [],
            "points": [],
            "shortened": {},
        }
        for seed in range(1, 1 + options.fresh):
            again, well = trained(plan, seed)
            line["fresh"].append(round(again.result()[0]["final/accuracy"], 5) if well else None)
        for point in full.points:
            scores = {name: round(point.metrics[name], 5) for name in ON_THE_WAY}
            where = {"stage": point.stage, "epoch": point.epoch, "progress": round(point.progress, 5)}
            line["points"].append(where | {"cost": cost_at(plan, point.epoch), "metrics": scores})
        for share in SHARES:
            short, done = trained(plan.shortened(share))
            value = round(short.result()[0]["final/accuracy"], 5) if done else None
            line["shortened"][str(share)] = {"cost": plan.shortened(share).cost, "score": value}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{number}: {line['final']} in {time.perf_counter() - began:.0f} s", flush=True)


def cost_at(plan: Any, epoch: int) -> float:
    """Epochs trained, members multiplied, when so many epochs of the plan are behind."""
    cost, before = 0.0, 0
    for stage in plan.stages:
        cost += stage.members * min(max(epoch - before, 0), stage.epochs)
        before += stage.epochs
    return cost


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    command = what.add_parser("record")
    command.add_argument("--data", choices=("digits-lt", "cifar10-lt"), default="digits-lt")
    command.add_argument("--recipes", type=int, default=100)
    command.add_argument("--children", type=int, default=1, help="recipes that share what comes before the last stage")
    command.add_argument("--fresh", type=int, default=2, help="further seed blocks at full length")
    command.add_argument("--epochs", type=int, default=12, help="of the standard schedule, CIFAR only")
    command.add_argument("--store", help="folder of finished stages, to train shared ones once")
    command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    record(options)
