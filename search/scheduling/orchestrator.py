"""What to run next, without Ray: phase after phase, from the first seed of the design to the last check.

The agenda hands out tasks and takes records. It never starts a task while another one trains a stage that
both need: the task waits in the queue, holding no slot, and the next one that shares nothing goes first. What cannot
be planned again from records is written to a journal before it is done, so a search that was killed goes on from
there. What the phases plan stands in `search.phases.phases`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.records.schema import Point, Record
from analysis.stats.alpha_spending import LOOKS
from search.phases import phases
from search.phases.adaptive import Adaptive
from search.phases.phases import Known, Phase
from search.recipes import Ground
from search.scheduling.sampler import Sampler
from search.scheduling.tasks import Journal as Journal
from search.scheduling.tasks import Limits as Limits
from search.scheduling.tasks import Task as Task
from trainables.pipeline.leases import Leases
from trainables.pipeline.store import StageStore
from trainables.plan import Plan, Recipe
from trainables.training.numerics import groups_of

log = logging.getLogger(__name__)

STORE_FULL = "the disk of the stage store"
"""How the reason of a trial begins that found no room for its stage: going on would fail every other one too."""

AHEAD = 4
"""Proposals that may wait for a stage in training while the next one is asked for: no slot idles for them."""

ADAPTIVE_SHARE = 0.8
"""Of a budget; the rest is kept for the race."""


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
        ground: Baseline, design and published recipes.
        sampler: Of the adaptive arm.
        limits: How much to run.
        journal: Where decisions are kept.
        keys: (plan, seed, company) -> the stage keys that a task will train or re-use.
        store: Finished stages; `None` where nothing is re-used.
        base_seed: Added to every seed block.
        leases: Of the store, where other searches may use it at the same time.
        store_limit: Bytes that the store may hold.
        fused: Whether several seeds of a plan are trained in one network.
    """

    def __init__(
        self,
        ground: Ground,
        sampler: Sampler,
        limits: Limits,
        journal: Journal,
        keys: Callable[[Plan, int, tuple[int, ...]], list[list[str]]],
        store: StageStore | None,
        base_seed: int = 0,
        leases: Leases | None = None,
        store_limit: int | None = None,
        fused: Callable[[Plan], bool] = lambda plan: False,
    ) -> None:
        self.sampler, self.limits, self.journal = sampler, limits, journal
        self._keys, self._store, self._fused = keys, store, fused
        self._leases, self._store_limit = leases, store_limit
        self.tasks: dict[str, Task] = {}
        self.records: dict[str, Record] = {}
        self.known = Known(ground, limits, self.tasks, self.records, base_seed)
        self._gpu_seconds = 0.0
        self._seconds: float | None = None
        self._seconds_before = 0.0
        self._read()
        self._anew = limits.seconds is not None
        if self._anew:
            self._seconds, self._seconds_before = limits.seconds, 0.0
        self.running: dict[str, set[str]] = {}
        self.failures: dict[str, Record] = {}
        self._adaptive = Adaptive(sampler, journal)
        self._phases = self._in_order()
        self._at = 0
        self._queue: list[Task] = []
        self._known_keys: set[str] = set()
        self._began = time.monotonic()
        self._begun: dict[str, float] = {}
        self._stopping = self._waits = False
        self.stopped_because = ""
        self._task_keys: dict[str, list[list[str]]] = {}
        self._plan()

    def _read(self) -> None:
        """What earlier runs of the search have left.

        Raises:
            JournalError: The journal is damaged.
        """
        for event in self.journal.events():
            try:
                self._remember(event)
            except (KeyError, TypeError, AttributeError) as error:
                raise self.journal.damaged(event["line"], f"line {event['line']} is damaged ({error!r})") from error

    def _remember(self, event: Mapping[str, Any]) -> None:
        number = event["line"]
        if event["event"] == "task":
            task = Task.from_dict(event["task"])
            expected = Adaptive.id_of(sum(known.number is not None for known in self.tasks.values()))
            if task.number is not None and task.id not in self.tasks and task.id != expected:
                raise self.journal.damaged(
                    number, f"line {number} proposes {task.id}, and the line that proposed {expected} is missing"
                )
            self.tasks[task.id] = task
        elif event["event"] == "look":
            self.known.looks.append(event["look"])
        elif event["event"] == "blocks":
            self.known.blocks.append(event["seeds"])
        elif event["event"] == "budget":
            self._seconds = event["seconds"]
        elif event["event"] == "record":
            record = Record.from_dict(event["record"])
            if Adaptive.is_id(record.trial) and record.trial not in self.tasks:
                raise self.journal.damaged(
                    number, f"line {number} records {record.trial}, and the line that proposed it is missing"
                )
            self._gpu_seconds += event.get("gpu_seconds", record.seconds * record.gpus)
            if record.outcome == "failed":
                # it may succeed the next time
                self.records.pop(record.trial, None)
            else:
                self.records[record.trial] = record
        elif event["event"] in ("again", "cut"):
            self._gpu_seconds += event.get("gpu_seconds", 0.0)
        self._seconds_before = event.get("seconds_used", self._seconds_before)

    def _in_order(self) -> list[Phase]:
        order = (self._adaptive if phase.name == "adaptive" else phase for phase in phases.ORDER)
        own = [phase for phase in order if phase.wanted(self.limits)]
        if self.limits.settle is None:
            return own
        return [*(phase for phase in own if phase.name in ("tune", "design")), phases.Settle()]

    # --- for the driver -----------------------------------------------------------------------------------

    def next(self) -> Task | None:
        """The next task that may start now; `None` if none may, or none is left (`finished`)."""
        if self._anew:
            self._anew = False
            self.journal.write("budget", seconds=self._seconds, seconds_used=0.0)
        if self.limits.settle is None and self.known.blocks[-1:] != [self.limits.seeds]:
            # blocks that are added to a table that somebody has seen are another look at it
            self.known.blocks.append(self.limits.seeds)
            self.journal.write("blocks", seeds=self.limits.seeds)
        if self._used() > 1.0 and not self._stopping:
            self._stopping = True
            self.journal.write("spent", **self._time())
        if self._stopping:
            return None
        while True:
            task = self._startable()
            if task is not None:
                return self._begin(task)
            if self.finished:
                return None
            if self.phase == "adaptive" and len(self._queue) < AHEAD and self._may_propose() and self._is_ready():
                self._propose()
                continue
            if self._queue or self.running:
                return None
            self._go_on()

    def take(self, record: Record) -> None:
        """Takes what came of a task."""
        task = self.tasks[record.trial]
        # what failed before its first report has no seconds of its own, and has held its share all the same
        used = max(record.seconds, self._held(record.trial)) * record.gpus
        self.journal.write("record", record=record.to_dict(), gpu_seconds=used, **self._time())
        self._gpu_seconds += used
        keys = self.running.pop(record.trial, set())
        self._begun.pop(record.trial, None)
        if record.outcome == "failed":
            self.failures[record.trial] = record
            if STORE_FULL in record.reason:
                self.stopped_because = record.reason
                self._stopping = True
        else:
            self.records[record.trial] = record
        if record.outcome == "finished":
            # where the workers' machines differ from this one, so do their keys: do not wait for ours
            self._known_keys |= keys & {key for stage in self._keys_of(task) for key in stage}
        if self._leases is not None:
            self._leases.release(keys)
        self._keep_house()
        if task.number is not None:
            self._adaptive.told(self.known, task, record)

    def peers(self, name: str) -> Callable[[str], bool]:
        """With which trials a proposal may be compared while it runs."""
        return self._adaptive.peers(self.known, name)

    def started(self, name: str) -> None:
        """A task that was handed out has got its share: from here on it is paid for."""
        self._begun[name] = time.monotonic()

    def again(self, name: str, reason: str, gpus: float | None = None) -> None:
        """Puts a running task back, first in the queue: what failed is not its own doing.

        Args:
            name: Of the task.
            reason: In words.
            gpus: What it has held; the usual share where absent.
        """
        used = (self.limits.gpus if gpus is None else gpus) * self._held(name)
        self.journal.write("again", trial=name, reason=reason, gpu_seconds=used, **self._time())
        keys = self.running.pop(name)
        self._begun.pop(name, None)
        self._gpu_seconds += used
        if self._leases is not None:
            self._leases.release(keys)
        self._queue.insert(0, self.tasks[name])

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True

    def cut(self) -> None:
        """Writes down what is used of the budgets: the running tasks are given up, and begin anew some day."""
        used = self.limits.gpus * sum(self._held(name) for name in self._begun)
        if used or self._seconds is not None:
            self.journal.write("cut", gpu_seconds=used, **self._time())

    def close(self) -> str:
        """Brings the copy of the study up to date; why it is not, in a sentence, or an empty text."""
        return self.sampler.keep(at_once=True)

    def catch_up(self) -> bool:
        """Goes through all that has been run; whether nothing is left to run."""
        while not self._queue and not self.running and not self.finished:
            if self.phase == "adaptive" and self._adaptive.open(self.known):
                break
            self._go_on()
        return self.phase == "done"

    @property
    def phase(self) -> str:
        """Name of the phase; "done" after the last one."""
        return self._phases[self._at].name if self._at < len(self._phases) else "done"

    @property
    def words(self) -> str:
        """What the phase does."""
        return self._phases[self._at].words if self._at < len(self._phases) else "done"

    @property
    def cells(self) -> tuple[Any, ...]:
        """Cells of the design, baseline first."""
        return self.known.ground.cells

    @property
    def winner(self) -> Winner | None:
        """What the race has confirmed; `None` before, and without a race."""
        names = [phase.name for phase in self._phases]
        if not self.limits.race or "confirm" not in names or self._at <= names.index("confirm"):
            return None
        base = self.known.ground.baseline
        recipe = self.known.winner or base
        values = self.known.accuracies
        return Winner(recipe, recipe.title, values(recipe.plan.id, ("confirm",)), values(base.plan.id, ("confirm",)))

    @property
    def finished(self) -> bool:
        """Whether nothing will come any more, once the running tasks are done."""
        return self._stopping or self.phase == "done"

    @property
    def planned(self) -> int:
        """Trials of the whole search: as they are in the phases that were planned, as they may be in the others."""
        # a list: the display asks from a thread of its own
        planned = Counter(task.phase for task in list(self.tasks.values()))
        for place, phase in enumerate(self._phases):
            if place > self._at or (place == self._at and phase.name == "adaptive"):
                planned[phase.name] = max(planned[phase.name], phase.most(self.limits, len(self.cells)))
        return planned.total()

    @property
    def left(self) -> str:
        """What remains of the budgets, in words; empty without any."""
        words = []
        if self._seconds is not None:
            words.append(f"{_clock(self._seconds - self._seconds_used())} of the time")
        if self.limits.gpu_seconds is not None:
            words.append(f"{max(0.0, self.limits.gpu_seconds - self._gpu_used()) / 3600:.2f} GPU hours")
        if self.phase == "adaptive":
            words.append(f"{max(0, self.limits.trials - self._adaptive.asked)} proposals")
        return ", ".join(words)

    @property
    def seconds_left(self) -> float | None:
        """What remains of the time budget, at least 0; `None` without one."""
        return None if self._seconds is None else max(0.0, self._seconds - self._seconds_used())

    @property
    def used_up(self) -> str:
        """The options that give as much again of the budgets that are used up; empty where none is."""
        options = []
        if self._seconds is not None and self._seconds_used() >= self._seconds:
            options.append(f"--time-budget {self._seconds:g}")
        if self.limits.gpu_seconds is not None and self._gpu_used() >= self.limits.gpu_seconds:
            options.append(f"--gpu-hours {2 * self.limits.gpu_seconds / 3600:g}")
        return " ".join(options)

    # --- phases -------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Plans what has become known in the phase, or moves on to the next one."""
        if self._plan():
            return
        self._phases[self._at].close(self.known, self.sampler)
        self._at += 1
        if self._at < len(self._phases):
            self._plan()

    def _plan(self) -> bool:
        """Whether the phase had anything new."""
        phase = self._phases[self._at]
        if phase is self._adaptive:
            self._queue += self._adaptive.recall(self.known)
            return bool(self._queue)
        if phase.name == "settle":
            self._look()
        new = self._grouped([task for task in phase.plan(self.known) if task.id not in self.tasks])
        for task in new:
            self.tasks[task.id] = task
            if task.id not in self.records:
                self._queue.append(task)
        return bool(new)

    def _grouped(self, tasks: list[Task]) -> list[Task]:
        """The tasks, each with the seeds of its recipe that are trained with it."""
        if self._store is None:
            return tasks  # what one trial trains for another has to lie somewhere
        seeds: dict[str, list[int]] = {}
        for task in tasks:
            if not task.may_stop and self._fused(task.recipe.plan):
                seeds.setdefault(task.recipe.plan.id, []).append(task.seed)
        groups = {
            (plan, seed): group
            for plan, of_plan in seeds.items()
            for group in groups_of(sorted(set(of_plan)))
            for seed in group
            if len(group) > 1
        }
        return [replace(task, company=groups.get((task.recipe.plan.id, task.seed), ())) for task in tasks]

    def _may_propose(self) -> bool:
        return self._adaptive.open(self.known) and self._used() <= ADAPTIVE_SHARE

    def _is_ready(self) -> bool:
        """Whether the next proposal can be made, or nothing could still make it so."""
        return self._adaptive.ready(self.known) or not (self._queue or self.running)

    def _propose(self) -> None:
        task = self._adaptive.propose(self.known)
        if task is not None:
            self.tasks[task.id] = task
            self._queue.append(task)

    def _look(self) -> None:
        """Decides once a run which pairs get further blocks, and writes it down before anything is run."""
        if self.limits.settle is None or len(self.known.looks) >= LOOKS - 1 or self._looked():
            return
        look = phases.further(self.known, self.limits.settle)
        if look is not None:
            self.known.looks.append(look)
            self.journal.write("look", look=look)

    def not_settled(self) -> list[str]:
        """Why no primary pair gets further blocks, one line for each that is unresolved."""
        if len(self.known.looks) >= LOOKS - 1:
            return [f"{LOOKS} looks are the most, and there were {len(self.known.looks) + 1}"]
        return phases.left_open(self.known, self.limits.settle)

    def _looked(self) -> bool:
        """Whether this run has decided already, or the last decision was not carried out to its end."""
        planned = list(phases.Settle().plan(self.known))
        return any(task.id in self.tasks or task.id not in self.records for task in planned)

    # --- tasks --------------------------------------------------------------------------------------------

    def _startable(self) -> Task | None:
        """The first task in the queue that shares no unfinished stage with a running one."""
        busy = set().union(*self.running.values()) if self.running else set()
        for position, task in enumerate(self._queue):
            if busy and self._unfinished(task) & busy:
                continue
            if self._leases is None or self._leases.acquire(sorted(self._unfinished(task))):
                self._waits = False
                return self._queue.pop(position)
            if not self.running and not self._waits:
                self._waits = True
                log.warning("waiting for a stage that another search trains: %s", self._leases.waits_for)
        return None

    def _keep_house(self) -> None:
        """Bounds the store; what running tasks and the next in the queue need stays."""
        if self._store is None or self._store_limit is None:
            return
        needed = {key for task in (*map(self.tasks.__getitem__, self.running), *self._queue[:1])
                  for key in self._all_keys(task)}  # fmt: skip
        removed = self._store.evict(self._store_limit, needed)
        self._known_keys -= {entry.key for entry in removed}

    def _all_keys(self, task: Task) -> set[str]:
        """What it may train: of those that are trained with it, too."""
        with_it = [self._keys_of(replace(task, id=f"{task.id} {seed}", seed=seed)) for seed in task.company]
        return {key for keys in (with_it or [self._keys_of(task)]) for stage in keys for key in stage}

    def _begin(self, task: Task) -> Task:
        self.running[task.id] = self._unfinished(task)
        self._begun[task.id] = time.monotonic()
        return task

    def _unfinished(self, task: Task) -> set[str]:
        if self._store is None:
            return set()
        keys = self._all_keys(task) - self._known_keys
        self._known_keys |= {key for key in keys if self._store.has(key)}
        return keys - self._known_keys

    def _keys_of(self, task: Task) -> list[list[str]]:
        if task.id not in self._task_keys:
            self._task_keys[task.id] = self._keys(task.recipe.plan, task.seed, task.company)
        return self._task_keys[task.id]

    # --- budgets ------------------------------------------------------------------------------------------

    def _used(self) -> float:
        """The largest used share of any budget."""
        shares = [0.0]
        if self._seconds is not None:
            shares.append(self._seconds_used() / self._seconds)
        if self.limits.gpu_seconds is not None:
            shares.append(self._gpu_used() / self.limits.gpu_seconds)
        return max(shares)

    def _seconds_used(self) -> float:
        """Wall time since the time budget was given, of all runs."""
        return self._seconds_before + time.monotonic() - self._began

    def _time(self) -> dict[str, float]:
        """The same for the journal; empty where time is not bounded."""
        return {} if self._seconds is None else {"seconds_used": round(self._seconds_used(), 3)}

    def _gpu_used(self) -> float:
        """Seconds times share of GPUs, those of running trials included."""
        # a list: the display asks from a thread of its own
        return self._gpu_seconds + self.limits.gpus * sum(map(self._held, list(self._begun)))

    def _held(self, name: str) -> float:
        """Seconds since a running task began; 0 of another one."""
        begun = self._begun.get(name)
        return 0.0 if begun is None else time.monotonic() - begun


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def points_of(curve: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Points of a record from a trial's dicts."""
    return tuple(Point(**point) for point in curve)
