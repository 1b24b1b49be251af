"""What a published table is: its recipes, its numbers, and what the paper concludes from them.

`longtail-tune papers` trains a table's rows over seed blocks and sets the published numbers beside ours.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from spaces.domain import Space, Stage, recipe

MEASURES = {"error": -1.0, "accuracy": 1.0, "harmonic_mean": 1.0, "geometric_mean": 1.0, "lowest_recall": 1.0}
"""What a table prints, in percent, and whether more of it is better (1) or worse (-1)."""


@dataclass(frozen=True)
class Setting:
    """A column of a table: what the paper trained, and on what.

    Args:
        title: As the paper calls it.
        data: Data set, as `--data` names it.
        imbalance: Size of the largest class divided by that of the smallest; `None` for a data set that is what it is.
        model: Network, as `--model` names it.
    """

    title: str
    data: str
    imbalance: float | None
    model: str


@dataclass(frozen=True)
class Row:
    """A recipe of a table and its published numbers.

    Args:
        name: Short, unique in the table: the label of the recipe in the search.
        title: As a reader of the paper would call it.
        stages: The whole recipe.
        published: One number for each column, in percent; `None` where the paper has none.
    """

    name: str
    title: str
    stages: tuple[Stage, ...]
    published: tuple[float | None, ...]


@dataclass(frozen=True)
class Fact:
    """A published conclusion about differences between rows.

    Args:
        text: The conclusion, one sentence.
        weights: Name of a row to its weight; the weights add up to 0. What they give is counted in points,
            so that a method that helps has a positive value whatever the table prints.
        sign: 1 where the paper says that the value is above 0, -1 below 0, 0 that it is practically 0.
    """

    text: str
    weights: Mapping[str, float]
    sign: int


@dataclass(frozen=True)
class Table:
    """A published table.

    Args:
        id: "<paper>/<table>".
        title: What the table shows.
        source: Authors, year, where, and the number of the table.
        measure: What it prints, a key of `MEASURES`.
        settings: Its columns.
        rows: Its recipes, the baseline first.
        facts: What the paper concludes.
        notes: What the paper leaves open, and what is assumed here; whole sentences.
        bounds: Published upper bounds of rows by name, in percent; `None` unless the table has upper bounds and
            relative accuracies, for which every row is trained on balanced data as well.
    """

    id: str
    title: str
    source: str
    measure: str
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    bounds: Mapping[str, float] | None = None

    def trained(self, column: int) -> list[Row]:
        """The rows that are trained for a column: those with a number there, and those without any number."""
        return [row for row in self.rows if row.published[column] is not None or not any(row.published)]

    def space(self, column: int, without: Container[str] = ()) -> Space:
        """The rows of a column as a space: the baseline's stages, and every other row as a recipe.

        Args:
            column: Its number.
            without: Names of rows to leave out.
        """
        return Space(
            stages=self.rows[0].stages,
            recipes=[
                recipe(row.name, *row.stages)
                for row in self.trained(column)
                if row is not self.rows[0] and row.name not in without
            ],
        )

    def value(self, fact: Fact, column: int) -> float | None:
        """The published value of a fact in points, positive where it helps; `None` where a number is missing."""
        numbers = {row.name: row.published[column] for row in self.rows}
        total = 0.0
        for name, weight in fact.weights.items():
            number = numbers[name]
            if number is None:
                return None
            total += weight * MEASURES[self.measure] * number
        return total
