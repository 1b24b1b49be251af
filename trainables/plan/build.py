"""From a space to a plan: every open choice is made, every number filled in.

`build` walks a space once, asking `pick` for every open choice, so one walk serves the design arm (defaults
with some labels on), the adaptive sampler (Optuna suggests) and the preview.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from spaces.domain import DOMAINS, Domain, Integer, OneOf, SomeOf, Space, Stage, Trick
from trainables.data.catalogue import Standard
from trainables.plan.checks import check
from trainables.plan.model import FINE_TUNING, Plan, Recipe, StagePlan, TrickPlan
from trainables.registry import SEAMS, PlanError, did_you_mean, entry, make, numbers_of

Pick: TypeAlias = Callable[[str, Domain, Any], Any]
"""(name, domain, default) -> a value of the domain."""


NONE = "none"
"""Name of the option `None`."""


class Forbidden(PlanError):
    """A combination that the space's author ruled out."""


@dataclass(frozen=True)
class LabelledOneOf(OneOf):
    """A choice between tricks or stages by name, with the label that each option turns on."""

    labels: tuple[str | None, ...] = ()


def build(space: Space, pick: Pick, standard: Standard, epochs_scale: float = 1.0) -> Recipe:
    """One recipe of a space.

    Args:
        space: The space.
        pick: Decides every open choice; called once for each, in the order of the space, only where the choice exists.
        standard: Numbers for what the space leaves to the data set.
        epochs_scale: Multiplies every stage's epochs.

    Raises:
        PlanError: What was picked cannot be trained, or is forbidden by the space.
    """
    params: dict[str, Any] = {}

    def ask(name: str, domain: Domain, default: Any) -> Any:
        if name in params:
            raise PlanError(f"{name!r} is chosen twice in one plan; name one of them: one_of(…, name='…')")
        params[name] = pick(name, domain, usual.get(name, default))
        return params[name]

    usual = dict(space.defaults)
    stages: list[StagePlan] = []
    labels: list[str] = []
    for position, slot in enumerate(space.stages, start=1):
        stage = _pick_stage(slot, position, ask)
        if stage is None:
            continue
        if isinstance(slot, OneOf) and stage != slot.options[0]:
            labels.append(stage.name)
        tricks = _pick_tricks(stage, ask)
        labels.extend(f"{stage.name}/{trick.name}" for trick in tricks)
        stages.append(_fill(stage, tricks, stages, ask, standard, epochs_scale))
    plan = Plan(tuple(stages))
    check(plan, standard.provides)
    for forbidden in space.forbid:
        if set(forbidden.labels) <= set(labels):
            raise Forbidden(f"{' and '.join(forbidden.labels)} are forbidden together: {forbidden.reason}")
    return Recipe(plan, params, tuple(labels))


def defaults(on: Iterable[str] = (), off: Iterable[str] = ()) -> Pick:
    """A `pick` that turns the labels in `on` on, everything else off, and leaves numbers at their defaults.

    A choice that offers a label in `off` takes none of its options, even where the space offers no "none".
    """
    wanted, unwanted = set(on), set(off)

    def pick(name: str, domain: Domain, default: Any) -> Any:
        if isinstance(domain, LabelledOneOf):
            for option, label in zip(domain.options, domain.labels, strict=True):
                if label is not None and any(f"{on}/".startswith(f"{label}/") for on in wanted):
                    return option
            if unwanted & set(domain.labels):
                return NONE
        return default

    return pick


def _pick_stage(slot: Stage | OneOf, position: int, ask: Pick) -> Stage | None:
    if isinstance(slot, Stage):
        return slot
    named = {NONE if option is None else option.name: option for option in slot.options}
    stages = [name for name in named if name != NONE]
    name = slot.name or (stages[0] if len(stages) == 1 else f"stage_{position}")
    options = tuple(named)
    domain = LabelledOneOf(options, slot.name, tuple(None if option == NONE else option for option in options))
    # a design cell may ask for none where the space offers none: the first option
    picked: Stage | None = named.get(ask(name, domain, NONE if NONE in named else options[0]), slot.options[0])
    return picked


def _pick_tricks(stage: Stage, ask: Pick) -> list[TrickPlan]:
    chosen: list[TrickPlan] = []
    used: set[str] = set()
    for item in stage.choose:
        if isinstance(item, Trick):
            picked = [item]
        elif isinstance(item, SomeOf):
            picked = _pick_some(stage, item, ask)
        else:
            picked = _pick_one(stage, item, used, ask)
        chosen.extend(_pick_numbers(stage, trick, ask) for trick in picked)
    return chosen


def _pick_one(stage: Stage, item: OneOf, used: set[str], ask: Pick) -> list[Trick]:
    named = {NONE if option is None else option.name: option for option in item.options}
    seams = dict.fromkeys(entry(name).seam for name in named if name != NONE)
    slot = item.name or "_or_".join(seams)
    while slot in used:
        slot += "_2"
    used.add(slot)
    options = tuple(named)
    labels = tuple(None if name == NONE else f"{stage.name}/{name}" for name in options)
    domain = LabelledOneOf(options, slot, labels)
    # a design cell may ask for none where the space offers none: the stage without its trick
    option = named.get(ask(f"{stage.name}/{slot}", domain, NONE if NONE in named else options[0]))
    return [] if option is None else [option]


def _pick_some(stage: Stage, item: SomeOf, ask: Pick) -> list[Trick]:
    picked = []
    for option in item.options:
        domain = LabelledOneOf((NONE, "on"), None, (None, f"{stage.name}/{option.name}"))
        if ask(f"{stage.name}/{option.name}", domain, NONE) == "on":
            picked.append(option)
    most = len(item.options) if item.at_most is None else item.at_most
    if not item.at_least <= len(picked) <= most:
        raise Forbidden(f"stage {stage.name!r}: some_of(…) takes {item.at_least} to {most} tricks, got {len(picked)}")
    return picked


def _pick_numbers(stage: Stage, trick: Trick, ask: Pick) -> TrickPlan:
    own = entry(trick.name).numbers
    numbers = {}
    for key, value in trick.numbers:
        if isinstance(value, DOMAINS):
            value = ask(f"{stage.name}/{trick.name}.{key}", value, _default(value, own.get(key)))
        numbers[key] = value
    # every number is written out: a recipe must not change when a default does
    made = make(trick.name, **numbers)
    return TrickPlan(trick.name, numbers_of(made))


def _default(domain: Domain, preferred: Any) -> Any:
    if isinstance(domain, OneOf) and preferred in domain.options:
        return preferred
    if isinstance(preferred, (int, float)) and not isinstance(preferred, bool):
        return domain.nearest(preferred)
    return domain.middle


def _fill(
    stage: Stage,
    tricks: list[TrickPlan],
    before: list[StagePlan],
    ask: Pick,
    standard: Standard,
    epochs_scale: float,
) -> StagePlan:
    def number(key: str, preferred: Any) -> Any:
        value = getattr(stage, key)
        if isinstance(value, DOMAINS):
            default = value.middle if isinstance(value, Integer) else _default(value, preferred)
            return ask(f"{stage.name}/{key}", value, default)
        return preferred if value is None else value

    last = before[-1] if before else None
    carries_all = last is not None and stage.carry == "all"
    carried = {}
    for key in ("lr", "weight_decay", "momentum", "nesterov", "batch_size", "schedule", *FINE_TUNING):
        if carries_all:
            if getattr(stage, key) is not None:
                raise PlanError(
                    f"stage {stage.name!r}: carry='all' takes {key} over from the stage before; "
                    f"remove {key}= or use carry='weights'"
                )
            carried[key] = getattr(last, key)
        else:
            carried[key] = number(key, FINE_TUNING[key] if key in FINE_TUNING else getattr(standard, key))
    length = number("length", None)
    epochs = number("epochs", None) if length is None else _positive(stage, "length", length) * standard.epochs
    return StagePlan(
        name=stage.name,
        epochs=max(1, round(_positive(stage, "epochs", epochs) * epochs_scale)),
        carry="start" if last is None else stage.carry,
        reduction=number("reduction", last.reduction if last is not None and carries_all else "expected"),
        members=number("members", 1),
        views=number("views", 0),
        eval_every=standard.eval_every,
        tricks=(*_kept(stage, tricks, before), *tricks),
        **carried,
    )


def _kept(stage: Stage, own: list[TrickPlan], before: list[StagePlan]) -> Iterator[TrickPlan]:
    """Tricks of an earlier stage that stay on, except where an own one sits on the same seam.

    The earlier stage is the last one without members: what members do on subsets of their own ends with their
    merge.
    """
    for seam in stage.keep if isinstance(stage.keep, tuple) else ():
        if seam not in SEAMS:
            raise PlanError(f"stage {stage.name!r}: keep= names no seam {seam!r}: {did_you_mean(seam, SEAMS)}")
    whole = [earlier for earlier in before if earlier.members == 1]
    if not whole or not stage.keep:
        return
    taken = {entry(trick.name).seam for trick in own}
    for trick in whole[-1].tricks:
        seam = entry(trick.name).seam
        # heads and merges have had their effect: the network carries it
        if seam in taken or seam in ("head", "train", "merge"):
            continue
        if stage.keep is True or (isinstance(stage.keep, tuple) and seam in stage.keep):
            yield replace(trick, kept=True)


def _positive(stage: Stage, key: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise PlanError(f"stage {stage.name!r}: {key} must be above 0, got {value!r}")
    return float(value)
