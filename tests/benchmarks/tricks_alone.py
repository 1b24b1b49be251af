"""Each trick alone on digits-lt over the data set's standard length: gain, CPU time of an image, and memory.

Over 90 epochs (360 steps) published recipes help on these data (`published_recipes.py`). Every trick runs at its
default numbers in the place where it belongs:

* tricks of an ordinary stage: the whole schedule; baseline `plain`;
* what its paper puts into a later stage, without a change of what learns: the last fifth of one chain (72 + 18
  epochs, `carry="all"`), whose baseline is `plain` too, because splitting a chain changes nothing;
* what changes what learns: a second stage of 18 epochs after 72 (`carry="weights"`); baseline `two stages`;
* what belongs to a stage that trains the classifier on: there, at a twentieth of the learning rate and without weight
  decay, as label over-smoothing has it; baseline `classifier on`, the same stage without the trick;
* `ldam` with a cosine head; baseline `cosine_head`; losses of experts with their head; baseline that head alone;
* routers of experts, with their loss and balanced draws: a second stage at a tenth of the learning rate; baseline
  `experts`;
* few-shot subsets: a second stage at a tenth of the learning rate; baseline `gentle`, the same without the subsets;
  merges of four such members; baseline `few_shot`, one member: a merge costs four times its second stage;
* the survey's systems as `spaces.recipes` has them, whole; baseline `plain`.

A method of several views puts every image through the network as many times, and a step of two passes computes twice:
they are compared with a plain training of as many more epochs as well.

A block is its own split, its own initial weights, and the same images in the same order wherever the plans allow.
Intervals are Student's over the blocks, 95 %; they are not corrected for how many rows there are.

Time and memory are those of the stage that the trick is in, per drawn image, as multiples of a plain training of the
same network on images of 32 × 32 pixels in 3 channels, batches of 64. Both are trained in one process, an epoch of one
after an epoch of the other, and what is compared is the CPU time of the process, so that a busy machine does not
matter. Memory is the largest sum of tensors that training has allocated at a time, as torch's profiler counts them.

What is measured is kept in `--folder`; the same command again measures only what is missing.

    OMP_NUM_THREADS=1 python tests/benchmarks/tricks_alone.py --out docs/tricks_alone.md

`--costs` measures time and memory alone, which takes seconds a row (docs/trick_costs.md).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import stats
from torch.profiler import ProfilerActivity, profile

from spaces.domain import Space, Stage, Trick, trick
from spaces.recipes import published_systems
from trainables.data import LongTailed, class_counts, load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan, build, defaults
from trainables.registry import Entry, PlanError, entries
from trainables.training.stage_run import StageRun

DATA = "digits-lt"
STANDARD = standard(DATA)
FIRST, SECOND, MEMBERS = 72, 18, 4
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
ROUTING = ("expert_assignment", "routing_loss")
"""Tricks that make sense together alone."""
HEADS = {"3 experts": "experts", "experts": "experts"}
"""The head that a loss of experts is trained with, by what it needs; ResLT has its own."""
COST_EPOCHS, COST_BATCHES, COST_BATCH = 5, 3, 64
"""Length of a training whose time and memory are measured: what acts in the last fifth acts in the last epoch."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        title: Shown.
        family: Of the trick.
        baseline: Title of the row that it is compared with.
        plan: What is trained.
    """

    title: str
    family: str
    baseline: str | None
    plan: Plan

    @property
    def passes(self) -> int:
        """How often an image goes through the network in a step of the first stage."""
        tricks = self.plan.stages[0].tricks
        views = max((getattr(one.made(), "makes_views", 1) for one in tricks), default=1)
        return views * (2 if self.plan.stages[0].on("step") else 1)


def plan_of(stages: Sequence[Stage]) -> Plan:
    return build(Space(stages=list(stages)), defaults(), STANDARD).plan


def whole(*tricks: str | Trick, longer: int = 1) -> tuple[Stage, ...]:
    return (Stage("train", epochs=longer * (FIRST + SECOND), choose=list(tricks)),)


def second(carry: str, *tricks: str | Trick, **numbers: float) -> tuple[Stage, ...]:
    first = Stage("representation", epochs=FIRST)
    return (first, Stage("second", epochs=SECOND, carry=carry, choose=list(tricks), **numbers))


def gentle(*tricks: str | Trick, members: int = 1) -> tuple[Stage, ...]:
    return second("weights", *tricks, lr=STANDARD.lr / 10, members=members)


def classifier_on(*tricks: str | Trick) -> tuple[Stage, ...]:
    warm = trick("classifier", reset=False)
    return second("weights", warm, *tricks, lr=STANDARD.lr / 20, weight_decay=0.0)


LONGER = {2: "plain, twice as long", 3: "plain, three times as long"}
"""Baselines at equal passes."""
BASELINES = (
    Row("plain", "baseline", None, plan_of(whole())),
    Row("two stages", "baseline", "plain", plan_of(second("weights"))),
    Row("classifier on", "baseline", "two stages", plan_of(classifier_on())),
    Row("gentle", "baseline", "plain", plan_of(gentle())),
    *(Row(title, "baseline", "plain", plan_of(whole(longer=times))) for times, title in LONGER.items()),
)


def companions(known: Entry) -> list[str | Trick]:
    """What a trick needs beside it to do anything: partners, views of an image, experts."""
    views = getattr(known.cls, "needs_views", 1)
    beside: list[str | Trick] = [trick("several_views", count=views)] if views > 1 else []
    if "partner" in known.needs:
        beside.append("weighted_partner")
    return [*beside, head_of(known)] if {*known.needs} & {*HEADS} else beside


def head_of(known: Entry) -> str:
    """The head of several experts that a loss is trained with."""
    return f"{known.name}_head" if f"{known.name}_head" in entries() else HEADS[known.needs[0]]


def place(known: Entry) -> tuple[str, tuple[Stage, ...]]:
    """Where a trick belongs: its baseline and its stages."""
    name = known.name
    if name == "h2t":
        again = ("classifier", "class_balanced", trick("weighted_partner", power=0.0))
        return "cRT (classifier + class_balanced)", second("weights", *again, name)
    if name in ROUTING:
        experts = Stage("representation", epochs=FIRST, choose=["experts"])
        routed = Stage("second", epochs=SECOND, lr=STANDARD.lr / 10, choose=[*ROUTING, "class_balanced"])
        return "experts", (experts, routed)
    if name == "distillation":
        return "two stages", second("weights", name)
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
    if {*known.needs} & {*HEADS}:
        return head_of(known), whole(*companions(known), name)
    beside = companions(known)
    return ("several_views" if getattr(known.cls, "needs_views", 1) > 1 else "plain"), whole(*beside, name)


def rows(only: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """The table's lines, baselines first, and a sentence on each trick that cannot be trained here."""
    every, left_out = list(BASELINES), []
    for known in sorted(entries().values(), key=lambda e: (e.family, e.seam, e.name)):
        baseline, stages = place(known)
        try:
            row = Row(known.name, known.family, baseline, plan_of(stages))
            short_run(row.plan)
        except (PlanError, ValueError) as error:
            left_out.append(f"`{known.name}` is not in the table: {error}.")
        else:
            every.append(row)
    every += [
        Row(title, "combined", "plain" if carry == "all" else "two stages", plan_of(second(carry, *tricks)))
        for title, (carry, tricks) in COMBINED.items()
    ]
    for one in published_systems(STANDARD.lr):
        plan = build(one.space, defaults(one.labels), STANDARD).plan
        every.append(Row(f"{one.title}, the recipe", "system", "plain", plan))
    if not only:
        return every, left_out
    wanted = {row.title for row in every if row.title in only or row.family in only}
    wanted |= {LONGER[row.passes] for row in every if row.title in wanted and row.passes > 1} | {"plain"}
    while more := {row.baseline for row in every if row.title in wanted and row.baseline} - wanted:
        wanted |= more
    return [row for row in every if row.title in wanted], left_out


# --- what is measured ---------------------------------------------------------------------------------------------


def trial(task: tuple[Plan, int, str]) -> dict[str, float]:
    """Accuracy on `val` of a plan in one seed block, and the images that it was trained on."""
    plan, seed, store = task
    torch.set_num_threads(1)
    data = load(DATA, imbalance=STANDARD.imbalance, split_seed=seed)
    trained = Pipeline(plan, data, STANDARD.model, seed, torch.device("cpu"), store=StageStore(store))
    trained.run()
    return {"accuracy": trained.result()[0]["final/accuracy"], "images": trained.cost.images}


def noise_images() -> LongTailed:
    """Images of CIFAR's size without content, of which an epoch draws `COST_BATCHES` batches."""
    counts = class_counts(largest=60, classes=10, imbalance=15)
    labels = torch.arange(10).repeat_interleave(torch.tensor(counts))[: COST_BATCHES * COST_BATCH]
    images = torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    half = torch.full((3,), 0.5)
    return LongTailed(
        name="noise", classes=10, class_names=tuple("0123456789"), imbalance=15.0, split_seed=0,
        train_images=images, train_labels=labels, val_images=images[:64], val_labels=labels[:64],
        test_images=images[:64], test_labels=labels[:64], mean=half, std=half / 2, pad=4, flip=True,
    )  # fmt: skip


def short_run(plan: Plan) -> StageRun:
    """The last stage of a shortened plan, about to begin."""
    stages = [replace(stage, epochs=1, batch_size=COST_BATCH) for stage in plan.stages]
    stages[-1] = replace(stages[-1], epochs=COST_EPOCHS)
    short = Pipeline(Plan(tuple(stages)), noise_images(), STANDARD.model, 0, torch.device("cpu"), evaluate=False)
    while short.executor.state.stage < len(stages) - 1:
        short.advance()
    return short.executor.start().runs[0]


def peak_bytes(run: StageRun) -> float:
    """Trains a stage; returns the bytes of weights and optimiser, and the most that was allocated besides."""
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            while not run.finished:
                run.train_epoch()
        file = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event["args"]["Bytes"] for event in sorted(
        (event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]
    )]  # fmt: skip
    weights = sum(tensor.nbytes for tensor in run.network.state_dict().values())
    return weights + float(np.cumsum(changes).max())


def cost(plan: Plan) -> dict[str, float]:
    """CPU time per drawn image and memory of a plan's last stage, as multiples of a plain training."""
    plain = BASELINES[0].plan
    memory, least = peak_bytes(short_run(plan)), peak_bytes(short_run(plain))
    runs = [short_run(plan), short_run(plain)]
    seconds = [0.0, 0.0]
    for _ in range(COST_EPOCHS):
        for number, run in enumerate(runs):
            began = time.process_time()
            run.train_epoch()
            seconds[number] += time.process_time() - began
    each = [spent / run.images for spent, run in zip(seconds, runs, strict=True)]
    return {"time": each[0] / each[1], "memory": memory / least}


class Results:
    """What has been measured, one line of JSON each; kept, so that an interrupted measurement continues.

    Args:
        folder: Where the file and the finished stages lie.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.store, self._file = str(folder / "stages"), folder / "results.jsonl"
        self._known: dict[str, dict[str, float]] = {}
        for line in self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else ():
            found = json.loads(line)
            self._known[found.pop("key")] = found

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> dict[str, float]:
        return self._known[key]

    def add(self, key: str, found: Mapping[str, float]) -> None:
        self._known[key] = dict(found)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **found}) + "\n")

    def of_trials(self, plan: Plan, seeds: Sequence[int], name: str) -> np.ndarray:
        """A number (seeds,) of the trials of a plan."""
        return np.array([self[trial_key(plan, seed)][name] for seed in seeds])


def trial_key(plan: Plan, seed: int) -> str:
    return f"{plan.id} {seed}"


def cost_key(plan: Plan) -> str:
    return f"{plan.id} cost"


def measure_costs(table: Sequence[Row], results: Results) -> None:
    """Measures the time and memory that are missing."""
    for row in table:
        if cost_key(row.plan) not in results:
            results.add(cost_key(row.plan), cost(row.plan))


def measure(table: Sequence[Row], seeds: int, processes: int, results: Results) -> None:
    """Trains what is missing, block by block, so that second stages find their first one."""
    missing = [(row.plan, seed) for seed in range(seeds) for row in table if trial_key(row.plan, seed) not in results]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(trial, [(plan, seed, results.store) for plan, seed in missing])
        for (plan, seed), values in zip(missing, found, strict=True):
            results.add(trial_key(plan, seed), values)


# --- the table ----------------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def gain(difference: np.ndarray) -> str:
    """A paired difference, bold where its interval excludes 0."""
    mean, half = difference.mean(), interval(difference)
    clear = "**" if abs(mean) > half else ""
    return f"{clear}{mean:+.1f}{clear} [{mean - half:+.1f}, {mean + half:+.1f}]"


def lines(table: Sequence[Row], seeds: Sequence[int], results: Results) -> Iterator[str]:
    """The table in Markdown, in percent and percentage points."""
    yield (
        "| trick | family | accuracy on val, % | gain, points [95 %] | baseline | gain at equal passes "
        "| images drawn | CPU time per image | memory |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    found = {row.title: 100 * results.of_trials(row.plan, seeds, "accuracy") for row in table}
    plain = results.of_trials(BASELINES[0].plan, seeds, "images")
    for row in table:
        own, images = found[row.title], results.of_trials(row.plan, seeds, "images")
        spent = results[cost_key(row.plan)]
        cells = (
            f"`{row.title}`" if row.title in entries() else row.title,
            row.family,
            f"{own.mean():.1f} ± {interval(own):.1f}",
            "" if row.baseline is None else gain(own - found[row.baseline]),
            row.baseline or "",
            gain(own - found[LONGER[row.passes]]) if row.passes > 1 else "",
            f"{(images / plain).mean():.2f} ×",
            f"{spent['time']:.2f} ×",
            f"{spent['memory']:.2f} ×",
        )
        yield f"| {' | '.join(cells)} |"


def cost_lines(table: Sequence[Row], results: Results) -> Iterator[str]:
    """The table of time and memory in Markdown."""
    yield "| trick | family | with | passes | CPU time per image | memory |"
    yield "|---|---|---|---|---|---|"
    for row in table:
        spent = results[cost_key(row.plan)]
        beside = [one.name for one in row.plan.stages[-1].tricks if one.name != row.title]
        cells = (
            f"`{row.title}`" if row.title in entries() else row.title,
            row.family,
            ", ".join(f"`{name}`" for name in beside),
            str(row.passes),
            f"{spent['time']:.2f} ×",
            f"{spent['memory']:.2f} ×",
        )
        yield f"| {' | '.join(cells)} |"


COSTS_HEAD = """\
# Time and memory of tricks

CPU time per drawn image, and memory, as multiples of a plain training of the same network (resnet8, images of 32 × 32
pixels in 3 channels, batches of 64), in the stage that the trick is in and with what it needs beside it. *Passes* is
how often an image goes through the network in a step of the first stage: a method of two views or of two passes is to
be compared with a plain training of twice the epochs as well.

Trick and plain training took turns in one process, epoch by epoch, and what is compared is CPU time of the process and
not wall time, so that a busy machine does not matter: `plain` beside itself came to within 0.02 of 1. A stage whose
backbone is frozen is cheaper than `plain`. Memory is the largest sum of tensors that training has allocated at a time,
weights included, as torch's profiler counts them. `rsg` makes samples in the last fifth alone, which is one of the five
epochs measured. On a GPU time is another: there, passes and the number of small kernels count.
"""

HEAD = """\
# Each trick alone on digits-lt

Mean accuracy (mean recall over the classes) on `val` of {seeds} seed blocks, each with its own split, with Student's
95 % intervals. The gain is over the named baseline, paired by block. Gains whose interval excludes 0 are bold; the
intervals are not corrected for the {count} rows, of which one in twenty would be bold by chance.

Every trick is at its **default numbers** and at the data set's standard length, learning rate and imbalance (a tenth or
a twentieth of the rate in stages that fine-tune), where published recipes help. A small or negative gain therefore says
that the defaults do not suit images of 8 × 8 pixels, not that the trick is bad: mirrored digits, for example, are not
digits. Some tricks make sense only beside another one (`classifier` and `learnable_scale` need a balanced draw,
`experts` a loss that tells them apart); the combined rows and the recipes at the end show them that way. The docstring
of `tests/benchmarks/tricks_alone.py` says where each trick is placed, and what the baselines are.

Rows are compared at equal epochs. *Images drawn*, as a multiple of `plain`'s, shows where that favours a trick
(over-sampling, members) or is unfair to it (under-sampling, few-shot subsets). *Gain at equal passes* compares what
puts each image through the network twice or three times (views, SAM) with a plain training of twice or three times the
epochs.

*CPU time per image* and *memory* are multiples of a plain training of the same network (resnet8, images of 32 × 32
pixels, batches of 64) in the stage that the trick is in. Time is CPU time of the process and not wall time, because the
machine was busy; trick and plain training took turns in one process. Memory is the largest sum of tensors allocated at
a time, weights included. On a GPU, time is another: there, what counts is how many passes and small kernels a step has.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="A table of each trick alone on digits-lt.")
    parser.add_argument("--seeds", type=int, default=5, help="seed blocks, at least 2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=(), help="titles or families; their baselines come with them")
    parser.add_argument(
        "--folder", type=Path, default=Path("results/tricks_alone"), help="where measurements and stages are kept"
    )
    parser.add_argument("--costs", action="store_true", help="measure time and memory alone, without any training")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table, left_out = rows(options.only)
    results = Results(options.folder)
    measure_costs(table, results)
    if not options.costs:
        measure(table, options.seeds, options.processes, results)
    found = cost_lines(table, results) if options.costs else lines(table, range(options.seeds), results)
    text = [*found, "", *left_out]
    print("\n".join(text))
    if options.out is not None:
        words = ["--costs"] if options.costs else []
        words += [] if options.seeds == 5 else ["--seeds", str(options.seeds)]
        words += ["--only", *options.only] if options.only else []
        command = f"python tests/benchmarks/tricks_alone.py {shlex.join(['--out', str(options.out), *words])}"
        made = f"Made by `{command}` (torch {torch.__version__}). The same command again continues an interrupted run."
        head = COSTS_HEAD if options.costs else HEAD.format(seeds=options.seeds, count=len(table))
        options.out.write_text("\n".join([head, made, "", *text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
