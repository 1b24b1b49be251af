"""What recalls are worth where a model is used: a prior over classes, and what each mistake costs.

Evaluation only: nothing here changes training, a split or what a finished stage is kept under. Light: no torch, so a
command can refuse a file before anything heavy is imported.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRIORS = ("uniform", "train")
"""Priors by name: every class alike; as the training images."""

MOST_COSTS = 1_000
"""Classes up to which a cost matrix is taken: it travels with every trial."""


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
        """A JSON-able dict."""
        return {"prior": self.prior, "cost": self.cost}

    @staticmethod
    def from_dict(fields: Mapping[str, Any] | None) -> Deployment:
        """The inverse of `to_dict`, also after a passage through JSON; `None` weighs nothing."""
        if not fields:
            return Deployment()
        prior, cost = fields["prior"], fields["cost"]
        return Deployment(
            prior if prior is None or isinstance(prior, str) else tuple(prior),
            None if cost is None else tuple(tuple(row) for row in cost),
        )

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
        prior: "uniform", "train", or a CSV file with a class and its weight in each line (or a weight alone, in the
            order of the classes).
        cost: A CSV file with the costs of a true class in each line, in the order of the classes; a first line and a
            first column of class names may be there.
        class_names: C names.

    Raises:
        DeploymentError: A file cannot be read, or is not about these classes.
    """
    weights: str | tuple[float, ...] | None = prior
    if prior is not None and prior not in PRIORS:
        weights = _prior(Path(prior), class_names)
    return Deployment(weights, None if cost is None else _cost(Path(cost), class_names))


def _prior(file: Path, class_names: Sequence[str]) -> tuple[float, ...]:
    rows = _rows("--prior", file, f" (or one of {', '.join(PRIORS)})")
    if all(len(row) == 1 for _, row in rows):
        if len(rows) != len(class_names):
            raise DeploymentError(
                f"--prior {file}: has {len(rows)} weights, and the data {len(class_names)} classes; give one a class"
            )
        rows = [(line, [name, row[0]]) for name, (line, row) in zip(class_names, rows, strict=True)]
    found: dict[str, float] = {}
    for line, row in rows:
        where = f"--prior {file}, line {line}"
        if len(row) != 2:
            raise DeploymentError(f"{where}: expected a class and its weight, got {','.join(row)!r}")
        name, weight = row[0], _number(where, row[1])
        if name not in class_names:
            raise DeploymentError(f"{where}: no class {name!r} in the data; classes are {_some(class_names)}")
        if name in found:
            raise DeploymentError(f"{where}: class {name!r} stands twice")
        if weight < 0:
            raise DeploymentError(f"{where}: a weight must be at least 0, got {weight:g}")
        found[name] = weight
    absent = [name for name in class_names if name not in found]
    if absent:
        raise DeploymentError(f"--prior {file}: no weight for {len(absent)} classes: {_some(absent)}; give each one")
    if not sum(found.values()):
        raise DeploymentError(f"--prior {file}: all weights are 0; at least one class must occur")
    return tuple(found[name] for name in class_names)


def _cost(file: Path, class_names: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    classes = len(class_names)
    if classes > MOST_COSTS:
        raise DeploymentError(f"--cost {file}: the data have {classes} classes; a matrix is taken up to {MOST_COSTS}")
    rows = _rows("--cost", file, "")
    header = rows[0][1]
    # where classes are numbered, costs may look like names
    named = set(class_names) <= set(header) and (len(rows) > classes or not all(map(_is_number, header)))
    if named:
        columns = [header.index(name) for name in class_names]
        by_name = {row[0]: (line, row) for line, row in rows[1:]}
        if columns[0] and set(by_name) >= set(class_names):
            rows = [(by_name[name][0], [by_name[name][1][c] for c in columns if c < len(by_name[name][1])])
                    for name in class_names]  # fmt: skip
        else:
            rows = [(line, [row[c] for c in columns if c < len(row)]) for line, row in rows[1:]]
    if len(rows) != classes:
        raise DeploymentError(f"--cost {file}: has {len(rows)} rows of costs, and the data {classes} classes")
    matrix = []
    for line, row in rows:
        where = f"--cost {file}, line {line}"
        if len(row) != classes:
            raise DeploymentError(f"{where}: has {len(row)} costs, and the data {classes} classes")
        matrix.append(tuple(_number(where, text) for text in row))
    return tuple(matrix)


def _rows(option: str, file: Path, instead: str) -> list[tuple[int, list[str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(stream), start=1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not CSV text in UTF-8"
        raise DeploymentError(f"{option} {file}: cannot read the file ({why}){instead}") from error
    rows = [(number, row) for number, row in lines if any(row) and not row[0].startswith("#")]
    if not rows:
        raise DeploymentError(f"{option} {file}: the file is empty")
    return rows


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(where: str, text: str) -> float:
    if not _is_number(text):
        raise DeploymentError(f"{where}: expected a number, got {text!r}")
    return float(text)


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
