"""Which trials of which phases wait: phases begin, plan, and end here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from search.phases.adaptive import Adaptive
from search.phases.extra_blocks import ExtraBlocks
from search.phases.phase import Phase
from search.scheduling.budget import Budget
from search.scheduling.journal import Journal
from search.scheduling.proposer import Proposer
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from trainables.plan import Plan
from trainables.training.numerics import groups_of

AHEAD = 4
"""Proposals that may wait for a stage in training while the next one is asked for: no slot idles for them."""

ADAPTIVE_SHARE = 0.8
"""Share of a budget after which nothing more is proposed; the rest is kept for the race."""


class Schedule:
    """The queues of the phases of a search.

    Args:
        phases: Phases of the search, in the order of their worth.
        state: The search.
        sampler: Proposes the recipes of the adaptive arm.
        journal: Where decisions are kept.
        locks: Keeps trials that need the same unfinished stage apart.
        budget: What the search may use.
        joint: Whether several seeds of a plan are trained in one network.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        state: SearchState,
        sampler: Sampler,
        journal: Journal,
        locks: StageLocks,
        budget: Budget,
        joint: Callable[[Plan], bool],
    ) -> None:
        self.phases, self.state, self._sampler, self._journal = phases, state, sampler, journal
        self._locks, self._budget, self._joint = locks, budget, joint
        adaptive = next((phase for phase in phases if isinstance(phase, Adaptive)), Adaptive())
        self.proposer = Proposer(state, sampler, journal, adaptive)
        self.running: dict[str, TrialRequest] = {}
        self._queues: dict[str, list[TrialRequest]] = {}  # by name of an open phase
        self._closed: set[str] = set()
        self._bounds: dict[tuple[str, int, int], int] = {}

    @property
    def current(self) -> str:
        """Name of the first phase that has not ended; "done" after the last one."""
        return next((phase.name for phase in self.phases if phase.name not in self._closed), "done")

    @property
    def heads(self) -> list[TrialRequest]:
        """The first trial of each queue."""
        return [queue[0] for queue in self._queues.values() if queue]

    def requeue(self, request: TrialRequest) -> None:
        """Puts a running trial back, first in its queue."""
        self.running.pop(request.id)
        self._queues[request.phase].insert(0, request)

    def advance(self) -> None:
        """Opens phases whose predecessors have ended, plans what has become known, and closes what has ended."""
        names = {phase.name for phase in self.phases}
        for phase in self.phases:
            if phase.name in self._closed or (names & set(phase.after)) - self._closed:
                continue
            if phase.name not in self._queues:
                self._queues[phase.name] = []
                self._plan(phase)
            while not self._pending(phase.name):
                if isinstance(phase, Adaptive) and self._may_propose():
                    break
                if not self._plan(phase):
                    self._close(phase)
                    break

    def _plan(self, phase: Phase) -> bool:
        """Queues what follows from the records; whether the phase had anything new."""
        if isinstance(phase, Adaptive):
            waiting = self.proposer.recall()
            self._queues[phase.name] += waiting
            return bool(waiting)
        if isinstance(phase, ExtraBlocks) and (look := phase.decide(self.state)) is not None:
            self.state.looks.append(look)
            self._journal.write("look", look=look)
        new = [request for request in phase.plan(self.state) if request.id not in self.state.requests]
        if self._locks.shares_stages:  # what one trial trains for another has to lie somewhere
            new = _with_company(new, self._joint)
        for request in new:
            self.state.requests[request.id] = request
            if request.id not in self.state.records:
                self._queues[phase.name].append(request)
        return bool(new)

    def _close(self, phase: Phase) -> None:
        if isinstance(phase, Adaptive):
            self.proposer.close()
        phase.close(self.state, self._sampler)
        self._closed.add(phase.name)

    def _pending(self, phase: str) -> bool:
        """Whether a trial of a phase waits or runs."""
        return bool(self._queues[phase]) or any(request.phase == phase for request in self.running.values())

    def pick(self) -> TrialRequest | None:
        """Takes the first trial that may start, those of earlier phases first, proposals as there is room."""
        for phase in self.phases:
            request = self._startable(phase.name)
            while request is None and isinstance(phase, Adaptive) and self._propose():
                request = self._startable(phase.name)
            if request is not None:
                return request
        return None

    def _startable(self, phase: str) -> TrialRequest | None:
        """The first trial of a phase that shares no unfinished stage with a running one, taken from its queue."""
        queue = self._queues.get(phase, [])
        position = next((at for at, request in enumerate(queue) if self._locks.acquire(request)), None)
        return None if position is None else queue.pop(position)

    def _may_propose(self) -> bool:
        return self.proposer.proposes and self._budget.used <= ADAPTIVE_SHARE

    def _propose(self) -> bool:
        """Asks for a proposal, if one can be made now; whether it is worth looking at the queue again."""
        name = Adaptive.name
        if name not in self._queues or name in self._closed:
            return False
        # where nothing runs any more, no result is waited for: it would never come
        ready = self.proposer.ready() or not self._pending(name)
        if not ready or len(self._queues[name]) >= AHEAD or not self._may_propose():
            return False
        request = self.proposer.propose()
        if request is not None:
            self.state.requests[request.id] = request
            self._queues[name].append(request)
        return True

    @property
    def open(self) -> list[str]:
        """Phases that have begun."""
        return list(self._queues)

    @property
    def unplanned(self) -> dict[str, int]:
        """Upper bounds of the trials that each phase has not planned yet."""
        planned = Counter(request.phase for request in list(self.state.requests.values()))
        left = {}
        for phase in self.phases:
            if phase.name not in self._closed and (phase.name not in self._queues or phase.in_rounds):
                # a bound may become another one when a phase or the adaptive arm has ended
                known = (phase.name, len(self._closed), len(self.state.early_ends))
                if known not in self._bounds:
                    self._bounds[known] = phase.bound(self.state)
                left[phase.name] = max(0, self._bounds[known] - planned[phase.name])
        return left

    @property
    def planned(self) -> int:
        """Trials of the whole search: exact for phases that have been planned, upper bounds for the others."""
        return len(self.state.requests.keys() - self.state.set_aside.keys()) + sum(self.unplanned.values())


def _with_company(requests: Sequence[TrialRequest], joint: Callable[[Plan], bool]) -> list[TrialRequest]:
    """The trials, each with the seeds of its recipe that are trained jointly with it."""
    seeds: dict[str, list[int]] = {}
    for request in requests:
        if not request.may_stop and joint(request.recipe.plan):
            seeds.setdefault(request.recipe.plan.id, []).append(request.seed)
    groups = {
        (plan, seed): group
        for plan, of_plan in seeds.items()
        for group in groups_of(sorted(set(of_plan)))
        for seed in group
        if len(group) > 1
    }
    return [replace(each, joint_seeds=groups.get((each.recipe.plan.id, each.seed), ())) for each in requests]
