"""Decides which trial runs next, without Ray: phase after phase, from the first seed of the design to the last check.

The orchestrator hands out trials and takes their records. A phase begins when the phases that it comes after have
ended, so phases that do not depend on each other overlap; trials of an earlier phase go first. No trial starts while
another one trains a stage that both need: it waits, holding no slot, and the next one that shares nothing goes first.
What cannot be planned again from records is journaled before it is done, so a search that was killed continues from
there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.formatting import counted
from analysis.records.schema import Record
from search import phases
from search.phases.adaptive import Adaptive
from search.phases.phase import Phase
from search.recipes.factory import Context
from search.scheduling.budget import Budget
from search.scheduling.early_end.rule import EarlyEnd
from search.scheduling.journal import Journal
from search.scheduling.proposer import is_proposal, proposal_id
from search.scheduling.sampler import Sampler
from search.scheduling.schedule import Schedule
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.state import SearchState
from trainables.plan import Plan

log = logging.getLogger(__name__)

STORE_FULL = "the disk of the stage store"
"""How the reason of a trial begins that found no room for its stage: every other trial would fail too."""


class Orchestrator:
    """Hands out trials, takes records.

    Args:
        state: The search; what its journal holds is restored into it.
        sampler: Proposes the recipes of the adaptive arm.
        journal: Where decisions and results are kept.
        locks: Keeps trials that need the same unfinished stage apart.
        joint: Whether several seeds of a plan are trained in one network.
        all_phases: Phases that the search may have; `search.phases.PHASES` where absent.
    """

    def __init__(
        self,
        state: SearchState,
        sampler: Sampler,
        journal: Journal,
        locks: StageLocks,
        joint: Callable[[Plan], bool] = lambda plan: False,
        all_phases: Sequence[Phase] | None = None,
    ) -> None:
        self.state, self.sampler, self.journal, self.locks, self._joint = state, sampler, journal, locks, joint
        settings = state.settings
        self.budget = Budget(settings.time_budget, settings.gpu_seconds, settings.gpus_per_trial)
        restore(journal, state, self.budget)
        self.all_phases = tuple(phases.PHASES if all_phases is None else all_phases)
        chosen = phases.enabled(settings, state.extra_blocks, self.all_phases)
        self.schedule = Schedule(chosen, state, sampler, journal, locks, self.budget, joint)
        self.proposer, self.running = self.schedule.proposer, self.schedule.running
        self.stopped_because = ""
        """Why the search ends early, in words; empty while it need not."""
        self._stopping = self._said_waiting = self._began = False
        self.schedule.advance()

    # --- trials -------------------------------------------------------------------------------------------

    def next(self) -> TrialRequest | None:
        """The next trial that may start now; `None` if none may, or none is left (`finished`)."""
        self._note_beginning()
        if self.budget.used > 1.0 and not self._stopping:
            self._stopping = True
            self.journal.write("spent", **self.budget.entry())
        if self._stopping:
            return None
        self.schedule.advance()
        request = self.schedule.pick()
        if request is None and (self.proposer.exhausted or self.state.early_ends):
            self.schedule.advance()  # an arm that has ended before its last proposal is closed
            request = self.schedule.pick()
        if request is not None:
            self.running[request.id] = request
            self.budget.start(request.id)
            self._said_waiting = False
            return request
        if self.schedule.heads and not self.running and not self._said_waiting:
            self._said_waiting = True
            log.warning("waiting for a stage that another search is training: %s", self.locks.waits_for)
        return None

    def started(self, trial: str) -> None:
        """A trial that was handed out has its share of the machine: from here on it is charged for."""
        self.budget.start(trial)

    def record(self, record: Record) -> None:
        """Takes the result of a trial."""
        request = self.state.requests[record.trial]
        # what failed before its first report has no seconds of its own, and has held its share all the same
        used = max(record.seconds, self.budget.end(record.trial)) * record.gpus
        self.budget.charge(used)
        self.journal.write("record", record=record.to_dict(), gpu_seconds=used, **self.budget.entry())
        self.running.pop(record.trial, None)
        if record.outcome == "failed":
            self.state.failures[record.trial] = record
            if STORE_FULL in record.reason:
                self.stop(record.reason)
        else:
            self.state.records[record.trial] = record
        self.locks.release(request, finished=record.outcome == "finished")
        self.locks.evict([*self.running.values(), *self.schedule.heads])
        if request.number is not None:
            self.proposer.observe(request, record)

    def requeue(self, trial: str, reason: str, gpus: float | None = None) -> None:
        """Puts a running trial back, first in its queue: it failed for no fault of its own.

        Args:
            trial: Id of the trial.
            reason: Why it failed, in words.
            gpus: Share of GPUs that it held; the usual share where absent.
        """
        share = self.state.settings.gpus_per_trial if gpus is None else gpus
        used = share * self.budget.end(trial)
        self.budget.charge(used)
        self.journal.write("again", trial=trial, reason=reason, gpu_seconds=used, **self.budget.entry())
        request = self.running[trial]
        self.locks.release(request)
        self.schedule.requeue(request)

    def stop(self, reason: str = "") -> None:
        """Starts nothing more.

        Args:
            reason: Why the search has to end early; empty where a person ends it.
        """
        self._stopping = True
        self.stopped_because = self.stopped_because or reason

    def note_interruption(self) -> None:
        """Journals what is used of the budgets: the running trials are given up, and start again some day."""
        used = self.budget.held()
        if used or self.budget.seconds is not None:
            self.journal.write("cut", gpu_seconds=used, **self.budget.entry())

    def _note_beginning(self) -> None:
        """Journals, before the first trial of a run, the budget that was granted and the blocks that were asked for."""
        if self._began:
            return
        self._began = True
        if self.budget.granted is not None:
            self.journal.write("budget", seconds=self.budget.granted, seconds_used=0.0)
        if self.state.extra_blocks is not None:
            return
        counts, recorded = self.state.block_counts, recorded_blocks(self.state)
        # blocks that are added to a table that somebody has seen make another interim analysis of it
        asked = [recorded] if not counts and recorded else []
        for seeds in (*asked, self.state.settings.seeds):
            if counts[-1:] != [seeds]:
                counts.append(seeds)
                self.journal.write("blocks", seeds=seeds)

    # --- progress -----------------------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Whether nothing is left to run, now that everything that was recorded has been planned again."""
        self.schedule.advance()
        return self.phase == "done"

    @property
    def phase(self) -> str:
        """Name of the first phase that has not ended; "done" after the last one."""
        return self.schedule.current

    @property
    def description(self) -> str:
        """What the phases of the running trials do."""
        # a list: the display asks from a thread of its own
        active = {request.phase for request in list(self.running.values())} or {self.phase}
        return "; ".join(phase.description for phase in self.schedule.phases if phase.name in active) or "done"

    @property
    def finished(self) -> bool:
        """Whether nothing more will start."""
        return self._stopping or self.phase == "done"

    @property
    def left(self) -> str:
        """What remains of the budgets, in words; empty without any."""
        words = self.budget.left()
        if self.phase == Adaptive.name:
            words.append(counted(max(0, self.state.proposals - self.proposer.asked), "proposal"))
        return ", ".join(words)


def recorded_blocks(state: SearchState) -> int:
    """Design blocks that the records show, for journals of versions that did not write down their number.

    Whoever looked at the table saw these blocks. Blocks of a design that was interrupted, and of which nothing
    was judged yet, do not count.
    """
    first_look = min((look["first"] for look in state.looks), default=None)
    blocks = {record.seed - state.first_seed for record in state.records.values() if record.arm == "design"}
    planned = [block for block in blocks if first_look is None or block < first_look]
    blocks_seen = max(planned, default=-1) + 1
    later = any(record.arm not in ("tune", "design") for record in state.records.values())
    runs = {f"design-{block}-{position:03d}" for block, position, _ in state.runs(blocks_seen)}
    return blocks_seen if later or runs <= state.records.keys() else 0


def restore(journal: Journal, state: SearchState, budget: Budget) -> None:
    """Restores what earlier runs of the search have journaled.

    Raises:
        JournalError: The journal is damaged.
    """
    for event in journal.events():
        try:
            _restore_event(event, journal, state, budget)
            budget.restore(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise journal.damaged(event["line"], f"line {event['line']} is damaged ({error!r})") from error


def _restore_event(event: Mapping[str, Any], journal: Journal, state: SearchState, budget: Budget) -> None:
    kind, line = event["event"], event["line"]
    if kind == "task":
        request = TrialRequest.from_dict(event["task"])
        expected = proposal_id(sum(known.number is not None for known in state.requests.values()))
        if request.number is not None and request.id not in state.requests and request.id != expected:
            raise journal.damaged(
                line, f"line {line} proposes {request.id}, and the line that proposed {expected} is missing"
            )
        state.requests[request.id] = request
    elif kind == "look":
        state.looks.append(event["look"])
    elif kind == "early_end":
        state.early_ends.append(EarlyEnd(**event["end"]))
    elif kind == "blocks":
        state.block_counts.append(event["seeds"])
    elif kind == "space":
        tuned = event["context"]
        state.change_space(event["set_aside"], None if tuned is None else Context(**tuned))
    elif kind == "record":
        record = Record.from_dict(event["record"])
        if cell := re.fullmatch(r"design-\d+-(\d+)", record.trial):
            state.recorded_cells[record.context, record.tricks, record.recipe] = int(cell[1])
        if is_proposal(record.trial) and record.trial not in state.requests:
            raise journal.damaged(line, f"line {line} records {record.trial}, and the line that proposed it is missing")
        budget.charge(event.get("gpu_seconds", record.seconds * record.gpus))
        if record.outcome == "failed":
            state.records.pop(record.trial, None)  # it may succeed the next time
        else:
            state.records[record.trial] = record
    elif kind in ("again", "cut"):
        budget.charge(event.get("gpu_seconds", 0.0))
