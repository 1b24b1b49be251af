"""State of a stage and of a whole pipeline, from which training continues exactly, on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainables.plan.model import Plan
from trainables.training.context import CarryOver, State, below, prefixed


@dataclass(frozen=True)
class Point:
    """An evaluation on `val`: its position in the plan, and its metrics as fractions."""

    stage: str
    member: int
    epoch: int
    progress: float
    metrics: dict[str, float]


@dataclass
class Cost:
    """Cost of a trial's plan, and of the part that this trial trained itself.

    Args:
        epochs: Epochs trained or re-used, summed over members.
        epochs_trained: Epochs trained here.
        images: Images seen in training, including re-used stages.
        steps: Optimiser steps, including re-used stages.
        seconds: Seconds of training here.
        seconds_saved: Seconds that the training of the re-used stages took.
    """

    epochs: int = 0
    epochs_trained: int = 0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0


@dataclass(frozen=True)
class StageSnapshot:
    """A stage, or one of its members, between two epochs or at its end.

    Args:
        carry_over: Weights, optimiser and position in the chain.
        epochs: Epochs of the stage that have been trained.
        images: Images seen in them.
        steps: Optimiser steps taken in them.
        seconds: Seconds of training; for members in training, summed over all of them.
        points: Evaluations of the stage, {"epoch": counted from its start, "metrics": …}.
        last: Everything that the last evaluation measured.
    """

    carry_over: CarryOver
    epochs: int
    images: int
    steps: int
    seconds: float
    points: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def save(self) -> tuple[State, dict[str, Any]]:
        """Tensors and JSON-serialisable values from which `load` restores an equal object."""
        tensors, position = self.carry_over.save()
        return tensors, {name: getattr(self, name) for name in _VALUES} | {"position": position}

    @staticmethod
    def load(tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> StageSnapshot:
        """The inverse of `save`; the tensors are moved to a device."""
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return StageSnapshot(CarryOver.load(moved, state["position"]), **{name: state[name] for name in _VALUES})


_VALUES = ("epochs", "images", "steps", "seconds", "points", "last")


@dataclass
class PipelineState:
    """State of a pipeline between two epochs.

    Args:
        stage: Number of the stage that is being trained.
        member: Number of its member that is being trained.
        carry_over: The state that the stage before hands over.
        members: States of its finished members.
        points: Every evaluation so far.
        cost: The cost so far.
        reused: Names of the stages (`name#member` for members) that came from the store.
        last: Everything that the last evaluation measured.
        ancestors: Keys of the finished stages, with the seconds that each took.
        spent: Epochs, images, steps and seconds of the finished members.
        training: The members in training; empty between two stages.
    """

    stage: int = 0
    member: int = 0
    carry_over: CarryOver | None = None
    members: list[State] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    reused: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    ancestors: list[tuple[str, float]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    training: list[StageSnapshot] = field(default_factory=list)

    def count(self, snapshot: StageSnapshot) -> None:
        """Adds the cost of a finished stage or member, trained or re-used."""
        self.cost.epochs += snapshot.epochs
        self.cost.images += snapshot.images
        self.cost.steps += snapshot.steps
        for name in ("epochs", "images", "steps", "seconds"):
            self.spent[name] = self.spent.get(name, 0) + getattr(snapshot, name)

    def add_point(self, plan: Plan, stage_epoch: int, measured: dict[str, float]) -> None:
        """Adds an evaluation of the current stage after `stage_epoch` of its epochs."""
        epoch = plan.epochs_before(self.stage) + stage_epoch
        # member 0: a stage without members is measured, or the merged network
        self.points.append(Point(plan.stages[self.stage].name, 0, epoch, epoch / plan.epochs, measured))

    def stage_points(self, plan: Plan) -> list[dict[str, Any]]:
        """Evaluations of the current stage, epochs counted from its start."""
        before = plan.epochs_before(self.stage)
        own = [point for point in self.points if point.epoch > before]
        return [{"epoch": point.epoch - before, "metrics": point.metrics} for point in own]

    def replay(self, plan: Plan, snapshot: StageSnapshot) -> None:
        """Adds the evaluations of a stage that came from the store."""
        for point in snapshot.points:
            self.add_point(plan, point["epoch"], point["metrics"])
        self.last = snapshot.last

    def save(self) -> tuple[State, dict[str, Any]]:
        """Tensors and JSON-serialisable values from which `load` restores an equal object."""
        tensors: State = {}
        for number, member in enumerate(self.members):
            tensors |= prefixed(f"members/{number}", member)
        training = [snapshot.save() for snapshot in self.training]
        for number, (own, _) in enumerate(training):
            tensors |= prefixed(f"training/{number}", own)
        position = None
        if self.carry_over is not None:
            own, position = self.carry_over.save()
            tensors |= prefixed("carry_over", own)
        return tensors, {
            "stage": self.stage,
            "member": self.member,
            "carry_over": position,
            "members": len(self.members),
            "points": [asdict(point) for point in self.points],
            "cost": asdict(self.cost),
            "reused": list(self.reused),
            "last": dict(self.last),
            "ancestors": list(self.ancestors),
            "spent": dict(self.spent),
            "training": [state for _, state in training],
        }

    @staticmethod
    def load(tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device) -> PipelineState:
        """The inverse of `save`; the tensors are moved to a device."""
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        position = state["carry_over"]
        return PipelineState(
            stage=state["stage"],
            member=state["member"],
            carry_over=None if position is None else CarryOver.load(below("carry_over", tensors), position),
            members=[below(f"members/{number}", tensors) for number in range(state["members"])],
            points=[Point(**point) for point in state["points"]],
            cost=Cost(**state["cost"]),
            reused=list(state["reused"]),
            last=dict(state["last"]),
            ancestors=[(key, seconds) for key, seconds in state["ancestors"]],
            spent=dict(state["spent"]),
            training=[
                StageSnapshot.load(below(f"training/{number}", tensors), own, device)
                for number, own in enumerate(state["training"])
            ],
        )
