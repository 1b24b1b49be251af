"""Which score should decide at a rung, measured on recorded trials.

    python tests/benchmarks/rung_scores.py record --data digits-lt --out digits.jsonl
    python tests/benchmarks/rung_scores.py replay tests/benchmarks/rung_scores/digits-lt.jsonl

`record` trains random recipes of `spaces/full_combo.py` to their end, with every score on the way, and each of them
again as a whole plan shortened to every rung. `replay` searches these records again and again without training:
recipes in random order go through the stopping rule itself (`early_stopping.CohortASHA`), a few at a time, until
the budget of epochs is spent.

Kendall's τ_b is between the score at a rung and the final accuracy: over all recipes, and over pairs of recipes of
the same cohort alone. Regret is the best final accuracy of all recorded recipes less that of the search's winner (its
best trial that came to its end). All searches have the same budget of epochs, members multiplied, nothing re-used.

Intervals are percentiles over bootstrap samples of the recipes (95 %): they speak of other recipes of the space, on
the same data and seed block. Each sample is searched in several random orders, the same for all rules.
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
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats

from search.scheduling.early_stopping import SHORTENED, CohortASHA

ROOT = Path(__file__).parents[2]
SHARES = (0.25, 0.5, 0.75)
ON_THE_WAY = ("accuracy", "adjusted", "class_means")

# --- record -----------------------------------------------------------------------------------------------


def recipes(standard: Any, number: int, children: int) -> list[Any]:
    """Random plans of the space, as the sampler proposes them before it knows anything."""
    from search.recipes.factory import RecipeFactory
    from search.scheduling.time_left.random_recipes import random_recipes
    from search.workspace.space_file import load_space

    factory = RecipeFactory(load_space(ROOT / "spaces" / "full_combo.py"), standard)
    return [recipe.plan for recipe in random_recipes(factory, number, children, seed=1)]


def cifar(split_seed: int) -> Any:
    """A fifth of CIFAR-10-LT at 16×16: 1000 … 10 images, imbalance 100; val is 100 test images per class."""
    import torch

    from trainables.data import LongTailed
    from trainables.training.seeding import generator

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
    from trainables.pipeline.pipeline import Diverged, Pipeline
    from trainables.pipeline.store import StageStore
    from trainables.plan import Plan

    torch.set_num_threads(1)
    if options.data == "digits-lt":
        data = [load("digits-lt", imbalance=50, split_seed=seed) for seed in range(1 + options.fresh)]
        rules = dataclasses.replace(standard("digits-lt"), epochs=30, eval_every=1)
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
        for point in judged(full.points):
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


def judged(points: Sequence[Any]) -> list[Any]:
    """The evaluations that a rung may look at: the first at or behind each share of the plan, and the last."""
    first = [next((p for p in points if p.progress >= share - 1e-9), None) for share in SHARES]
    kept = [point for point in (*first, *points[-1:]) if point is not None]
    return [point for number, point in enumerate(kept) if point not in kept[:number]]


def cost_at(plan: Any, epoch: int) -> float:
    """Epochs trained, members multiplied, when so many epochs of the plan are behind."""
    cost, before = 0.0, 0
    for stage in plan.stages:
        cost += stage.members * min(max(epoch - before, 0), stage.epochs)
        before += stage.epochs
    return cost


# --- replay -----------------------------------------------------------------------------------------------

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """A stopping rule to try.

    Args:
        score: What is compared; `None` stops nobody.
        rungs: Fractions of the plan.
        factor: The best 1/η go on.
        apart: By what trials in the same stage are kept apart: "names" of the stages of their plans, "kinds" of those
            still to come (how they carry), or "nothing".
    """

    score: str | None
    rungs: tuple[float, ...] = ()
    factor: float = 3
    apart: str = "kinds"


@dataclass(frozen=True)
class Found:
    """What one simulated search ended with: regrets as fractions, trials begun and trials that came to their end."""

    regret: float
    fresh: float
    begun: int
    finished: int


def steps(line: Line, rule: Rule) -> Iterator[tuple[float, dict[str, Any], str]]:
    """What a recorded trial does under a rule: (epochs trained to its next report, the report, how it ends with it).

    A trial that diverged ends at its last report before that.
    """
    if rule.score == SHORTENED:
        for share in rule.rungs:
            short = line["shortened"][str(share)]
            metrics = {SHORTENED: short["score"]}
            point = {"stage": line["kinds"], "epoch": 0, "progress": share, "metrics": metrics}
            yield short["cost"], point, "" if short["score"] is not None else "diverged"
    before = 0.0
    for point in line["points"]:
        end = ("finished" if line["final"] is not None else "diverged") if point is line["points"][-1] else ""
        yield point["cost"] - before, point, end
        before = point["cost"]


def simulate(lines: Sequence[Line], order: Sequence[int], rule: Rule, budget: float, slots: int) -> Found:
    """One search: recipes in this order, as many at a time as there are slots, until the epochs are spent."""
    halving = CohortASHA(rule.rungs, rule.factor, rule.score or "accuracy")
    waiting, finished, running = deque(order), list[int](), list[tuple[float, int, int, Any]]()
    spent, begun = 0.0, set[int]()

    def begin(clock: float, slot: int) -> None:
        if waiting:
            number = waiting.popleft()
            heapq.heappush(running, (clock, slot, number, steps(lines[number], rule)))

    for slot in range(slots):
        begin(0.0, slot)
    while running:
        clock, slot, number, trial = heapq.heappop(running)
        cost, report, end = next(trial, (0.0, {}, "diverged"))
        if spent + cost > budget:
            continue  # the slot has nothing left to spend
        spent += cost
        begun.add(number)
        if end == "finished":
            finished.append(number)
        elif not end and rule.score is not None:
            kinds = to_come(lines[number]["kinds"], rule.apart)
            end = "stopped" if halving.judge(str(number), kinds, [report]) is not None else ""
        if end:
            begin(clock + cost, slot)
        else:
            heapq.heappush(running, (clock + cost, slot, number, trial))
    winner = max(finished, key=lambda number: final_of(lines[number]), default=None)
    best, fresh = (max(map(value, lines)) for value in (final_of, fresh_of))
    won = (0.0, 0.0) if winner is None else (final_of(lines[winner]), fresh_of(lines[winner]))
    return Found(best - won[0], fresh - won[1], len(begun), len(finished))


CARRY_ALL = ("finish", "deferred")
"""Last stages of the space that go on with the optimiser; all others start anew from the weights."""


def to_come(kinds: str, apart: str) -> dict[str, str]:
    """By stage, what a trial there is kept apart by."""
    names = kinds.split(" > ")
    carries = ["all" if name in CARRY_ALL else "weights" for name in names]
    if apart == "names":
        return dict.fromkeys(names, kinds)
    if apart == "nothing":
        return dict.fromkeys(names, "")
    return {name: " and ".join(sorted(set(carries[n + 1 :]))) for n, name in enumerate(names)}


def final_of(line: Line) -> float:
    """Final accuracy in the seed block of the search; 0 where it diverged."""
    return line["final"] or 0.0


def fresh_of(line: Line) -> float:
    """Mean final accuracy in the other seed blocks; 0 where there are none."""
    return float(np.mean([value or 0.0 for value in line["fresh"]])) if line["fresh"] else 0.0


def score_at(line: Line, score: str, share: float) -> float | None:
    """What a trial has at a rung; `None` where it diverged before."""
    if score == SHORTENED:
        found: float | None = line["shortened"][str(share)]["score"]
        return found
    point = next((point for point in line["points"] if point["progress"] >= share - 1e-9), None)
    return None if point is None else point["metrics"][score]


def cohort_at(line: Line, share: float) -> str:
    """With whom the stopping rule compares a trial at a rung: its stage there, and the kinds of stages to come."""
    point = next((point for point in line["points"] if point["progress"] >= share - 1e-9), None)
    return "" if point is None else f"{point['stage']}, {to_come(line['kinds'], 'kinds')[point['stage']]}"


def tau(lines: Sequence[Line], score: str, share: float, within: bool) -> float:
    """Kendall's τ_b; within cohorts the mean of theirs, weighted by their pairs.

    A shortened plan is compared with all others; within the same cohorts it is shown for comparison.
    """
    known = [line for line in lines if line["final"] is not None and score_at(line, score, share) is not None]
    groups: dict[str, list[Line]] = {}
    for line in known:
        groups.setdefault(cohort_at(line, share) if within else "", []).append(line)
    found = []
    for group in groups.values():
        values = [(score_at(line, score, share), line["final"]) for line in group]
        if len({a for a, _ in values}) > 1 and len({b for _, b in values}) > 1:
            pairs = len(values) * (len(values) - 1) / 2
            found.append((pairs, stats.kendalltau(*zip(*values, strict=True)).statistic))
    return float(np.average([t for _, t in found], weights=[w for w, _ in found])) if found else float("nan")


def rules() -> list[Rule]:
    """What is compared."""
    found = [Rule(None)]
    for rungs in ((0.25,), (0.5,), (0.25, 0.5), (0.5, 0.75), (0.25, 0.5, 0.75)):
        found += [Rule(score, rungs) for score in (*ON_THE_WAY, SHORTENED)]
    for apart in ("names", "nothing"):
        found += [Rule(score, rungs, 3, apart) for rungs in ((0.25,), (0.5, 0.75)) for score in ON_THE_WAY]
    found += [Rule(score, (0.25,), factor) for factor in (2, 4) for score in (*ON_THE_WAY, SHORTENED)]
    return found


def compared(rule: Rule) -> str:
    """Who is compared with whom, in words."""
    if rule.score == SHORTENED:
        return "all"
    return {"names": "same stages", "kinds": "same stage, kinds to come", "nothing": "same stage"}[rule.apart]


def replay(options: argparse.Namespace) -> None:
    """Prints the tables."""
    lines = [json.loads(line) for line in options.file.read_text().splitlines()]
    cost = sum(line["points"][-1]["cost"] for line in lines if line["points"])
    draws = random.Random(0)
    samples = [draws.choices(range(len(lines)), k=len(lines)) for _ in range(options.samples)]
    diverged = sum(line["final"] is None for line in lines)
    kinds = Counter(line["kinds"] for line in lines)
    print(
        f"{len(lines)} recipes ({diverged} diverged), {len(kinds)} kinds of plans, {cost:.0f} epochs at full length. "
        f"Final accuracy: best {100 * max(map(final_of, lines)):.1f} %, median "
        f"{100 * np.median([final_of(line) for line in lines]):.1f} %.\n"
    )
    print("| score | rung | τ, all recipes | τ, within cohorts |\n|---|---|---|---|")
    for share in SHARES:
        for score in (*ON_THE_WAY, SHORTENED):
            cells = []
            for within in (False, True):
                spread = [tau([lines[n] for n in sample], score, share, within) for sample in samples]
                low, high = np.nanpercentile(spread, [2.5, 97.5])
                cells.append(f"{tau(lines, score, share, within):.2f} ({low:.2f} … {high:.2f})")
            print(f"| {score} | {share} | {cells[0]} | {cells[1]} |", flush=True)

    budget = options.share * cost
    print(
        f"\n{options.samples} samples × {options.orders} orders, {budget:.0f} epochs each ({options.share:.0%} of all "
        f"recipes at full length), {options.slots} slots; points of accuracy.\n"
    )
    heads = ["score", "rungs", "η", "compared with", "begun", "finished", "regret", "less than without stopping"]
    heads += ["regret on fresh seeds"] if any(line["fresh"] for line in lines) else []
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    plain: np.ndarray | None = None
    for rule in rules():
        found = []
        for sample in samples:
            pool = [lines[n] for n in sample]
            orders = random.Random(1)
            searches = [
                simulate(pool, orders.sample(range(len(pool)), len(pool)), rule, budget, options.slots)
                for _ in range(options.orders)
            ]
            found.append([dataclasses.astuple(one) for one in searches])
        means = np.array(found).mean(axis=1)  # (samples, 4)
        plain = means if plain is None else plain
        cells = [rule.score or "no stopping", ", ".join(map(str, rule.rungs)) or "–"]
        cells += [f"{rule.factor:g}", compared(rule)] if rule.score else ["–", "–"]
        cells += [f"{means[:, 2].mean():.0f}", f"{means[:, 3].mean():.0f}", spread_of(means[:, 0])]
        cells.append(spread_of(plain[:, 0] - means[:, 0], "+") if rule.score else "–")
        cells += [spread_of(means[:, 1])] if any(line["fresh"] for line in lines) else []
        print("| " + " | ".join(cells) + " |", flush=True)


def spread_of(values: np.ndarray, sign: str = "") -> str:
    """Mean and 95 % percentiles in points."""
    low, high = np.percentile(100 * values, [2.5, 97.5])
    return f"{100 * values.mean():{sign}.2f} ({low:{sign}.2f} … {high:{sign}.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    command = what.add_parser("record")
    command.add_argument("--data", choices=("digits-lt", "cifar10-lt"), default="digits-lt")
    command.add_argument("--recipes", type=int, default=120)
    command.add_argument("--children", type=int, default=1, help="recipes that share what comes before the last stage")
    command.add_argument("--fresh", type=int, default=2, help="further seed blocks at full length")
    command.add_argument("--epochs", type=int, default=12, help="of the standard schedule, CIFAR only")
    command.add_argument("--store", help="folder of finished stages, to train shared ones once")
    command.add_argument("--out", type=Path, required=True)
    command = what.add_parser("replay")
    command.add_argument("file", type=Path)
    command.add_argument("--samples", type=int, default=100)
    command.add_argument("--orders", type=int, default=5)
    command.add_argument("--share", type=float, default=1 / 3, help="budget, of the epochs of all recipes")
    command.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    (record if options.what == "record" else replay)(options)
