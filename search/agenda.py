"""What to run next, without Ray: the design arm, then the adaptive arm, then the race on fresh seeds.

The agenda hands out tasks and takes records. It never starts a task while another one trains a stage that
both need: the task waits in the queue, holding no slot, and the next one that shares nothing goes first. All
it decides is written to a journal before it is done, so a search that was killed goes on from there.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.record import Point, Record
from search.design import Cell
from search.sampler import Proposal, Sampler, SpaceExhausted
from trainables.leases import Leases
from trainables.plan import Plan, Recipe
from trainables.stage_store import StageStore

log = logging.getLogger(__name__)

STORE_FULL = "the disk of the stage store"
"""How the reason of a trial begins that found no room for its stage: going on would fail every other one too."""

ADAPTIVE_SEED = 1_000
RACE_SEED = 2_000
CONFIRM_SEED = 3_000
"""Seed blocks of the arms never meet: what nominates a recipe does not judge it."""

CONTENDERS = 8
FINALISTS = 3
"""Of the race: the best eight and the baseline run on 3 fresh seeds, the best three on 5 more."""

ROUNDS = (3, 5, 8)
"""Fresh seeds of the first round, of the finalists, and of the confirmation of winner and baseline."""


AHEAD = 4
"""Proposals that may wait for a stage in training while the next one is asked for: no slot idles for them."""


@dataclass(frozen=True)
class Task:
    """One trial to run.

    Args:
        id: Of the trial in the search, e.g. "design-0007".
        arm: As in the record.
        phase: "design", "adaptive", "race", "final" or "confirm".
        recipe: What to train.
        seed: Seed block; also the seed of the split.
        tricks: Labels for the record.
        context: Of the design cell.
        title: In words.
        number: Of the proposal in the study, for the adaptive arm.
        start: Which start of the adaptive arm it belongs to.
        read_test: Whether to measure on test.
    """

    id: str
    arm: str
    phase: str
    recipe: Recipe
    seed: int
    tricks: tuple[str, ...]
    context: str = ""
    title: str = ""
    number: int | None = None
    start: int | None = None
    read_test: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        fields = asdict(self)
        fields["recipe"] = {
            "plan": self.recipe.plan.to_dict(),
            "params": dict(self.recipe.params),
            "labels": list(self.recipe.labels),
        }
        return fields

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        own = fields["recipe"]
        recipe = Recipe(Plan.from_dict(own["plan"]), own["params"], tuple(own["labels"]))
        return Task(**{**fields, "recipe": recipe, "tricks": tuple(fields["tricks"])})


@dataclass(frozen=True)
class Limits:
    """How much to run.

    Args:
        seeds: Blocks of the design arm.
        trials: Of the adaptive arm.
        children: Later stages proposed for each new start.
        race: Whether to race at all.
        seconds: Budget of wall time; `None` for none.
    """

    seeds: int = 5
    trials: int = 40
    children: int = 6
    race: bool = True
    seconds: float | None = None


class Journal:
    """What was decided and what came of it, one JSON object a line, flushed to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[dict[str, Task], dict[str, Record]]:
        """Tasks and records by task id; a line cut off by a crash is ignored."""
        tasks: dict[str, Task] = {}
        records: dict[str, Record] = {}
        if not self.path.exists():
            return tasks, records
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if event["event"] == "task":
                tasks[event["task"]["id"]] = Task.from_dict(event["task"])
            elif event["event"] == "record":
                records[event["record"]["trial"]] = Record.from_dict(event["record"])
        return tasks, records

    def write(self, event: str, **content: Any) -> None:
        """Appends one event."""
        # a crash may have cut the last line off: start on a fresh one
        with self.path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps({"event": event, **content}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass
class _Start:
    """The stages before the last of some recipe of the adaptive arm, and how many last stages are still to be proposed.

    Args:
        id: Number of the start.
        fixed: What its children have in common, one dict of choices for each last stage that they may have.
        left: Children still to be proposed.
    """

    id: int
    fixed: list[dict[str, Any]]
    left: int


@dataclass
class Winner:
    """The recipe that the race confirmed.

    Args:
        recipe: The recipe.
        title: In words.
        confirmed: Accuracies on val over the confirmation's seeds.
        baseline: The baseline's over the same seeds.
    """

    recipe: Recipe
    title: str
    confirmed: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)


class Agenda:
    """Hands out tasks, takes records.

    Args:
        cells: Of the design arm, baseline first.
        sampler: Of the adaptive arm.
        limits: How much to run.
        journal: Where decisions are kept.
        keys: (plan, seed) -> the stage keys that a task will train or re-use.
        store: Finished stages; `None` where nothing is re-used.
        base_seed: Added to every seed block.
        leases: Of the store, where other searches may use it at the same time.
        store_limit: Bytes that the store may hold.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        sampler: Sampler,
        limits: Limits,
        journal: Journal,
        keys: Callable[[Plan, int], list[list[str]]],
        store: StageStore | None,
        base_seed: int = 0,
        leases: Leases | None = None,
        store_limit: int | None = None,
    ) -> None:
        self.cells, self.sampler, self.limits, self.journal = list(cells), sampler, limits, journal
        self._keys, self._store, self._base = keys, store, base_seed
        self._leases, self._store_limit = leases, store_limit
        self.tasks, self.records = journal.read()
        # a failed trial may succeed the next time
        self.records = {name: record for name, record in self.records.items() if record.outcome != "failed"}
        self.running: dict[str, set[str]] = {}
        self.failures: dict[str, Record] = {}
        self.phase = "design"
        self._queue: list[Task] = []
        self._known_keys: set[str] = set()
        self._starts: list[_Start] = []
        self._began = time.monotonic()
        self._stopping = False
        self.stopped_because = ""
        self._exhausted = False
        self._task_keys: dict[str, list[list[str]]] = {}
        self.winner: Winner | None = None
        self._plan_design()
        self._recall_adaptive()

    # --- for the driver -----------------------------------------------------------------------------------

    def next(self) -> Task | None:
        """The next task that may start now; `None` if none may, or none is left (`finished`)."""
        if self._over_budget(1.0):
            self._stopping = True
        if self._stopping:
            return None
        while True:
            task = self._startable()
            if task is not None:
                return self._begin(task)
            if self.finished:
                return None
            if self.phase == "adaptive" and len(self._queue) < AHEAD and self._propose():
                continue
            if self._queue or self.running or not self._next_phase():
                return None

    def take(self, record: Record) -> None:
        """Takes what came of a task."""
        task = self.tasks[record.trial]
        self.journal.write("record", record=record.to_dict())
        keys = self.running.pop(record.trial, set())
        if record.outcome == "failed":
            self.failures[record.trial] = record
            if STORE_FULL in record.reason:
                self.stopped_because = record.reason
                self._stopping = True
        else:
            self.records[record.trial] = record
        if record.outcome == "finished":
            # where the workers' machines differ from this one, so do their keys: do not wait for ours
            self._known_keys |= keys
        if self._leases is not None:
            self._leases.release(keys)
        self._keep_house()
        if task.number is not None:
            self._tell(task, record)
            self._judge_start(task, record)

    def again(self, name: str, reason: str) -> None:
        """Puts a running task back, first in the queue: what failed is not its own doing."""
        self.journal.write("again", trial=name, reason=reason)
        keys = self.running.pop(name)
        if self._leases is not None:
            self._leases.release(keys)
        self._queue.insert(0, self.tasks[name])

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True

    @property
    def finished(self) -> bool:
        """Whether nothing will come any more, once the running tasks are done."""
        return self._stopping or self.phase == "done"

    @property
    def planned(self) -> int:
        """Trials of the whole search: as they are in the phases that were planned, as they may be in the others."""
        # a list: the display asks from a thread of its own
        planned = Counter(task.phase for task in list(self.tasks.values()))
        if self.phase in ("design", "adaptive"):
            planned["adaptive"] = self.limits.trials
        if self.limits.race:
            races = ((CONTENDERS + 1) * ROUNDS[0], (FINALISTS + 1) * ROUNDS[1], 2 * ROUNDS[2])
            for phase, most in zip(("race", "final", "confirm"), races, strict=True):
                planned[phase] = planned[phase] or most
        return planned.total()

    # --- phases -------------------------------------------------------------------------------------------

    def _plan_design(self) -> None:
        """Seed by seed: a search that is cut has fewer blocks, not missing cells."""
        for block in range(self.limits.seeds):
            for position, cell in enumerate(self.cells):
                self._enqueue(
                    f"design-{block}-{position:03d}", "design", "design", cell.recipe, block, cell.tricks,
                    context=cell.context, title=cell.title,
                )  # fmt: skip

    def _next_phase(self) -> bool:
        """Moves on; whether there may be more to do."""
        if self.phase == "design":
            self.phase = "adaptive"
            self._teach()
        elif self.phase == "adaptive":
            self.phase = "race" if self.limits.race else "done"
            if self.limits.race:
                self._plan_race(self._contenders(CONTENDERS), "race", RACE_SEED, ROUNDS[0])
        elif self.phase == "race":
            self.phase = "final"
            self._plan_race(self._best_of("race", FINALISTS), "final", RACE_SEED + ROUNDS[0], ROUNDS[1])
        elif self.phase == "final":
            self.phase = "confirm"
            best = self._best_of("race", FINALISTS)
            leaders = self._ranked(best, ("race", "final"))
            self._plan_race(leaders[:1], "confirm", CONFIRM_SEED, ROUNDS[2])
        elif self.phase == "confirm":
            self.phase = "done"
            self._crown()
        return self.phase != "done"

    def _teach(self) -> None:
        """Warm start: the means of the design's recipes are what the sampler begins with."""
        for cell in self.cells:
            values = self._accuracies(cell.recipe.plan.id, ("design",))
            if values and len(values) == self.limits.seeds:
                self.sampler.learn(cell.recipe, fmean(values))

    def _propose(self) -> bool:
        """Queues a proposal, whether there was one: a child of a start whose first stage is there, else a new start."""
        asked = self._asked.total()
        if self._exhausted or asked >= self.limits.trials or self._over_budget(0.8):
            return False
        start = next((s for s in self._starts if s.left > 0 and not self._in_training(s)), None)
        try:
            proposal = self.sampler.ask(asked, None if start is None else start.fixed[start.left % len(start.fixed)])
        except SpaceExhausted as error:
            if start is not None:
                start.left = 0
                return True
            log.warning("the adaptive arm ends after %d of %d trials: %s", asked, self.limits.trials, error)
            self._exhausted = True
            return False
        if start is None:
            start = _Start(len(self._starts), self.sampler.siblings(proposal.recipe), self.limits.children)
            self._starts.append(start)
        start.left -= 1
        self._adaptive_task(proposal, start.id, asked)
        return True

    def _in_training(self, start: _Start) -> bool:
        """Whether what the children of a start share is being trained: they would only wait for it."""
        tasks = [self.tasks[name] for name in self.running if self.tasks[name].start == start.id]
        return any(self._shared_keys(task) & self._unfinished(task) for task in tasks)

    def _shared_keys(self, task: Task) -> set[str]:
        """Keys of the stages before the last."""
        return {key for stage in self._keys_of(task)[: len(task.recipe.plan.stages) - 1] for key in stage}

    def _adaptive_task(self, proposal: Proposal, start: int, asked: int) -> None:
        recipe = proposal.recipe
        repeats = self._asked[recipe.plan.id]
        self._asked[recipe.plan.id] += 1
        self._enqueue(
            f"adaptive-{asked:04d}", "adaptive", "adaptive", recipe, ADAPTIVE_SEED + repeats, recipe.labels,
            number=proposal.number, start=start,
        )  # fmt: skip

    def _recall_adaptive(self) -> None:
        """After a resume: adaptive tasks without a record run again, starts go on with the children they lack."""
        proposed = [task for task in self.tasks.values() if task.phase == "adaptive"]
        self._asked = Counter(task.recipe.plan.id for task in proposed)
        self.sampler.forget({task.number for task in proposed if task.number is not None})
        for task in proposed:
            assert task.start is not None
            while len(self._starts) <= task.start:
                self._starts.append(_Start(len(self._starts), self.sampler.siblings(task.recipe), self.limits.children))
            self._starts[task.start].left -= 1
            if task.id not in self.records:
                self._queue.append(task)
            elif task.number is not None:
                self._tell(task, self.records[task.id])
                self._judge_start(task, self.records[task.id])

    def _judge_start(self, task: Task, record: Record) -> None:
        """A start that ended before its last stage gets no more children: they would end where this one did."""
        last = record.curve[-1].stage if record.curve else ""
        if record.outcome in ("stopped", "diverged") and last != task.recipe.plan.stages[-1].name:
            assert task.start is not None
            self._starts[task.start].left = 0

    def _contenders(self, most: int) -> list[Recipe]:
        """The best recipes of the adaptive arm and of the design, by their mean accuracy so far."""
        known: dict[str, Recipe] = {}
        for task, _ in self._done():
            if task.phase in ("adaptive", "design"):
                known.setdefault(task.recipe.plan.id, task.recipe)
        known.pop(self.cells[0].recipe.plan.id, None)
        return self._ranked(list(known.values()), ("adaptive", "design"))[:most]

    def _best_of(self, phase: str, most: int) -> list[Recipe]:
        raced = {t.recipe.plan.id: t.recipe for t in self.tasks.values() if t.phase == phase}
        raced.pop(self.cells[0].recipe.plan.id, None)
        return self._ranked(list(raced.values()), (phase,))[:most]

    def _plan_race(self, contenders: list[Recipe], phase: str, first_seed: int, seeds: int) -> None:
        arm = "confirm" if phase == "confirm" else "race"
        for seed in range(first_seed, first_seed + seeds):
            for recipe in (self.cells[0].recipe, *contenders):
                self._enqueue(
                    f"{phase}-{recipe.plan.id}-{seed}", arm, phase, recipe, seed, recipe.labels,
                    read_test=arm == "confirm",
                )  # fmt: skip

    def _crown(self) -> None:
        confirmed = [task for task in self.tasks.values() if task.phase == "confirm"]
        base = self.cells[0].recipe
        others = [task.recipe for task in confirmed if task.recipe.plan.id != base.plan.id]
        recipe = others[0] if others else base
        self.winner = Winner(
            recipe,
            recipe.title,
            self._accuracies(recipe.plan.id, ("confirm",)),
            self._accuracies(base.plan.id, ("confirm",)),
        )

    def _ranked(self, recipes: list[Recipe], phases: tuple[str, ...]) -> list[Recipe]:
        scored = [(fmean(values), recipe) for recipe in recipes if (values := self._accuracies(recipe.plan.id, phases))]
        return [recipe for _, recipe in sorted(scored, key=lambda pair: (-pair[0], pair[1].plan.id))]

    def _accuracies(self, plan: str, phases: tuple[str, ...]) -> list[float]:
        return [
            record.metrics["final/accuracy"]
            for task, record in sorted(self._done(), key=lambda done: done[1].seed)
            if record.outcome == "finished" and record.recipe == plan and task.phase in phases
        ]

    def _done(self) -> list[tuple[Task, Record]]:
        """Tasks with their records; after a resume, those of later phases join when they are planned again."""
        return [(self.tasks[name], record) for name, record in self.records.items() if name in self.tasks]

    # --- tasks --------------------------------------------------------------------------------------------

    def _enqueue(
        self,
        name: str,
        arm: str,
        phase: str,
        recipe: Recipe,
        block: int,
        tricks: tuple[str, ...],
        **more: Any,
    ) -> None:
        more.setdefault("title", recipe.title)
        task = Task(name, arm, phase, recipe, self._base + block, tuple(tricks), **more)
        self.tasks[name] = task
        if name in self.records:
            return
        if task.number is not None:
            # the design and the race can be planned anew, a proposal cannot
            self.journal.write("task", task=task.to_dict())
        self._queue.append(task)

    def _startable(self) -> Task | None:
        """The first task in the queue that shares no unfinished stage with a running one."""
        busy = set().union(*self.running.values()) if self.running else set()
        for position, task in enumerate(self._queue):
            if busy and self._unfinished(task) & busy:
                continue
            if self._leases is None or self._leases.acquire(sorted(self._unfinished(task))):
                return self._queue.pop(position)
        return None

    def _keep_house(self) -> None:
        """Bounds the store; what running tasks and the next in the queue need stays."""
        if self._store is None or self._store_limit is None:
            return
        needed = {key for name in self.running for key in self._all_keys(self.tasks[name])}
        removed = self._store.evict(self._store_limit, needed)
        self._known_keys -= {entry.key for entry in removed}

    def _all_keys(self, task: Task) -> set[str]:
        return {key for stage in self._keys_of(task) for key in stage}

    def _begin(self, task: Task) -> Task:
        self.running[task.id] = self._unfinished(task)
        return task

    def _unfinished(self, task: Task) -> set[str]:
        if self._store is None:
            return set()
        keys = self._all_keys(task) - self._known_keys
        self._known_keys |= {key for key in keys if self._store.has(key)}
        return keys - self._known_keys

    def _keys_of(self, task: Task) -> list[list[str]]:
        if task.id not in self._task_keys:
            self._task_keys[task.id] = self._keys(task.recipe.plan, task.seed)
        return self._task_keys[task.id]

    def _tell(self, task: Task, record: Record) -> None:
        assert task.number is not None
        steps = [(point.epoch, point.metrics["accuracy"]) for point in record.curve]
        self.sampler.tell(task.number, record.outcome, record.metrics.get("final/accuracy"), steps)

    def _over_budget(self, share: float) -> bool:
        seconds = self.limits.seconds
        return seconds is not None and time.monotonic() - self._began > share * seconds


def points_of(curve: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Points of a record from a trial's dicts."""
    return tuple(Point(**point) for point in curve)
