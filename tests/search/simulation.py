"""A simulator of searches: orchestrator, schedule, locks, leases and journal with fake workers and a fake clock.

Everything that happens is drawn from one seed: how long trials take, which workers are lost, where the driver is
interrupted or killed, also in the middle of a write, what fails, whether two searches share a store, and time budgets.
`python -m tests.search.simulation --first 0 --seeds 10000` runs many; a failure names the seed that repeats it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.context import SearchContext
from search.recipes.factory import RecipeFactory
from search.scheduling import budget
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from search.verify.replay import replay
from tests.search.test_orchestrator import SPACE, STANDARD, World, keys, outline, results
from tests.search.whole_searches import small_phases
from trainables.pipeline.leases import Leases
from trainables.pipeline.store import StageStore

LIMITS = {"seeds": 1, "trials": 3, "children_per_start": 2, "lag": 2}

PHASES = small_phases(1, 1, 1)

SLOTS = 3


class Killed(BaseException):
    """The driver is gone."""


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


class Search(World):
    """One search, its workers and its driver, which may be replaced.

    Args:
        folder: Of the search.
        store: Of finished stages, which searches may share.
        draws: What happens.
        fails: Whether some trials fail the first time.
        settings: Of the search.
    """

    phases = PHASES

    def __init__(self, folder: Path, store: Path, draws: random.Random, fails: bool, **settings: object) -> None:
        self.draws, self.folder, self.place = draws, folder, store
        self.running: dict[str, tuple[TrialRequest, float]] = {}
        self.leases: Leases | None = None
        self.fails, self.attempts = fails, Counter[str]()
        self.clock, self.drivers = 0.0, 0
        super().__init__(folder, SPACE, **LIMITS | settings)

    def begin(self) -> Orchestrator:
        self.running.clear()
        if self.leases is not None:
            self.leases.close()  # the kernel frees what a dead process held
        self.drivers += 1
        self.store, self.leases = StageStore(self.place), Leases(self.place / "leases")
        self.journal = TornJournal(self.folder / "journal.jsonl", self.draws)
        sampler = Sampler(self.space, STANDARD, 1.0, None, "study", 0)
        state = SearchState(RecipeFactory(self.space, STANDARD), self.settings, self.margin, 0, None)
        locks = StageLocks(keys, self.store, self.leases)
        self.orchestrator = Orchestrator(state, sampler, self.journal, locks, all_phases=self.phases)
        return self.orchestrator

    @property
    def over(self) -> bool:
        return self.orchestrator.phase == "done" and not self.running

    def outcome(self, request: TrialRequest) -> str:
        """The same whenever a trial is run, but for those that fail the first time."""
        drawn = random.Random(f"{request.id} outcome").random()
        if self.fails and drawn < 0.15 and not self.attempts[request.id]:
            return "failed"
        return "diverged" if 0.15 <= drawn < 0.25 else "finished"

    def step(self) -> bool:
        """Lets something happen; whether anything could."""
        chance = self.draws.random()
        if chance < 0.02:
            self.begin()  # killed between two events
        elif chance < 0.04:
            self.orchestrator.note_interruption()
            self.begin()
        elif chance < 0.06:
            self.journal.writes_left = self.draws.randint(0, 2)
        elif chance < 0.10 and self.running:
            self.lose(self.draws.choice(sorted(self.running)))
        elif chance < 0.18 and self.running:
            # what another trial waits for may be there long before its trial ends
            request, _ = self.running[self.draws.choice(sorted(self.running))]
            for key in keys(request)[0]:
                self.finish_stage(key)
        elif len(self.running) < SLOTS and chance < 0.65:
            return self.start() or bool(self.running)
        elif self.running:
            name = min(self.running, key=lambda one: self.running[one][1])
            request, self.clock = self.running.pop(name)
            outcome = self.outcome(request)
            self.attempts[name] += 1
            self.end(request, outcome)
        else:
            return self.start()
        return True

    def start(self) -> bool:
        done = set(self.orchestrator.state.records)
        request = self.orchestrator.next()
        if request is None:
            if self.orchestrator.finished and not self.over and not self.running:
                self.begin()  # a budget is used up: as much is granted again
                return True
            return False
        assert request.id not in done and request.id not in self.running
        self.running[request.id] = request, self.clock + self.draws.expovariate(1.0)
        return True

    def lose(self, name: str) -> None:
        self.running.pop(name)
        self.orchestrator.requeue(name, "its process is gone")

    def ending(self) -> tuple:
        """What it comes to, whatever happened."""
        state = self.orchestrator.state
        return outline(state.requests.values()), results(self), self.confirmed()


@cache
def uninterrupted() -> tuple:
    """What a search comes to with nothing that happens to it."""
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder) / "s", Path(folder) / "stages", random.Random(0), fails=False)
        search.play(outcome=search.outcome)
        return search.ending()


@cache
def context() -> SearchContext:
    """The search, for a replay of its decisions."""
    with tempfile.TemporaryDirectory() as folder:
        return SearchContext.make(SPACE, World(Path(folder), SPACE, **LIMITS).settings)


def simulate(seed: int) -> int:
    """Simulates what a seed draws.

    Returns:
        Drivers that it took.

    Raises:
        AssertionError: Something was lost, repeated, or decided otherwise; a note names the seed.
    """
    draws = random.Random(seed)
    fails, limited = draws.random() < 0.25, draws.random() < 0.25
    settings = {"time_budget": draws.uniform(2, 20)} if limited else {}
    try:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: max((s.clock for s in found), default=0.0)))
            found: list[Search] = []
            for number in range(draws.choice((1, 1, 2))):
                found.append(Search(Path(folder) / f"s{number}", Path(folder) / "stages", draws, fails, **settings))
            _run(found, draws)
            for search in found:
                _check(search, same=not (fails or limited))
                search.leases.close()
            return sum(search.drivers for search in found)
    except BaseException as error:
        error.add_note(f"python -m tests.search.simulation --first {seed} --seeds 1")
        raise


def _run(found: list[Search], draws: random.Random) -> None:
    idle = 0
    while left := [search for search in found if not search.over]:
        search = draws.choice(left)
        try:
            idle = 0 if search.step() else idle + 1
        except Killed:
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
    left = [path.name for path in search.folder.iterdir() if path.name != "journal.jsonl"]
    assert left == [], "something was left behind"
    found = replay(context(), search.folder / "journal.jsonl", phases=PHASES)
    assert found.problems == [], "an honest search is not believed"
    assert found.proposals == len([event for event in events if event["event"] == "task"])


def main() -> None:
    it = argparse.ArgumentParser("python -m tests.search.simulation", description=__doc__)
    it.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    it.add_argument("--seeds", type=int, default=200, help="number of seeds (default: %(default)s)")
    options = it.parse_args()
    drivers = [simulate(seed) for seed in range(options.first, options.first + options.seeds)]
    print(f"{len(drivers)} seeds, {sum(drivers)} drivers")


if __name__ == "__main__":
    main()
