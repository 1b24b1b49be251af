"""Weighting of recalls in deployment: a prior over classes, and the cost of each mistake.

Evaluation only: nothing here changes training, a split or what a finished stage is kept under. Light: no torch, so a
command can refuse a file before anything heavy is imported.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.text import did_you_mean
from trainables.data.tables import TableError, read_rows, repeated, shorten

PRIORS = ("uniform", "train")
"""Priors by name: every class alike; as the training images."""

MOST_COSTS = 1_000
"""Classes up to which a cost matrix is taken: it travels with every trial."""


LARGEST = 1e100
"""Largest weight and cost, so that sums of them stay finite."""


class DeploymentError(ValueError):
    """A prior or a cost matrix that cannot be read, or does not belong to the data."""


@dataclass(frozen=True)
class Deployment:
    """How a model's mistakes are weighed.

    Args:
        prior: "uniform", "train", or C weights of at least 0, the share of each class where the model is used;
            `None` where accuracy is not weighted.
        cost: C rows of C numbers, cost[c][j] of saying j where c is true; `None` where no cost is asked for.
    """

    prior: str | tuple[float, ...] | None = None
    cost: tuple[tuple[float, ...], ...] | None = None

    def __bool__(self) -> bool:
        return self.prior is not None or self.cost is not None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return {"prior": self.prior, "cost": self.cost}

    @staticmethod
    def from_dict(fields: Mapping[str, Any] | None) -> Deployment:
        """The inverse of `to_dict`, also after a passage through JSON; `None` weighs nothing.

        Raises:
            DeploymentError: The fields are not those that `to_dict` gives.
        """
        if not fields:
            return Deployment()
        what = "a deployment"
        if not isinstance(fields, Mapping) or set(fields) != {"prior", "cost"}:
            raise DeploymentError(f"{what} has the fields prior and cost, got {_shorten(fields)}")
        prior, cost = fields["prior"], fields["cost"]
        if prior is not None and prior not in PRIORS:
            if not _are_numbers(prior) or min(prior, default=-1) < 0 or not sum(prior):
                raise DeploymentError(
                    f"prior of {what} must be null, one of {', '.join(PRIORS)}, or a weight of at least 0 for each "
                    f"class, got {_shorten(prior)}"
                )
            prior = tuple(map(float, prior))
        if cost is not None:
            rows = list(cost) if isinstance(cost, list | tuple) else []
            if not rows or not all(_are_numbers(row) and len(row) == len(rows) for row in rows):
                raise DeploymentError(
                    f"cost of {what} must be null, or a row of numbers for each class, got {_shorten(cost)}"
                )
            cost = tuple(tuple(map(float, row)) for row in rows)
        return Deployment(prior, cost)

    def weights(self, counts: Sequence[int], known: Sequence[bool]) -> tuple[float, ...]:
        """The prior over the classes that were measured: (C,), sum 1, 0 where nothing was.

        Args:
            counts: (C,) training images per class.
            known: (C,) whether a class has evaluation images.

        >>> Deployment("train").weights([6, 3, 1], [True, True, False])
        (0.6666666666666666, 0.3333333333333333, 0.0)
        """
        given: Sequence[float] = [1.0] * len(counts)
        if self.prior == "train":
            given = counts
        elif isinstance(self.prior, tuple):
            given = self.prior
        kept = [weight if there else 0.0 for weight, there in zip(given, known, strict=True)]
        total = sum(kept)
        return tuple(weight / total if total else 0.0 for weight in kept)

    def measure(
        self, recalls: Sequence[float], predicted: Sequence[int], labels: Sequence[int], counts: Sequence[int]
    ) -> dict[str, float]:
        """The weighed metrics.

        prior_accuracy = Σ_c π_c · recall_c; expected_cost = Σ_c π_c · (mean of cost[c][predicted] over the images of
        c), with π the prior (uniform where none is given) over the classes that have evaluation images.

        Args:
            recalls: (C,) in [0, 1]; NaN for a class without images.
            predicted: (M,) predicted classes.
            labels: (M,) true classes.
            counts: (C,) training images per class.

        Returns:
            "prior_accuracy" in [0, 1] where a prior is given, "expected_cost" in the matrix's unit where costs are;
            neither where all the prior's weight is on classes without images: unknown, not 0.

        >>> from math import nan
        >>> weighed = Deployment((3.0, 1.0), ((0.0, 1.0), (5.0, 0.0)))
        >>> weighed.measure([0.5, 0.0], [0, 1, 0], [0, 0, 1], [9, 1])
        {'prior_accuracy': 0.375, 'expected_cost': 1.625}
        """
        prior = self.weights(counts, [not math.isnan(recall) for recall in recalls])
        found: dict[str, float] = {}
        if not any(prior):
            return found
        if self.prior is not None:
            # a class without weight may have a recall of NaN
            weighed = (weight * recall for weight, recall in zip(prior, recalls, strict=True) if weight)
            found["prior_accuracy"] = sum(weighed)
        if self.cost is not None:
            paid, images = [0.0] * len(recalls), [0] * len(recalls)
            for label, said in zip(labels, predicted, strict=True):
                paid[label] += self.cost[label][said]
                images[label] += 1
            found["expected_cost"] = sum(
                weight * total / count for weight, total, count in zip(prior, paid, images, strict=True) if weight
            )
        return found


def read(prior: str | None, cost: str | None, class_names: Sequence[str]) -> Deployment:
    """A prior and a cost matrix as the command gives them.

    Args:
        prior: "uniform", "train", or a CSV file with a class and its weight in each line, or with weights alone in the
            order of the classes; a first line may name the columns.
        cost: A CSV file with the costs of a true class in each line. A first line names the classes that are said, a
            first column the true ones, in any order; what has no names is in the order of the classes.
        class_names: C different names.

    A line that begins with # is a comment. Names are needed where the order of the classes is not the one that people
    expect, as in 1, 10, 2, or where the lines have names and the columns, in another order, have none, or vice versa.

    Raises:
        DeploymentError: A file cannot be read, or is not about these classes.
    """
    stripped = [name.strip() for name in class_names]  # as the cells of a table are
    class_names = class_names if repeated(stripped) else stripped
    weights: str | tuple[float, ...] | None = prior
    if prior is not None and prior not in PRIORS:
        weights = _prior(Path(prior), class_names)
    return Deployment(weights, None if cost is None else _cost(Path(cost), class_names))


def _prior(file: Path, class_names: Sequence[str]) -> tuple[float, ...]:
    what = f"--prior {file}"
    rows = _rows(what, file, f" (or one of {', '.join(PRIORS)})")
    header = rows[0][1]
    if not _is_number(header[-1]) and header[0] not in class_names and len(rows) > 1:
        rows = rows[1:]
    if all(len(row) == 1 for _, row in rows):
        if len(rows) != len(class_names):
            raise DeploymentError(
                f"{what}: has {len(rows)} weights, and the data {len(class_names)} classes; give one a class"
            )
        _check_order(what, class_names)
        rows = [(line, [name, row[0]]) for name, (line, row) in zip(class_names, rows, strict=True)]
    found: dict[str, float] = {}
    for line, row in rows:
        where = f"{what}, line {line}"
        if len(row) != 2:
            raise DeploymentError(f"{where}: expected a class and its weight, got {','.join(row)!r}")
        name, weight = row[0], _number(where, row[1])
        _check_known(where, name, class_names)
        if name in found:
            raise DeploymentError(f"{where}: class {name!r} stands twice")
        if weight < 0:
            raise DeploymentError(f"{where}: a weight must be at least 0, got {weight:g}")
        found[name] = weight
    absent = [name for name in class_names if name not in found]
    if absent:
        quoted = "; put a name that begins with # in quotes" if any(name.startswith("#") for name in absent) else ""
        raise DeploymentError(f"{what}: no weight for {len(absent)} classes: {shorten(absent)}; give each one{quoted}")
    if not sum(found.values()):
        raise DeploymentError(f"{what}: all weights are 0; at least one class must occur")
    return tuple(found[name] for name in class_names)


def _cost(file: Path, class_names: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    classes, what = len(class_names), f"--cost {file}"
    if classes > MOST_COSTS:
        raise DeploymentError(f"{what}: the data have {classes} classes; a matrix is taken up to {MOST_COSTS}")
    rows = _rows(what, file, "")
    # by the table's size and not by its cells: where classes are numbered, costs look like names
    header = rows.pop(0) if len(rows) == classes + 1 else None
    heads = header is None and not any(map(_is_number, rows[0][1]))
    if len(rows) != classes or heads:
        count = len(rows) - heads
        has = "1 row" if count == 1 else f"{count} rows"
        raise DeploymentError(f"{what}: has {has} of costs, and the data {classes} classes")
    named = len(rows[0][1]) == classes + 1
    for line, row in rows:
        if len(row) != classes + named:
            raise DeploymentError(f"{what}, line {line}: has {len(row) - named} costs, and the data {classes} classes")
    said = true = list(class_names)
    if header is not None:
        line, cells = header
        said = cells[1:] if named and len(cells) == classes + 1 else cells
        _check_names(f"{what}, line {line}", said, class_names)
    if named:
        true = [row[0] for _, row in rows]
        _check_names(f"{what}, first column", true, class_names)
    if header is None and not named:
        _check_order(what, class_names)
    if (header is None or not named) and (said != list(class_names) or true != list(class_names)):
        raise DeploymentError(
            f"{what}: its {'rows' if named else 'columns'} are named in another order than that of the data's classes, "
            f"{shorten(class_names)}, and its {'columns' if named else 'rows'} are not named; "
            + ("put a first line with their names above" if named else "begin each row of costs with its class")
        )
    costs = {
        name: {other: _number(f"{what}, line {line}", text) for other, text in zip(said, row[named:], strict=True)}
        for name, (line, row) in zip(true, rows, strict=True)
    }
    return tuple(tuple(costs[name][other] for other in class_names) for name in class_names)


def _rows(what: str, file: Path, instead: str) -> list[tuple[int, list[str]]]:
    try:
        rows = read_rows(file, comment="#")
    except TableError as error:
        raise DeploymentError(f"{what}: cannot read the file ({error}){instead}") from error
    if not rows:
        raise DeploymentError(f"{what}: the file is empty")
    return rows


def _check_names(where: str, names: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuses names that are not those of the classes, each once."""
    for name in names:
        _check_known(where, name, class_names)
    if twice := repeated(names):
        raise DeploymentError(f"{where}: class {twice[0]!r} stands twice")
    if lacking := [name for name in class_names if name not in set(names)]:
        raise DeploymentError(f"{where}: lacks {len(lacking)} classes: {shorten(lacking)}")


def _check_known(where: str, name: str, class_names: Sequence[str]) -> None:
    if name not in class_names:
        hint = did_you_mean(name, class_names) or f"classes are {shorten(class_names)}"
        raise DeploymentError(f"{where}: no class {name!r} in the data; {hint}")


def _check_order(what: str, class_names: Sequence[str]) -> None:
    """Refuses a table without names where people count otherwise than the classes are sorted: 1, 10, 2."""
    counted = sorted(class_names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                                    for part in re.split(r"([0-9]{1,18})", name)])  # fmt: skip
    if list(class_names) == sorted(class_names) != counted:
        raise DeploymentError(
            f"{what}: has no names, and the data's classes are in the order {shorten(class_names)}; so that none is "
            "taken for another, name the classes in the file"
        )


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) <= LARGEST
    except ValueError:
        return False


def _number(where: str, text: str) -> float:
    if not _is_number(text):
        hint = "; write decimals with a point" if re.fullmatch(r"[+-]?[0-9]*,[0-9]+", text) else ""
        if re.fullmatch(r"[+-]?[0-9.]+(e[0-9]+)?", text):
            hint = f"; at most {LARGEST:g} is taken"
        raise DeploymentError(f"{where}: expected a number, got {_shorten(text)}{hint}")
    return float(text)


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of numbers, none of them too large."""
    return isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST for value in values
    )


def _shorten(value: Any) -> str:
    return textwrap.shorten(repr(value)[:200], 60, placeholder=" …") if len(repr(value)) > 60 else repr(value)
