"""Short names of recipes and pairs, as MLflow's run table and charts show them."""

from __future__ import annotations

from analysis.records.schema import BASELINE, Record

MOST_TRICKS = 3
"""A longer recipe is named by its first two tricks; its columns have all of them."""

ID_LENGTH = 4
"""Letters of a recipe's id that tell two recipes with the same tricks apart."""


def short_label(label: str, first: str) -> str:
    """A label without its stage, where that is the first one, or is called like the trick.

    >>> short_label("representation/cost_sensitive", "representation"), short_label("deferred/focal", "representation")
    ('cost_sensitive', 'deferred/focal')
    >>> short_label("classifier/classifier", "representation"), short_label("balanced", "representation")
    ('classifier', 'balanced')
    """
    stage, _, trick = label.rpartition("/")
    return trick if stage in (first, trick) else label


def first_stage(record: Record) -> str:
    """Name of the first stage of a trial's plan."""
    stages = record.plan.get("stages") or [{}]
    return str(stages[0]["name"]) if isinstance(stages[0], dict) and "name" in stages[0] else ""


def recipe_name(record: Record) -> str:
    """A recipe's tricks in short, or the name under which it was published.

    What the title says besides (a context at equal length, another learning rate) stays. Recipes with the same tricks
    and other numbers share the name: `distinct_name` tells them apart.
    """
    words, *rest = record.title.split(", ")
    if ": " in words:
        return words.partition(": ")[0]
    numbers = " at the winner's numbers"
    at_numbers = words.endswith(numbers)
    labels = [] if words.removesuffix(numbers) == BASELINE else words.removesuffix(numbers).split(" + ")
    names = [short_label(label, first_stage(record)) for label in labels]
    if len(names) > MOST_TRICKS:
        names[2:] = [f"{len(names) - 2} more"]
    return ", ".join([" + ".join(names) or BASELINE] + ["the winner's numbers"] * at_numbers + rest)[:200]


def distinct_name(name: str, recipe: str, taken: dict[str, str]) -> str:
    """The name with the beginning of the recipe's id, where another recipe has it or some tricks are left out.

    Args:
        name: What `recipe_name` gives.
        recipe: Id of the recipe.
        taken: Names of the search so far, each with the recipe that has it; the result is added.

    >>> taken = {}
    >>> [distinct_name("mixup", id, taken) for id in ("3767cbf4e4", "c402771971", "3767cbf4e4")]
    ['mixup', 'mixup #c402', 'mixup']
    """
    short = name
    if name.endswith(" more") or taken.get(name, recipe) != recipe:
        short = f"{name} #{recipe[:ID_LENGTH]}"
        if taken.get(short, recipe) != recipe:
            short = f"{name} #{recipe}"
    taken[short] = recipe
    return short
