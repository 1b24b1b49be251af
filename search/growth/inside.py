"""Which trials of a search still count when its space has changed: those that lie inside the changed space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from analysis.records.schema import Record
from search.design.labels import make_design
from search.design.removal import own_length
from search.recipes.factory import RecipeFactory, recipe_of
from search.scheduling.proposer import is_proposal
from spaces.domain import DOMAINS, Space
from trainables.plan import Plan, Recipe, build, defaults, tricks_of
from trainables.registry import PlanError

Key = tuple[str, tuple[str, ...]]
"""Context and tricks of a cell of the design."""


def outside(
    now: RecipeFactory, start_points: bool, records: Mapping[str, Record], proposals: Mapping[str, Recipe]
) -> dict[str, str]:
    """The trials that do not lie inside a changed space, each with the reason.

    A trial of the design counts if the changed space gives its cell the same recipe; a label that is only no longer
    screened keeps its cells, so that nobody drops a pair from the table after looking. A proposal counts if the space
    can express its recipe. Trials of recipes that were chosen from these (race, confirmation, ablation), and of cells
    in other settings, count with what they were chosen from.

    Args:
        now: Builds the recipes of the changed space.
        start_points: Whether the published recipes are start points of the search.
        records: The last results by trial.
        proposals: Every proposal by trial, also those without a result.
    """
    return _Sorting(now, start_points, records, proposals).found


class _Sorting:
    def __init__(
        self, now: RecipeFactory, start_points: bool, records: Mapping[str, Record], proposals: Mapping[str, Recipe]
    ) -> None:
        self._now = now
        self._expressed: dict[str, bool] = {}
        self.found: dict[str, str] = {}
        plans = {name: record.plan for name, record in records.items()}
        plans |= {name: recipe.plan.to_dict() for name, recipe in proposals.items()}
        cells = _judged_cells(now, records)
        starts = now.starts(start_points)
        kept: set[Key] = set()
        self._chosen = {now.baseline.plan.id}
        recipes = [recipe for recipe, _ in starts.values()]
        for name, record in records.items():
            if record.arm == "design":
                key = (record.context, record.tricks)
                cell = cells.get(key)
                if cell is not None and cell.plan.id == record.recipe:
                    kept.add(key)
                    recipes.append(cell)
                elif cell is not None:
                    self.found[name] = "its cell of the design is another recipe in the changed space"
                else:
                    self._leave_out(name, plans[name])
        for name, recipe in proposals.items():
            if self._expresses(recipe.plan.to_dict(), recipe.plan.id):
                recipes.append(recipe)
            else:
                self._leave_out(name, plans[name])
        for recipe in recipes:
            self._chosen |= {recipe.plan.id, own_length(now, recipe).plan.id}
        # what surrounds a winner last: it counts with the winner
        for name, record in sorted(records.items(), key=lambda item: item[1].arm == "around"):
            if is_proposal(name) or record.arm == "design":
                continue
            if not self._counts(record, kept, starts):
                self._leave_out(name, plans[name])
            elif record.arm == "race":
                self._chosen.add(record.recipe)

    def _leave_out(self, name: str, plan: Mapping[str, Any]) -> None:
        self.found[name] = why_outside(self._now.space, plan)

    def _expresses(self, plan: Mapping[str, Any], name: str) -> bool:
        if name not in self._expressed:
            self._expressed[name] = self._now.in_own_words(recipe_of(plan)) is not None
        return self._expressed[name]

    def _counts(self, record: Record, kept: set[Key], starts: Mapping[str, Any]) -> bool:
        """Whether a trial counts that is neither of the design nor a proposal."""
        about = record.context.partition(":")[2]
        if record.arm == "check":
            return (record.context, record.tricks) in kept
        if record.arm == "nominated":
            a, _, b = about.partition("×")
            with suppress(PlanError):
                return record.recipe in {c.recipe.plan.id for c in self._now.four(a, b) if c.tricks == record.tricks}
            return False
        if record.arm == "around":
            return about in self._chosen
        if record.arm in ("adaptive", "race", "confirm"):
            known = record.recipe in self._chosen or record.recipe in starts
            return known or self._expresses(record.plan, record.recipe)
        return True


def _judged_cells(now: RecipeFactory, records: Mapping[str, Record]) -> dict[Key, Recipe]:
    """The cells of the changed design, and those of labels that are no longer screened."""
    cells = {(cell.context, cell.tricks): cell.recipe for cell in now.cells}
    if now.design.kind != "pairs":
        return cells
    space = now.space
    more = {label for record in records.values() if record.arm == "design" for label in record.tricks}
    labels = [label for label in sorted(more - set(space.screen)) if _can_be_screened(now, label)]
    if labels:
        wide = RecipeFactory(
            replace(now.untuned, screen=(*space.screen, *labels)), now.standard, now.scale, context=now.context
        )
        cells = {(cell.context, cell.tricks): cell.recipe for cell in wide.cells} | cells
    return cells


def _can_be_screened(now: RecipeFactory, label: str) -> bool:
    alone = replace(now.space, screen=(label,))
    try:
        recipe = build(now.space, defaults([label]), now.standard, now.scale)
        make_design(alone, now.standard, now.scale)
    except PlanError:
        return False
    return label in recipe.labels


def why_outside(space: Space, plan: Mapping[str, Any]) -> str:
    """Why a space does not have a plan, in words."""
    return next(_reasons(space, Plan.from_dict(plan)), "it is no recipe of the changed space")


def _reasons(space: Space, plan: Plan) -> Iterator[str]:
    stages = {stage.name: stage for stage in space.written_stages}
    for stage in plan.stages:
        if stage.name not in stages:
            yield f"the space no longer has the stage {stage.name}"
    for stage in plan.stages:
        known = {trick.name: dict(trick.numbers) for trick in tricks_of(stages[stage.name])}
        for trick in stage.tricks:
            if not trick.kept and trick.name not in known:
                yield f"the space no longer has {stage.name}/{trick.name}"
    for stage in plan.stages:
        own = stages[stage.name]
        numbers = {f"{stage.name}/{key}": (getattr(own, key), getattr(stage, key)) for key in _NUMBERS}
        for trick in stage.tricks:
            for offered in tricks_of(own):
                if offered.name == trick.name and not trick.kept:
                    label = f"{stage.name}/{trick.name}"
                    numbers |= {f"{label}.{key}": (of, trick.numbers[key]) for key, of in offered.numbers}
        for name, (domain, value) in numbers.items():
            if isinstance(domain, DOMAINS) and value not in domain:
                yield (
                    f"{name} is now {domain}, and it has {value:g}"
                    if isinstance(value, float)
                    else (f"{name} is now {domain}, and it has {value}")
                )


_NUMBERS = ("lr", "weight_decay", "momentum", "batch_size", "schedule", "members", "views")
"""Numbers of a stage that a plan holds as the space has them."""
