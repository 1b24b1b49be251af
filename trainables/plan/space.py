"""Checks a space without training, and lists its labels and choices."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from spaces.domain import Domain, OneOf, SomeOf, Space, Stage, Trick
from trainables.data.catalogue import Standard
from trainables.plan.build import LabelledOneOf, Pick, build, defaults
from trainables.plan.model import FINE_TUNING, STAGE_NUMBERS
from trainables.registry import PlanError, did_you_mean, entry, make


def check_space(space: Space, standard: Standard) -> list[str]:
    """Checks everything that can be checked without training, and lists the space's labels.

    Every trick is made with its defaults and both ends of its ranges; the baseline and every label of `screen=`
    alone must give a plan.

    Raises:
        PlanError: An unknown trick or number, a number out of its range, an unknown label in `screen=` or
            `forbid=`, a baseline or a label of `screen=` that cannot be trained.
    """
    labels: list[str] = []
    for slot in space.stages:
        options = options_of(slot)
        for position, stage in enumerate(options):
            if stage is None:
                continue
            if isinstance(slot, OneOf) and position:
                labels.append(stage.name)
            for trick in tricks_of(stage):
                _check_trick(trick, stage)
                labels.append(f"{stage.name}/{trick.name}")
    for kind, named in (("screen", space.screen), *(("forbid", rule.labels) for rule in space.forbid)):
        for label in named:
            if label not in labels:
                raise PlanError(
                    f"{kind}: no choice of the space has the label {label!r}: {did_you_mean(label, labels)}"
                )
    build(space, defaults(), standard)
    open_numbers = default_numbers(space, standard) if space.defaults else {}
    for name, value in space.defaults:
        if name not in open_numbers:
            raise PlanError(f"defaults: the space leaves no number {name!r} open: {did_you_mean(name, open_numbers)}")
        if value not in open_numbers[name][0]:
            raise PlanError(f"defaults: {name} must be in {open_numbers[name][0]}, got {value!r}")
    for written in space.recipes:
        try:
            build(Space(written.stages), defaults(), standard)
        except PlanError as error:
            raise PlanError(f"recipe {written.name!r}: {error}") from error
    for label in space.screen:
        try:
            build(space, defaults([label]), standard)
        except PlanError as error:
            raise PlanError(f"screen: {label!r} alone cannot be trained: {error}") from error
    return labels


def default_numbers(space: Space, standard: Standard) -> dict[str, tuple[Domain, Any]]:
    """Every number that a space leaves open, by name: its domain, and its value in the baseline and the design.

    Args:
        space: Its tricks are known.
        standard: Of the data set.
    """
    found: dict[str, tuple[Domain, Any]] = {}

    def recorded(pick: Pick, name: str, domain: Domain, default: Any) -> Any:
        if not isinstance(domain, LabelledOneOf):
            found.setdefault(name, (domain, default))
        return pick(name, domain, default)

    stages = {stage.name: stage for slot in space.stages for stage in options_of(slot) if stage is not None}
    labels = [name for stage in stages.values() for name in (stage.name, *_labels(stage))]
    for on in ([], *([label] for label in labels)):
        with suppress(PlanError):  # a trick that cannot be trained alone has numbers all the same
            build(space, partial(recorded, defaults(on)), standard)
    return found


def _labels(stage: Stage) -> Iterator[str]:
    return (f"{stage.name}/{trick.name}" for trick in tricks_of(stage))


def options_of(slot: Stage | OneOf) -> tuple[Stage | None, ...]:
    """The stages of which a plan has one, `None` for none of them; the stage alone where there is no choice."""
    return tuple(slot.options) if isinstance(slot, OneOf) else (slot,)


def choices_of(space: Space) -> list[str]:
    """The names of all `choices` that recipes of a space may have."""
    names = {"stages"}
    before: set[str] = set()
    for slot in space.stages:
        here: set[str] = set()
        for stage in options_of(slot):
            if stage is None:
                continue
            own = {key for trick in tricks_of(stage) for key in _keys_of(trick)}
            # what an earlier stage keeps on stands in this one as well
            keys = own | before if stage.keep else own
            here |= keys
            tuned = [key for key in FINE_TUNING if getattr(stage, key) is not None]
            names |= {f"{stage.name}/{key}" for key in (*STAGE_NUMBERS, *tuned, *keys)}
        before |= here
    return sorted(names)


def tricks_of(stage: Stage) -> Iterator[Trick]:
    """Every trick that a stage may turn on, in the order of the space."""
    for item in stage.choose:
        for option in item.options if isinstance(item, (OneOf, SomeOf)) else (item,):
            if option is not None:
                yield option


def _keys_of(trick: Trick) -> list[str]:
    known = entry(trick.name)
    return [known.seam, *(f"{trick.name}.{number}" for number in known.numbers)]


def check_layers(space: Space, network: Callable[[], Any]) -> None:
    """Checks that the network has the layers that tricks add to, before anything is trained.

    Args:
        space: Checked by `check_space`.
        network: Makes the network; called once, and not where no trick adds anything.

    Raises:
        PlanError: A trick finds no layer to add to.
    """
    made = functools.cache(network)
    for slot in space.stages:
        for stage in filter(None, options_of(slot)):
            for trick in tricks_of(stage):
                for reshape in (getattr(make(trick.name, **n), "reshape", None) for n in _extremes(trick)):
                    try:
                        _ = reshape and reshape(copy.deepcopy(made()))
                    except ValueError as error:
                        raise PlanError(f"stage {stage.name!r}: {error}") from error


def _check_trick(trick: Trick, stage: Stage) -> None:
    try:
        for numbers in _extremes(trick):
            make(trick.name, **numbers)
    except PlanError as error:
        raise PlanError(f"stage {stage.name!r}: {error}") from error


def _extremes(trick: Trick) -> list[dict[str, Any]]:
    """Both ends of its ranges, and every option."""
    ends: list[dict[str, Any]] = [{}, {}]
    for key, value in trick.numbers:
        if isinstance(value, OneOf):
            ends.extend({key: option} for option in value.options)
        else:
            ends[0][key], ends[1][key] = (getattr(value, end, value) for end in ("low", "high"))
    return ends
