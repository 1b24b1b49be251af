"""Recipes with tricks taken away, and at the length that their space gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from search.recipes.factory import RecipeFactory
from spaces.domain import Domain, Space
from trainables.plan import NONE, LabelledOneOf, Pick, Plan, Recipe, build
from trainables.registry import PlanError


def removable(factory: RecipeFactory, recipe: Recipe) -> tuple[str, ...]:
    """Labels of a recipe that can be taken away from it: tricks that may be absent, and whole optional stages.

    Empty where the recipe is not one of the space's, nor a published one.
    """
    space = _home(factory, recipe)
    if space is None:
        return ()
    labels: list[str] = []

    def record(name: str, domain: Domain, default: Any) -> Any:
        value = recipe.params.get(name, default)
        if isinstance(domain, LabelledOneOf) and value in domain.options and value != default:
            label = domain.labels[domain.options.index(value)]
            if label is not None and ("/" not in label or NONE in domain.options):
                labels.append(label)
        return value

    build(space, record, factory.standard, factory.scale)
    return tuple(labels)


def without(factory: RecipeFactory, recipe: Recipe, gone: Iterable[str]) -> Recipe:
    """A recipe with some of its removable labels taken away and every other choice and number kept.

    A stage that is taken away leaves its epochs to what stands in its place, or to the stage before.

    Raises:
        PlanError: What is left cannot be trained, e.g. a margin loss without its cosine head.
    """
    space = _home(factory, recipe)
    if space is None:
        raise PlanError(f"recipe {recipe.plan.id}: not a recipe of the space, so nothing can be taken away from it")
    absent = set(gone)

    def pick(name: str, domain: Domain, default: Any) -> Any:
        value = recipe.params.get(name, default)
        if not isinstance(domain, LabelledOneOf) or value not in domain.options:
            return value
        if domain.labels[domain.options.index(value)] not in absent:
            return value
        return NONE if NONE in domain.options else domain.options[0]

    found = build(space, pick, factory.standard, factory.scale)
    missing = recipe.plan.epochs - found.plan.epochs
    return found if missing <= 0 else replace(found, plan=_prolonged(recipe.plan, found.plan, missing))


def own_length(factory: RecipeFactory, recipe: Recipe) -> Recipe:
    """The recipe of the same choices at the length that its space gives it; itself where there is none."""
    if _home(factory, recipe) is not None:
        return recipe
    try:
        plain = build(factory.space, _pick_given(recipe.params), factory.standard, factory.scale)
    except PlanError:
        return recipe
    stages = [stage.name for stage in plain.plan.stages]
    return plain if stages == [stage.name for stage in recipe.plan.stages] else recipe


def _home(factory: RecipeFactory, recipe: Recipe) -> Space | None:
    """The space in whose choices a recipe is written; `None` where its choices do not give its plan."""
    for space in (factory.space, *(one.space for one in factory.published.papers)):
        try:
            again = build(space, _pick_given(recipe.params), factory.standard, factory.scale)
        except PlanError:
            continue
        if again.plan.id == recipe.plan.id:
            return space
    return None


def _pick_given(params: Mapping[str, Any]) -> Pick:
    def pick(name: str, domain: Domain, default: Any) -> Any:
        if name not in params:
            raise PlanError(f"{name} was not chosen")
        if params[name] not in domain:
            raise PlanError(f"{name}: {params[name]!r} is not offered")
        return params[name]

    return pick


def _prolonged(whole: Plan, left: Plan, missing: int) -> Plan:
    """The plan with the stage before the first absent one as much longer as the others are gone."""
    here = {stage.name for stage in left.stages}
    before = next((i for i, stage in enumerate(whole.stages) if stage.name not in here), len(left.stages)) - 1
    at = min(max(before, 0), len(left.stages) - 1)
    stages = list(left.stages)
    stages[at] = replace(stages[at], epochs=stages[at].epochs + missing)
    return Plan(tuple(stages))
