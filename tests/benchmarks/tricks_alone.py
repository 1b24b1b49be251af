"""Each trick alone on digits-lt, against a baseline of the same length, paired by seed block.

Every trick runs at its default numbers in the place where it belongs:

* tricks of an ordinary stage: the whole schedule; baseline `plain`;
* what its paper puts into a later stage, without a change of what learns: the last fifth of one chain (24 + 6
  epochs, `carry="all"`), whose baseline is `plain` too, because splitting a chain changes nothing;
* what changes what learns: a second stage of 6 epochs after 24 (`carry="weights"`); baseline `two stages`;
* what belongs to a stage that trains the classifier on: there, at a twentieth of the learning rate and without weight
  decay, as label over-smoothing has it; baseline `classifier on`, the same stage without the trick;
* `ldam` with a cosine head; baseline `cosine_head`;
* few-shot subsets: a second stage at a tenth of the learning rate; baseline `gentle`, the same without the subsets;
  merges of four such members; baseline `few_shot`, one member: a merge costs four times its second stage.

A block is its own split, its own initial weights, and the same images in the same order wherever the plans allow.
Intervals are Student's over the blocks, 95 %; they are not corrected for how many rows there are.

    OMP_NUM_THREADS=1 python tests/benchmarks/tricks_alone.py --out docs/tricks_alone.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import stats

from spaces.domain import Space, Stage, Trick, trick
from trainables.data import load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan, build, defaults
from trainables.registry import Entry, entries

DATA, IMBALANCE = "digits-lt", 50
SHORT = replace(standard(DATA), epochs=30)
"""A third of the standard run and a shorter tail, so that the whole gallery takes minutes."""
FIRST, SECOND, MEMBERS = 24, 6, 4
BESIDE_THE_CLASSIFIER = ("label_over_smoothing", "max_norm")
"""Tricks that their papers put into a stage that trains the classifier on."""
COMBINED: Mapping[str, tuple[str, tuple[str | Trick, ...]]] = {
    "DRS (deferred class_balanced)": ("all", ("class_balanced",)),
    "DRW (deferred cost_sensitive)": ("all", ("cost_sensitive",)),
    "DRS with cam_foreground": ("all", ("class_balanced", "cam_foreground")),
    "cRT (classifier + class_balanced)": ("weights", ("classifier", "class_balanced")),
    "LWS (learnable_scale + class_balanced)": ("weights", ("learnable_scale", "class_balanced")),
}
"""Published second stages that are more than one trick."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is trained, and which other row it is compared with."""

    title: str
    family: str
    baseline: str | None
    stages: tuple[Stage, ...]

    def plan(self) -> Plan:
        space = Space(stages=list(self.stages))
        return build(space, defaults(), SHORT).plan


def whole(*tricks: str | Trick) -> tuple[Stage, ...]:
    return (Stage("train", epochs=FIRST + SECOND, choose=list(tricks)),)


def second(carry: str, *tricks: str | Trick, **numbers: float) -> tuple[Stage, ...]:
    first = Stage("representation", epochs=FIRST)
    return (first, Stage("second", epochs=SECOND, carry=carry, choose=list(tricks), **numbers))


def gentle(*tricks: str | Trick, members: int = 1) -> tuple[Stage, ...]:
    return second("weights", *tricks, lr=standard(DATA).lr / 10, members=members)


def classifier_on(*tricks: str | Trick) -> tuple[Stage, ...]:
    warm = trick("classifier", reset=False)
    return second("weights", warm, *tricks, lr=standard(DATA).lr / 20, weight_decay=0.0)


BASELINES = (
    Row("plain", "baseline", None, whole()),
    Row("two stages", "baseline", "plain", second("weights")),
    Row("classifier on", "baseline", "two stages", classifier_on()),
    Row("gentle", "baseline", "plain", gentle()),
)


def companions(known: Entry) -> list[str | Trick]:
    """What a trick needs beside it to do anything: partners, views of an image."""
    views = getattr(known.cls, "needs_views", 1)
    seen: list[str | Trick] = [trick("several_views", count=views)] if views > 1 else []
    return [*seen, "weighted_partner"] if "partner" in known.needs else seen


def place(known: Entry) -> tuple[str, tuple[Stage, ...]]:
    """Where a trick belongs: its baseline and its stages."""
    name = known.name
    if name == "h2t":
        again = ("classifier", "class_balanced", trick("weighted_partner", power=0.0))
        return "cRT (classifier + class_balanced)", second("weights", *again, name)
    if known.seam == "merge":
        return "few_shot", gentle("few_shot", name, members=MEMBERS)
    if name == "few_shot":
        return "gentle", gentle(name)
    if name in BESIDE_THE_CLASSIFIER:
        return "classifier on", classifier_on(name)
    if known.seam == "train":
        return "two stages", second("weights", name)
    if known.family == "two-stage":
        return "plain", second("all", name)
    if "cosine" in known.needs:
        return "cosine_head", whole("cosine_head", name)
    beside = companions(known)
    return ("several_views" if getattr(known.cls, "needs_views", 1) > 1 else "plain"), whole(*beside, name)


def rows(only: Sequence[str] = ()) -> list[Row]:
    """The table's lines, baselines first."""
    singles = []
    for known in sorted(entries().values(), key=lambda e: (e.family, e.seam, e.name)):
        baseline, stages = place(known)
        singles.append(Row(known.name, known.family, baseline, stages))
    combined = [
        Row(title, "combined", "plain" if carry == "all" else "two stages", second(carry, *tricks))
        for title, (carry, tricks) in COMBINED.items()
    ]
    every = [*BASELINES, *singles, *combined]
    if not only:
        return every
    wanted = {row.title for row in every if row.title in only}
    while more := {row.baseline for row in every if row.title in wanted and row.baseline} - wanted:
        wanted |= more
    return [row for row in every if row.title in wanted]


def trial(task: tuple[Plan, int, str]) -> tuple[float, int]:
    """Accuracy on `val` of a plan in one seed block, and the images that it was trained on."""
    plan, seed, store = task
    torch.set_num_threads(1)
    data = load(DATA, imbalance=IMBALANCE, split_seed=seed)
    trained = Pipeline(plan, data, standard(DATA).model, seed, torch.device("cpu"), store=StageStore(store))
    trained.run()
    return trained.result()[0]["final/accuracy"], trained.cost.images


def measure(table: Sequence[Row], seeds: int, processes: int) -> dict[str, np.ndarray]:
    """Accuracies and images seen (seeds, 2) by title."""
    # block by block, so that second stages find their first one
    tasks = [(row, seed) for seed in range(seeds) for row in table]
    with (
        tempfile.TemporaryDirectory() as store,
        ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        found = list(pool.map(trial, [(row.plan(), seed, store) for row, seed in tasks]))
    by_title: dict[str, list[tuple[float, int]]] = {row.title: [] for row in table}
    for (row, _), value in zip(tasks, found, strict=True):
        by_title[row.title].append(value)
    return {title: np.array(values) for title, values in by_title.items()}


def interval(values: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def lines(table: Sequence[Row], found: Mapping[str, np.ndarray]) -> list[str]:
    """The table in Markdown, in percent and percentage points."""
    text = [
        "| trick | family | accuracy on val, % | gain, points [95 %] | baseline | images seen |",
        "|---|---|---|---|---|---|",
    ]
    plain = found[BASELINES[0].title][:, 1]
    for row in table:
        own, images = 100 * found[row.title][:, 0], (found[row.title][:, 1] / plain).mean()
        gain = ""
        if row.baseline is not None:
            difference = own - 100 * found[row.baseline][:, 0]
            mean, half = difference.mean(), interval(difference)
            clear = "**" if abs(mean) > half else ""
            gain = f"{clear}{mean:+.1f}{clear} [{mean - half:+.1f}, {mean + half:+.1f}]"
        title = f"`{row.title}`" if row.title in entries() else row.title
        reached = f"{own.mean():.1f} ± {interval(own):.1f}"
        text.append(f"| {title} | {row.family} | {reached} | {gain} | {row.baseline or ''} | {images:.2f} × |")
    return text


HEAD = """\
# Each trick alone on digits-lt

Mean accuracy (mean recall over the classes) on `val` of {seeds} seed blocks, each with its own split, with Student's
95 % intervals. The gain is over the named baseline of the same length, paired by block. Gains whose interval excludes 0
are bold; the intervals are not corrected for the {count} rows, of which one in twenty would be bold by chance.

Every trick is at its **default numbers** and at the data set's standard learning rate (a tenth or a twentieth of it in
stages that fine-tune). A small or negative gain therefore says that the defaults do not suit 30 epochs (150 steps, a
third of the standard run) of 276 images of 8 × 8 pixels at imbalance 50, not that the trick is bad: mirrored digits,
for example, are not digits. Some tricks make sense only beside another one (`classifier` and `learnable_scale` need a
balanced draw); the combined rows at the end show them that way. The docstring of `tests/benchmarks/tricks_alone.py`
says where each trick is placed, and what the baselines `plain`, `two stages`, `classifier on` and `gentle` are.

Rows are compared at equal epochs. *Images seen*, as a multiple of `plain`'s, shows where that favours a trick
(over-sampling, members) or is unfair to it (under-sampling, few-shot subsets).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="A table of each trick alone on digits-lt.")
    parser.add_argument("--seeds", type=int, default=5, help="seed blocks, at least 2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=(), help="titles of rows; their baselines come with them")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    table = rows(options.only)
    began = time.perf_counter()
    found = measure(table, options.seeds, options.processes)
    minutes = (time.perf_counter() - began) / 60
    text = lines(table, found)
    print("\n".join(text))
    print(f"\n{len(table)} rows × {options.seeds} seed blocks in {minutes:.1f} min, {options.processes} processes")
    if options.out is not None:
        more = "" if options.seeds == 5 else f" --seeds {options.seeds}"
        command = f"python tests/benchmarks/tricks_alone.py --out {options.out}{more}"
        where = f"{options.processes} CPU processes, torch {torch.__version__}"
        made = f"Made by `{command}` in {minutes:.0f} minutes ({where})."
        head = HEAD.format(seeds=options.seeds, count=len(table))
        options.out.write_text("\n".join([head, made, "", *text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
