"""A simulator of searches: orchestrator, schedule, locks, journal and tracker with fake workers, clock and stores.

Everything that happens is drawn from one seed: how long trials take, which workers are lost, where the driver is
interrupted or killed, also in the middle of a line of the journal or between a call of MLflow and its answer, when
MLflow is slow, does not answer or hangs, what fails, whether two searches share a store, and time budgets.
`python -m tests.search.simulation --first 0 --seeds 10000` runs many; a failure names the seed that repeats it.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.records import mlflow_store, reader
from analysis.records.mlflow_store import StoreError
from search import outcome
from search.context import SearchContext
from search.mlflow_tracker import Tracker, TrackingError, background
from search.mlflow_tracker.run_content import of_trial
from search.mlflow_tracker.summaries import SearchSummary
from search.recipes.factory import RecipeFactory
from search.scheduling import budget
from search.scheduling.early_stopping import CohortASHA
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from search.verify.replay import replay
from tests.search import memory_mlflow
from tests.search.memory_mlflow import MemoryMlflow
from tests.search.test_orchestrator import SPACE, STANDARD, Judged, halving, outline, results
from tests.search.whole_searches import small_phases
from trainables.pipeline import leases
from trainables.pipeline.keys import stage_keys
from trainables.pipeline.leases import Leases

LIMITS = {"seeds": 1, "trials": 3, "children_per_start": 2, "lag": 2}

PHASES = small_phases(1, 1, 1)

SLOTS = 3

CHOICES = ("first/lr", "first/weight", "second")

PAIRS = pd.DataFrame([{
    "a": "first/cost_sensitive", "b": "deferred/class_balanced", "verdict": "unresolved", "context": "",
    "b_given_a": 0.01, "b_given_a_low": -0.01, "b_given_a_high": 0.03, "a_given_b": 0.02,
}])  # fmt: skip


class Killed(BaseException):
    """The driver is gone."""


_KEYS: dict[tuple[str, int], list[list[str]]] = {}


def keys(request: TrialRequest) -> list[list[str]]:
    known = request.recipe.plan.id, request.seed
    if known not in _KEYS:
        _KEYS[known] = stage_keys(request.recipe.plan, {"seed": request.seed})
    return _KEYS[known]


@dataclass
class Machine:
    """What searches share: a folder, a store of stages with its locks, MLflow, and a clock."""

    folder: Path
    draws: random.Random
    now: float = 0.0
    stages: set[str] = field(default_factory=set)
    locks: dict[Path, object] = field(default_factory=dict)
    answers_left: int = -1
    """Requests and answers of MLflow until the driver is killed; negative for none."""
    unreliable: bool = False
    """Whether MLflow stops answering at times."""
    hangs: bool = False
    """Whether MLflow takes longer than anybody waits."""
    out_until: float = -1.0

    def __post_init__(self) -> None:
        self.mlflow = MemoryMlflow(self.folder, self.called)

    def has(self, key: str) -> bool:
        return key in self.stages

    def called(self, name: str, done: bool) -> None:
        """A request of MLflow, or its answer."""
        if self.answers_left == 0:
            raise Killed
        self.answers_left = max(self.answers_left - 1, -1)
        if self.unreliable and self.draws.random() < 0.02:
            self.out_until = self.now + self.draws.expovariate(1 / 20)
        if self.now < self.out_until:
            raise StoreError("MLflow does not answer")

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def recover(self) -> None:
        """Until whoever starts the search again does so, MLflow answers."""
        self.now, self.answers_left, self.hangs = max(self.now, self.out_until), -1, False

    @contextmanager
    def running(self, clock: Callable[[], float]) -> Iterator[None]:
        """Searches in here run on this machine.

        Args:
            clock: The time of the searches, which does not stand still while MLflow is waited for.
        """
        machine = self

        class Lock:
            owner = "another search"

            def __init__(self, path: Path) -> None:
                self.path = path

            def acquire(self) -> bool:
                return machine.locks.setdefault(self.path, self) is self

            def release(self, remove: bool) -> None:
                if machine.locks.get(self.path) is self:
                    del machine.locks[self.path]

        class Thread:
            """Does nothing before it is waited for, unless the simulator has it do a job."""

            def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
                self._target, self._ended = target, False

            def start(self) -> None:
                pass

            def is_alive(self) -> bool:
                return not self._ended

            def join(self, timeout: float | None = None) -> None:
                if self._ended:
                    return
                if machine.hangs and timeout is not None:
                    machine.pause(timeout)
                else:
                    self._target()
                    self._ended = True

        class Event:
            def __init__(self) -> None:
                self._happened = False

            def set(self) -> None:
                self._happened = True

            def is_set(self) -> bool:
                return self._happened

            def wait(self, seconds: float) -> None:
                machine.pause(seconds)

        with self.mlflow.serving(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases, "Lock", Lock)
            patch.setattr(os, "fsync", lambda handle: None)  # what is lost without it: `test_faults`
            patch.setattr(background, "threading", SimpleNamespace(Thread=Thread, Event=Event))
            patch.setattr(background, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.pause))
            patch.setattr(mlflow_store, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: self.now}))
            patch.setattr(budget, "time", SimpleNamespace(monotonic=clock))
            logging.disable()
            try:
                yield
            finally:
                logging.disable(logging.NOTSET)


class TornJournal(Journal):
    """A journal whose driver is killed in the middle of a write, after which any part of the line may be there."""

    def __init__(self, path: Path, draws: random.Random) -> None:
        super().__init__(path)
        self._draws = draws
        self.writes_left = -1
        """Writes until the kill; negative for none."""

    def _append(self, line: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left == -1:
            with self.path.open("ab") as file:
                file.truncate(self._end)
                file.write(line[: self._draws.randint(0, len(line))])
            raise Killed
        self.writes_left = max(self.writes_left, -2)
        super()._append(line)


class Search(Judged):
    """One search, its workers and its driver, which may be replaced.

    Args:
        name: Of the search.
        machine: What it runs on, which searches may share.
        fails: Whether some trials fail the first time.
        settings: Of the search.
    """

    phases = PHASES

    def __init__(self, name: str, machine: Machine, fails: bool = False, **settings: object) -> None:
        self.machine, self.draws, self.folder = machine, machine.draws, machine.folder / name
        self.running: dict[str, tuple[TrialRequest, float]] = {}
        self.leases: Leases | None = None
        self.fails, self.attempts = fails, Counter[str]()
        self.clock, self.drivers, self.over = 0.0, 0, False
        super().__init__(self.folder, SPACE, **LIMITS | settings)

    def begin(self) -> Orchestrator:
        """A new driver, and another one while MLflow does not answer or it is killed while it starts."""
        while True:
            try:
                return self._begin()
            except (Killed, TrackingError):
                self.machine.recover()

    def _begin(self) -> Orchestrator:
        self.running.clear()
        if self.leases is not None:
            self.leases.close()  # the kernel frees what a dead process held
        self.drivers += 1
        self.store, self.leases = self.machine, Leases(self.folder.parent / "leases")
        self.journal = TornJournal(self.folder / "journal.jsonl", self.draws)
        sampler = Sampler(self.space, STANDARD, 1.0, None, "study", 0)
        state = SearchState(RecipeFactory(self.space, STANDARD), self.settings, self.margin, 0, None)
        locks = StageLocks(keys, self.store, self.leases)
        self.orchestrator = Orchestrator(state, sampler, self.journal, locks, all_phases=self.phases)
        self.halving = halving()
        self.halving.remember(self.orchestrator.state.records.values())
        self.tracker = self._tracker()
        self.tracker.start({"trials": "3"}, {"space": "s"}, choices=CHOICES, resume=self.drivers > 1)
        self.tracker.replay(self.journal.attempts())
        return self.orchestrator

    def _tracker(self) -> Tracker:
        return Tracker(memory_mlflow.URI, self.folder.name, "digits-lt", self.folder)

    def unfinished(self, request: TrialRequest) -> set[str]:
        return {key for stage in keys(request) for key in stage} - self.machine.stages

    def finish_stage(self, key: str) -> None:
        self.machine.stages.add(key)

    def outcome(self, request: TrialRequest) -> str:
        """The same whenever a trial is run, but for those that fail the first time."""
        drawn = random.Random(f"{request.id} outcome").random()
        if self.fails and drawn < 0.15 and not self.attempts[request.id]:
            return "failed"
        return "diverged" if 0.15 <= drawn < 0.25 else "finished"

    def step(self) -> bool:
        """Lets something happen; whether anything could."""
        chance = self.draws.random()
        if self.orchestrator.phase == "done" and not self.running:
            self.conclude("FINISHED")
            self.over = True
        elif chance < 0.01:
            self.begin()  # killed between two events
        elif chance < 0.02:
            self.orchestrator.note_interruption()
            self.conclude("KILLED")
            self.begin()
        elif chance < 0.03:
            self.journal.writes_left = self.draws.randint(0, 2)
        elif chance < 0.05:
            self.machine.answers_left = self.draws.randint(0, 30)
        elif chance < 0.08 and self.running:
            self.lose(self.draws.choice(sorted(self.running)))
        elif chance < 0.14 and self.running:
            # what another trial waits for may be there long before its trial ends
            request, _ = self.running[self.draws.choice(sorted(self.running))]
            for key in keys(request)[0]:
                self.finish_stage(key)
        elif chance < 0.34 and self.unwritten():
            self.tracker._writer.step()
        elif len(self.running) < SLOTS and chance < 0.7:
            return self.start() or bool(self.running)
        elif self.running:
            name = min(self.running, key=lambda one: self.running[one][1])
            request, self.clock = self.running.pop(name)
            outcome = self.outcome(request)
            self.attempts[name] += 1
            self.tracker.log(self.end(request, outcome))
        else:
            return self.start()
        return True

    def start(self) -> bool:
        done = set(self.orchestrator.state.records)
        request = self.orchestrator.next()
        if request is None:
            if self.orchestrator.finished and self.orchestrator.phase != "done" and not self.running:
                self.conclude("KILLED")
                self.begin()  # a budget is used up: as much is granted again
                return True
            return False
        assert request.id not in done and request.id not in self.running
        self.running[request.id] = request, self.clock + self.draws.expovariate(1.0)
        return True

    def unwritten(self) -> bool:
        """Whether the tracker has something to write."""
        return not self.tracker._writer._queue.empty()

    def lose(self, name: str) -> None:
        self.running.pop(name)
        self.orchestrator.requeue(name, "its process is gone")

    def conclude(self, status: str) -> None:
        """What a search does when it ends, and whoever reads that MLflow lacks something."""
        self.machine.hangs = self.machine.unreliable and self.draws.random() < 0.1
        records = list(self.orchestrator.state.records.values())
        outcome._track(self.tracker, records, self.folder, PAIRS, {}, {"looks": "0"})
        self.tracker.close(status)
        while self.tracker.errors:
            self.machine.recover()
            try:
                tracker = self._tracker()
                tracker.restore(self.journal.attempts())
            except TrackingError:
                continue
            tracker.close(status)
            self.tracker = tracker

    def ending(self) -> tuple:
        """What it comes to, whatever happened."""
        state = self.orchestrator.state
        return outline(state.requests.values()), results(self), self.confirmed()


@cache
def uninterrupted() -> tuple:
    """What a search comes to with nothing that happens to it."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), random.Random(0))
        with machine.running(lambda: 0.0):
            search = Search("s0", machine)
            search.play(outcome=search.outcome)
            return search.ending()


class Context(SearchContext):
    """The search, for a replay of its decisions."""

    def early_stopping(self) -> CohortASHA:
        return halving()


@cache
def context() -> SearchContext:
    with tempfile.TemporaryDirectory() as folder:
        made = SearchContext.make(SPACE, Judged(Path(folder), SPACE, **LIMITS).settings)
    return Context(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


def simulate(seed: int) -> int:
    """Simulates what a seed draws.

    Returns:
        Drivers that it took.

    Raises:
        AssertionError: Something was lost, repeated, or decided otherwise; a note names the seed.
    """
    uninterrupted(), context()
    draws = random.Random(seed)
    fails, limited = draws.random() < 0.25, draws.random() < 0.25
    settings = {"time_budget": draws.uniform(2, 20)} if limited else {}
    found: list[Search] = []
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            machine = Machine(folder, draws, unreliable=draws.random() < 0.5)
            stack.enter_context(machine.running(lambda: max((search.clock for search in found), default=0.0)))
            for number in range(draws.choice((1, 1, 2))):
                found.append(Search(f"s{number}", machine, fails, **settings))
            _run(found, machine)
            machine.unreliable, machine.out_until, machine.answers_left = False, -1.0, -1
            for search in found:
                _check(search, same=not (fails or limited))
                _check_tracked(search)
                search.leases.close()
            assert not machine.locks, "a lock was left behind"
            return sum(search.drivers for search in found)
    except BaseException as error:
        error.add_note(f"python -m tests.search.simulation --first {seed} --seeds 1")
        raise


def _run(found: list[Search], machine: Machine) -> None:
    idle = 0
    while left := [search for search in found if not search.over]:
        search = machine.draws.choice(left)
        try:
            idle = 0 if search.step() else idle + 1
        except Killed:
            machine.recover()
            search.begin()
        assert idle < 200, "nothing runs, nothing may start, and the search is not over"
        busy = [key for one in found for request, _ in one.running.values() for key in one.unfinished(request)]
        assert len(busy) == len(set(busy)), "a stage is trained twice at a time"
        for one in found:
            assert set(one.orchestrator.running) == set(one.running)


def _check(search: Search, same: bool) -> None:
    events = Journal(search.folder / "journal.jsonl").events()
    ended = Counter(
        event["record"]["trial"]
        for event in events
        if event["event"] == "record" and event["record"]["outcome"] != "failed"
    )
    assert max(ended.values()) == 1, "a trial that had ended was repeated"
    assert ended.keys() == search.orchestrator.state.records.keys()
    if same:
        assert search.ending() == uninterrupted(), "a search depends on what happened to it"
    left = {path.name for path in search.folder.iterdir()}
    assert left == {"journal.jsonl", "mlflow.json"}, "something was left behind"
    found = replay(context(), search.folder / "journal.jsonl", phases=PHASES)
    assert found.problems == [], "an honest search is not believed"
    assert found.proposals == len([event for event in events if event["event"] == "task"])


def _check_tracked(search: Search) -> None:
    """Whether MLflow has what the journal has: each run once, whole, under its parent, and no others."""
    name = search.folder.name
    found = memory_mlflow.content(memory_mlflow.URI, name)
    attempts = search.journal.attempts()
    last = {record.trial: record for record in attempts}
    recipes = {record.recipe: record.recipe for record in attempts}
    expected = {f"search {name}", *(f"trial {one}" for one in last), *(f"recipe {one}" for one in recipes)}
    assert found.keys() == expected, "MLflow has other runs than the journal"
    own = found[f"search {name}"]
    assert own["status"] == "FINISHED" and own["metrics"]["trials"] == repr(float(len(last)))
    summary = SearchSummary()
    for record in attempts:
        summary.add(record)
    assert summary.leader().items() <= own["tags"].items()
    assert {*map(str.strip, own["artifacts"]["records.jsonl"].splitlines())} == {one.to_json() for one in last.values()}
    for record in last.values():
        run, content = found[f"trial {record.trial}"], of_trial(record, name, CHOICES)
        assert (run["status"], run["parent"]) == (content.status, f"recipe {record.recipe}")
        assert content.tags.items() <= run["tags"].items() and run["params"] == content.params
        assert run["artifacts"]["record.json"] == record.to_json()
        final = record.metrics.get("final/accuracy")
        assert run["metrics"].get("final/accuracy") == (None if final is None else repr(final))
    for recipe in recipes:
        run = found[f"recipe {recipe}"]
        values: dict[str, dict[int, float]] = {}
        for record in last.values():
            if record.recipe == recipe and record.outcome == "finished":
                values.setdefault(record.arm, {})[record.seed] = record.metrics["final/accuracy"]
        arm, shown = reader.estimate(values)
        assert (run["status"], run["parent"]) == ("FINISHED", f"search {name}")
        if arm:
            assert run["metrics"]["seeds"] == repr(float(len(shown)))
            mean = sum(shown.values()) / len(shown)
            assert float(run["metrics"]["final/accuracy"]) == pytest.approx(mean, abs=1e-12)


def main() -> None:
    it = argparse.ArgumentParser("python -m tests.search.simulation", description=__doc__)
    it.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    it.add_argument("--seeds", type=int, default=200, help="number of seeds (default: %(default)s)")
    options = it.parse_args()
    drivers = [simulate(seed) for seed in range(options.first, options.first + options.seeds)]
    print(f"{len(drivers)} seeds, {sum(drivers)} drivers")


if __name__ == "__main__":
    main()
