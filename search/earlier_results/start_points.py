"""Start points of the user's own: recipes that were exported before, `--start best.yaml`.

They are trained to their end like the published recipes, the sampler learns from them, and they take part in the race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.option import SettingsError
from trainables.code_identity import relocated
from trainables.final.data_identity import change, identity
from trainables.final.recipe import lengthened, parse_recipe, read_recipe
from trainables.models import settled
from trainables.plan import Plan, Recipe

if TYPE_CHECKING:
    from search.settings import Settings

RACE_SEEDS = range(2_000, 5_000)
"""Seed blocks of race and confirmation, relative to a search's own first one."""


@dataclass(frozen=True)
class StartPoint:
    """A recipe that a search begins with.

    Args:
        file: As the user named it.
        recipe: At the length of the search.
        document: What the file says.
    """

    file: str
    recipe: Recipe
    document: dict[str, Any]

    @property
    def title(self) -> str:
        """The recipe in words."""
        return f"start point {Path(self.file).stem}: {self.recipe.title}"


def kept_start(number: int) -> str:
    """Name of the copy of a start point in the folder of the search.

    >>> kept_start(0)
    'start-1.yaml'
    """
    return f"start-{number + 1}.yaml"


def read_start_points(
    files: Sequence[str], folder: Path, model: str, epochs_scale: float, tricks: Sequence[str]
) -> tuple[StartPoint, ...]:
    """Reads start points, each from the copy in the search's folder where there is one.

    Args:
        files: As the user named them.
        folder: Of the search.
        model: Network of the search.
        epochs_scale: Of the search; a recipe that was found at another length is brought to this one.
        tricks: Folders with the user's own tricks.

    Raises:
        SettingsError: A file is no recipe, or its network is not that of the search.
    """
    return tuple(
        _read(
            file, copy if (copy := folder / kept_start(number)).is_file() else Path(file), model, epochs_scale, tricks
        )
        for number, file in enumerate(files)
    )


def _read(file: str, path: Path, model: str, epochs_scale: float, tricks: Sequence[str]) -> StartPoint:
    where = f"--start {file}"
    try:
        named = str(parse_recipe(path).get("model"))
        beside = path.resolve().parent
        own = settled(relocated(named, lambda place: str(beside / place)))
        # a copy was compared when the search began, and its network may lie beside the file that was copied
        if path == Path(file) and model not in (own, settled(named)):
            raise SettingsError(
                f"{where}: the recipe was found with the network {named}, and this search trains {model}; search with "
                f"--model {named}, or leave this start point out"
            )
        document = read_recipe(path, tricks=tricks, model=model)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error
    plan = Plan.from_dict(document["plan"])
    factor = epochs_scale / float(document["measured"].get("epochs_scale", 1.0))
    if factor != 1:
        plan = lengthened(plan, factor)
    labels = tuple(f"{stage.name}/{trick.name}" for stage in plan.stages for trick in stage.tricks if not trick.kept)
    return StartPoint(file, Recipe(plan, {}, labels), document)


def check_start_points(starts: Sequence[StartPoint], settings: Settings) -> None:
    """Refuses a recipe that was found on other data.

    Args:
        starts: Start points of the search.
        settings: Of the search.

    Raises:
        SettingsError: Which data a start point is of, and what differs.
    """
    for start in starts:
        before = start.document["data"]
        imbalance = before["imbalance"] if settings.imbalance is None else settings.imbalance
        now = identity(settings.data, settings.data_root, imbalance)
        differs = change(before, now) if before.get("fingerprint") else None
        if differs is not None or imbalance != before["imbalance"]:
            what = f"imbalance {before['imbalance']:g} → {imbalance:g}" if differs is None else differs.text
            raise SettingsError(
                f"--start {start.file}: the recipe was found on other data ({before['name']}) than those of this "
                f"search ({settings.data}): {what}; search on those data, or leave this start point out"
            )


def notes_on(starts: Sequence[StartPoint], first_seed: int) -> list[str]:
    """What a person should know of start points, whole sentences.

    Args:
        starts: Start points of the search.
        first_seed: First seed block of the search.
    """
    said = []
    for start in starts:
        seeds = start.document["measured"].get("seeds", [])
        if any(seed - first_seed in RACE_SEEDS for seed in seeds):
            said.append(
                f"--start {start.file}: this recipe was chosen on seeds on which this search races and confirms, which "
                "favours it; --seed N with another N makes them fresh."
            )
    return said
