"""Builds every recipe of a search at the tuned learning rate and weight decay.

The baseline's learning rate and weight decay may be found first (`--tune-baseline`); from then on they hold in every
cell of the design, in the baseline and in the published recipes. Recipes that are changed a little (another learning
rate, the final length, some tricks removed) are made here as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from search.design.labels import Cell, Design, four_cells, make_design
from spaces.domain import Domain, LogUniform, OneOf, Space, Stage, Uniform
from spaces.recipes import (
    Published,
    published,
    published_for_pretrained,
    published_in_spaces,
    published_systems,
)
from trainables.data import Standard
from trainables.plan import LabelledOneOf, Pick, Plan, Recipe, build, defaults, tricks_of
from trainables.registry import PlanError

MAX_GRID = 3
"""Values of the learning rate, and of the weight decay, on the grid that tunes the baseline."""


@dataclass(frozen=True)
class Context:
    """The numbers of the baseline's first chain of stages."""

    lr: float
    weight_decay: float


class RecipeFactory:
    """Recipes of a search, at the context's numbers.

    Args:
        space: What may vary.
        standard: Of the data set.
        epochs_scale: Multiplies every stage's epochs.
        kind: Of the design, as in `make_design`.
        primary: Pairs declared beforehand.
        own_starts: Start points of the user's own, with their titles.
        context: Numbers of the baseline; the space's own where absent.
    """

    def __init__(
        self,
        space: Space,
        standard: Standard,
        epochs_scale: float = 1.0,
        *,
        kind: str | None = None,
        primary: Sequence[str] = (),
        own_starts: Sequence[tuple[Recipe, str]] = (),
        context: Context | None = None,
    ) -> None:
        self.untuned, self.standard, self.scale, self.context = space, standard, epochs_scale, context
        self.kind, self.primary, self.own_starts = kind, primary, tuple(own_starts)
        self.space = space if context is None else _fixed(space, context)

    def at(self, context: Context) -> RecipeFactory:
        """The same at other numbers."""
        return RecipeFactory(
            self.untuned, self.standard, self.scale, kind=self.kind, primary=self.primary,
            own_starts=self.own_starts, context=context,
        )  # fmt: skip

    # --- the design -----------------------------------------------------------------------------------------

    @cached_property
    def design(self) -> Design:
        """The design, its cells at the context's numbers."""
        made = make_design(self.space, self.standard, self.scale, kind=self.kind, primary=self.primary)
        return replace(made, cells=self._tuned(made.cells))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the design, baseline first."""
        return self.design.cells

    @property
    def baseline(self) -> Recipe:
        """The recipe in which nothing is on."""
        return self.cells[0].recipe

    def four(self, a: str, b: str, full_length: bool = False) -> tuple[Cell, ...]:
        """The four cells of a pair: neither, each alone, both; all in the context that the design judges it in.

        Args:
            a: A label of the space.
            b: Another one.
            full_length: Whether they are as long as the final training.

        Raises:
            PlanError: They cannot be crossed.
        """
        scale = self.full_scale if full_length else self.scale
        crossed = self.design.fraction.labels if self.design.fraction is not None else ()
        return self._tuned(four_cells(self.space, self.standard, scale, (a, b), crossed))

    @property
    def full_scale(self) -> float:
        """The `epochs_scale` of the final training."""
        return self.standard.final_epochs / self.standard.epochs

    @property
    def share(self) -> float:
        """How long the search's trials are, as a fraction of the final training."""
        return self.scale / self.full_scale

    def _tuned(self, cells: Iterable[Cell]) -> tuple[Cell, ...]:
        if self.context is None:
            return tuple(cells)
        return tuple(replace(cell, recipe=retuned(cell.recipe, self.context)) for cell in cells)

    # --- the baseline's numbers -----------------------------------------------------------------------------

    def grid(self) -> tuple[Context, ...]:
        """The points at which the baseline is tried: around its own, the space's values where it names some.

        One point alone where the space leaves nothing open.
        """
        first = self.baseline.plan.stages[0]
        slot = self.space.stages[0]
        options = slot.options if isinstance(slot, OneOf) else (slot,)
        stage = next(option for option in options if option is not None and option.name == first.name)
        rates = _around(stage.lr, first.lr)
        decays = _around(stage.weight_decay, first.weight_decay)
        return tuple(Context(lr, decay) for lr, decay in product(rates, decays))

    def point(self, context: Context) -> Recipe:
        """The baseline at a point of the grid."""
        return retuned(self.baseline, context)

    @cached_property
    def published(self) -> PublishedRecipes:
        """The published recipes, at the tuned learning rate or that of the data set."""
        return PublishedRecipes(self, self.standard.lr if self.context is None else self.context.lr)

    def in_own_words(self, recipe: Recipe) -> Recipe | None:
        """The recipe as choices of the space; `None` if the space does not have it at this length."""
        return in_own_words(self.space, self.standard, self.scale, recipe)

    def starts(self, published: bool) -> dict[str, tuple[Recipe, str]]:
        """The recipes that the adaptive arm starts from, by plan, with their titles: the user's own ones first.

        Args:
            published: Whether the published recipes are among them.
        """
        found: dict[str, tuple[Recipe, str]] = {}
        for recipe, title in self.own_starts:
            found.setdefault(recipe.plan.id, (self.in_own_words(recipe) or recipe, title))
        for recipe in self.published.recipes if published else ():
            title = f"{self.published.titles[recipe.plan.id]}: {recipe.title}"
            found.setdefault(recipe.plan.id, (recipe, title))
        found.pop(self.baseline.plan.id, None)
        return found


class PublishedRecipes:
    """The published recipes that can be trained on the data of a search."""

    def __init__(self, factory: RecipeFactory, lr: float) -> None:
        pretrained = "trained" in factory.standard.provides
        offered = {trick.name for stage in factory.untuned.written_stages for trick in tricks_of(stage)}
        systems = tuple(one for one in published_systems(lr) if _defining(one) in offered)
        alone = published(lr) + (published_for_pretrained(lr) if pretrained else ())
        contained = tuple(one for one in published_in_spaces(lr) if _contains(factory, one))
        self.papers: tuple[Published, ...] = (systems or alone) + contained
        """With their spaces: the systems that the space offers; where it offers none, recipes of one network, and where
        that comes trained, also those that start from it; and those that the space contains as they are."""
        self.titles: dict[str, str] = {}
        """Name of each recipe by the id of its plan."""
        recipes: dict[str, Recipe] = {}
        left_out = []
        for one in self.papers:
            try:
                recipe = build(one.space, defaults(one.labels), factory.standard, factory.scale)
            except PlanError as error:
                if "images" in factory.standard.provides:
                    raise
                left_out.append(f"the published recipe {one.title} is left out: {error}")
                continue
            recipes.setdefault(recipe.plan.id, recipe)
            self.titles.setdefault(recipe.plan.id, one.title)
        self.left_out = tuple(left_out)
        """A sentence on each one that cannot be trained on these data."""
        self.recipes = tuple(factory.in_own_words(recipe) or recipe for recipe in recipes.values())
        """Those that the space can express in its own words."""


def _contains(factory: RecipeFactory, one: Published) -> bool:
    """Whether a space has a recipe among its own choices."""
    try:
        recipe = build(one.space, defaults(one.labels), factory.standard, factory.scale)
    except PlanError:
        return False
    return factory.in_own_words(recipe) is not None


def _defining(system: Published) -> str:
    """The trick that makes a system what it is."""
    named = {"de_confound": "causal_norm", "paco": "gpaco", "ride_routed": "expert_assignment"}
    return named.get(system.name, system.name)


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """A recipe with every stage's learning rate multiplied.

    Args:
        recipe: The recipe.
        factor: Above 0.
    """
    stages = tuple(replace(stage, lr=_short(stage.lr * factor)) for stage in recipe.plan.stages)
    return replace(recipe, plan=Plan(stages))


def retuned(recipe: Recipe, context: Context) -> Recipe:
    """A recipe whose first chain of stages has the context's learning rate and weight decay."""
    plan = recipe.plan
    numbers = dataclasses.asdict(context)
    chain = plan.chain(0)
    stages = tuple(replace(stage, **numbers) if i in chain else stage for i, stage in enumerate(plan.stages))
    first = plan.stages[0].name
    named = {f"{first}/{key}": value for key, value in numbers.items()}
    params = {name: named.get(name, value) for name, value in recipe.params.items()}
    return replace(recipe, plan=Plan(stages), params=params)


def _fixed(space: Space, context: Context) -> Space:
    """The space with the context's numbers where its first stages leave them to the data set."""

    def fix(stage: Any) -> Any:
        if stage is None:
            return None
        missing = {key: value for key, value in dataclasses.asdict(context).items() if getattr(stage, key) is None}
        return replace(stage, **missing)

    slot = space.stages[0]
    first: Stage | OneOf
    if isinstance(slot, OneOf):
        first = replace(slot, options=tuple(fix(option) for option in slot.options))
    else:
        first = fix(slot)
    return replace(space, stages=(first, *space.stages[1:]))


def _around(domain: Any, middle: float) -> tuple[float, ...]:
    """At most `MAX_GRID` values around the baseline's own.

    >>> _around(None, 0.1), _around(0.05, 0.05)
    ((0.033333, 0.1, 0.3), (0.05,))
    """
    if domain is None:
        values: Sequence[float] = (_short(middle / 3), middle, _short(3 * middle))
    elif isinstance(domain, OneOf):
        values = [value for value in domain.options if isinstance(value, (int, float))]
    elif isinstance(domain, LogUniform) and domain.grid():
        values = domain.grid()
    elif isinstance(domain, (LogUniform, Uniform)):
        values = [domain.nearest(middle / 3), middle, domain.nearest(3 * middle)]
    else:
        values = (middle,)
    ordered = sorted(set(values) | {middle})
    at = min(max(ordered.index(middle) - MAX_GRID // 2, 0), max(len(ordered) - MAX_GRID, 0))
    return tuple(ordered[at : at + MAX_GRID])


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _pick_like(recipe: Recipe) -> Pick:
    """A `pick` that comes as near to a recipe of another space as the choices let it."""
    stages = {stage.name: stage for stage in recipe.plan.stages}
    on = set(recipe.labels) | set(stages)

    def pick(name: str, domain: Domain, default: Any) -> Any:
        if isinstance(domain, LabelledOneOf):
            named = zip(domain.options, domain.labels, strict=True)
            return next((option for option, label in named if label in on), default)
        stage_name, _, key = name.partition("/")
        stage = stages.get(stage_name)
        if stage is None:
            return default
        trick, _, number = key.partition(".")
        numbers: Mapping[str, Any] = {k: v for t in stage.tricks if t.name == trick for k, v in t.numbers.items()}
        value = numbers.get(number) if number else getattr(stage, key, default)
        return value if value in domain else default

    return pick


def recipe_of(plan: Mapping[str, Any]) -> Recipe:
    """A recipe of which nothing but its plan is known, as a dict."""
    found = Plan.from_dict(plan)
    labels = [stage.name for stage in found.stages]
    labels += [f"{stage.name}/{trick.name}" for stage in found.stages for trick in stage.tricks if not trick.kept]
    return Recipe(found, {}, tuple(labels))


def in_own_words(space: Space, standard: Standard, epochs_scale: float, recipe: Recipe) -> Recipe | None:
    """A recipe as the choices of a space; `None` if they do not give the same plan.

    Args:
        space: The space.
        standard: Of the data set.
        epochs_scale: Multiplies every stage's epochs.
        recipe: Of any space.
    """
    try:
        found = build(space, _pick_like(recipe), standard, epochs_scale)
    except PlanError:
        return None
    return found if found.plan.id == recipe.plan.id else None
