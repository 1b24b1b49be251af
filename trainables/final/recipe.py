"""An exported recipe: read, checked, and brought to the length of final training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.text import command, option
from trainables import models
from trainables.data.catalogue import DataError, module_of
from trainables.models import ModelError
from trainables.numerics import Numerics
from trainables.plan import Plan, check
from trainables.registry import PlanError, discover


class TrainError(ValueError):
    """A recipe that cannot be trained as asked."""


def read_recipe(path: Path, tricks: Sequence[str] = (), model: str | None = None) -> dict[str, Any]:
    """An exported recipe, its plan checked.

    Places in it that are relative are looked for beside the file first, then in the working directory.

    Args:
        path: The file.
        tricks: Folders of further tricks, instead of those that the file names.
        model: A network instead of the one that the file names.

    Raises:
        TrainError: No such file, or it is no exported recipe.
        ModelError: It names an unknown network.
        DataError: It names an unknown data set.
        PlanError: Its plan cannot be trained, e.g. because it names an unknown trick.
    """
    import yaml

    if not path.is_file():
        raise TrainError(
            f"{path}: no such file; {command('python', '-m', 'search.export', *option('--out', path))} writes one"
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(recipe, dict) or recipe.get("format") != 1:
        raise TrainError(f"{path}: not a recipe of python -m search.export (format: 1 is expected)")
    for key, kind in _PARTS.items():
        if not isinstance(recipe.get(key), kind):
            raise TrainError(f"{path}: {key} must be a {_KINDS[kind]}, got {recipe.get(key)!r}; export it again")
    name, imbalance, values = recipe["data"].get("name"), recipe["data"].get("imbalance"), recipe["measured"]
    if not isinstance(name, str) or not _is_number(imbalance):
        raise TrainError(f"{path}: data must have a name and an imbalance, got {recipe['data']!r}; export it again")
    if not isinstance(values.get("values"), list):
        raise TrainError(f"{path}: measured must have its values, got {values!r}; export it again")
    wrong = _wrong(recipe)
    if wrong:
        raise TrainError(f"{path}: {wrong}; export it again")
    try:
        # a file of an earlier export has none: those searches had nothing else
        recipe["numerics"] = Numerics.of(recipe.get("numerics") or {}).to_dict()
    except (TypeError, ValueError) as error:
        raise TrainError(f"{path}: numerics: {error}; export it again") from error
    beside = path.resolve().parent
    provenance = recipe["provenance"]
    folders = tricks or [_placed(folder, beside) for folder in provenance.get("tricks") or ()]
    recipe["provenance"] = {**provenance, "tricks": [os.path.abspath(folder) for folder in folders]}
    if provenance.get("data_root"):
        recipe["provenance"]["data_root"] = os.path.abspath(_placed(provenance["data_root"], beside))
    try:
        module_of(name)
        recipe["model"] = models.settled(model or _placed_model(recipe["model"], beside))
        models.check(recipe["model"])
        discover(*folders)
        check(Plan.from_dict(recipe["plan"]))
    except (PlanError, DataError, ModelError) as error:
        raise type(error)(f"{path}: {error}") from error
    return recipe


_PARTS = {"recipe": str, "title": str, "data": dict, "model": str, "plan": dict, "measured": dict,
          "conflicts": list, "provenance": dict}  # fmt: skip
"""What an exported recipe has."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(recipe: Mapping[str, Any]) -> str:
    """What the model card would stumble over, behind the training, in a sentence; "" where there is nothing."""
    measured, provenance = recipe["measured"], recipe["provenance"]
    for value in measured["values"]:
        if not _is_number(value):
            return f"measured: values must be numbers, got {value!r}"
    if not (_is_number(scale := measured.get("epochs_scale", 1.0)) and scale > 0):
        return f"measured: epochs_scale must be a number above 0, got {scale!r}"
    gain = measured.get("gain_over_baseline") or {}
    if not isinstance(gain, dict):
        return f"measured: gain_over_baseline must be a mapping, got {gain!r}"
    for where, means in (("measured", measured), ("gain_over_baseline", gain)):
        for key in ("mean", "low", "high"):
            if means.get(key) is not None and not _is_number(means[key]):
                return f"{where}: {key} must be a number or null, got {means[key]!r}"
        if (means.get("low") is None) != (means.get("high") is None):
            return f"{where}: low and high must both be there or both be null"
    if gain.get("mean") is not None and not _is_number(gain.get("seeds")):
        return f"gain_over_baseline: seeds must be a number, got {gain.get('seeds')!r}"
    for verdict in recipe["conflicts"]:
        if not isinstance(verdict, dict) or not {"pair", "verdict", "reason"} <= verdict.keys():
            return f"conflicts: each must have pair, verdict and reason, got {verdict!r}"
    tricks, root = provenance.get("tricks") or [], provenance.get("data_root")
    if not isinstance(provenance.get("search"), str):
        return f"provenance: search must be a text, got {provenance.get('search')!r}"
    if not isinstance(tricks, list) or not all(isinstance(folder, str) for folder in tricks):
        return f"provenance: tricks must be a list of folders, got {tricks!r}"
    if root is not None and not isinstance(root, str):
        return f"provenance: data_root must be a folder or null, got {root!r}"
    return ""


_KINDS = {str: "text", dict: "mapping", list: "list"}


def _placed(place: str, beside: Path) -> str:
    """A relative place beside the recipe's file, where it is there; else as it is."""
    there = beside / place
    return str(there) if not Path(place).is_absolute() and there.exists() else place


def _placed_model(model: str, beside: Path) -> str:
    name, sign, file = model.partition("?pretrained=")
    if sign:
        return f"{name}{sign}{_placed(file, beside)}"
    where, colon, function = model.partition(".py:")
    return f"{_placed(where + '.py', beside)}:{function}" if colon else model


def lengthened(plan: Plan, factor: float) -> Plan:
    """The plan with every stage's epochs multiplied."""
    return Plan(tuple(replace(stage, epochs=max(1, round(stage.epochs * factor))) for stage in plan.stages))


def to_full_length(recipe: Mapping[str, Any], root: str | None) -> float:
    """Factor on the plan's epochs: a search may have trained shorter than the data set's final training."""
    from trainables.data import standard

    own = standard(recipe["data"]["name"], root)
    return own.final_epochs / (own.epochs * float(recipe["measured"].get("epochs_scale", 1.0)))
