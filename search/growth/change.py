"""Works out what a changed space means for a resumed search, before anything is trained.

The change is one event of the journal: the space, what differs, which trials are set aside, and the baseline's numbers
where they were tuned. From then on the search decides as if it had always had the new space and the trials inside
it. A trial that is set aside counts again if a later change brings back what it uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.formatting import counted
from analysis.records.schema import Record
from search.context import SearchContext
from search.design.labels import DesignError
from search.growth.difference import differences, keep_defaults
from search.growth.inside import outside
from search.phases.tune import Tune
from search.recipes.factory import Context
from search.request import Request
from search.scheduling.journal import Journal
from search.scheduling.trial_request import TrialRequest
from search.settings import Settings, SettingsError
from search.state import SearchState
from search.workspace.identity import SEEDS_APART, Identity
from spaces.domain import Space, from_dict, to_dict

EVENT = "space"
"""Name of the event in the journal."""


@dataclass(frozen=True)
class SpaceChange:
    """A change of the space of a search that has begun.

    Args:
        before: The former space.
        now: The changed one.
        differences: What differs, a line each.
        set_aside: Trials that do not lie inside the changed space, with the reason.
        restored: Trials that were set aside and count again.
        context: The baseline's tuned numbers; `None` where they are not tuned, or not yet.
        trials: Results that had been seen.
        seen_aside: Those of them that are set aside.
        missing: Trials of the changed design that have no result.
        proposals_left: Proposals that the adaptive arm may still make.
    """

    before: Space
    now: Space
    differences: tuple[str, ...]
    set_aside: Mapping[str, str]
    restored: tuple[str, ...]
    context: Context | None
    trials: int
    seen_aside: int
    missing: int
    proposals_left: int

    def event(self) -> dict[str, Any]:
        """Its content in the journal."""
        return {
            "space": to_dict(self.now),
            "differences": list(self.differences),
            "set_aside": dict(self.set_aside),
            "context": None if self.context is None else asdict(self.context),
            "trials": self.trials,
        }

    def words(self) -> Iterator[str]:
        """What a person should know before anything is trained, a line each."""
        yield "The space has changed:"
        yield from (f"  {line}" for line in self.differences)
        yield f"Trials that lie inside the changed space and count: {self.trials - self.seen_aside} of {self.trials}."
        if self.set_aside:
            yield "Trials that are set aside; they stay in the records and count again if what they use comes back:"
            for why, number in Counter(self.set_aside.values()).most_common():
                yield f"  {number}: {why}"
        if self.restored:
            yield f"Trials that had been set aside and count again: {len(self.restored)}."
        yield f"Trials of the changed design that have no result yet: {self.missing}."
        if not self.proposals_left:
            yield "The adaptive arm proposes nothing more; --trials +N lets it propose in the changed space."


def open_search(request: Request) -> tuple[SearchContext, SpaceChange | None]:
    """The search of a request, and how its space changes where it is resumed with another one.

    Raises:
        ValueError: Something that the search cannot be started with, or a change of the space that the search cannot
            take over.
    """
    where = f"--resume {request.settings.name} --space {request.file or '<python>'}"
    try:
        context = SearchContext.make(request.space, request.settings)
    except DesignError as error:
        if not (request.resume and request.space_given):
            raise
        raise SettingsError(f"{where}: {error}; keep in the space what the search has declared") from error
    if not request.resume or request.accept_changes:
        return context, None
    known = Identity.read(request.settings.folder)
    if known is None:
        return context, None
    if not request.space_given and (context.space != known.space or not known.former):
        return context, None  # a copy that was edited is told apart from a change that is asked for
    events = Journal(request.settings.folder / "journal.jsonl").events()
    # a search that was killed after it had written its identity has not journaled the change yet
    journaled = space_at(events, known)
    if request.space_given:
        space = keep_defaults(journaled, context.space, context.standard)
        if space != known.space:
            context = context.with_settings(space="<python>" if request.file is None else str(request.file))
        context = replace(context, space=space)
    if journaled == context.space:
        return context, None
    former = replace(context, space=journaled)
    if request.extra_blocks is not None:
        raise SettingsError(f"{where}: --settle runs further blocks of primary pairs and nothing else: leave it out")
    change = find_change(former, context, events)
    records = last_records(events)
    _refuse(where, former, context, change, [records[name] for name in change.set_aside if name in records])
    return context, change


def space_at(events: Sequence[Mapping[str, Any]], known: Identity) -> Space:
    """The space that a search had at the end of some events of its journal."""
    changed = [event["space"] for event in events if event["event"] == EVENT]
    first = from_dict(known.former[0]["space"]) if known.former else known.space
    found: Space = from_dict(changed[-1]) if changed else first
    return found


def find_change(former: SearchContext, now: SearchContext, events: Sequence[Mapping[str, Any]]) -> SpaceChange:
    """The consequences of a change of the space, which follow from both spaces and the journal.

    Args:
        former: The search as it was.
        now: The search with the changed space.
        events: Everything that was journaled before.
    """
    records = last_records(events)
    proposals = {
        request.id: request.recipe
        for request in (TrialRequest.from_dict(event["task"]) for event in events if event["event"] == "task")
    }
    before = next((event for event in reversed(events) if event["event"] == EVENT), None)
    context = _tuned(former, records) if before is None or before["context"] is None else Context(**before["context"])
    factory = now.factory if context is None else now.factory.at(context)
    found = outside(factory, now.settings.start_points, records, proposals)
    aside = {} if before is None else before["set_aside"]
    inside = {
        (r.context, r.tricks, r.recipe, r.seed) for n, r in records.items() if r.arm == "design" and n not in found
    }
    first = now.settings.seed * SEEDS_APART
    missing = sum(
        (cell.context, cell.tricks, cell.recipe.plan.id, first + block) not in inside
        for block, cell in factory.design.runs(now.settings.seeds)
    )
    saved = sum(event["end"]["saved"] for event in events if event["event"] == "early_end")
    return SpaceChange(
        former.space,
        now.space,
        tuple(differences(former.space, now.space)),
        dict(sorted(found.items())),
        tuple(sorted(aside.keys() - found.keys())),
        context,
        len(records),
        len(records.keys() & found.keys()),
        missing,
        max(0, now.settings.trials - saved - len(proposals)),
    )


def last_records(events: Sequence[Mapping[str, Any]]) -> dict[str, Record]:
    """The last result of every trial that did not fail."""
    found: dict[str, Record] = {}
    for event in events:
        if event["event"] == "record":
            record = Record.from_dict(event["record"])
            if record.outcome == "failed":
                found.pop(record.trial, None)
            else:
                found[record.trial] = record
    return found


def _tuned(former: SearchContext, records: Mapping[str, Record]) -> Context | None:
    """The baseline's tuned numbers, if trials have been run at them."""
    settings = former.settings
    if not settings.tune_baseline or all(record.arm == "tune" for record in records.values()):
        return None
    state = SearchState(former.factory, settings, former.standard.margin, settings.seed * SEEDS_APART)
    state.records = {name: record for name, record in records.items() if record.arm == "tune"}
    phase = Tune()
    for _ in range(2):  # the second time its best points have more seeds
        state.requests |= {request.id: request for request in phase.plan(state)}
    return phase.best(state)


def _refuse(
    where: str, former: SearchContext, now: SearchContext, change: SpaceChange, aside: Sequence[Record]
) -> None:
    """Refuses a change after which results could not be compared.

    Raises:
        SettingsError: Why, and what to do.
    """
    again = (
        "start a new search, which learns from this one and re-uses its stages: --like "
        f"{now.settings.name} --space {where.rpartition(' ')[2]} --name ANOTHER"
    )
    for name in ("data", "model"):
        if getattr(former.space, name) != getattr(now.space, name):
            raise SettingsError(f"{where}: {name}= of the space cannot change in a search that has begun; {again}")
    if not change.trials:
        return
    old, new = former.factory.baseline, now.factory.baseline
    if old.plan.id != new.plan.id:
        raise SettingsError(
            f"{where}: the baseline would be another recipe ({_first_difference(str(old.plan), str(new.plan))}), and "
            f"every result of the search is compared with the former one; keep it, or {again}"
        )
    if former.design.kind == "factorial" and former.design.cells != now.design.cells:
        raise SettingsError(
            f"{where}: the fraction of a factorial is planned as a whole, so that its labels cannot change; {again}"
        )
    for pair in now.design.primary:
        if any(set(pair) >= set(record.tricks) != set() for record in aside if record.arm == "design"):
            raise SettingsError(
                f"{where}: cells of the declared pair {pair[0]} × {pair[1]} would be other recipes, although it was "
                f"declared before results had been seen; keep them, or {again}"
            )
    if change.seen_aside >= change.trials:
        raise SettingsError(f"{where}: none of its {counted(change.trials, 'trial')} lies inside the space; {again}")


def _first_difference(old: str, new: str) -> str:
    pairs = [(a, b) for a, b in zip(old.splitlines(), new.splitlines(), strict=False) if a != b]
    if pairs:
        return f"{pairs[0][0]} → {pairs[0][1]}"
    more = new.splitlines()[len(old.splitlines()) :]
    return f"more: {more[0]}" if more else f"without {old.splitlines()[len(new.splitlines())]}"


def notes(settings: Settings) -> str:
    """What readers of a search with a changed space must know, in sentences; "" where it never changed."""
    known = Identity.read(settings.folder)
    events = Journal(settings.folder / "journal.jsonl").events() if known is not None and known.former else []
    changed = [event for event in events if event["event"] == EVENT]
    said = []
    for event in changed:
        when = f"after {counted(event['trials'], 'trial')}" if event["trials"] else "before its first trial had ended"
        said.append(f"The space was changed {when} ({'; '.join(event['differences'])}).")
    screened = any("screen=" in line or "recipes=" in line for event in changed for line in event["differences"])
    # cells of a declared pair are never set aside
    cut = any(trial.startswith("design-") for event in changed for trial in event["set_aside"])
    if (screened or cut) and any(event["trials"] for event in changed):
        declared = " The declared pairs are those of the start and keep theirs." if settings.primary else ""
        said.append(
            f"Which {'pairs are' if screened else 'trials of the design are'} judged was decided after results had "
            "been seen, so that the error rates of the pairs that were not declared are those of an "
            f"exploration.{declared}"
        )
    aside = changed[-1]["set_aside"] if changed else {}
    if aside:
        reasons = "; ".join(dict.fromkeys(aside.values()))
        said.append(
            f"{counted(len(aside), 'trial')} outside the space are set aside, in no table and no choice: {reasons}."
        )
    return " ".join(said)
