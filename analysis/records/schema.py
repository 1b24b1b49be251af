"""The record: what one trial leaves. The search writes it, everything in `analysis/` reads it.

A record is one trial, that is, one plan trained with one seed. Every number is a fraction in [0, 1] unless
its name says otherwise. `SCHEMA` grows when a field changes its meaning.

A field is declared once, in `Record`: its type, by which it is read back, and where MLflow shows it. The journal, the
artifacts in MLflow, MLflow's tags, parameters and metrics (`analysis.records.mlflow_index`) and the columns of the data
frame (`analysis.records.reader`) all follow from that declaration.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

SCHEMA = 1

ARMS = ("tune", "design", "check", "adaptive", "race", "confirm", "around", "nominated")
"""tune: the baseline on a grid of learning rates and weight decays. design: feeds the conflict table. check: cells of
the design again in another `setting` (learning rate, final length). adaptive: finds recipes. race: contenders on fresh
seeds, by which the winner is chosen. confirm: winner and baseline on seeds that chose nothing; the only arm that reads
the test split. around: the winner with some of its tricks removed, down to the baseline. nominated: the four cells of
pairs that the adaptive arm suggested, on fresh seeds."""

FRESH = ("race", "confirm")
"""Arms in which recipes are measured on seeds that did not propose them; they also measure calibration."""

MOST_CONFUSIONS = 50
"""Confusions that a record keeps: where a list has this many, it may not be complete."""

RECIPE = "recipe:"
"""How the label of a whole recipe begins that a space names: it is compared with the baseline and makes no pair."""

ARM = re.compile(r"[a-z][a-z_]*")
"""An arm that a further phase of a search may bring."""

OUTCOMES = ("finished", "stopped", "diverged", "failed")
"""stopped: by the scheduler. diverged: a loss that is not finite. failed: an error or a lost worker."""

FRACTIONS = ("accuracy", "many", "medium", "few", "harmonic_mean")
"""Last parts of the names of metrics that lie in [0, 1]."""

BASELINE = "baseline"
"""Title of the recipe in which nothing is on."""

SPACE_CHANGES = "space_changes"
"""Tag and parameter of a search whose space was changed: what readers must know of it, in sentences."""

NUMBERS = "numbers"
"""In the arm "around": between a winner without all its tricks and the baseline: learning rates, decays, lengths."""

NUMBERS_IN_WORDS = "its learning rates and lengths"
"""The same as people read it."""


class RecordError(ValueError):
    """Records that cannot be read, or must not be used as asked."""


def choosable(metric: str) -> str:
    """The metric, where something may be chosen or judged by it.

    Raises:
        RecordError: It is of the test split.

    >>> choosable("final/accuracy")
    'final/accuracy'
    """
    if "test" in metric.split("/"):
        raise RecordError(
            f"metric {metric!r} is of the test split, which may not choose anything; use a final/* metric, "
            "which is of the validation split, e.g. 'final/accuracy'"
        )
    return metric


def _known(value: Any) -> Any:
    """Numbers as they are, NaN for null: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    return [_known(item) for item in value] if isinstance(value, list) else math.nan if value is None else value


Number = Annotated[int | float, BeforeValidator(_known)]
"""A number that is NaN where it is unknown."""


@dataclass(frozen=True)
class Stored:
    """Where MLflow shows a field, so that people can filter, sort and plot by it.

    It is an index only: `record.json` of the run has every field, and is what is read back.

    Args:
        kind: As what MLflow has it.
        key: Its key. {field} stands for the name of the field; {item} gives every item of a mapping or sequence a key
            of its own; {stage} gives every stage of a learning curve its own.
    """

    kind: Literal["tag", "param", "metric"]
    key: str = "{field}"


TAG, PARAM, COST = Stored("tag"), Stored("param"), Stored("metric", "cost/{field}")


@dataclass(frozen=True)
class Point:
    """One evaluation of a trial on `val`.

    Args:
        stage: Name of the stage.
        member: Which of the stage's members, from 0.
        epoch: Epochs of the plan behind it (members of a stage count once).
        progress: `epoch` as a fraction of the plan, in (0, 1].
        metrics: E.g. "loss", "accuracy", "rebalanced"; without prefix.
    """

    stage: str
    member: int
    epoch: int
    progress: Number
    metrics: dict[str, Number]


@dataclass(frozen=True)
class Decisions:
    """The predictions of a trained network on the images of val.

    Args:
        predicted: Images assigned to each class. With the recalls they give the precision at val's class frequencies.
        confusions: The `MOST_CONFUSIONS` most frequent mistakes: (true class, predicted class, images).
        accepted: For some confidences, the number of answers of each predicted class with at least that confidence, and
            the number of these that are wrong. Probabilities are calibrated for equal class frequencies, each by a
            calibration that was fitted on the other half of val; the counts are at val's class frequencies. Only for
            the arms in `FRESH`.
    """

    predicted: tuple[int, ...] = ()
    confusions: tuple[tuple[int, int, int], ...] = ()
    accepted: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Decisions:
        """From JSON-serialisable fields, whose lists become tuples.

        Raises:
            RecordError: The fields are not those of `Decisions`.
        """
        try:
            return TypeAdapter(Decisions).validate_python(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RecordError(f"the decisions of a trial cannot be read: {where}: {first['msg']}") from error


def history(curve: Iterable[Point], metric: str, stage: str | None = None) -> list[tuple[int, float]]:
    """(epoch, value) of one metric of a learning curve, with the members of a stage averaged.

    Args:
        curve: The evaluations of a trial.
        metric: Name without prefix.
        stage: Only this stage (default: all of them).
    """
    gathered: dict[int, dict[str, list[float]]] = {}
    for point in curve:
        if metric in point.metrics and stage in (None, point.stage):
            gathered.setdefault(point.epoch, {}).setdefault(point.stage, []).append(point.metrics[metric])
    # where two stages meet at one epoch, because the second is evaluated as it starts, the later one counts
    last = {epoch: list(stages.values())[-1] for epoch, stages in gathered.items()}
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(last.items())]


@dataclass(frozen=True)
class Record:
    """One trial.

    Args:
        search: Name of the search.
        trial: Id of the trial in it.
        arm: One of `ARMS`, or that of a further phase.
        recipe: Id of the plan: equal plans, equal ids.
        title: The recipe in words, e.g. "representation/cost_sensitive + classifier".
        seed: Seed block.
        split_seed: Seed of the split; equal to `seed` where val is cut from a pool.
        first_stage: Id of the first stage's checkpoint: what a claim about a first-stage trick is replicated over.
        tricks: Labels that are on.
        context: What the labels' 0 level was measured in (design arm), see `search.design.labels`.
        outcome: One of `OUTCOMES`.
        choices: Readable choices, e.g. {"classifier/draw": "class_balanced", "representation/lr": 0.1}.
        families: Trick to family, of every trick in the plan, e.g. {"class_balanced": "re-sampling"}.
        plan: The plan as a dict.
        data: Name of the data set.
        model: Name of the network.
        imbalance: Largest class over smallest.
        fingerprint: Identifies the data and the split.
        counts: Training images per class.
        val_counts: Held-out images per class.
        class_names: Name of every class, in the order of the counts.
        epochs: Epochs of the plan, members multiplied.
        epochs_trained: Epochs that this trial trained itself, for others as well; the rest was re-used.
        images: Images seen in training, the cost at which recipes are compared.
        steps: Optimiser steps.
        seconds: Wall time of the trial.
        seconds_saved: Training time of the stages that were re-used, less that of what it trained for other trials.
        reused: Names of the stages that were re-used.
        metrics: Final metrics on val ("final/accuracy", "final/harmonic_mean", …, "final/calibration_error");
            of the confirm arm also "test/accuracy", ….
        recalls: Recall of every class on val.
        per_class: Further numbers by class, on val: "logits_magnitude", "regularized_std".
        decisions: Predictions on val: how often each class is predicted, confusions, how often confident answers are
            wrong.
        correct: Per-image correctness on val, where val is the same in every block.
        curve: Every evaluation, in order; a re-used stage's are replayed.
        reason: Why it was stopped, diverged or failed.
        stop: The scheduler's decision in numbers: rung, score, value, cut, among, cohort, epoch; {} if not stopped.
        setting: How a trial of the check arm differs from the design's: "lr/3", "lr*3" or "full length"; "" elsewhere.
        gpus: Share of GPUs that the trial held.
        memory: Peak memory of the trial's process on its device, in bytes; 0 where it was not measured.
        started: Unix time.
        set_aside: Why the trial is in no table and chooses nothing: it lies outside the search's space since that was
            changed; "" where it counts.
        schema: Version of this schema.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    search: Annotated[str, TAG]
    trial: Annotated[str, TAG]
    arm: Annotated[str, TAG]
    recipe: Annotated[str, TAG]
    title: Annotated[str, TAG]
    seed: Annotated[int, TAG, PARAM]
    split_seed: Annotated[int, TAG]
    first_stage: Annotated[str, TAG]
    tricks: Annotated[tuple[str, ...], TAG]
    context: Annotated[str, TAG]
    outcome: Annotated[str, TAG]
    choices: Annotated[dict[str, Any], Stored("param", "{item}")]
    plan: dict[str, Any]
    data: Annotated[str, PARAM]
    model: Annotated[str, PARAM]
    imbalance: Annotated[Number, PARAM]
    fingerprint: Annotated[str, TAG]
    counts: Annotated[tuple[int, ...], TAG]
    val_counts: Annotated[tuple[int, ...], TAG]
    epochs: Annotated[Number, PARAM, COST]
    epochs_trained: Annotated[Number, COST]
    images: Annotated[int, COST]
    steps: Annotated[int, COST]
    seconds: Annotated[Number, COST]
    seconds_saved: Annotated[Number, COST]
    reused: Annotated[tuple[str, ...], TAG]
    metrics: Annotated[dict[str, Number], Stored("metric", "{item}")]
    recalls: Annotated[tuple[Number, ...], Stored("metric", "recall/{item}")] = ()
    decisions: Decisions = field(default_factory=Decisions)
    correct: tuple[int, ...] = ()
    per_class: Annotated[dict[str, Any], BeforeValidator(_known)] = field(default_factory=dict)
    curve: Annotated[tuple[Point, ...], Stored("metric", "val/{item}"), Stored("metric", "{stage}/{item}")] = ()
    reason: Annotated[str, TAG, Stored("tag", "mlflow.note.content")] = ""
    stop: Annotated[dict[str, Any], Stored("tag", "stop/{item}")] = field(default_factory=dict)
    setting: Annotated[str, TAG] = ""
    gpus: Annotated[Number, COST] = 0.0
    memory: Annotated[Number, COST] = 0.0
    families: Annotated[dict[str, str], TAG] = field(default_factory=dict)
    class_names: Annotated[tuple[str, ...], TAG] = ()
    started: Number = 0.0
    set_aside: str = ""
    schema: Annotated[int, TAG] = SCHEMA

    def __post_init__(self) -> None:
        if not ARM.fullmatch(self.arm):
            raise RecordError(f"trial {self.trial!r}: arm must be a lower-case word, got {self.arm!r}")
        if self.outcome not in OUTCOMES:
            raise RecordError(
                f"trial {self.trial!r}: outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}"
            )
        for name, value in self.metrics.items():
            if name.rpartition("/")[2] in FRACTIONS and not (math.isnan(value) or 0 <= value <= 1):
                raise RecordError(f"trial {self.trial!r}: {name} must be a fraction in [0, 1], got {value:g}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict; `set_aside` only where there is a reason, which is no result of the trial."""
        fields = dataclasses.asdict(self)
        return fields if self.set_aside else {name: value for name, value in fields.items() if name != "set_aside"}

    def to_json(self) -> str:
        """One line of JSON that every reader accepts: numbers that are not finite are null."""
        return _adapter().dump_json(self, warnings=False).decode()

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Record:
        """The inverse of `to_dict`, also after a passage through JSON.

        Raises:
            RecordError: The fields are those of another schema.
        """
        if fields.get("schema") != SCHEMA:
            problem = f"a record of schema {fields.get('schema')!r} cannot be read by schema {SCHEMA}"
        else:
            try:
                return _adapter().validate_python(fields)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                name = ".".join(map(str, first["loc"])) or "record"
                problem = f"the record of trial {fields.get('trial')!r} cannot be read: {name}: {first['msg']}"
        raise RecordError(f"{problem}; use the version of longtail-tune that wrote it")

    @staticmethod
    def from_json(text: str) -> Record:
        """The inverse of `to_json`.

        Raises:
            RecordError: The text is not a record of this schema.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise RecordError(f"a record that is not JSON cannot be read: {error}") from error
        return Record.from_dict(fields)


FIELDS = tuple(each.name for each in dataclasses.fields(Record))
"""Names of a record's fields."""


@functools.cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


@functools.cache
def stored() -> tuple[tuple[str, Stored], ...]:
    """Every field that MLflow shows, with each of its places, in the order of their declaration."""
    hints = get_type_hints(Record, include_extras=True)
    marks = ((name, getattr(hints[name], "__metadata__", ())) for name in FIELDS)
    return tuple((name, mark) for name, found in marks for mark in found if isinstance(mark, Stored))
