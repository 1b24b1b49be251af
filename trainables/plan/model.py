"""The plan of a trial: its stages in order, with every number filled in.

A `Recipe` is a plan with the choices of a space that led to it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

from pydantic import ConfigDict

from spaces.domain import Trick
from trainables.registry import SEAMS, PlanError, entry, make
from trainables.serialisation import from_json

Number: TypeAlias = int | float
"""A number as it was written: 0 stays 0 and does not become 0.0, so that the id of a plan does not change."""

STRICT = ConfigDict(strict=True, extra="forbid")
"""How plans are read from JSON: no field too many, and no text where a number is wanted."""


@dataclass(frozen=True)
class TrickPlan:
    """A trick with every number filled in; `kept` if it stays on from the stage before."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False

    def made(self) -> Any:
        """The trick itself."""
        return make(self.name, **self.numbers)


FINE_TUNING: Mapping[str, Any] = {"optimizer": "sgd", "layer_decay": 1.0, "clip": None}
"""Numbers of a stage that fine-tuning may set, with their defaults."""


@dataclass(frozen=True)
class StagePlan:
    """One stage with every number filled in. See `spaces.domain.Stage` for the fields."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    epochs: int
    carry: str
    lr: Number
    weight_decay: Number
    momentum: Number
    nesterov: bool
    batch_size: int
    schedule: str
    reduction: str
    members: int
    eval_every: int
    tricks: tuple[TrickPlan, ...] = ()
    views: int = 0
    optimizer: str = "sgd"
    layer_decay: Number = 1.0
    clip: Number | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields; those of fine-tuning only where they are set, so that plans without them keep their ids."""
        fields = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if key not in FINE_TUNING or value != FINE_TUNING[key]}

    def on(self, seam: str) -> list[TrickPlan]:
        """The stage's tricks on one seam, in the order of the plan."""
        return [trick for trick in self.tricks if entry(trick.name).seam == seam]


@dataclass(frozen=True)
class Plan:
    """The stages of one trial, in order. JSON-serialisable, hashable by `id`, printable."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    stages: tuple[StagePlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return json.loads(self._text)  # type: ignore[no-any-return]

    @functools.cached_property
    def _text(self) -> str:
        return json.dumps({"stages": [stage.to_dict() for stage in self.stages]})

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`.

        Raises:
            PlanError: A field is missing, unknown, or of another type.
        """
        return from_json(Plan, fields, "plan: not a plan of this version", PlanError)

    @functools.cached_property
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

    def epochs_before(self, index: int) -> int:
        """Epochs of the stages before a stage."""
        return sum(stage.epochs for stage in self.stages[:index])

    @property
    def cost(self) -> int:
        """Epochs times members: what is trained."""
        return sum(stage.epochs * stage.members for stage in self.stages)

    def shortened(self, share: float) -> Plan:
        """The whole plan in less time: every stage at a share of its epochs, at least one, measured at its end.

        Args:
            share: Share of the epochs, in (0, 1].

        >>> from spaces.domain import Space, Stage
        >>> from trainables.data import standard
        >>> from trainables.plan.build import build, defaults
        >>> stages = [Stage("first", epochs=24), Stage("second", epochs=1)]
        >>> plan = build(Space(stages=stages), defaults(), standard("digits-lt")).plan
        >>> [stage.epochs for stage in plan.shortened(0.25).stages]
        [6, 1]
        """
        epochs = [max(1, round(share * stage.epochs)) for stage in self.stages]
        return Plan(tuple(replace(s, epochs=e, eval_every=e) for s, e in zip(self.stages, epochs, strict=True)))

    def __str__(self) -> str:
        return "\n".join(_describe(stage) for stage in self.stages)


STAGE_NUMBERS = ("epochs", "lr", "weight_decay", "batch_size", "members")
"""Numbers of a stage that are among a recipe's choices."""


@dataclass(frozen=True)
class Recipe:
    """A plan, with the choices that it was built from.

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
            for key in (*STAGE_NUMBERS, *(key for key in FINE_TUNING if key in numbers)):
                readable[f"{stage.name}/{key}"] = numbers[key]
            for seam in SEAMS:
                names = [trick.name for trick in stage.on(seam)]
                if names:
                    readable[f"{stage.name}/{seam}"] = "+".join(names)
            for trick in stage.tricks:
                for key, value in trick.numbers.items():
                    readable[f"{stage.name}/{trick.name}.{key}"] = value
        return readable


def _describe(stage: StagePlan) -> str:
    tricks = ", ".join(
        str(Trick(t.name, tuple(t.numbers.items()))) + (" (kept)" if t.kept else "") for t in stage.tricks
    )
    chain = [t.name for t in stage.on("logits")]
    tricks += f" (logits: {', then '.join(chain)})" if len(chain) > 1 else ""
    members = f" × {stage.members} members" if stage.members > 1 else ""
    carry = "" if stage.carry == "start" else f", carries {stage.carry}"
    numbers = f"{stage.epochs} epochs{members}, lr {stage.lr:g}, wd {stage.weight_decay:g}"
    views = f", {stage.views} views" if stage.views else ""
    fields = stage.to_dict()
    views += "".join(f", {key} {fields[key]}" for key in FINE_TUNING if key in fields)
    return f"{stage.name}: {numbers}{views}{carry}; {tricks or 'plain'}"
