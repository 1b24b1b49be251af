"""A plan written as the stages of a space, so that another search can train exactly this plan."""

from __future__ import annotations

from typing import Any

from spaces.domain import Stage, trick
from trainables.plan import Plan, StagePlan
from trainables.plan.model import FINE_TUNING
from trainables.registry import entry

OF_A_CHAIN = ("lr", "weight_decay", "momentum", "nesterov", "batch_size", "schedule", *FINE_TUNING)
"""Numbers that a stage has from the one before where it carries everything."""


def stages_of(plan: Plan) -> tuple[Stage, ...]:
    """The stages that `trainables.plan.build` turns into this plan again, at the same data set's standard.

    >>> from spaces.domain import Space
    >>> from trainables.data import standard
    >>> from trainables.plan import build, defaults
    >>> made = [Stage("first", length=0.8, choose=["focal"]), Stage("last", length=0.2, carry="all", keep=True)]
    >>> plan = build(Space(made), defaults(), standard("digits-lt")).plan
    >>> build(Space(stages_of(plan)), defaults(), standard("digits-lt")).plan == plan
    True
    """
    return tuple(_stage(stage) for stage in plan.stages)


def _stage(stage: StagePlan) -> Stage:
    numbers: dict[str, Any] = {} if stage.carry == "all" else {name: getattr(stage, name) for name in OF_A_CHAIN}
    return Stage(
        stage.name,
        epochs=stage.epochs,
        reduction=stage.reduction,
        members=stage.members,
        views=stage.views,
        carry="weights" if stage.carry == "start" else stage.carry,
        keep=tuple(dict.fromkeys(entry(one.name).seam for one in stage.tricks if one.kept)) or False,
        choose=[trick(one.name, **one.numbers) for one in stage.tricks if not one.kept],
        **numbers,
    )
