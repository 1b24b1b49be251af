"""From a space to plans: what is chosen becomes stages with every number filled in, checked before training.

`build` walks a space once, asking `pick` for every open choice, so one walk serves the design arm (defaults
with some labels on), the adaptive sampler (Optuna suggests) and the preview.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from spaces.domain import DOMAINS, Domain, Integer, OneOf, SomeOf, Space, Stage, Trick
from trainables.data.catalogue import Standard
from trainables.objective import REDUCTIONS, one_per_seam
from trainables.registry import SEAMS, PlanError, did_you_mean, entry, make, name_of
from trainables.training.schedule import ScheduleError, schedule_of

Pick: TypeAlias = Callable[[str, Domain, Any], Any]
"""(name, domain, default) -> a value of the domain."""

NONE = "none"
"""How `None` is written where an option is named."""


@dataclass(frozen=True)
class TrickPlan:
    """A trick with every number filled in; `kept` if it stays on from the stage before."""

    name: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False

    def made(self) -> Any:
        """The trick itself."""
        return make(self.name, **self.numbers)


FINE_TUNING: Mapping[str, Any] = {"optimizer": "sgd", "layer_decay": 1.0, "clip": None}
"""Numbers of a stage that fine-tuning may set, with what they are elsewhere."""


@dataclass(frozen=True)
class StagePlan:
    """One stage with every number filled in. See `spaces.domain.Stage` for the fields."""

    name: str
    epochs: int
    carry: str
    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool
    batch_size: int
    schedule: str
    reduction: str
    members: int
    eval_every: int
    tricks: tuple[TrickPlan, ...] = ()
    views: int = 0
    optimizer: str = "sgd"
    layer_decay: float = 1.0
    clip: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields; those of fine-tuning only where they are set, so that plans without them keep their ids."""
        fields = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if key not in FINE_TUNING or value != FINE_TUNING[key]}

    def on(self, seam: str) -> list[TrickPlan]:
        """The stage's tricks on one seam, in written order."""
        return [trick for trick in self.tricks if entry(trick.name).seam == seam]


@dataclass(frozen=True)
class Plan:
    """The stages of one trial, in order. JSON-able, hashable by `id`, printable."""

    stages: tuple[StagePlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return json.loads(json.dumps({"stages": [stage.to_dict() for stage in self.stages]}))  # type: ignore[no-any-return]

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
            PlanError: A field is missing or unknown.
        """
        try:
            stages = tuple(
                StagePlan(**{**stage, "tricks": tuple(TrickPlan(**trick) for trick in stage["tricks"])})
                for stage in fields["stages"]
            )
        except (KeyError, TypeError) as error:
            raise PlanError(f"plan: not a plan of this version ({error})") from error
        for trick in (trick for stage in stages for trick in stage.tricks):
            if not isinstance(trick.name, str) or not isinstance(trick.numbers, Mapping):
                raise PlanError(f"plan: a trick must have a name and its numbers, got {trick!r}")
        return Plan(stages)

    @property
    def id(self) -> str:
        """Equal plans, equal ids: 10 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]

    def starts_chain(self, index: int) -> bool:
        """Whether a stage starts a new optimiser and schedule, because it does not carry all, or carries a merge."""
        return index == 0 or self.stages[index].carry != "all" or self.stages[index - 1].members > 1

    def chain(self, index: int) -> range:
        """The stages of the chain that a stage belongs to."""
        first = index
        while not self.starts_chain(first):
            first -= 1
        last = index + 1
        while last < len(self.stages) and not self.starts_chain(last):
            last += 1
        return range(first, last)

    def chain_number(self, index: int) -> int:
        """How many chains come before the stage's own."""
        return sum(self.starts_chain(i) for i in range(1, index + 1))

    @property
    def epochs(self) -> int:
        """Epochs of the plan, the members of a stage counted once: what progress is a fraction of."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def cost(self) -> int:
        """Epochs times members: what is trained."""
        return sum(stage.epochs * stage.members for stage in self.stages)

    def shortened(self, share: float) -> Plan:
        """The whole plan in less time: every stage at a share of its epochs, at least one, measured at its end.

        Args:
            share: In (0, 1].

        >>> from spaces.domain import Space, Stage
        >>> from trainables.data import standard
        >>> stages = [Stage("first", epochs=24), Stage("second", epochs=1)]
        >>> plan = build(Space(stages=stages), defaults(), standard("digits-lt")).plan
        >>> [stage.epochs for stage in plan.shortened(0.25).stages]
        [6, 1]
        """
        epochs = [max(1, round(share * stage.epochs)) for stage in self.stages]
        return Plan(tuple(replace(s, epochs=e, eval_every=e) for s, e in zip(self.stages, epochs, strict=True)))

    def __str__(self) -> str:
        return "\n".join(_describe(stage) for stage in self.stages)


_STAGE_NUMBERS = ("epochs", "lr", "weight_decay", "batch_size", "members")
"""Numbers of a stage that are among a recipe's choices."""


@dataclass(frozen=True)
class Recipe:
    """A plan, with what was chosen to get there.

    Args:
        plan: The plan.
        params: Every open choice by name, as picked.
        labels: What is on: `<stage>/<trick>`, and `<stage>` for a whole stage that was chosen over another.
    """

    plan: Plan
    params: Mapping[str, Any]
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        """The recipe in words."""
        spoken = [label for label in self.labels if not any(other.startswith(f"{label}/") for other in self.labels)]
        return " + ".join(spoken) or "baseline"

    @property
    def families(self) -> dict[str, str]:
        """Trick to family, of every trick in the plan."""
        return {trick.name: entry(trick.name).family for stage in self.plan.stages for trick in stage.tricks}

    @property
    def choices(self) -> dict[str, Any]:
        """Readable choices by stage and seam: {"classifier/draw": "class_balanced", "classifier/lr": 0.1}."""
        readable: dict[str, Any] = {"stages": " > ".join(stage.name for stage in self.plan.stages)}
        for stage in self.plan.stages:
            numbers = stage.to_dict()
            for key in (*_STAGE_NUMBERS, *(key for key in FINE_TUNING if key in numbers)):
                readable[f"{stage.name}/{key}"] = numbers[key]
            for seam in SEAMS:
                names = [trick.name for trick in stage.on(seam)]
                if names:
                    readable[f"{stage.name}/{seam}"] = "+".join(names)
            for trick in stage.tricks:
                for key, value in trick.numbers.items():
                    readable[f"{stage.name}/{trick.name}.{key}"] = value
        return readable


def choices_of(space: Space) -> list[str]:
    """The names of all `choices` that recipes of a space may have."""
    names = {"stages"}
    before: set[str] = set()
    for slot in space.stages:
        here: set[str] = set()
        for stage in slot.options if isinstance(slot, OneOf) else (slot,):
            if stage is None:
                continue
            own = {key for trick in tricks_of(stage) for key in _keys_of(trick)}
            # what an earlier stage keeps on stands in this one as well
            keys = own | before if stage.keep else own
            here |= keys
            tuned = [key for key in FINE_TUNING if getattr(stage, key) is not None]
            names |= {f"{stage.name}/{key}" for key in (*_STAGE_NUMBERS, *tuned, *keys)}
        before |= here
    return sorted(names)


def _keys_of(trick: Trick) -> list[str]:
    known = entry(trick.name)
    return [known.seam, *(f"{trick.name}.{number}" for number in known.numbers)]


def build(space: Space, pick: Pick, standard: Standard, epochs_scale: float = 1.0) -> Recipe:
    """One recipe of a space.

    Args:
        space: The space.
        pick: Decides every open choice; called once for each, in written order, only where the choice exists.
        standard: Numbers for what the space leaves to the data set.
        epochs_scale: Multiplies every stage's epochs.

    Raises:
        PlanError: What was picked cannot be trained, or is forbidden by the space.
    """
    params: dict[str, Any] = {}

    def ask(name: str, domain: Domain, default: Any) -> Any:
        if name in params:
            raise PlanError(f"{name!r} is chosen twice in one plan; name one of them: one_of(…, name='…')")
        params[name] = pick(name, domain, default)
        return params[name]

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
    check(plan)
    for forbidden in space.forbid:
        if set(forbidden.labels) <= set(labels):
            raise Forbidden(f"{' and '.join(forbidden.labels)} are forbidden together: {forbidden.reason}")
    return Recipe(plan, params, tuple(labels))


class Forbidden(PlanError):
    """A combination that the space's author ruled out."""


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


@dataclass(frozen=True)
class LabelledOneOf(OneOf):
    """A choice between tricks or stages by name, with the label that each option turns on."""

    labels: tuple[str | None, ...] = ()


def check(plan: Plan) -> None:
    """Refuses a plan that cannot be trained.

    Raises:
        PlanError: Two tricks on a seam that takes one, a capability that nothing provides, a number out of
            its range, a change of head or of what learns inside a chain, a merge without members.
    """
    if not plan.stages:
        raise PlanError("a plan needs at least one stage")
    head = "linear"
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
            head = next(iter(entry(stage.on("head")[0].name).provides), "other head")
        capabilities = {head} | ({"trained"} if index else set())
        capabilities |= {what for trick in stage.tricks for what in entry(trick.name).provides}
        for trick in stage.tricks:
            for what in entry(trick.name).needs:
                if what not in capabilities:
                    raise PlanError(f"{where}: {_unmet(trick.name, what)}")
        if stage.views:
            frozen_by = [trick.made() for trick in plan.stages[plan.chain(index)[0]].on("train")]
            _check_views(stage, frozen_by, by_seam, where)
        if stage.members > 1 and not by_seam["merge"]:
            raise PlanError(f"{where}: {stage.members} members need a merge, e.g. choose=['average', …]")


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
        options = slot.options if isinstance(slot, OneOf) else (slot,)
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
    for label in space.screen:
        try:
            build(space, defaults([label]), standard)
        except PlanError as error:
            raise PlanError(f"screen: {label!r} alone cannot be trained: {error}") from error
    return labels


def tricks_of(stage: Stage) -> Iterator[Trick]:
    """Every trick that a stage may turn on, in written order."""
    for item in stage.choose:
        for option in item.options if isinstance(item, (OneOf, SomeOf)) else (item,):
            if option is not None:
                yield option


# --- the walk ---------------------------------------------------------------------------------------------


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
    return TrickPlan(trick.name, dataclasses.asdict(made))


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


# --- checks -----------------------------------------------------------------------------------------------


def _positive(stage: Stage, key: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise PlanError(f"stage {stage.name!r}: {key} must be above 0, got {value!r}")
    return float(value)


OPTIMIZERS = ("sgd", "adamw")

_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda value: 0 < value < math.inf, "a number above 0"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of at least 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "layer_decay": (lambda value: 0 < value <= 1, "a number in (0, 1]"),
    "clip": (lambda value: 0 < value < math.inf, "a number above 0, or none"),
    "epochs": (lambda value: value >= 1 and isinstance(value, int), "a whole number ≥ 1"),
    "batch_size": (lambda value: value >= 2 and isinstance(value, int), "a whole number ≥ 2"),
    "views": (lambda value: value >= 0 and isinstance(value, int), "a whole number ≥ 0"),
    "members": (lambda value: value >= 1 and isinstance(value, int), "a whole number ≥ 1"),
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
    for made in by_seam["penalty"]:
        raise PlanError(f"{where}: views={stage.views} has no images for the penalty {name_of(made)}; leave views= out")


def _check_trick(trick: Trick, stage: Stage) -> None:
    ends: list[dict[str, Any]] = [{}, {}]
    for key, value in trick.numbers:
        if isinstance(value, OneOf):
            ends.extend({key: option} for option in value.options)
        else:
            ends[0][key], ends[1][key] = (getattr(value, end, value) for end in ("low", "high"))
    try:
        for numbers in ends:
            make(trick.name, **numbers)
    except PlanError as error:
        raise PlanError(f"stage {stage.name!r}: {error}") from error


def _unmet(trick: str, what: str) -> str:
    if what == "trained":
        return f"{trick} reads a trained network, so it cannot sit in the first stage"
    offers = [known for known in _all_entries() if what in known.provides]
    hint = f"; {' or '.join(known.name for known in offers)} provides it" if offers else ""
    return f"{trick} needs {what!r}, which nothing in the plan provides{hint}"


def _all_entries() -> list[Any]:
    from trainables.registry import entries

    return list(entries().values())


def _describe(stage: StagePlan) -> str:
    tricks = ", ".join(
        str(Trick(t.name, tuple(t.numbers.items()))) + (" (kept)" if t.kept else "") for t in stage.tricks
    )
    members = f" × {stage.members} members" if stage.members > 1 else ""
    carry = "" if stage.carry == "start" else f", carries {stage.carry}"
    numbers = f"{stage.epochs} epochs{members}, lr {stage.lr:g}, wd {stage.weight_decay:g}"
    views = f", {stage.views} views" if stage.views else ""
    set_here = stage.to_dict()
    views += "".join(f", {key} {set_here[key]}" for key in FINE_TUNING if key in set_here)
    return f"{stage.name}: {numbers}{views}{carry}; {tricks or 'plain'}"
