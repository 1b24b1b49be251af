"""A search that begins with what an earlier one has found, `--like SEARCH`.

It has that search's space and settings where it is given no others, and its sampler knows the finished trials of that
search's design and adaptive arm. What race and confirmation have shown stays out: this search races on the same seeds,
which must have chosen nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from analysis import files
from search.option import FIXED, SettingsError
from search.recipes.factory import recipe_of
from search.recipes.start_points import kept_start
from search.scheduling import objective
from search.scheduling.journal import Journal
from search.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from search.context import SearchContext
    from search.scheduling.sampler import Sampler

LESSONS = "earlier.jsonl"
"""File in the search's folder with the recipes that it begins with and their metrics."""

ARMS = ("design", "adaptive")
"""Arms of the earlier search that are learned from."""

OWN = ("name", "space", "like", "continues", "gpus_reason", "output", "patience_is_default")
"""Settings that are not those of the earlier search."""


def like(stored: Settings) -> dict[str, Any]:
    """The settings that a search has from the one that it is like."""
    fields = {
        name: getattr(stored, name)
        for name, known in OPTIONS.items()
        if name not in OWN and (known.on_resume is FIXED or name in ("trials", "seeds", "tricks", "data_root", "store"))
    }
    if stored.patience_is_default:
        fields["patience"] = None  # the default depends on the number of trials
    kind, _, file = (stored.design or "").partition(":")
    if kind == "list":
        fields["design"] = f"list:{stored.folder / f'design{Path(file).suffix}'}"
    fields["start"] = tuple(str(stored.folder / kept_start(number)) for number in range(len(stored.start)))
    return fields


def write_lessons(context: SearchContext, folder: Path) -> None:
    """Writes what the earlier search has found into the folder of the new one.

    Args:
        context: The new search.
        folder: Its folder, while it is being made.

    Raises:
        SettingsError: The data or the network differ, or nothing has finished there.
    """
    settings = context.settings
    where = f"--like {settings.like}"
    earlier = Settings.stored(settings.output, str(settings.like), "--like")
    records = [
        record
        for record in Journal(earlier.folder / "journal.jsonl").records().values()
        if record.arm in ARMS and record.outcome == "finished" and not record.setting
    ]
    if not records:
        raise SettingsError(f"{where}: no trial of its design or adaptive arm has finished; leave --like out")
    first = records[0]
    if first.model != context.model:
        raise SettingsError(
            f"{where}: it trains the network {first.model} and this search {context.model}; leave --model or --like out"
        )
    if context.splits.load(first.split_seed).fingerprint != first.fingerprint:
        raise SettingsError(
            f"{where}: its data ({first.data}) are not those of this search ({settings.data}), or have changed since; "
            "leave --like out"
        )
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        found.setdefault(record.recipe, {"plan": record.plan, "metrics": []})["metrics"].append(record.metrics)
    files.write(folder / LESSONS, "".join(files.to_json(lesson) + "\n" for _, lesson in sorted(found.items())))


def teach(context: SearchContext, sampler: Sampler) -> str:
    """Tells the sampler what the earlier search has found.

    Returns:
        How much of it the space can express, in a sentence; "" for a search that begins with nothing.
    """
    file = context.settings.folder / LESSONS
    if not file.is_file():
        return ""
    lessons = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    known = 0
    for lesson in lessons:
        recipe = context.factory.in_own_words(recipe_of(lesson["plan"]))
        values = [objective.values(metrics, context.settings.objective) for metrics in lesson["metrics"]]
        finished = [parts for parts in values if parts is not None]
        if recipe is not None and finished:
            sampler.learn_earlier(recipe, [fmean(part) for part in zip(*finished, strict=True)])
            known += 1
    return (
        f"--like {context.settings.like}: the sampler begins with {known} of the {len(lessons)} recipes that it has "
        "finished; this space does not have the others at this length."
    )
