"""The adaptive arm: proposals one at a time, several later stages for each new start.

Proposal k knows the results of proposals 0 to k − lag and no others, and is compared with these alone where it may be
stopped early. So a search depends on the numbers of its trials and not on which of them finished first: with one slot
or with several, on a busy machine or a quiet one, the same command makes the same proposals.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.records.schema import Record
from search.phases import phases
from search.phases.phases import ADAPTIVE_SEED, Known
from search.scheduling import objective
from search.scheduling.sampler import Sampler, SpaceExhausted
from search.scheduling.tasks import Journal, Task

log = logging.getLogger(__name__)


@dataclass
class _Start:
    """The stages before the last of some recipe, and how many last stages are still to be proposed.

    Args:
        id: Number of the start.
        founder: Place among the proposals of the one that began it.
        fixed: What its children have in common, one dict of choices for each last stage that they may have.
        left: Children still to be proposed.
    """

    id: int
    founder: int
    fixed: list[dict[str, Any]]
    left: int


class Adaptive(phases.Adaptive):
    """Recipes that Optuna proposes, one by one as there is room.

    Args:
        sampler: Proposes, and is told how it went.
        journal: Where it is written down before anything is run.
    """

    def __init__(self, sampler: Sampler, journal: Journal) -> None:
        self.sampler, self._journal = sampler, journal
        self.exhausted = False
        self._starts: list[_Start] = []
        self._asked: Counter[str] = Counter()
        self._recalled = False
        self._results: dict[int, tuple[Task, Record]] = {}
        self._told = 0  # proposals of which the sampler knows the result

    def recall(self, known: Known) -> list[Task]:
        """What was proposed and has no record yet; study and starts become what they were.

        Called when the phase begins, because what comes before it may have changed the space.
        """
        if self._recalled:
            return []
        self._recalled = True
        events = self._journal.events()
        lessons = self.sampler.rebuild(events)
        proposed = [task for task in known.tasks.values() if task.phase == self.name]
        self._asked = Counter(task.recipe.plan.id for task in proposed)
        waiting = []
        for place, task in enumerate(proposed):
            assert task.start is not None
            while len(self._starts) <= task.start:
                self._starts.append(self._start(known, task, place))
            self._starts[task.start].left -= 1
            if task.id in known.records:
                self._results[place] = task, known.records[task.id]
            else:
                waiting.append(task)
        for event in events:
            if event["event"] == "exhausted" and event["start"] is None:
                self._end(known, event["why"])
            elif event["event"] == "exhausted":
                self._starts[event["start"]].left = 0
        for lesson in (*lessons, *self.sampler.take_in()):
            self._journal.write("lesson", **lesson)
        self.sampler.keep()
        return waiting

    @classmethod
    def id_of(cls, index: int) -> str:
        """Of the task of a proposal, by its place among them."""
        return f"{cls.name}-{index:04d}"

    @classmethod
    def is_id(cls, trial: str) -> bool:
        """Whether a trial was proposed."""
        return re.fullmatch(rf"{cls.name}-\d{{4,}}", trial) is not None

    def open(self, known: Known) -> bool:
        """Whether there are proposals to come."""
        return not self.exhausted and self.asked < known.limits.trials

    @property
    def asked(self) -> int:
        """Proposals so far."""
        return self._asked.total()

    @classmethod
    def place_of(cls, trial: str) -> int:
        """Place of a proposal among them, by its id."""
        return int(trial.rpartition("-")[2])

    @staticmethod
    def needed(known: Known, place: int) -> int:
        """How many results, from the first proposal on, the proposal at a place knows."""
        return max(0, place - known.limits.lag + 1)

    def ready(self, known: Known) -> bool:
        """Whether the results that the next proposal knows are there."""
        return all(place in self._results for place in range(self._told, self.needed(known, self.asked)))

    def peers(self, known: Known, trial: str) -> Callable[[str], bool]:
        """With which trials one may be compared on the way: those whose results its proposal knew."""
        end = self.needed(known, self.place_of(trial))
        return lambda other: not self.is_id(other) or self.place_of(other) < end

    def propose(self, known: Known) -> Task | None:
        """A proposal: a child of a start whose first trial is known, else a new start. To be asked for when `ready`.

        Args:
            known: What has been run.

        Returns:
            The task; `None` where a start has nothing more to offer (another call may), or the space has not
            (`exhausted`).
        """
        asked = self.asked
        self._tell_up_to(known, self.needed(known, asked))
        start = next((s for s in self._starts if s.left > 0 and s.founder < self._told), None)
        try:
            proposal = self.sampler.ask(asked, None if start is None else start.fixed[start.left % len(start.fixed)])
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
                self._end(known, str(error))
            return None
        recipe = proposal.recipe
        repeats = self._asked[recipe.plan.id] + any(
            task.recipe.plan.id == recipe.plan.id for task in known.tasks.values() if task.phase == "start"
        )
        number = len(self._starts) if start is None else start.id
        name = self.id_of(asked).removeprefix(f"{self.name}-")
        task = self.task(known, name, recipe, ADAPTIVE_SEED + repeats, number=proposal.number, start=number)
        # the other phases can be planned again, a proposal cannot
        self._journal.write("task", task=task.to_dict(), drawn=proposal.drawn)
        self.sampler.keep()
        self._asked[recipe.plan.id] += 1
        if start is None:
            start = self._start(known, task, asked)
            self._starts.append(start)
        start.left -= 1
        return task

    def told(self, known: Known, task: Task, record: Record) -> None:
        """How a proposal did; the sampler hears of it when a proposal is made that knows it."""
        self._results[self.place_of(task.id)] = task, record

    def close(self, known: Known, sampler: Sampler) -> None:
        """Tells the sampler the last results, for whoever looks at the study."""
        self._tell_up_to(known, self.asked)
        self.sampler.keep()

    def _tell_up_to(self, known: Known, end: int) -> None:
        for place in range(self._told, end):
            if place in self._results:
                self._tell(known, *self._results[place])
        self._told = max(self._told, end)

    def _tell(self, known: Known, task: Task, record: Record) -> None:
        """Tells the sampler.

        A start that ended before its last stage gets no more children: they would end where this one did.
        """
        assert task.number is not None and task.start is not None
        # a shortened plan has a score of its own, at its own length
        steps = {
            point.epoch: point.metrics.get("accuracy", point.metrics.get("shortened", 0.0)) for point in record.curve
        }
        found = objective.values(record.metrics, known.limits.objective)
        self.sampler.tell(task.number, record.outcome, found, list(steps.items()))
        last = record.curve[-1].stage if record.curve else ""
        if record.outcome in ("stopped", "diverged") and last != task.recipe.plan.stages[-1].name:
            self._starts[task.start].left = 0

    def _end(self, known: Known, why: str) -> None:
        if self.asked < known.limits.trials:
            log.warning("the adaptive arm ends after %d of %d trials: %s", self.asked, known.limits.trials, why)
        self.exhausted = True

    def _start(self, known: Known, task: Task, founder: int) -> _Start:
        return _Start(len(self._starts), founder, self.sampler.siblings(task.recipe), known.limits.children)
