"""Conversion of JSON-serialisable values into dataclasses; an error names the first invalid value in one sentence."""

from __future__ import annotations

import functools
import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def from_json(kind: type[T], value: Any, where: str, error: type[ValueError]) -> T:
    """A dataclass or pydantic object from JSON-serialisable values; lists become tuples where it has tuples.

    Args:
        kind: Its type.
        value: JSON-serialisable values.
        where: Start of the message of an error.
        error: Type of the error.

    Raises:
        ValueError: Of type `error`: where it is, what is allowed, what was got.

    >>> from trainables.plan import Plan
    >>> from_json(Plan, {"stages": [{"name": 3}]}, "plan", ValueError)
    Traceback (most recent call last):
    ValueError: plan: stages[0].name must be text, got 3
    """
    try:
        made: T = _adapter(kind).validate_json(json.dumps(value))  # type: ignore[arg-type]  # types are hashable
        return made
    except ValidationError as problem:
        raise error(f"{where}: {_sentence(problem)}") from problem


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong: where, what is allowed, what was got."""
    errors = error.errors(include_url=False)
    first, location = errors[0], errors[0]["loc"]
    if location[-1:] == ("int",) and len(errors) > 1:  # whole or not: what is said of the second holds for both
        first, location = errors[1], location[:-1]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where} is nothing that this version knows"
    allowed = (
        first["msg"]
        .replace("Input should be", "must be")
        .replace("a valid dictionary", "a mapping")
        .replace("an object", "a mapping")
    )
    allowed = allowed.replace("a valid string", "text").replace("a valid integer", "a whole number")
    allowed = allowed.replace("a valid array", "a valid list")
    if first["type"] in ("model_type", "dataclass_type"):  # their messages name our classes
        allowed = "must be a mapping"
    if not allowed.startswith("must be"):
        allowed = f"is wrong: {allowed}"
    return f"{where} {allowed}, got {short(first['input'])}".lstrip()


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
