"""Whole searches without Ray's processes: the product from its first check to its last file, one trial after another.

Only Ray's event loop is replaced, by a loop that calls searcher, scheduler, callback and trial as Ray does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import search
from search import phases
from search.execution import gpu_shares, ray_tune, session
from search.outcome import SearchResult
from search.phases.phase import Phase
from search.scheduling.orchestrator import Orchestrator
from search.verify import reproduction
from spaces.domain import Space, Stage, log_uniform, one_of
from tests.search.whole_searches import small_phases
from trainables.trial import Trial

SPACE = Space(
    stages=[
        Stage("first", epochs=1, lr=log_uniform(0.03, 0.3, step="halves"), choose=[
            one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
        one_of(Stage("finish", epochs=1, lr=0.05, carry="weights"),
               Stage("classifier", epochs=1, lr=0.05, carry="weights", choose=["classifier"])),
    ],
    screen=["first/cost_sensitive", "first/class_balanced"],
)  # fmt: skip

OPTIONS: dict[str, Any] = {
    "name": "s", "seeds": 2, "trials": 8, "start_points": False, "check_seeds": 0, "lag": 1, "tracking_uri": "none",
    "rungs": (0.5,), "rung_score": "accuracy", "reduction_factor": 2.0, "max_concurrent": 1, "children_per_start": 2,
    "imbalance": 5.0,
}  # fmt: skip
"""A search of seconds whose adaptive arm stops trials; it races and confirms."""

TINY = Space(stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive")])], screen=["only/cost_sensitive"])
"""Trials of a moment."""


def features(folder: Path) -> str:
    """Data of features on which a trial takes hundredths of a second: the name of the data set."""
    draws = np.random.default_rng(0)
    centres = 2 * draws.standard_normal((3, 4))
    arrays = {}
    for split, count in (("train", 90), ("test", 60)):
        labels = np.arange(count) % 3
        arrays[f"x_{split}"] = (centres[labels] + draws.standard_normal((count, 4))).astype(np.float32)
        arrays[f"y_{split}"] = labels
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "features.npz", **arrays)
    return f"features:{folder / 'features.npz'}"


def execute(orchestrator: Orchestrator, context, callback, scheduler, shares, slots, interrupts, own_ray) -> None:
    """In the place of `search.execution.ray_tune.execute`."""
    searcher = ray_tune.TuneSearcher(orchestrator, context.spec, shares)
    kept: Trial | None = None
    try:
        while True:
            callback.on_step_begin(0, [])
            config = searcher.suggest("")
            if config == ray_tune.TuneSearcher.FINISHED or config is None:
                return
            trial = SimpleNamespace(config=config, run_metadata=SimpleNamespace(num_failures=0))
            trial.handle_error = ray_tune.Failure(trial)
            callback.on_trial_start(0, [], trial)
            if kept is None:
                kept = Trial(config)
            else:
                assert kept.reset_config(config)
            try:
                result = kept.step()
                while scheduler.on_trial_result(None, trial, result) == "CONTINUE" and not result.get("done"):
                    callback.on_trial_result(0, [], trial, result)
                    result = kept.step()
                callback.on_trial_result(0, [], trial, result)
                callback.on_trial_complete(0, [], trial)
            except Exception as error:  # of the trial, or of what takes its record
                if callback._problem is not None:
                    raise
                trial.handle_error(error)
                callback.on_trial_error(0, [], trial)
                kept = None
    finally:
        if kept is not None:
            kept.stop()


@contextmanager
def without_ray(*small: Phase) -> Iterator[None]:
    """Searches in here are run one trial after another, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PHASES", small or small_phases(1, 1, 2))
        patch.setattr(ray_tune, "execute", execute)
        patch.setattr(session, "_ray", alone)
        patch.setattr(session, "_connect_ray", lambda context, *_: context)
        patch.setattr(gpu_shares, "concurrent_trials", lambda settings: 1)
        one = gpu_shares.Share(1.0, 0.0)
        patch.setattr(gpu_shares, "resource_allocator", lambda settings: gpu_shares.ResourceAllocator(one, one))
        patch.setattr(reproduction, "environment", INSTALLED)
        yield


INSTALLED = cache(reproduction.environment)
"""What is installed does not change between two searches here, and takes half of their time to be listed."""


@contextmanager
def alone(*_: object) -> Iterator[bool]:
    yield True


def run(place: Path, space: Space | None = SPACE, **options: Any) -> SearchResult:
    """A search whose results lie in `place`/results; without a space it is resumed."""
    given = {"output": str(place / "results"), **options}
    if space is not None:
        given = OPTIONS | {"data": features(place)} | given
    if space is None:
        given = {"name": "s", "resume": True, **given}
    with without_ray():
        return search.run(space, **given) if space is not None else resumed(given)


def resumed(given: dict[str, Any]) -> SearchResult:
    from search.settings import Settings
    from search.workspace.folder import kept_space

    space, _ = kept_space(Settings.stored(given["output"], given["name"]))
    return search.run(space, **given)
