"""The phases of a search, each one small object: what it plans, given what is known.

A phase is asked for its tasks when it begins and again whenever all of them have ended, until it has nothing new:
so one that looks at its first results before it goes on (tuning, the path around the winner) is no special case.
What a phase plans follows from the records alone. After an interruption the agenda plans everything anew, phase by
phase, and runs what has no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis.records.schema import NUMBERS, Record
from search.design.labels import FACTORIAL
from search.recipes import Context, Ground, scaled
from search.scheduling import objective
from search.scheduling.tasks import Limits, Task
from trainables.plan import Recipe
from trainables.registry import PlanError

if TYPE_CHECKING:
    import pandas as pd

    from search.scheduling.sampler import Sampler

ADAPTIVE_SEED = 1_000
RACE_SEED = 2_000
CONFIRM_SEED = 3_000
TUNE_SEED = 4_000
AROUND_SEED = 6_000
NOMINATED_SEED = 7_000
"""Seed blocks of the arms never meet: what nominates a recipe does not judge it. The design's begin at 0, those of
the final training at 5,000; a check has the design's, because it asks whether those results hold elsewhere."""

CONTENDERS = 8
FINALISTS = 3
"""Of the race: the best eight, the baseline and the published recipes run on 3 fresh seeds, the best three on 5
more."""

ROUNDS = (3, 5, 8)
"""Fresh seeds of the first round, of the finalists, and of the confirmation of winner and baseline."""

TUNED = (2, 3, 3)
"""Seeds of each point of the baseline's grid, how many of the best go on, and on how many more."""

MOST_CHECKED = 2
"""Conflicts that are run again at other learning rates: those that cost most."""

MOST_NOMINATED = 2
"""Pairs that the adaptive arm may suggest."""

MOST_PAIRED = 4
"""Tricks of the winner that are also removed in pairs: those that seem to be missed least."""

BRANCHES = 2
"""Candidates of each further step from the winner down to the baseline."""

SETTINGS = {"lr/3": 1 / 3, "lr*3": 3.0}
"""Learning rates at which a verdict must hold to be final, as multiples of each stage's own."""

FULL_LENGTH = "full length"


@dataclass
class Known:
    """What a phase may look at.

    Args:
        ground: Baseline, design and published recipes, at the context's numbers.
        limits: How much to run.
        tasks: By id.
        records: By id of their task, without failed ones.
        base: Added to every seed block.
        looks: Earlier decisions to run further blocks, in order: context and cells to blocks.
        blocks: Requested design blocks, one number for each change of `--seeds`.
    """

    ground: Ground
    limits: Limits
    tasks: dict[str, Task]
    records: dict[str, Record]
    base: int = 0
    looks: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def done(self, phases: Sequence[str]) -> list[tuple[Task, Record]]:
        """Tasks of some phases with their records, by seed.

        After a resume those of later phases join when they are planned again.
        """
        found = [(self.tasks[name], record) for name, record in self.records.items() if name in self.tasks]
        chosen = (pair for pair in found if pair[0].phase in phases)
        return sorted(chosen, key=lambda pair: (pair[1].seed, pair[0].id))

    def metrics(self, plan: str, phases: Sequence[str]) -> list[dict[str, float]]:
        """Final metrics of a recipe's finished trials, by seed."""
        return [
            record.metrics for _, record in self.done(phases) if record.outcome == "finished" and record.recipe == plan
        ]

    def values(self, plan: str, phases: Sequence[str]) -> list[float]:
        """What a recipe has reached of the objective, one value a finished trial."""
        return [objective.scalar(metrics, self.limits.objective) for metrics in self.metrics(plan, phases)]

    def accuracies(self, plan: str, phases: Sequence[str]) -> list[float]:
        """Accuracies on val of a recipe's finished trials, by seed."""
        return [metrics["final/accuracy"] for metrics in self.metrics(plan, phases)]

    def learned(self, plan: str, phases: Sequence[str]) -> list[float] | None:
        """What the sampler is told of a recipe: the mean of each part of the objective; `None` if it never finished."""
        found = [objective.values(metrics, self.limits.objective) for metrics in self.metrics(plan, phases)]
        known = [parts for parts in found if parts is not None]
        return [fmean(part) for part in zip(*known, strict=True)] if known else None

    def recipes(self, phases: Sequence[str]) -> list[Recipe]:
        """Recipes that have a record, without the baseline."""
        found = {task.recipe.plan.id: task.recipe for task, _ in self.done(phases)}
        found.pop(self.ground.baseline.plan.id, None)
        return list(found.values())

    def ranked(self, recipes: Iterable[Recipe], phases: Sequence[str]) -> list[Recipe]:
        """Recipes by their means, best first; those that never finished are left out."""
        values: dict[str, list[float]] = {}
        for _, record in self.done(phases):
            if record.outcome == "finished":
                value = objective.scalar(record.metrics, self.limits.objective)
                values.setdefault(record.recipe, []).append(value)
        scored = [(fmean(values[recipe.plan.id]), recipe) for recipe in recipes if recipe.plan.id in values]
        return [recipe for _, recipe in sorted(scored, key=lambda pair: (-pair[0], pair[1].plan.id))]

    def frame(self, phases: Sequence[str]) -> pd.DataFrame:
        """The trials of some phases as a table."""
        from analysis.records import reader as load

        return load.frame(record for _, record in self.done(phases))

    def conflicts(self) -> pd.DataFrame | None:
        """The conflict table of the design as it stands; `None` where it cannot be judged."""
        from analysis.conflicts import at_looks
        from analysis.records import reader as load

        try:
            design = load.frame(record for record in self.records.values() if record.arm == "design")
            return at_looks(design, margin=self.limits.margin, primary=self.limits.primary, firsts=self.further)
        except ValueError:
            return None

    @property
    def further(self) -> list[int]:
        """First seeds of the blocks that were added after looking, by `--settle` or by `--seeds +N`."""
        return sorted({self.base + first for first in (*(look["first"] for look in self.looks), *self.blocks[:-1])})

    @property
    def winner(self) -> Recipe | None:
        """What has won the race so far; `None` before it."""
        finalists = {task.recipe.plan.id for task, _ in self.done(("final",))}
        raced = [recipe for recipe in self.recipes(("race",)) if recipe.plan.id in finalists]
        return next(iter(self.ranked(raced, ("race", "final"))), None)


class Phase:
    """One phase; this one plans nothing."""

    name = ""
    arm = ""
    words = ""

    def wanted(self, limits: Limits) -> bool:
        """Whether the search has this phase."""
        return True

    def plan(self, known: Known) -> Iterable[Task]:
        """All tasks that follow from what is known, those that have ended included."""
        return ()

    def close(self, known: Known, sampler: Sampler) -> None:
        """What is learned when all of them have ended."""

    def most(self, limits: Limits, cells: int) -> int:
        """Trials that it may come to.

        Args:
            limits: How much to run.
            cells: Trials of one block of the design.
        """
        return 0

    def task(self, known: Known, name: str, recipe: Recipe, block: int, **more: Any) -> Task:
        """A task of this phase, its seed block counted from the search's base."""
        more.setdefault("title", recipe.title)
        more.setdefault("tricks", recipe.labels)
        return Task(f"{self.name}-{name}", self.arm, self.name, recipe, known.base + block, **more)

    def over_blocks(
        self, known: Known, recipes: Iterable[Recipe], first: int, seeds: int, **more: Any
    ) -> Iterator[Task]:
        """Every recipe on the same seeds, block by block: a search that is cut has whole blocks."""
        kept = list(recipes)
        for block in range(first, first + seeds):
            for recipe in kept:
                yield self.task(known, f"{recipe.plan.id}-{known.base + block}", recipe, block, **more)


class Tune(Phase):
    """The baseline on a small grid of learning rate and weight decay: the best point becomes the context."""

    name, arm, words = "tune", "tune", "tuning: learning rate and weight decay of the baseline"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.tune

    def plan(self, known: Known) -> Iterator[Task]:
        """The whole grid, then its best points on more seeds."""
        first, most, more = TUNED
        points = [known.ground.point(point) for point in known.ground.grid()]
        yield from self.over_blocks(known, points, TUNE_SEED, first)
        if len(points) > 1:
            best = _ranked_on(known, points, self.name, _blocks(known, TUNE_SEED, first))
            ended = all(f"{self.name}-{point.plan.id}-{known.base + TUNE_SEED}" in known.tasks for point in points)
            yield from self.over_blocks(known, best[:most] if ended else (), TUNE_SEED + first, more)

    def close(self, known: Known, sampler: Sampler) -> None:
        """The best point is where everything else stands."""
        context = self.best(known)
        if context is not None:
            known.ground = known.ground.at(context)
            sampler.use(known.ground.space)

    def best(self, known: Known) -> Context | None:
        """The point with the best mean among those that went on; of equals the first. `None` where none finished."""
        scored = []
        for point in known.ground.grid():
            values = known.values(known.ground.point(point).plan.id, (self.name,))
            if values:
                scored.append((len(values), fmean(values), point))
        if not scored:
            return None
        seeds = max(count for count, _, _ in scored)
        return max((row for row in scored if row[0] == seeds), key=lambda row: row[1])[2]

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        first, most, more = TUNED
        return 9 * first + most * more


class Design(Phase):
    """The cells of the design arm, block by block."""

    name, arm, words = "design", "design", "design arm: which tricks conflict"

    def plan(self, known: Known) -> Iterator[Task]:
        """Every run of the design."""
        for block, position, cell in known.ground.runs(known.limits.seeds):
            yield self.task(
                known, f"{block}-{position:03d}", cell.recipe, block,
                tricks=cell.tricks, context=cell.context, title=cell.title,
            )  # fmt: skip

    def close(self, known: Known, sampler: Sampler) -> None:
        """Warm start: the means of the design's recipes are what the sampler begins with."""
        planned: dict[str, set[int]] = {}
        for task in self.plan(known):
            planned.setdefault(task.recipe.plan.id, set()).add(task.seed)
        for cell in known.ground.cells:
            values = known.learned(cell.recipe.plan.id, (self.name,))
            ended = len(known.values(cell.recipe.plan.id, (self.name,)))
            if values is not None and ended >= len(planned.get(cell.recipe.plan.id, ())):
                sampler.learn(cell.recipe, values)

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return cells * limits.seeds


class Start(Phase):
    """The published recipes, each trained to its end: start points of the adaptive arm."""

    name, arm, words = "start", "adaptive", "adaptive arm: the published recipes"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.starts and (limits.trials > 0 or limits.race)

    def plan(self, known: Known) -> Iterator[Task]:
        """Each once."""
        for recipe in known.ground.published:
            title = f"{known.ground.titles[recipe.plan.id]}: {recipe.title}"
            yield self.task(known, recipe.plan.id, recipe, ADAPTIVE_SEED, title=title)

    def close(self, known: Known, sampler: Sampler) -> None:
        """Where a recipe lies inside the space, the sampler learns how it did."""
        for recipe in known.recipes((self.name,)):
            values = known.learned(recipe.plan.id, (self.name,))
            if values is not None:
                sampler.learn(recipe, values, self.name)

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return PUBLISHED


PUBLISHED = 5
"""Recipes of `spaces.recipes`."""


class Race(Phase):
    """The best of the adaptive arm and of the design, the published recipes and the baseline on fresh seeds."""

    name, arm, words = "race", "race", "race: contenders on fresh seeds"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.race

    def plan(self, known: Known) -> Iterable[Task]:
        """Baseline and contenders, block by block."""
        return self.over_blocks(known, (known.ground.baseline, *self.contenders(known)), RACE_SEED, ROUNDS[0])

    def contenders(self, known: Known) -> list[Recipe]:
        """The best by their means so far, the published recipes that finished, and who has raced before."""
        tried = ("adaptive", "design", "start")
        # a cell that the design has prolonged races at the length that the space gives it
        own = {r.plan.id: r for r in map(known.ground.own_length, known.ranked(known.recipes(tried), tried))}
        own.pop(known.ground.baseline.plan.id, None)
        ranked = list(own.values())
        published = set(known.ground.titles) if known.limits.starts else set()
        best = [recipe for recipe in ranked if recipe.plan.id not in published][:CONTENDERS]
        begun = {record.recipe for record in known.records.values() if record.arm == self.arm}
        there = {recipe.plan.id for recipe in best}
        return best + [recipe for recipe in ranked if recipe.plan.id in (published | begun) - there]

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return (CONTENDERS + 1 + PUBLISHED * limits.starts) * ROUNDS[0]


class Final(Phase):
    """The best of the race on more seeds."""

    name, arm, words = "final", "race", "race: finalists on more seeds"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.race

    def plan(self, known: Known) -> Iterable[Task]:
        """Baseline and finalists, block by block."""
        raced = _ranked_on(known, known.recipes(("race",)), "race", _blocks(known, RACE_SEED, ROUNDS[0]))
        finalists = (known.ground.baseline, *raced[:FINALISTS])
        return self.over_blocks(known, finalists, RACE_SEED + ROUNDS[0], ROUNDS[1])

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return (FINALISTS + 1) * ROUNDS[1]


class Confirm(Phase):
    """Winner and baseline on seeds that have chosen nothing; the only phase that reads test."""

    name, arm, words = "confirm", "confirm", "confirmation: winner and baseline"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.race

    def plan(self, known: Known) -> Iterable[Task]:
        """Both on every seed."""
        recipes = [known.ground.baseline, *filter(None, [known.winner])]
        return self.over_blocks(known, recipes, CONFIRM_SEED, ROUNDS[2], read_test=True)

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return 2 * ROUNDS[2]


class Check(Phase):
    """The four cells of a verdict again at a third and three times the learning rate, on the design's own blocks.

    Conflicts are checked, those that cost most; and whatever pair of the winner is in conflict, harmful or a synergy.
    Where the search was shortened, the winner's pairs may be run at the final length as well.
    """

    name, arm, words = "check", "check", "checks: do the verdicts hold at other learning rates"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.check_seeds > 0 and limits.seeds > 0

    def plan(self, known: Known) -> Iterator[Task]:
        """Four cells of each pair, setting and block."""
        mine, others = self.pairs(known)
        seen: set[str] = set()
        for setting in (*SETTINGS, *([FULL_LENGTH] if known.limits.full_length and known.ground.share < 1 else ())):
            pairs = mine if setting == FULL_LENGTH else [*mine, *others]
            for block in range(min(known.limits.check_seeds, known.limits.seeds)):
                for a, b in pairs:
                    for task in self._four(known, a, b, setting, block):
                        if task.id not in seen:
                            seen.add(task.id)
                            yield task

    def pairs(self, known: Known) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The pairs to check that the winner has, and the other ones."""
        table = known.conflicts()
        if table is None:
            return [], []
        labels = set(known.winner.labels) if known.winner is not None else set()
        rows = sorted(table.to_dict("records"), key=lambda row: (min(row["b_given_a"], row["a_given_b"]), row["a"]))
        mine = [
            (row["a"], row["b"]) for row in rows
            if {row["a"], row["b"]} <= labels and row["verdict"] in ("conflict", "harmful", "synergy")
        ]  # fmt: skip
        conflicts = [(row["a"], row["b"]) for row in rows if row["verdict"] == "conflict"]
        others = [pair for pair in conflicts if pair not in mine]
        return mine, others[:MOST_CHECKED]

    def _four(self, known: Known, a: str, b: str, setting: str, block: int) -> Iterator[Task]:
        for cell in known.ground.four(a, b, full_length=setting == FULL_LENGTH):
            recipe = scaled(cell.recipe, SETTINGS[setting]) if setting in SETTINGS else cell.recipe
            where = cell.context.replace("+", "_") or "plain"
            yield self.task(
                known, f"{recipe.plan.id}-{where}-{known.base + block}", recipe, block,
                tricks=cell.tricks, context=cell.context, title=f"{cell.title}, {setting}", setting=setting,
            )  # fmt: skip

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow, the winner's own pairs not counted: as a rule it has none of these."""
        return MOST_CHECKED * len(SETTINGS) * 4 * min(limits.check_seeds, limits.seeds)


class Nominated(Phase):
    """The four cells of pairs that the adaptive arm suggests and the design has not crossed, on fresh seeds."""

    name, arm, words = "nominated", "nominated", "nominated pairs: four cells on fresh seeds"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.check_seeds > 0

    def plan(self, known: Known) -> Iterator[Task]:
        """Four cells of each pair and block."""
        for a, b, cells in self.pairs(known):
            for block in range(NOMINATED_SEED, NOMINATED_SEED + known.limits.check_seeds):
                for cell in cells:
                    name = f"{cells[-1].recipe.plan.id}-{cell.recipe.plan.id}-{known.base + block}"
                    context = f"nominated:{a}×{b}"
                    yield self.task(known, name, cell.recipe, block, tricks=cell.tricks, context=context)

    def pairs(self, known: Known) -> list[tuple[str, str, tuple[Any, ...]]]:
        """The suggested pairs that can be crossed, with their four cells."""
        from analysis.conflicts.candidates import nominate

        trials = known.frame(("adaptive",))
        found: list[tuple[str, str, tuple[Any, ...]]] = []
        for row in nominate(trials, self._crossed(known)).to_dict("records"):
            try:
                cells = known.ground.four(row["a"], row["b"])
            except PlanError:
                continue
            if len(found) < MOST_NOMINATED:
                found.append((row["a"], row["b"], tuple(sorted(cells, key=lambda cell: len(cell.tricks)))))
        return found

    def _crossed(self, known: Known) -> set[tuple[str, str]]:
        cells = known.ground.cells
        return {pair for cell in cells for pair in combinations(sorted(cell.tricks), 2)}

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return MOST_NOMINATED * 4 * limits.check_seeds


class Around(Phase):
    """The winner without each of its tricks, without two of them, and step by step down to the baseline.

    Everything runs on the same fresh blocks. The tricks that seem to be missed least are also removed in pairs; each
    further step towards the baseline tries the candidates that seem to be missed least and goes on from the best.
    """

    name, arm, words = "around", "around", "around the winner: what may be removed"

    def wanted(self, limits: Limits) -> bool:
        """As asked for."""
        return limits.check_seeds > 0 and limits.race

    def plan(self, known: Known) -> Iterator[Task]:
        """Round after round, as far as the ones before have ended."""
        if known.winner is None:
            return
        cells = _Cells(known.ground, known.winner)
        for group in self._groups(known, cells):
            recipes = {cell: recipe for cell in group if (recipe := cells.recipe(cell)) is not None}
            for block in range(AROUND_SEED, AROUND_SEED + known.limits.check_seeds):
                for cell, recipe in recipes.items():
                    yield self._task(known, cells, cell, recipe, block)

    def _groups(self, known: Known, cells: _Cells) -> Iterator[list[frozenset[str]]]:
        """What to run, one round after the other, as far as the rounds before have ended."""
        from analysis.recipes.ablation import best_step, missed_least

        whole = cells.whole
        singles = [cells.less(whole, unit) for unit in cells.units]
        group = [frozenset[str](), whole, *singles]
        asked = set(group)
        yield group
        if not cells.units or not self._ended(known, cells, group):
            return
        order = missed_least(self._values(known, cells), whole)
        least = sorted(cells.units, key=lambda unit: order.get(cells.less(whole, unit), len(order)))
        group = list(
            dict.fromkeys(cells.less(cells.less(whole, a), b) for a, b in combinations(least[:MOST_PAIRED], 2))
        )
        asked |= set(group)
        yield group
        if not self._ended(known, cells, group):
            return
        here: frozenset[str] | None = whole
        while here is not None and (left := [unit for unit in least if unit in here]):
            below = [cell for unit in left if cells.recipe(cell := cells.less(here, unit)) is not None]
            there = sum(cell in asked for cell in below)
            group = [cell for cell in below if cell not in asked][: max(0, BRANCHES - there)]
            asked |= set(group)
            yield group
            if not self._ended(known, cells, group):
                return
            here = best_step(self._values(known, cells), here)

    def _task(self, known: Known, cells: _Cells, on: frozenset[str], recipe: Recipe, block: int) -> Task:
        # cells of another winner, whom added trials have replaced, are others even where the recipe is the same
        name = f"{cells.winner.plan.id}-{recipe.plan.id}-{known.base + block}"
        return self.task(
            known, name, recipe, block, tricks=tuple(sorted(on)), context=f"around:{cells.winner.plan.id}",
            title=f"{recipe.title} at the winner's numbers" if on == {NUMBERS} else recipe.title,
        )  # fmt: skip

    def _ended(self, known: Known, cells: _Cells, group: Iterable[frozenset[str]]) -> bool:
        """Whether a group has been run: phases are asked again only when nothing waits or runs any more."""
        block = AROUND_SEED + known.limits.check_seeds - 1
        recipes = [(cell, recipe) for cell in group if (recipe := cells.recipe(cell)) is not None]
        return all(self._task(known, cells, cell, recipe, block).id in known.tasks for cell, recipe in recipes)

    def _values(self, known: Known, cells: _Cells) -> dict[frozenset[str], dict[int, float]]:
        """What the cells have reached, by seed."""
        found: dict[frozenset[str], dict[int, float]] = {}
        for task, record in known.done((self.name,)):
            if record.outcome == "finished" and task.context == f"around:{cells.winner.plan.id}":
                found.setdefault(frozenset(task.tricks), {})[record.seed] = record.metrics["final/accuracy"]
        return found

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        tricks = MOST_PAIRED + 1
        recipes = 2 + tricks + MOST_PAIRED * (MOST_PAIRED - 1) // 2 + BRANCHES * (tricks - 2)
        return recipes * limits.check_seeds


class _Cells:
    """A winner with some of its tricks on; the plain names of sets of labels.

    Args:
        ground: Makes recipes.
        winner: What tricks are taken from.
    """

    def __init__(self, ground: Ground, winner: Recipe) -> None:
        self.ground, self.winner = ground, winner
        self.units = ground.removable(winner)
        self._recipes: dict[frozenset[str], Recipe | None] = {}
        self._plans: dict[str, frozenset[str]] = {}
        plain = self._without(frozenset())
        numbers = plain is None or plain.plan.id != ground.baseline.plan.id
        self.numbers = frozenset({NUMBERS}) if numbers else frozenset[str]()
        self.whole = frozenset(self.units) | self.numbers

    def less(self, cell: frozenset[str], unit: str) -> frozenset[str]:
        """A cell without one more of its tricks; a stage takes its tricks along."""
        return frozenset(on for on in cell if on != unit and not on.startswith(f"{unit}/"))

    def recipe(self, cell: frozenset[str]) -> Recipe | None:
        """What is trained for a cell; `None` where that cannot be trained, or is another cell's recipe."""
        if cell not in self._recipes:
            found = self._without(cell) if cell else self.ground.baseline
            if found is not None and self._plans.setdefault(found.plan.id, cell) != cell:
                found = None
            self._recipes[cell] = found
        return self._recipes[cell]

    def _without(self, cell: frozenset[str]) -> Recipe | None:
        gone = [unit for unit in self.units if unit not in cell]
        try:
            return self.ground.without(self.winner, gone) if gone else self.winner
        except PlanError:
            return None


class Settle(Phase):
    """Further blocks for the primary pairs that are unresolved: of their four cells, or of the whole design."""

    name, arm, words = "settle", "design", "further blocks for the primary pairs"

    def plan(self, known: Known) -> Iterator[Task]:
        """What every look has decided."""
        cells = known.ground.cells
        for look in known.looks:
            most = max(blocks for _, blocks in look["cells"])
            for block in range(most):
                for position, blocks in look["cells"]:
                    if block < blocks:
                        cell, number = cells[position], look["first"] + block
                        task = self.task(
                            known, "", cell.recipe, number,
                            tricks=cell.tricks, context=cell.context, title=cell.title,
                        )  # fmt: skip
                        yield replace(task, id=f"design-{number}-{position:03d}")


def further(known: Known, budget: int) -> dict[str, Any] | None:
    """Which cells of the design get further blocks, and how many; `None` where no primary pair gets any.

    A pair asks for the blocks that would settle it with 80 % probability (`analysis.conflicts.further_blocks`). Its
    four cells get them; of a factorial, in which every run serves every pair, all cells do.

    Args:
        known: What has been run.
        budget: Blocks that may be granted, over all pairs.
    """
    from analysis.conflicts import further_blocks

    table = known.conflicts()
    if table is None:
        return None
    cells = known.ground.cells
    chosen: dict[int, int] = {}
    granted = further_blocks(table, budget)
    granted = granted[granted["blocks"] > 0]
    for row in granted.to_dict("records"):
        here = [place for place, cell in enumerate(cells) if cell.context == row["context"]]
        four = [place for place in here if set(cells[place].tricks) <= {row["a"], row["b"]}]
        factorial = row["context"].split("+")[0] == FACTORIAL
        for place in here if factorial or len(four) < 4 else four:
            chosen[place] = max(chosen.get(place, 0), row["blocks"])
    if not chosen:
        return None
    planned = max((block for block, _, _ in known.ground.runs(known.limits.seeds)), default=-1)
    first = max([planned + 1, *(look["first"] + max(n for _, n in look["cells"]) for look in known.looks)])
    pairs = [f"{row['a']}×{row['b']}" for row in granted.to_dict("records")]
    return {"first": first, "cells": [list(pair) for pair in sorted(chosen.items())], "pairs": pairs}


def left_open(known: Known, budget: int | None) -> list[str]:
    """Why primary pairs that are unresolved get no further blocks, one line for each.

    Args:
        known: What has been run.
        budget: As in `further`.
    """
    from analysis.conflicts import further_blocks

    table = known.conflicts()
    if table is None:
        return ["the design arm cannot be judged"]
    rows = further_blocks(table, budget)
    open_ones = rows[rows["blocks"] == 0].to_dict("records")
    return [f"{row['a']} × {row['b']} {row['why']}" for row in open_ones] or ["none of them is unresolved"]


class Adaptive(Phase):
    """The adaptive arm as it is counted; what it proposes stands in `search.phases.adaptive`."""

    name, arm, words = "adaptive", "adaptive", "adaptive arm: the best recipe"

    def most(self, limits: Limits, cells: int) -> int:
        """As many as its numbers allow."""
        return limits.trials


ORDER: tuple[Phase, ...] = (
    Tune(), Design(), Start(), Adaptive(), Race(), Final(), Confirm(), Check(), Nominated(), Around(),
)  # fmt: skip
"""All phases, in order. What is worth most comes first: a budget may end the search anywhere."""

WORDS = {phase.name: phase.words for phase in (*ORDER, Settle())} | {"done": "done"}
"""What each phase does."""


def outlook(limits: Limits, cells: int) -> list[tuple[str, str, int]]:
    """What a search comes to at most: (phase, what it does, trials) of each phase.

    Args:
        limits: How much to run.
        cells: Trials of one block of the design.

    >>> [(name, trials) for name, _, trials in outlook(Limits(seeds=2, trials=3, check_seeds=0), 4)]
    [('design', 8), ('adaptive', 3), ('race', 27), ('final', 20), ('confirm', 16)]
    """
    return [(phase.name, phase.words, phase.most(limits, cells)) for phase in ORDER if phase.wanted(limits)]


def _blocks(known: Known, first: int, seeds: int) -> range:
    return range(known.base + first, known.base + first + seeds)


def _ranked_on(known: Known, recipes: Iterable[Recipe], phase: str, seeds: Iterable[int]) -> list[Recipe]:
    """Recipes by their means over some seeds of a phase, best first: later rounds do not change an earlier choice."""
    wanted = set(seeds)
    values: dict[str, list[float]] = {}
    for _, record in known.done((phase,)):
        if record.outcome == "finished" and record.seed in wanted:
            value = objective.scalar(record.metrics, known.limits.objective)
            values.setdefault(record.recipe, []).append(value)
    scored = [(fmean(values[recipe.plan.id]), recipe) for recipe in recipes if recipe.plan.id in values]
    return [recipe for _, recipe in sorted(scored, key=lambda pair: (-pair[0], pair[1].plan.id))]
