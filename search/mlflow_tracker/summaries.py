"""What the recipe runs and the search's run show of the trials so far: means over seeds, counts, the leader."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from analysis.records import reader
from analysis.records.intervals import bounded_interval
from analysis.records.mlflow_index import text
from analysis.records.schema import BASELINE, Record

Metric = tuple[str, float, int, int]
"""Key, value, Unix time in milliseconds, step."""

PAIR_ARMS = ("design", "nominated")
"""Arms that run the four cells of a pair."""


@dataclass
class RecipeSummary:
    """The trials of one recipe.

    Args:
        first: The record by which the recipe became known.
        arms: Arms that have trained it.
        trials: Ids of its trials.
        values: Accuracy on val of finished trials, by arm and seed.
        test: Accuracy on the test split, by seed.
        length: Parameters that only a trial that began can know.
        cells: (labels, context) of the designed experiments that it is a cell of.
        aside: Its trials that lie outside the search's space since that was changed, with the reason.
        ended: When its last trial ended, Unix time in milliseconds.
        metrics: What is shown of it.
        unwritten: Points of these metrics that MLflow does not have yet.
        points: The latest point of each metric.
    """

    first: Record
    arms: set[str] = field(default_factory=set)
    trials: set[str] = field(default_factory=set)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    test: dict[int, float] = field(default_factory=dict)
    length: dict[str, str] = field(default_factory=dict)
    cells: set[tuple[tuple[str, ...], str]] = field(default_factory=set)
    aside: dict[str, str] = field(default_factory=dict)
    ended: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    unwritten: list[Metric] = field(default_factory=list)
    points: dict[str, Metric] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is on."""
        return self.first.title == BASELINE

    @property
    def set_aside(self) -> str:
        """Why none of its trials counts; "" where one does."""
        return "; ".join(dict.fromkeys(self.aside.values())) if self.aside.keys() == self.trials else ""

    @property
    def shown(self) -> tuple[str, dict[int, float]]:
        """The arm that is shown, and its values: the one that speaks for the recipe.

        A recipe that was only run to tune, to check or around a winner shows that arm, though it is not ranked.
        """
        arm, values = reader.estimate(self.values)
        return (arm, values) if arm or not self.values else next(iter(self.values.items()))

    def add(self, record: Record) -> None:
        """Takes one of its trials into account."""
        self.arms.add(record.arm)
        self.trials.add(record.trial)
        self.ended = max(self.ended, end_of(record))
        if record.arm in PAIR_ARMS:
            self.cells.add((record.tricks, record.context))
        if record.outcome != "failed" and not self.length:
            self.length = {name: text(getattr(record, name)) for name in ("imbalance", "epochs")}
        accuracy, test = (number(record.metrics.get(f"{split}/accuracy")) for split in ("final", "test"))
        if record.set_aside:
            self.aside[record.trial] = record.set_aside
        counts = record.outcome == "finished" and not record.set_aside
        if counts and not math.isnan(accuracy):
            self.values.setdefault(record.arm, {})[record.seed] = accuracy
        if counts and not math.isnan(test):
            self.test[record.seed] = test
        means = self._means()
        changed = [
            (name, value, end_of(record), len(self.trials))
            for name, value in means.items()
            if name not in self.metrics or not alike(self.metrics[name], value)
        ]
        self.unwritten += changed
        self.points |= {point[0]: point for point in changed}
        self.metrics |= means

    def _means(self) -> dict[str, float]:
        """Means over seeds with their intervals; NaN for what is no longer known."""
        values = self.shown[1]
        means: dict[str, float] = dict.fromkeys(self.metrics, math.nan) | {"seeds": float(len(values))}
        for prefix, numbers in (("final", values), ("test", self.test)):
            if numbers:
                mean, low, high = bounded_interval(list(numbers.values()))
                found = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
                means |= {f"{prefix}/{name}": value for name, value in found.items() if not math.isnan(value)}
        return means


class SearchSummary:
    """The trials of a search, as far as their records were given."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.recipes: dict[str, RecipeSummary] = {}
        self.changed: set[str] = set()
        """Recipes whose run is not up to date."""
        self.metrics: dict[str, float] = {}
        self.unwritten: list[Metric] = []
        """Points of `metrics` that MLflow does not have yet."""
        self._places: dict[str, tuple[bool, bool, int, float]] = {}  # of recipes that are ranked

    def add(self, record: Record) -> None:
        """Takes a record into account; of a trial with several ones, the last one counts."""
        self.records[record.trial] = record
        recipe = self.recipes.setdefault(record.recipe, RecipeSummary(record))
        recipe.add(record)
        self.changed.add(record.recipe)
        if reader.estimate(recipe.values)[0]:
            self._places[record.recipe] = reader.place(recipe.values, plain=recipe.is_baseline)
        outcomes = [each.outcome for each in self.records.values()]
        metrics = {"trials": float(len(outcomes)), "trials_finished": float(outcomes.count("finished"))}
        accuracy = number(record.metrics.get("final/accuracy"))
        counts = record.outcome == "finished" and not record.set_aside
        if counts and record.arm in reader.ESTIMATES and not math.isnan(accuracy):
            best = f"best_trial/{record.arm}"
            metrics[best] = max(accuracy, self.metrics.get(best, accuracy))
        self.unwritten += [
            (name, value, end_of(record), len(outcomes))
            for name, value in metrics.items()
            if self.metrics.get(name) != value
        ]
        self.metrics |= metrics

    def gains(self) -> dict[str, dict[str, float]]:
        """Recipe to its gain over the baseline on the same seeds, with the interval, as `reader.ranking` has it."""
        found = {}
        for row in reader.ranking(reader.frame(list(self.records.values()))).to_dict("records") if self.records else ():
            numbers = {name: float(row[name]) for name in ("gain", "gain_low", "gain_high")}
            found[str(row["recipe"])] = {name: value for name, value in numbers.items() if not math.isnan(value)}
        return found

    def baseline(self) -> str:
        """Id of the baseline; "" where none was trained."""
        return reader.baseline(reader.frame(list(self.records.values()))) if self.records else ""

    def leader(self) -> dict[str, str]:
        """Tags of the recipe that leads, by the order of `reader.ranking`: its mean, the arm it is from, its id."""
        if not self._places:
            return {}
        name = max((place, name) for name, place in self._places.items())[1]
        arm, values = reader.estimate(self.recipes[name].values)
        mean = sum(values.values()) / len(values)
        return {"best_accuracy": f"{mean:.6g}", "best_arm": arm, "best_recipe": name}


def end_of(record: Record) -> int:
    """When a trial ended, Unix time in milliseconds."""
    return round(record.started * 1000) + round(record.seconds * 1000)


def number(value: Any) -> float:
    """A number; NaN for everything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def alike(there: float, value: float) -> bool:
    """Whether a metric in MLflow has this value: MLflow has NaN for everything that is not finite."""
    if not math.isfinite(value):
        return not math.isfinite(there)
    return math.isclose(there, value, rel_tol=1e-12, abs_tol=1e-300)
