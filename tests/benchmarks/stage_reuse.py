"""What stage re-use saves, measured: `python tests/benchmarks/stage_reuse.py [--trials 100] [--only features]`.

1. The same list of recipes (full_combo on digits, as the sampler proposes them at random) trained with and without
   re-use, for 1 and for 6 children per start: epochs trained and wall time, one process.
2. 16 classifier stages of one start, with cached features and with the backbone in the loop: seconds per epoch.
3. What a hit and a miss of the store cost, in milliseconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from search.context import SearchContext
from search.scheduling.time_left.random_recipes import random_recipes
from search.settings import Settings
from search.workspace.space_file import load_space
from spaces.domain import Space, Stage, one_of, trick
from trainables.data import LongTailed, load, standard
from trainables.pipeline.pipeline import Diverged, Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan, build, defaults
from trainables.training.seeding import generator

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def run(plans: list[Plan], store: StageStore | None) -> tuple[int, float]:
    """Trains every plan with seed 0; epochs trained and seconds."""
    data = load("digits-lt", imbalance=50, split_seed=0)
    epochs, began = 0, time.perf_counter()
    for plan in plans:
        pipeline = Pipeline(plan, data, "resnet8", 0, CPU, store)
        with suppress(Diverged):  # a recipe that diverges costs what it costs
            pipeline.run()
        epochs += pipeline.cost.epochs_trained
    return epochs, time.perf_counter() - began


def lists(trials: int) -> None:
    """Part 1."""
    space = load_space(ROOT / "spaces" / "full_combo.py")
    print("\n| children per start | epochs, no re-use | epochs, re-use | ratio | s, no re-use | s, re-use | ratio |")
    print("|---|---|---|---|---|---|---|")
    for children in (1, 6):
        settings = Settings(
            name="x", space="full_combo", data="digits-lt", imbalance=50, epochs_scale=1 / 3,
            trials=trials, children_per_start=children,
        )  # fmt: skip
        drawn = random_recipes(SearchContext.make(space, settings).factory, trials, children)
        plans = [recipe.plan for recipe in drawn]
        with tempfile.TemporaryDirectory() as folder:
            plain, slow = run(plans, None)
            paid, quick = run(plans, StageStore(folder))
        print(
            f"| {children} | {plain} | {paid} | {plain / paid:.2f} | {slow:.1f} | {quick:.1f} | {slow / quick:.2f} |",
            flush=True,
        )


def classifiers() -> None:
    """Part 2."""
    space = Space(
        stages=[
            Stage("representation", epochs=4),
            Stage(
                "second", epochs=8, views=8, carry="weights", choose=[
                    one_of("classifier", "learnable_scale"),
                    one_of(None, "class_balanced"),
                    one_of(None, trick("label_over_smoothing", delta=0.98)),
                    one_of(None, "tau_norm"),
                ],
            ),
        ]
    )  # fmt: skip
    plans = []
    for number in range(16):
        bits = iter(f"{number:04b}")
        plans.append(build(space, lambda n, d, x, bits=bits: d.options[int(next(bits))], standard("digits-lt")).plan)
    quiet = [Plan(tuple(replace(stage, eval_every=100) for stage in plan.stages)) for plan in plans]
    loops = [Plan((plan.stages[0], replace(plan.stages[1], views=0))) for plan in quiet]
    print("\n| 16 second stages of one start, 8 epochs each | s in all |")
    print("|---|---|")
    spent = {}
    for name, chosen in (("backbone in the loop", loops), ("cached features of 8 views", quiet)):
        with tempfile.TemporaryDirectory() as folder:
            store = StageStore(folder)
            run([Plan(chosen[0].stages[:1])], store)
            _, seconds = run(chosen, store)
        spent[name] = seconds
        print(f"| {name} | {seconds:.2f} |", flush=True)
    whole = spent["backbone in the loop"] / spent["cached features of 8 views"]
    print(f"\n16 stages on digits with their evaluation: {whole:.1f} times faster")
    per_epoch("resnet8 on digits-lt", "resnet8", load("digits-lt", split_seed=0), loops[2], quiet[2])
    per_epoch("resnet32 on 32×32 images", "resnet32", noise(images=1280, size=32), loops[2], quiet[2])


def noise(images: int, size: int) -> LongTailed:
    """Random pixels: only their number and size matter to the clock."""
    digits = load("digits-lt", split_seed=0)
    draws = generator(0, "noise")
    pixels = torch.randint(256, (images, 3, size, size), generator=draws, dtype=torch.uint8)
    labels = torch.arange(images) % 10
    few = slice(0, 100)
    return replace(
        digits, train_images=pixels, train_labels=labels, val_images=pixels[few], val_labels=labels[few],
        test_images=pixels[few], test_labels=labels[few], mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25),
        pad=4, flip=True,
    )  # fmt: skip


def per_epoch(title: str, model: str, data: LongTailed, loop: Plan, cached: Plan) -> None:
    """Seconds of one epoch of the second stage, features computed before."""
    times = {}
    for name, plan in (("backbone in the loop", loop), ("cached features", cached)):
        short = Plan((replace(plan.stages[0], epochs=1, eval_every=100), replace(plan.stages[1], epochs=12)))
        pipeline = Pipeline(short, data, model, 0, CPU)
        pipeline.advance()
        pipeline.advance()  # the first epoch of the second stage computes the features
        assert pipeline.executor.training is not None
        taken = []
        for _ in range(3 if name.startswith("backbone") else 9):
            began = time.perf_counter()
            pipeline.executor.training.run.train_epoch()
            taken.append(time.perf_counter() - began)
        times[name] = min(taken)  # the least disturbed one
    slow, quick = times.values()
    print(
        f"{title}, one epoch: {1000 * slow:.1f} ms in the loop, {1000 * quick:.2f} ms cached: {slow / quick:.0f} times"
    )


def overhead() -> None:
    """Part 3."""
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(folder)
        plan = build(Space(stages=[Stage("only", epochs=1)]), defaults(), standard("digits-lt")).plan
        pipeline = Pipeline(plan, load("digits-lt", split_seed=0), "resnet8", 0, CPU, store)
        pipeline.run()
        key = pipeline.first_stage
        stored = store.get(key)
        assert stored is not None
        timed = {
            "miss (asked for, not there)": lambda: store.get("00" + key[2:]),
            "hit (read, checked, loaded)": lambda: store.get(key),
            "write (flushed to disk)": lambda: store.put(f"ff{time.perf_counter_ns()}", stored.tensors, stored.state),
        }
        print("\n| the store | ms, median of 20 |")
        print("|---|---|")
        for name, call in timed.items():
            times = []
            for _ in range(20):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            print(f"| {name} | {1000 * median(times):.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", choices=("store", "features", "lists"), help="one part of the three")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"store": overhead, "features": classifiers, "lists": lambda: lists(options.trials)}
    for name, part in parts.items():
        if options.only in (None, name):
            part()
