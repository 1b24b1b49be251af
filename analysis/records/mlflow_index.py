"""What MLflow shows of a record in tags, parameters and metrics, as the record's fields declare it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.records.mlflow_store import key
from analysis.records.schema import Point, Record, Stored, history, stored

TEXT_LENGTH = 5000
"""Characters of a tag or parameter that MLflow takes."""

ELSEWHERE = "in record.json"
"""A tag of a field that is too long for one."""

ITEM_LIMIT = 200
"""Length up to which every item of a sequence is a metric, e.g. the recall of every class."""

_RESERVED = {"best_trial", "conflict", "cost", "final", "recall", "test", "val"}
"""Prefixes of metrics that are no stages."""


@dataclass(frozen=True)
class Index:
    """What MLflow shows of one record.

    Args:
        tags: Key to text.
        params: Key to text.
        metrics: (key, value, step); points of a learning curve have the epoch as their step.
    """

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)


def index(record: Record, kinds: Collection[str] = ("tag", "param", "metric")) -> Index:
    """What MLflow shows of a record.

    Raises:
        ValueError: What should be a metric is not a number.
    """
    found = Index()
    last = max((point.epoch for point in record.curve), default=0)
    for name, place in stored():
        if place.kind not in kinds:
            continue
        for names, value, step in _entries(getattr(record, name), place, last):
            where = key(place.key.format(field=name, **names))
            if place.kind == "metric":
                # null of an older journal: a number that is not known
                found.metrics.append((where, math.nan if value is None else float(value), step))
            elif place.kind == "param":
                found.params[where] = text(value)
            elif value or not where.startswith("mlflow."):
                found.tags[where] = _tag(value)
    return found


def _entries(value: Any, place: Stored, last: int) -> Iterator[tuple[dict[str, str], Any, int]]:
    """What a field has for one place: names that its key holds, the value, and its step."""
    if "{item}" not in place.key:
        yield {}, value, last
    elif isinstance(value, Mapping):
        for item, one in value.items():
            yield {"item": item}, one, last
    elif value and isinstance(value[0], Point):
        stages = dict.fromkeys(point.stage for point in value) if "{stage}" in place.key else (None,)
        for metric in dict.fromkeys(metric for point in value for metric in point.metrics):
            for stage in stages:
                for epoch, one in history(value, metric, stage):
                    yield {"item": metric, "stage": _prefix(stage or "")}, one, epoch
    elif len(value) <= ITEM_LIMIT:
        for number, one in enumerate(value):
            yield {"item": str(number)}, one, last


def _prefix(stage: str) -> str:
    return f"stage_{stage}" if stage in _RESERVED or stage.startswith("stage_") else stage


def _tag(value: Any) -> str:
    if isinstance(value, str):
        return clip(value)
    whole = json.dumps(value)
    return whole if len(whole) < TEXT_LENGTH else ELSEWHERE


def text(value: Any) -> str:
    """A parameter as people read it; `parsed` is the inverse.

    >>> text(0.1), text("class_balanced"), text(None)
    ('0.1', 'class_balanced', 'none')
    """
    if value is None:
        return "none"
    return clip(value if isinstance(value, str) else json.dumps(value, default=str))


def parsed(text: str) -> Any:
    """A parameter's value from the text that MLflow has.

    >>> parsed("0.1"), parsed("class_balanced"), parsed("none")
    (0.1, 'class_balanced', None)
    """
    if text == "none":
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def clip(text: str) -> str:
    """Text within MLflow's limit."""
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"
