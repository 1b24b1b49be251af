"""An exported recipe: read, checked, and brought to the length of final training. A recipe is data: it runs nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from analysis.text import printable
from trainables import models
from trainables.code_identity import relocated
from trainables.data import standard
from trainables.data.catalogue import DataError, module_of
from trainables.final import own_code
from trainables.final.errors import TrainError
from trainables.models import ModelError
from trainables.plan import Plan, check, provided
from trainables.registry import PlanError, discover
from trainables.serialisation import from_json, short
from trainables.training.numerics import Numerics

__all__ = ["TrainError", "lengthened", "read_recipe", "to_full_length", "to_yaml", "with_relative_places"]

LARGEST = 2_000_000
"""Bytes of a recipe; that of a data set with ten thousand classes has half a million."""

DEEPEST = 40
"""Nested lists and mappings in a recipe; an exported one has seven."""


def read_recipe(
    path: Path,
    tricks: Sequence[str] = (),
    model: str | None = None,
    trust: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """An exported recipe, its plan checked.

    Places in it that are relative are looked for beside the file first, then in the working directory. Code that the
    recipe names (a folder of tricks, a network of the user's own) is not run unless the caller names it or trusts it.

    Args:
        path: The file.
        tricks: Folders of further tricks, instead of those that the file names.
        model: A network instead of the one that the file names.
        trust: Whether the code that the file names is run as it is now.
        tell: Called with a message for each file of trusted code, before it runs.

    Raises:
        TrainError: No such file, it is no exported recipe, or it names code that nobody has accepted.
        ModelError: It names an unknown network.
        DataError: It names an unknown data set.
        PlanError: Its plan cannot be trained, e.g. because it names an unknown trick.
    """
    recipe = parse_recipe(path)
    try:
        from_json(_Document, recipe, str(path), TrainError)
    except TrainError as error:
        raise TrainError(f"{error}; export it again") from error
    try:
        # a file of an earlier export has none: those searches had nothing else
        recipe["numerics"] = Numerics.of(recipe.get("numerics") or {}).to_dict()
    except (TypeError, ValueError) as error:
        raise TrainError(f"{path}: numerics: {error}; export it again") from error
    beside = path.resolve().parent
    provenance = recipe["provenance"]
    folders = [os.path.abspath(folder) for folder in tricks]
    if not tricks and own_code.tricks_of(recipe["plan"]):  # a folder that the plan does not need is not opened
        folders = [os.path.abspath(_find_beside(folder, beside)) for folder in provenance.get("tricks") or ()]
    named = model if model is not None else relocated(recipe["model"], lambda place: _find_beside(place, beside))
    known = own_code.accept_code(
        path, recipe, folders, named, own_tricks=not tricks, own_model=model is None, trust=trust, tell=tell
    )
    recipe["provenance"] = {**provenance, "tricks": folders, "code": known}
    if provenance.get("data_root"):
        recipe["provenance"]["data_root"] = os.path.abspath(_find_beside(provenance["data_root"], beside))
    try:
        module_of(recipe["data"]["name"])
        recipe["model"] = models.settled(named)
        models.check(recipe["model"])
        discover(*(tricks or folders))
        check(Plan.from_dict(recipe["plan"]), provided(recipe["data"]["name"], recipe["model"]))
    except (PlanError, DataError, ModelError) as error:
        raise type(error)(f"{path}: {error}") from error
    return recipe


# --- what a file may hold -----------------------------------------------------------------------------------


def parse_recipe(path: Path) -> dict[str, Any]:
    """The file's content: text, finite numbers, truth values, null, lists and mappings with text as keys.

    Raises:
        TrainError: No such file, no YAML, no recipe, or more than that.
    """
    if not path.is_file():
        raise TrainError(f"{path}: no such file; python -m search.export --out {path} writes one")
    if path.stat().st_size > LARGEST:
        raise TrainError(f"{path}: has {path.stat().st_size} bytes, and no exported recipe has above {LARGEST}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        depth = 0
        # before anything is built: aliases can expand without end, and the builder is recursive
        for event in yaml.parse(text, Loader=loader):
            where = f"{path}: line {event.start_mark.line + 1 if event.start_mark else '?'}"
            if isinstance(event, yaml.AliasEvent):
                raise TrainError(f"{where}: aliases (*{event.anchor}) are not allowed in a recipe")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise TrainError(f"{where}: lists and mappings are nested more than {DEEPEST} deep")
        content = yaml.load(text, Loader=loader)
    except TrainError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        # besides YAML's own: numbers with too many digits, dates that there are not
        raise TrainError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise TrainError(f"{path}: not a recipe of python -m search.export (format: 1 is expected)")
    problem = _not_plain(content, "")
    if problem:
        raise TrainError(f"{path}: {problem}; export it again")
    return content


def _not_plain(value: Any, where: str) -> str:
    """A sentence about the first part of a value that JSON does not have; "" where there is none."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where or 'the file'} has a key that is not text: {short(key)}"
            if problem := _not_plain(item, f"{where}.{key}" if where else key):
                return problem
        return ""
    if isinstance(value, list):
        problems = (_not_plain(item, f"{where}[{number}]") for number, item in enumerate(value))
        return next((problem for problem in problems if problem), "")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{where} must be a number of at most 18 digits, got one of {value.bit_length()} bits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} must be a finite number, got {value}"
    if value is not None and not isinstance(value, (bool, int, float, str)):
        return f"{where} must be text, a number, true, false or null, got {short(value)}"
    return ""


class _Part(BaseModel):
    """A mapping of a recipe; unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


_Count = Annotated[int, Field(ge=0)]


class _Images(_Part):
    """Images of each class, by split."""

    train: list[_Count]
    val: list[_Count]
    test: list[_Count]


class Data(_Part):
    """Data that a recipe was found on; earlier versions noted the images of each class in all splits, as `counts`."""

    name: str
    imbalance: Annotated[float, Field(ge=1)] | None
    fingerprint: str | None = None
    classes: list[str] | None = None
    images: _Images | None = None
    counts: list[_Count] | None = None

    @model_validator(mode="after")
    def _one_count_a_class(self) -> Self:
        lists = [self.counts or []] if self.images is None else [self.images.train, self.images.val, self.images.test]
        if any(len(counts) != len(self.classes or ()) for counts in lists):
            raise ValueError("classes and images must be of one length")
        return self


class _Interval(_Part):
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class _Gain(_Interval):
    seeds: int = 0


class _Precision(_Interval):
    class_name: Annotated[str, Field(alias="class")]


class _Confusion(_Part):
    true: str
    predicted: str
    images: _Count
    share: _Interval


class _Measured(_Interval):
    values: list[float]
    epochs_scale: Annotated[float, Field(gt=0)] = 1.0
    seeds: list[int] = Field(default_factory=list)
    gain_over_baseline: _Gain | None = None
    precision: list[_Precision] = Field(default_factory=list)
    confusions: list[_Confusion] = Field(default_factory=list)
    calibration: dict[str, float] = Field(default_factory=dict)


class _Verdict(_Part):
    pair: str
    verdict: str
    reason: str


class _Provenance(_Part):
    search: str
    tricks: list[str] | None = None
    data_root: str | None = None
    fingerprints: list[str] = Field(default_factory=list)
    code: dict[str, str] = Field(default_factory=dict)


class _Document(_Part):
    """An exported recipe."""

    format: Literal[1]
    recipe: str
    title: str
    data: Data
    model: str
    numerics: dict[str, str] | None = None
    plan: Plan
    measured: _Measured
    conflicts: list[_Verdict]
    provenance: _Provenance


# --- places -------------------------------------------------------------------------------------------------


def _find_beside(place: str, beside: Path) -> str:
    """Resolves a relative path beside the recipe if it exists there; otherwise returns it unchanged."""
    there = beside / place
    return str(there) if not Path(place).is_absolute() and there.exists() else place


def with_relative_places(recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with every place relative to the folder that its file lies in, so that both can be moved together.

    Args:
        recipe: The recipe, with absolute paths.
        folder: Folder of the file.
    """

    def relative(place: str) -> str:
        if not os.path.isabs(place):
            return place
        try:
            return Path(os.path.relpath(place, folder.resolve())).as_posix()
        except ValueError:  # another drive
            return place

    provenance = dict(recipe["provenance"])
    provenance["tricks"] = [relative(place) for place in provenance.get("tricks") or ()]
    if provenance.get("data_root"):
        provenance["data_root"] = relative(provenance["data_root"])
    return {**recipe, "model": relocated(recipe["model"], relative), "provenance": provenance}


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe as text that `read_recipe` accepts; where a character acts on a terminal, as ASCII with escapes."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def dumped(unicode: bool) -> str:
        return str(yaml.dump(dict(recipe), Dumper=Plain, sort_keys=False, allow_unicode=unicode, width=110))

    text = dumped(True)
    return text if printable(text) == text else dumped(False)


# --- length -------------------------------------------------------------------------------------------------


def lengthened(plan: Plan, factor: float) -> Plan:
    """Multiplies the epochs of every stage."""
    return Plan(tuple(replace(stage, epochs=max(1, round(stage.epochs * factor))) for stage in plan.stages))


def to_full_length(recipe: Mapping[str, Any], root: str | None) -> float:
    """Factor on the plan's epochs: a search may have trained shorter than the data set's final training."""
    own = standard(recipe["data"]["name"], root)
    return own.final_epochs / (own.epochs * float(recipe["measured"].get("epochs_scale", 1.0)))
