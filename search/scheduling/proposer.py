"""Proposals of the adaptive arm, one at a time: several later stages for each new start.

Proposal k knows the results of proposals 0 to k − lag and no others, and is compared with these alone where it may be
stopped early. So a search depends on the numbers of its trials and not on which of them finished first: with one slot
or with several, on a busy machine or a quiet one, the same command makes the same proposals.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.records.schema import Record
from search.phases.adaptive import Adaptive
from search.scheduling import objective
from search.scheduling.early_end.decision import early_end
from search.scheduling.journal import Journal
from search.scheduling.sampler import Sampler, SpaceExhausted
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState

log = logging.getLogger(__name__)

LAG = 4
"""The lag where the settings leave it open: results of the last few proposals are not waited for."""


@dataclass
class _Start:
    """The stages before the last of some recipe, and how many last stages are still to be proposed.

    Args:
        id: Number of the start.
        founder: Position of the proposal that began it.
        fixed: What its children have in common, one dict of choices for each last stage that they may have.
        left: Children still to be proposed.
    """

    id: int
    founder: int
    fixed: list[dict[str, Any]]
    left: int


class Proposer:
    """Asks the sampler for recipes, and tells it their results in the order of the proposals."""

    def __init__(self, state: SearchState, sampler: Sampler, journal: Journal, phase: Adaptive) -> None:
        self._state, self._sampler, self._journal, self._phase = state, sampler, journal, phase
        self.exhausted = False
        self._starts: list[_Start] = []
        self._asked: Counter[str] = Counter()
        self._recalled = False
        self._results: dict[int, tuple[TrialRequest, Record]] = {}
        self._set_aside: set[int] = set()  # positions
        self._learned = 0  # proposals whose result the sampler knows

    def recall(self) -> list[TrialRequest]:
        """Restores study and starts from the journal; to be called when the arm begins, at the tuned numbers.

        Where the space was changed, what was proposed before it is taken over in its words, and its starts get no more
        children.

        Returns:
            Proposals that have no record yet.
        """
        if self._recalled:
            return []
        self._recalled = True
        events = self._journal.events()
        lessons = self._sampler.rebuild(events)
        proposed = [request for request in self._state.requests.values() if request.number is not None]
        self._asked = Counter(request.recipe.plan.id for request in proposed)
        waiting = []
        for position, request in enumerate(proposed):
            number = request.start
            assert number is not None
            if position < self._state.former_proposals:
                self._starts += (_Start(id, position, [], 0) for id in range(len(self._starts), number + 1))
                request = replace(request, recipe=self._sampler.in_own_words(request.recipe) or request.recipe)
                self._state.requests[request.id] = request
            while len(self._starts) <= number:
                self._starts.append(self._start(request, position))
            self._starts[number].left -= 1
            if request.id in self._state.set_aside:
                self._set_aside.add(position)
            elif request.id in self._state.records:
                self._results[position] = request, self._state.records[request.id]
            else:
                waiting.append(request)
        for event in since_change(events):
            if event["event"] == "exhausted" and event["start"] is None:
                self._exhaust(event["why"])
            elif event["event"] == "exhausted":
                self._starts[event["start"]].left = 0
        for lesson in (*lessons, *self._sampler.take_in()):
            self._journal.write("lesson", **lesson)
        self._sampler.keep()
        return waiting

    @property
    def proposes(self) -> bool:
        """Whether there are proposals to come."""
        return not self.exhausted and self.asked < self._state.proposals

    @property
    def asked(self) -> int:
        """Proposals so far."""
        return self._asked.total()

    def ready(self) -> bool:
        """Whether the results that the next proposal knows have arrived."""
        needed = range(self._learned, self._needed(self.asked))
        return all(position in self._results or position in self._set_aside for position in needed)

    def peers(self, trial: str) -> Callable[[str], bool]:
        """Trials that a proposal may be compared with while it runs: those whose results were known to it."""
        end = self._needed(position_of(trial))
        return lambda other: not is_proposal(other) or position_of(other) < end

    def propose(self) -> TrialRequest | None:
        """A child of a start whose first trial is known, else a new start; to be asked for when `ready`.

        Returns:
            The trial; `None` where a start has nothing more to offer, after which another call may, or the space has
            not (`exhausted`), or where the arm ends early.
        """
        asked = self.asked
        self._learn_up_to(self._needed(asked))
        end = early_end(self._state, self._sampler, self._values(), asked)
        if end is not None:
            self._journal.write("early_end", end=end.to_dict())
            self._state.early_ends.append(end)
            return None
        start = next((s for s in self._starts if s.left > 0 and s.founder < self._learned), None)
        try:
            proposal = self._sampler.ask(asked, None if start is None else start.fixed[start.left % len(start.fixed)])
        except SpaceExhausted as error:
            self._journal.write(
                "exhausted",
                start=None if start is None else start.id,
                why=str(error),
                number=error.number,
                refused=error.refused,
            )
            if start is not None:
                start.left = 0
            else:
                self._exhaust(str(error))
            return None
        recipe = proposal.recipe
        repeats = self._asked[recipe.plan.id] + any(
            request.recipe.plan.id == recipe.plan.id
            for request in self._state.requests.values()
            if request.phase == "start"
        )
        number = len(self._starts) if start is None else start.id
        request = self._phase.request(
            self._state, f"{asked:04d}", recipe, self._phase.first_seed + repeats,
            number=proposal.number, start=number,
        )  # fmt: skip
        # the other phases can be planned again, a proposal cannot
        self._journal.write("task", task=request.to_dict(), drawn=proposal.drawn)
        self._sampler.keep()
        self._asked[recipe.plan.id] += 1
        if start is None:
            start = self._start(request, asked)
            self._starts.append(start)
        start.left -= 1
        return request

    def observe(self, request: TrialRequest, record: Record) -> None:
        """Takes the result of a proposal; the sampler learns it before the first proposal that knows it."""
        self._results[position_of(request.id)] = request, record

    def close(self) -> None:
        """Tells the sampler the last results, for whoever looks at the study."""
        self._learn_up_to(self.asked)
        self._sampler.keep()

    def _values(self) -> list[float | None]:
        """The objective of the proposals whose results are known, in order; `None` of one that has not finished."""
        found: list[float | None] = []
        for position in range(self._learned):
            parts = None
            if position in self._results and (record := self._results[position][1]).outcome == "finished":
                parts = objective.values(record.metrics, self._state.settings.objective)
            found.append(None if parts is None else parts[0])
        return found

    def _needed(self, position: int) -> int:
        """How many results, from the first proposal on, the proposal at a position knows."""
        return max(0, position - (self._state.settings.lag or LAG) + 1)

    def _learn_up_to(self, end: int) -> None:
        for position in range(self._learned, end):
            if position in self._results:
                self._learn(*self._results[position])
        self._learned = max(self._learned, end)

    def _learn(self, request: TrialRequest, record: Record) -> None:
        """Tells the sampler a result. A start that ended before its last stage gets no more children."""
        assert request.number is not None and request.start is not None
        # a shortened plan has a score of its own, at its own length
        steps = {
            point.epoch: point.metrics.get("accuracy", point.metrics.get("shortened", 0.0)) for point in record.curve
        }
        values = objective.values(record.metrics, self._state.settings.objective)
        self._sampler.tell(request.number, record.outcome, values, list(steps.items()))
        last = record.curve[-1].stage if record.curve else ""
        if record.outcome in ("stopped", "diverged") and last != request.recipe.plan.stages[-1].name:
            self._starts[request.start].left = 0

    def _exhaust(self, why: str) -> None:
        trials = self._state.proposals
        if self.asked < trials:
            log.warning("the adaptive arm ends after %d of %d trials: %s", self.asked, trials, why)
        self.exhausted = True

    def _start(self, request: TrialRequest, founder: int) -> _Start:
        children = self._state.settings.children_per_start
        return _Start(len(self._starts), founder, self._sampler.siblings(request.recipe), children)


def since_change(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The events of a journal since the space was changed last; all of them where it never was."""
    last = max((number for number, event in enumerate(events) if event["event"] == "space"), default=-1)
    return events[last + 1 :]


def proposal_id(position: int) -> str:
    """Id of the trial of a proposal, by its position among them.

    >>> proposal_id(7), position_of("adaptive-0007"), is_proposal("start-0007")
    ('adaptive-0007', 7, False)
    """
    return f"{Adaptive.name}-{position:04d}"


def is_proposal(trial: str) -> bool:
    """Whether a trial was proposed, by its id."""
    return re.fullmatch(rf"{Adaptive.name}-\d{{4,}}", trial) is not None


def position_of(trial: str) -> int:
    """Position of a proposal among them, by its id."""
    return int(trial.rpartition("-")[2])
