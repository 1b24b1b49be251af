"""Checks that a plan can be trained, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainables.data.catalogue import module_of
from trainables.models import comes_trained
from trainables.objective import REDUCTIONS, one_per_seam
from trainables.plan.model import Plan, StagePlan, TrickPlan
from trainables.registry import PlanError, did_you_mean, entries, entry, name_of, provides_of
from trainables.training.schedule import ScheduleError, schedule_of


def provided(data: str, model: str) -> tuple[str, ...]:
    """What data and network bring before anything is trained: `Standard.provides`.

    >>> provided("digits-lt", "resnet8"), provided("features:x.npz", "linear")
    (('images',), ('trained',))
    """
    brought: tuple[str, ...] = getattr(module_of(data), "PROVIDES", ("images",))
    return (*brought, "trained") if comes_trained(model) and "trained" not in brought else brought


def check(plan: Plan, provides: Iterable[str] = ("images",)) -> None:
    """Refuses a plan that cannot be trained.

    Args:
        plan: The plan.
        provides: What data and network bring, see `provided`.

    Raises:
        PlanError: Two tricks on a seam that takes one, a capability that nothing provides, a number out of
            its range, a change of head or of what learns inside a chain, a merge without members.
    """
    if not plan.stages:
        raise PlanError("a plan needs at least one stage")
    head: tuple[str, ...] = ("linear", ONE_HEAD)
    before: Any | None = None
    for index, stage in enumerate(plan.stages):
        where = f"stage {stage.name!r}"
        _check_numbers(stage, where)
        by_seam = one_per_seam([trick.made() for trick in stage.tricks], where)
        continues = not plan.starts_chain(index)
        own = [trick for trick in stage.tricks if not trick.kept]
        for trick in own:
            if continues and entry(trick.name).seam in ("head", "train"):
                raise PlanError(
                    f"{where}: {trick.name} changes what learns, so it cannot sit in a stage that carries "
                    "everything (optimiser included) from the stage before; use carry='weights'"
                )
        if by_seam["head"]:
            head = _check_head(by_seam["head"][0], before, where)
            before = by_seam["head"][0]
        capabilities = {*head, *provides} | ({"trained"} if index else set()) | _teacher(plan, index)
        # what learns is decided where a chain starts, and holds for all of it
        decided = plan.stages[plan.chain(index)[0]].on("train") if continues else []
        in_force = [*decided, *stage.tricks]
        capabilities |= {what for trick in in_force for what in provides_of(trick.made())}
        for trick in in_force:
            if "images" not in capabilities:
                _check_without_images(trick, where)
            for what in entry(trick.name).needs:
                if what not in capabilities:
                    raise PlanError(f"{where}: {_unmet(trick.name, what)}")
        if stage.views:
            frozen_by = [trick.made() for trick in plan.stages[plan.chain(index)[0]].on("train")]
            _check_views(stage, frozen_by, by_seam, where)
        _check_image_views(stage, where)
        _check_modules(plan, index, where)
        for trick in stage.tricks:
            refused: str | None = getattr(trick.made(), "refuses", lambda _: None)(stage)
            if refused is not None:
                raise PlanError(f"{where}: {trick.name} {refused}")
        if stage.members > 1 and not by_seam["merge"]:
            raise PlanError(f"{where}: {stage.members} members need a merge, e.g. choose=['average', …]")


def _teacher(plan: Plan, index: int) -> set[str]:
    """Whether a stage has the network that its chain took over: where the chain starts, or keeps it from there on."""
    first = plan.chain(index)[0]
    kept = any("teacher" in entry(trick.name).needs for trick in plan.stages[first].tricks)
    return {"teacher"} if first and (index == first or kept) else set()


def _check_head(made: Any, before: Any | None, where: str) -> tuple[str, ...]:
    """What a head provides; one that has taken parts of the network with it stays, or continues, what it is."""
    continues = getattr(made, "continues", lambda _: False)
    if before is not None and ONE_HEAD not in provides_of(before) and made != before and not continues(before):
        raise PlanError(
            f"{where}: {name_of(made)} would replace the head {name_of(before)} of an earlier stage, which is part of "
            "the network; leave it out, or keep the same numbers"
        )
    return provides_of(made)


ONE_HEAD = "one_head"
"""Capability of a head that is one classifier of one pooled feature."""

OPTIMIZERS = ("sgd", "adamw")

_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda value: 0 < value < math.inf, "a number above 0"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of at least 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "layer_decay": (lambda value: 0 < value <= 1, "a number in (0, 1]"),
    "clip": (lambda value: 0 < value < math.inf, "a number above 0, or none"),
    "epochs": (lambda value: 1 <= value <= 10**6 and isinstance(value, int), "a whole number from 1 to 1,000,000"),
    "batch_size": (lambda value: 2 <= value <= 10**7 and isinstance(value, int), "a whole number from 2 to 10,000,000"),
    "views": (lambda value: 0 <= value <= 10**4 and isinstance(value, int), "a whole number from 0 to 10,000"),
    "members": (lambda value: 1 <= value <= 10**4 and isinstance(value, int), "a whole number from 1 to 10,000"),
    "eval_every": (lambda value: value >= 1 and isinstance(value, int), "a whole number ≥ 1"),
}


def _check_numbers(stage: StagePlan, where: str) -> None:
    for key, (holds, allowed) in _NUMBERS.items():
        value = getattr(stage, key)
        if key == "clip" and value is None:
            continue
        # an edited file may hold text: YAML reads 1e-3 as one
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not holds(value):
            raise PlanError(f"{where}: {key} must be {allowed}, got {value!r}")
    named = {"carry": ("start", "all", "weights"), "reduction": REDUCTIONS, "optimizer": OPTIMIZERS}
    for key, options in named.items():
        value = getattr(stage, key)
        if value not in options:
            raise PlanError(f"{where}: unknown {key} {value!r}: {did_you_mean(str(value), options)}")
    try:
        schedule_of(str(stage.schedule))
    except ScheduleError as error:
        raise PlanError(f"{where}: {error}") from error
    if not isinstance(stage.nesterov, bool) or (stage.nesterov and not stage.momentum):
        raise PlanError(f"{where}: nesterov must be true (with a momentum above 0) or false, got {stage.nesterov!r}")
    if stage.nesterov and stage.optimizer != "sgd":
        raise PlanError(f"{where}: {stage.optimizer} has no Nesterov momentum; use nesterov=False, or optimizer='sgd'")


def _check_views(stage: StagePlan, frozen_by: list[Any], by_seam: Mapping[str, list[Any]], where: str) -> None:
    """Features can be computed once only where the backbone does not move and nothing reaches into it.

    What learns is decided where the stage's chain starts.
    """
    if not any(getattr(made, "batchnorm", None) == "fixed" for made in frozen_by):
        raise PlanError(
            f"{where}: views={stage.views} computes features once, but the backbone moves; add 'classifier' or "
            "'learnable_scale' with batchnorm='fixed', or leave views= out"
        )
    for made in by_seam["mix"]:
        if getattr(made, "layer", "input") not in ("pool", "logits"):
            raise PlanError(
                f"{where}: views={stage.views} trains on features, but {name_of(made)} mixes before them; "
                "mix at layer 'pool' or 'logits', or leave views= out"
            )
    for made in (*by_seam["partner"], *by_seam["inside"]):
        raise PlanError(f"{where}: views={stage.views} trains on features, but {name_of(made)} needs the images")
    for made in by_seam["penalty"]:
        raise PlanError(f"{where}: views={stage.views} has no images for the penalty {name_of(made)}; leave views= out")


def _check_image_views(stage: StagePlan, where: str) -> None:
    """Views of an image exist where a trick makes them, and the network must see the first one."""
    made = [(trick.name, trick.made()) for trick in stage.tricks]
    views = max((getattr(each, "makes_views", 1) for _, each in made), default=1)
    for name, each in made:
        view, needed = getattr(each, "view", None), getattr(each, "needs_views", 1)
        last = max((needed - 1, -1 if view is None else view, *getattr(each, "aside", ())))
        if last >= views:
            shown = f"{views} view{'s' if views > 1 else ''}"
            raise PlanError(
                f"{where}: {name} needs view {last} of each image (the first is 0), and the stage makes {shown}; add "
                f"trick('several_views', count={last + 1})"
            )
        if views > 1 and entry(name).seam == "inside":
            raise PlanError(f"{where}: {name} acts inside the network on one view of each image, and there are {views}")


def _check_modules(plan: Plan, index: int, where: str) -> None:
    """What keeps modules stays as it is within a chain, which carries them on."""
    known: dict[str, Mapping[str, Any]] = {}
    for number in range(plan.chain(index)[0], index + 1):
        for trick in plan.stages[number].tricks:
            if hasattr(trick.made(), "modules") and known.setdefault(trick.name, trick.numbers) != trick.numbers:
                raise PlanError(
                    f"{where}: {trick.name} keeps modules of its own, whose numbers cannot change in a stage that "
                    "carries everything from the stage before; use the same numbers, or carry='weights'"
                )


def _check_without_images(trick: TrickPlan, where: str) -> None:
    """Features have neither pixels nor layers in front of them."""
    known, layer = entry(trick.name), trick.numbers.get("layer", "pool")
    if known.seam in ("image", "augment", "partner") or "images" in known.needs:
        raise PlanError(
            f"{where}: {trick.name} changes or reads images, and the data are features; leave it out, or train on the "
            "images"
        )
    if known.seam == "mix" and layer not in ("input", "pool", "logits"):
        raise PlanError(
            f"{where}: {trick.name} mixes at {layer!r}, and features have no such layer; mix at 'pool' or 'logits'"
        )


def _unmet(trick: str, what: str) -> str:
    if what == "trained":
        return (
            f"{trick} reads a trained network, so it cannot sit in the first stage, unless the network comes with "
            "weights or the data are features"
        )
    if what == "teacher":
        return (
            f"{trick} learns from the network of the stage before, so it cannot sit in the first stage, nor begin in "
            "one that carries everything; use carry='weights'"
        )
    if what == ONE_HEAD:
        return f"{trick} needs one linear or cosine classifier, and this plan's head is another; leave out either"
    offers = [known for known in entries().values() if what in known.provides]
    hint = f"; {' or '.join(known.name for known in offers)} provides it" if offers else ""
    return f"{trick} needs {what!r}, which nothing in the plan provides{hint}"
