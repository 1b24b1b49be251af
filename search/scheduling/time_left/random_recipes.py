"""Recipes drawn at random from a space, the way the adaptive arm proposes them before it knows anything."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from search.recipes.factory import RecipeFactory
from search.scheduling.sampler import ATTEMPTS, siblings
from spaces.domain import Domain, Integer, LogUniform, OneOf
from trainables.plan import Pick, Recipe, build
from trainables.registry import PlanError


def random_recipes(factory: RecipeFactory, number: int, children_per_start: int, seed: int = 0) -> Iterator[Recipe]:
    """Draws recipes.

    Args:
        factory: Has the space.
        number: Of recipes; there are fewer where the space refuses most draws.
        children_per_start: Consecutive recipes that share all stages but the last one.
        seed: Of the draws.
    """
    draws = random.Random(seed)
    fixed: list[dict[str, Any]] = []
    drawn = 0
    for _ in range(ATTEMPTS * number):
        if drawn == number:
            return
        if drawn % children_per_start == 0:
            fixed = []
        try:
            pick = random_pick(draws, fixed[drawn % len(fixed)] if fixed else {})
            recipe = build(factory.space, pick, factory.standard, factory.scale)
        except PlanError:
            continue
        fixed = fixed or siblings(factory.space, factory.standard, factory.scale, recipe)
        drawn += 1
        yield recipe


def random_pick(draws: random.Random, fixed: Mapping[str, Any]) -> Pick:
    """Chooses at random from every domain, but for the choices that are fixed."""

    def pick(name: str, domain: Domain, default: Any) -> Any:
        if name in fixed:
            return fixed[name]
        if isinstance(domain, OneOf):
            return draws.choice(domain.options)
        if isinstance(domain, Integer):
            return draws.randint(domain.low, domain.high)
        if isinstance(domain, LogUniform):
            return domain.nearest(math.exp(draws.uniform(math.log(domain.low), math.log(domain.high))))
        return domain.nearest(draws.uniform(domain.low, domain.high))

    return pick
