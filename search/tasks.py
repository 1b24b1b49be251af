"""What a search runs, one trial at a time: tasks, how many of them, and the journal that they are written to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.record import Record
from trainables.plan import Plan, Recipe


@dataclass(frozen=True)
class Task:
    """One trial to run.

    Args:
        id: Of the trial in the search, e.g. "design-0-007".
        arm: As in the record.
        phase: Name of the phase that planned it; the race has two, "race" and "final".
        recipe: What to train.
        seed: Seed block; also the seed of the split.
        tricks: Labels for the record.
        context: Of the design cell, or what else the labels' 0 level was measured in.
        title: In words.
        setting: As in the record: how a check differs from the design.
        number: Of the proposal in the study, for the adaptive arm.
        start: Which start of the adaptive arm it belongs to.
        read_test: Whether to measure on test.
        company: Seeds that are trained in one network with this one, itself among them; empty for a trial by itself.
    """

    id: str
    arm: str
    phase: str
    recipe: Recipe
    seed: int
    tricks: tuple[str, ...]
    context: str = ""
    title: str = ""
    setting: str = ""
    number: int | None = None
    start: int | None = None
    read_test: bool = False
    company: tuple[int, ...] = ()

    @property
    def may_stop(self) -> bool:
        """Whether the scheduler may stop it: what was proposed, and nothing that is compared over seeds."""
        return self.number is not None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        fields = asdict(self)
        fields["recipe"] = {
            "plan": self.recipe.plan.to_dict(),
            "params": dict(self.recipe.params),
            "labels": list(self.recipe.labels),
        }
        return fields

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        own = fields["recipe"]
        recipe = Recipe(Plan.from_dict(own["plan"]), own["params"], tuple(own["labels"]))
        lists = {name: tuple(fields.get(name, ())) for name in ("tricks", "company")}
        return Task(**{**fields, **lists, "recipe": recipe})


@dataclass(frozen=True)
class Limits:
    """How much to run.

    Args:
        seeds: Blocks of the design arm.
        trials: Proposals of the adaptive arm.
        children: Later stages proposed for each new start.
        race: Whether to race at all.
        seconds: Budget of wall time, counted anew from this run on; `None` for what is left of an earlier one, if any.
        gpu_seconds: Budget of seconds times share of GPUs, of all runs of the search together; `None` for none.
        gpus: Share of GPUs that a running trial holds.
        tune: Whether the baseline's learning rate and weight decay are found first.
        starts: Whether the published recipes are trained.
        check_seeds: Blocks of the checks, of the nominated pairs and of the recipes around the winner; 0 for none.
        full_length: Whether pairs of the winner are run again at the final length.
        settle: Further blocks that this run may add for the primary pairs that are unresolved, over all of them;
            `None` for a search that goes on as planned.
        margin: Difference in accuracy that matters.
        primary: Pairs declared before the search.
        objective: What the sampler learns and recipes are ranked by, one of `search.objective.OBJECTIVES`.
    """

    seeds: int = 5
    trials: int = 40
    children: int = 6
    race: bool = True
    seconds: float | None = None
    gpu_seconds: float | None = None
    gpus: float = 0.0
    tune: bool = False
    starts: bool = False
    check_seeds: int = 0
    full_length: bool = False
    settle: int | None = None
    margin: float = 0.005
    primary: tuple[str, ...] = ()
    objective: str = "accuracy"


class Journal:
    """What was decided and what came of it, one JSON object a line, flushed to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> Iterator[dict[str, Any]]:
        """Everything that was written, in order; a line cut off by a crash is left out."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def records(self) -> dict[str, Record]:
        """The last record of every trial that did not fail: a failed one may succeed the next time."""
        found: dict[str, Record] = {}
        for event in self.events():
            if event["event"] != "record":
                continue
            record = Record.from_dict(event["record"])
            if record.outcome == "failed":
                found.pop(record.trial, None)
            else:
                found[record.trial] = record
        return found

    def write(self, event: str, **content: Any) -> None:
        """Appends one event."""
        # a crash may have cut the last line off: start on a fresh one
        with self.path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps({"event": event, **content}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
