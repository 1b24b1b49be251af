"""Decides a search again from its journal: every proposal, plan and stop must follow from the records before it.

A search depends on the results of its trials and not on the order in which they ended, so one orchestrator without
workers, to which the journal's records are given one by one, must ask for the trials that the journal has and for no
others. Where the journal holds something that this orchestrator would not ask for, the search may have been resumed
there; another orchestrator then begins on the lines before, as a resumed search does. What it does not ask for either
does not follow from the journal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.records.schema import Record
from search import phases as registered
from search.context import SearchContext
from search.growth.change import EVENT, find_change, space_at
from search.phases.adaptive import Adaptive
from search.phases.phase import Phase
from search.scheduling.early_stopping import CohortASHA, stages_of
from search.scheduling.journal import Journal
from search.scheduling.objective import PARTS
from search.scheduling.orchestrator import Orchestrator
from search.scheduling.proposer import LAG, is_proposal, position_of
from search.scheduling.sampler import Sampler
from search.scheduling.stage_locks import StageLocks
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings
from search.state import SearchState
from search.workspace.identity import SEEDS_APART, Identity
from trainables.plan import Plan

DECIDED = ("task", "lesson", "exhausted", "early_end", "look")
"""Events that are decisions: what else a journal holds was measured or asked for."""

MANY = 20
"""The default of `--settle-budget`, which journals do not hold, and the most check seeds that are tried."""

CHECKED = ("check", "nominated", "around")
"""Phases whose trials depend on the number of check seeds, which may change when a search is resumed."""


@dataclass
class Replayed:
    """What a replay has shown.

    Args:
        problems: What does not follow from the journal, each a sentence.
        proposals: Proposals that follow.
        plans: Recorded trials of the other phases that follow.
        stops: Trials whose stop follows.
        missing: Planned trials that have no result.
        sessions: Runs of the search that the journal needs at least.
        changes: How often its space was changed.
        state: The search at the end of its journal.
    """

    problems: list[str] = field(default_factory=list)
    proposals: int = 0
    plans: int = 0
    stops: int = 0
    missing: list[str] = field(default_factory=list)
    sessions: int = 1
    changes: int = 0
    state: SearchState | None = None


class _Differs(Exception):
    """The orchestrator would have decided otherwise."""


class _Prefix(Journal):
    """The first events of a journal; what an orchestrator writes to it is kept apart.

    Args:
        path: Of the journal, for messages.
        events: All of its events.
    """

    def __init__(self, path: Path, events: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(path)
        self.all, self.end = [dict(event) for event in events], 0
        self.written: list[dict[str, Any]] = []

    def events(self) -> list[dict[str, Any]]:
        return self.all[: self.end]

    def write(self, event: str, **content: Any) -> None:
        self.written.append({"event": event, **json.loads(json.dumps(content))})


class _Session:
    """An orchestrator on the lines before a position.

    Args:
        context: The search.
        journal: Its first events.
        settings: As they were in this run of the search.
        extra_blocks: Of `--settle`; `None` without it.
        phases: All phases that there are.
    """

    def __init__(
        self,
        context: SearchContext,
        journal: _Prefix,
        settings: Settings,
        extra_blocks: int | None,
        phases: Sequence[Phase],
    ) -> None:
        self.journal = journal
        journal.written.clear()
        first_seed = settings.seed * SEEDS_APART
        self.state = SearchState(context.factory, settings, context.standard.margin, first_seed, extra_blocks)
        metrics = [name.removeprefix("final/") for name in PARTS[settings.objective]]
        sampler = Sampler(
            context.space, context.standard, settings.epochs_scale, None, settings.name, settings.seed, metrics
        )
        locks = StageLocks(lambda request: [], None)
        self.orchestrator = Orchestrator(self.state, sampler, journal, locks, all_phases=phases)
        self.pump()

    @property
    def planned(self) -> Mapping[str, TrialRequest]:
        """Trials that have been asked for and have no result yet."""
        return self.orchestrator.running

    def pump(self) -> None:
        """Asks for every trial that may start."""
        while self.orchestrator.next() is not None:
            pass

    def decision(self, event: Mapping[str, Any]) -> None:
        """Compares a decision of the journal with what was decided here.

        Raises:
            _Differs: It was decided otherwise, or not at all.
        """
        made = [one for one in self.journal.written if _mark(one) == _mark(event)]
        if not made:
            raise _Differs("would not have been decided there")
        if _content(made[0]) != _content(event):
            raise _Differs("would have been decided otherwise")

    def record(self, record: Record) -> None:
        """Takes a result of the journal.

        Raises:
            _Differs: The trial would not have been asked for, or another one by that name.
        """
        request = self.planned.get(record.trial)
        if request is None:
            raise _Differs("is of a trial that would not have been planned")
        asked = {
            "recipe": request.recipe.plan.id, "plan": request.recipe.plan.to_dict(), "seed": request.seed,
            "split_seed": request.seed, "arm": request.arm, "tricks": request.tricks, "context": request.context,
            "setting": request.setting,
        }  # fmt: skip
        for name, value in asked.items():
            if _json(getattr(record, name)) != _json(value):
                raise _Differs(f"has another {name.replace('_', ' ')} than the trial that was planned")
        self.orchestrator.record(record)
        self.pump()


def replay(
    context: SearchContext,
    path: Path,
    proposals: bool = True,
    phases: Sequence[Phase] | None = None,
    observe: Callable[[Orchestrator, Record], None] = lambda orchestrator, record: None,
) -> Replayed:
    """Decides a search again.

    Args:
        context: The search.
        path: Its journal.
        proposals: Whether proposals are asked for again, which needs the version of Optuna that made them; otherwise
            they are taken from the journal.
        phases: All phases that there are; `search.phases.PHASES` where absent.
        observe: Called with each record and the orchestrator that has taken it.

    Raises:
        JournalError: The journal is damaged.
    """
    with _quiet():
        return _Replay(context, path, proposals, registered.PHASES if phases is None else phases, observe).run()


class _Replay:
    def __init__(
        self,
        context: SearchContext,
        path: Path,
        proposals: bool,
        phases: Sequence[Phase],
        observe: Callable[[Orchestrator, Record], None],
    ) -> None:
        self._context, self._proposals, self._phases, self._observe = context, proposals, phases, observe
        self._journal = _Prefix(path, Journal(path).events())
        self._found = Replayed()
        self._contexts: dict[int, SearchContext] = {}  # by how often the space had changed
        self._needs_arm_closed = _after(phases, Adaptive.name)

    def run(self) -> Replayed:
        found, journal = self._found, self._journal
        session = self._begin(0)
        for position, event in enumerate(journal.all):
            kind, line = event["event"], event["line"]
            if kind == EVENT:
                # the space changes where a search is resumed
                found.problems += self._change(position)
                session = self._begin(position + 1)
                found.sessions += 1
            if kind == "blocks" and position and self._seeds(position) != self._seeds(position + 1):
                session = self._begin(position + 1)
                found.sessions += 1
            if kind == "record" or (kind in DECIDED and (self._proposals or kind == "look")):
                session = self._follow(session, position)
                if kind == "record":
                    self._observe(session.orchestrator, Record.from_dict(event["record"]))
            elif kind == "task":
                # taken as it is: only a session that begins behind it knows it
                session = self._begin(position + 1)
            journal.end = position + 1
            if found.problems:
                found.problems[-1] = f"line {line} of the journal {found.problems[-1]}"
                break
            if kind == "task":
                found.proposals += 1
        found.state = session.state
        found.missing = sorted(session.planned)
        records = [Record.from_dict(event["record"]) for event in journal.all if event["event"] == "record"]
        found.changes = sum(event["event"] == EVENT for event in journal.all)
        found.plans = len({record.trial for record in records if not is_proposal(record.trial)})
        if not found.problems:
            found.stops, problems = stops(self._context, journal.all)
            found.problems += problems
        return found

    def _change(self, position: int) -> list[str]:
        """What is wrong with a change of the space: it does not follow from both spaces and the lines before."""
        event, before = self._journal.all[position], self._journal.all[:position]
        former, now = (self._context_at(end) for end in (position, position + 1))
        made = json.loads(json.dumps(find_change(former, now, before).event()))
        wrong = [name for name, value in made.items() if _json(event[name]) != _json(value)]
        return [f"changes the space, and its {' and '.join(wrong)} does not follow"] if wrong else []

    def _context_at(self, position: int) -> SearchContext:
        """The search with the space that it had at a position."""
        before = self._journal.all[:position]
        changes = sum(event["event"] == EVENT for event in before)
        if changes not in self._contexts:
            known = Identity.read(self._context.settings.folder)
            space = self._context.space if known is None else space_at(before, known)
            same = space == self._context.space
            self._contexts[changes] = self._context if same else replace(self._context, space=space)
        return self._contexts[changes]

    def _follow(self, session: _Session, position: int) -> _Session:
        """The session after an event; another one where the search was resumed before it."""
        try:
            self._take(session, position)
            return session
        except _Differs as error:
            why = str(error)
        for again in self._sessions(position):
            try:
                self._take(again, position)
                self._found.sessions += 1
                return again
            except _Differs:
                continue
        event = self._journal.all[position]
        what = {"record": f"({event['record']['trial']})" if event["event"] == "record" else "",
                "task": f"({event['task']['id']})" if event["event"] == "task" else ""}  # fmt: skip
        self._found.problems.append(f"{what.get(event['event'], event['event'])} {why}".strip())
        return session

    def _take(self, session: _Session, position: int) -> None:
        event = self._journal.all[position]
        self._journal.end = position
        if event["event"] == "record":
            session.record(Record.from_dict(event["record"]))
        else:
            session.decision(event)

    def _sessions(self, position: int) -> Iterator[_Session]:
        """Orchestrators of a search that is resumed at a position, with options that journals do not hold."""
        yield self._begin(position)
        looks = [event["look"] for event in self._journal.all[: position + 1] if event["event"] == "look"]
        for look in looks[-1:]:
            # the blocks that were granted are a budget that grants them
            yield self._begin(position, extra_blocks=MANY)
            yield self._begin(position, extra_blocks=sum(dict(look["cells"]).values()))
        event = self._journal.all[position]
        if event["event"] == "record" and _phase(event["record"]["trial"]) in CHECKED:
            for seeds in range(1, MANY + 1):
                if seeds != self._context.settings.check_seeds:
                    yield self._begin(position, check_seeds=seeds)

    def _begin(self, position: int, extra_blocks: int | None = None, **settings: Any) -> _Session:
        self._journal.end = position
        changed = {"seeds": self._seeds(position), "trials": self._trials(position), **settings}
        limits = {"time_budget": None, "gpu_hours": None}
        stated = replace(self._context.settings, **changed | limits)
        return _Session(self._context_at(position), self._journal, stated, extra_blocks, self._phases)

    def _seeds(self, position: int) -> int:
        """Seeds of the design that were asked for at a position."""
        asked = [
            (number, int(event["seeds"]))
            for number, event in enumerate(self._journal.all)
            if event["event"] == "blocks"
        ]
        before = [seeds for number, seeds in asked if number < position]
        after = [seeds for number, seeds in asked if number >= position]
        return (*before[-1:], *after, self._context.settings.seeds)[0]

    def _trials(self, position: int) -> int:
        """Proposals that are made before the adaptive arm ends the next time.

        A budget may have cut it: it has ended where the first trial of a later phase has a record. Where the arm has
        decided to end early, it had further proposals to make.
        """
        before = self._journal.all[:position]
        count = len([event for event in before if event["event"] == "task"])
        count += sum(int(event["end"]["saved"]) for event in before if event["event"] == "early_end")
        asked_more = False
        for event in self._journal.all[position:]:
            if event["event"] == "task":
                count, asked_more = count + 1, False
            elif event["event"] == "exhausted":
                asked_more = True
            elif event["event"] == "early_end":
                return count + int(event["end"]["saved"])
            elif event["event"] == EVENT or (
                event["event"] == "record" and _phase(event["record"]["trial"]) in self._needs_arm_closed
            ):
                break
        return count + asked_more


def stops(context: SearchContext, events: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Judges every proposal again at its rungs, by what those before it have shown.

    Args:
        context: The search.
        events: Of its journal, in order.

    Returns:
        How many stops follow, and what does not follow.
    """
    lag = context.settings.lag or LAG
    # by trial: the last record, and how often the space had changed when the first and the last one came
    last: dict[str, Record] = {}
    first_seen: dict[str, int] = {}
    last_seen: dict[str, int] = {}
    set_aside: list[Mapping[str, str]] = [{}]
    for event in events:
        if event["event"] == EVENT:
            set_aside.append(event["set_aside"])
        elif event["event"] == "record" and event["record"]["arm"] == Adaptive.arm:
            record = Record.from_dict(event["record"])
            last[record.trial], last_seen[record.trial] = record, len(set_aside) - 1
            first_seen.setdefault(record.trial, len(set_aside) - 1)
    problems, count = [], 0
    for trial, record in last.items():
        if not is_proposal(trial) or record.outcome == "failed":
            continue
        end, then = max(0, position_of(trial) - lag + 1), last_seen[trial]
        peers = [
            one
            for name, one in last.items()
            if (position_of(name) < end if is_proposal(name) else first_seen[name] <= then)
            and name not in set_aside[then]
        ]
        # what a trial had shown before it failed is known in the run of the search in which it failed
        decided = []
        for known in (peers, [one for one in peers if one.outcome != "failed"]):
            halving = context.early_stopping()
            halving.remember(known)
            decided.append(_judged(halving, record))
        if _json(dict(record.stop)) in map(_json, decided):
            count += bool(record.stop)
        elif record.stop:
            problems.append(f"{trial} was stopped, and by what was known then it would not have been stopped there")
        elif {} not in decided:
            problems.append(f"{trial} was not stopped, and by what was known then it would have been")
    return count, problems


def _judged(halving: CohortASHA, record: Record) -> dict[str, Any]:
    """The decision about a trial, as its record keeps it; {} for none."""
    plan = stages_of_record(record)
    points = [
        {"stage": point.stage, "epoch": point.epoch, "progress": point.progress, "metrics": dict(point.metrics)}
        for point in record.curve
    ]
    # the last report of a trial that has ended is not judged
    seen = points if record.stop else points[:-1]
    for point in seen:
        decision = halving.judge(record.trial, plan, [point])
        if decision is not None:
            return decision.to_dict()
    return {}


def stages_of_record(record: Record) -> dict[str, str]:
    """By stage of a recorded plan, the kinds of the stages that come after it."""
    return stages_of(Plan.from_dict(record.plan))


def _mark(event: Mapping[str, Any]) -> tuple[str, Any]:
    """Which decision it is."""
    kind = event["event"]
    key = {"task": lambda: event["task"]["id"], "lesson": lambda: event["number"], "exhausted": lambda: event["start"]}
    return kind, key.get(kind, lambda: None)()


def _content(event: Mapping[str, Any]) -> str:
    """What was decided, as text that can be compared."""
    if event["event"] == "task":
        # of an earlier version, which wrote other words for the same, and did not write what was drawn
        return _json(TrialRequest.from_dict(event["task"]).to_dict())
    if event["event"] == "exhausted":
        return _json([event["number"], event["refused"]])
    return _json({name: value for name, value in event.items() if name not in ("line", "crc32")})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _phase(trial: str) -> str:
    return trial.partition("-")[0]


def _after(phases: Sequence[Phase], name: str) -> set[str]:
    """Names of the phases that begin when one has ended, directly or not."""
    found = {name}
    for _ in phases:
        found |= {phase.name for phase in phases if found & set(phase.after)}
    return found - {name}


@contextmanager
def _quiet() -> Iterator[None]:
    """What the search has said while it ran is not said again."""
    log = logging.getLogger("search")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
