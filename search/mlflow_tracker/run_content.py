"""What the run of a trial or a recipe must hold, and whether a run that MLflow has is that one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analysis.records.mlflow_index import index, text
from analysis.records.mlflow_store import key
from analysis.records.reader import RECORD
from analysis.records.schema import BASELINE, Record
from search.mlflow_tracker.names import recipe_name
from search.mlflow_tracker.summaries import alike, end_of

STATUS = {"finished": "FINISHED", "diverged": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""Outcome of a trial to status of its run: a trial that diverged did end, and its outcome says so."""

PLAN = "plan.json"
"""Artifact of a recipe's run."""


@dataclass(frozen=True)
class RunContent:
    """What a run must hold.

    Args:
        name: Name of the run.
        start: Unix time in milliseconds.
        end: Unix time in milliseconds; None for the time at which the run is written.
        status: Status of a run that is complete.
        tags: All tags but the parent's.
        params: All parameters.
        metrics: (key, value, step).
        artifact: Name of its artifact.
        content: Text of the artifact.
    """

    name: str
    start: int
    end: int | None
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[tuple[str, float, int]]
    artifact: str
    content: str

    @property
    def digest(self) -> str:
        """Distinguishes a run that was written from this content from one of an earlier attempt."""
        content = [self.status, self.tags, self.params, self.metrics, {self.artifact: self.content}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def is_complete(self, run: Any) -> bool:
        """Whether a run in the store has this content, but for its artifact, of which the digest tells."""
        latest: dict[str, tuple[int, float]] = {}
        for name, value, step in self.metrics:
            latest[name] = max(latest.get(name, (step, value)), (step, value))
        metrics = run.data.metrics
        return (
            str(run.info.status) == self.status
            and self.start in (0, run.info.start_time)
            and all(run.data.tags.get(name) == value for name, value in self.tags.items())
            and all(run.data.params.get(name) == value for name, value in self.params.items())
            and all(name in metrics and alike(metrics[name], value) for name, (_, value) in latest.items())
        )

    def is_begun(self, run: Any) -> bool:
        """Whether a run was created for this content, so that it can be completed if its writer was killed."""
        return run.data.tags.get("digest") == self.digest and self.start in (0, run.info.start_time)


def of_trial(record: Record, search: str, choices: Iterable[str]) -> RunContent:
    """The content of a trial's run.

    Args:
        record: The trial.
        search: Name of the search, under which its runs are found.
        choices: Names of all choices of the space; MLflow's parallel coordinates and groups leave out a run that lacks
            a parameter, so one that the recipe does without is "none".
    """
    found = index(record)
    return RunContent(
        name=f"seed {record.seed} ({record.arm})",
        start=round(record.started * 1000),
        end=end_of(record),
        status=STATUS[record.outcome],
        tags=found.tags | {"level": "trial", "search": search},
        params=_all_choices(choices) | found.params,
        metrics=found.metrics,
        artifact=RECORD,
        content=record.to_json(),
    )


def of_recipe(record: Record, search: str, choices: Iterable[str]) -> RunContent:
    """The content with which a recipe's run is created, before its first trial."""
    found = index(record, ("tag", "param"))
    tags = {name: found.tags[name] for name in ("recipe", "title", "tricks", "context")}
    return RunContent(
        name=recipe_name(record),
        start=round(record.started * 1000),
        end=None,
        status="FINISHED",
        tags=tags | {"search": search, "level": "recipe", "baseline": str(record.title == BASELINE).lower()},
        params=_all_choices(choices)
        | {key(name): text(value) for name, value in record.choices.items()}
        | {name: found.params[name] for name in ("data", "model")},
        metrics=[],
        artifact=PLAN,
        content=json.dumps(record.plan, indent=1),
    )


def _all_choices(names: Iterable[str]) -> dict[str, str]:
    return {key(name): text(None) for name in names}
