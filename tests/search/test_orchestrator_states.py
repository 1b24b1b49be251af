"""The orchestrator under any order of events: starts, ends, lost processes, kills."""

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from search.scheduling.trial_request import TrialRequest
from tests.search.test_orchestrator import SPACE, World, keys, outline, results
from tests.search.whole_searches import small_phases

LIMITS = {"seeds": 2, "trials": 4, "children_per_start": 2, "check_seeds": 1, "start_points": True}

SLOTS = 4


class Small(World):
    phases = small_phases(1, 1, 1)


def outcome(request: TrialRequest) -> str:
    """The same whenever a trial is run."""
    return "diverged" if request.seed % 1000 < 900 and int(request.recipe.plan.id[:2], 16) < 40 else "finished"


@cache
def uninterrupted() -> tuple:
    """What the search comes to with one slot and without a break."""
    with tempfile.TemporaryDirectory() as folder:
        world = Small(Path(folder), SPACE, **LIMITS)
        world.play(outcome=outcome)
        return ending(world)


def ending(world: World) -> tuple:
    state = world.orchestrator.state
    return outline(state.requests.values()), results(world), world.confirmed()


class Events(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = Small(Path(self.folder.name), SPACE, **LIMITS)
        self.running: list[TrialRequest] = []

    def teardown(self) -> None:
        try:
            for request in self.running:
                self.world.end(request, outcome(request))
            self.world.play(slots=2, outcome=outcome)
            assert ending(self.world) == uninterrupted(), "a search depends on the order of its events"
        finally:
            self.folder.cleanup()

    def pick(self, number: int) -> TrialRequest:
        return self.running[number % len(self.running)]

    @precondition(lambda self: len(self.running) < SLOTS)
    @rule()
    def start(self) -> None:
        done = set(self.world.orchestrator.state.records)
        request = self.world.orchestrator.next()
        if request is None:
            assert self.running or self.world.orchestrator.finished, "nothing runs, and nothing may start"
            return
        assert request.id not in done and request.id not in {one.id for one in self.running}
        self.running.append(request)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, SLOTS - 1))
    def end(self, number: int) -> None:
        request = self.pick(number)
        self.running.remove(request)
        self.world.end(request, outcome(request))

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, SLOTS - 1))
    def finish_a_stage(self, number: int) -> None:
        """What another trial waits for may be there long before its trial ends."""
        for key in keys(self.pick(number))[0]:
            self.world.finish_stage(key)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, SLOTS - 1))
    def lose_its_process(self, number: int) -> None:
        request = self.pick(number)
        self.running.remove(request)
        self.world.orchestrator.requeue(request.id, "its process is gone")

    @rule(orderly=st.booleans())
    def kill_and_resume(self, orderly: bool) -> None:
        if orderly:
            self.world.orchestrator.note_interruption()
        self.running = []
        self.world.begin()

    @invariant()
    def no_stage_is_trained_twice_at_a_time(self) -> None:
        needed = [key for request in self.running for key in self.world.unfinished(request)]
        assert len(needed) == len(set(needed))

    @invariant()
    def what_runs_is_known(self) -> None:
        assert set(self.world.orchestrator.running) == {request.id for request in self.running}


TestEvents = Events.TestCase
TestEvents.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
