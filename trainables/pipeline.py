"""Runs the stages of one trial in order: hands over, merges members, re-uses what the store has.

A `Pipeline` advances by the smallest unit that can be re-done exactly, one epoch; its `state` between two
epochs is all that is needed to go on, on another machine or after a crash.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.data import LongTailed
from trainables.models import build
from trainables.plan import Plan
from trainables.stage import Diverged, Handed, StageRun, Start, State, assemble, measure, merge
from trainables.stage_store import StageStore, digest, numerics, stage_keys

__all__ = ["Cost", "Diverged", "Pipeline", "Point", "trial_context"]


@dataclass(frozen=True)
class Point:
    """One evaluation on `val`: where in the plan, and its metrics as fractions."""

    stage: str
    member: int
    epoch: int
    progress: float
    metrics: dict[str, float]


@dataclass
class Cost:
    """What a trial's plan costs, and what of it this trial paid itself.

    Args:
        epochs: Trained or re-used, members multiplied.
        epochs_trained: Trained here.
        images: Images seen in training, re-used stages included.
        steps: Optimiser steps, likewise.
        seconds: Of training here.
        seconds_saved: Of training that the re-used stages had taken.
    """

    epochs: int = 0
    epochs_trained: int = 0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0


def trial_context(fingerprint: str, model: str, seed: int, device: torch.device) -> dict[str, Any]:
    """Everything outside the plan that the result of a stage depends on."""
    return {"data": fingerprint, "model": model, "seed": seed, "numerics": numerics(device)}


@dataclass
class _Progress:
    """Where a pipeline is, between two epochs."""

    stage: int = 0
    member: int = 0
    handed: Handed | None = None
    members: list[State] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    reused: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)


class Pipeline:
    """One plan, one seed.

    Args:
        plan: What to train.
        data: On any device; moved to `device`.
        model: A name of `trainables.models`.
        seed: Of the trial.
        device: Where to train.
        store: Finished stages; without one everything is trained.
        evaluate: Whether to measure on `val` on the way (there is none in a final training).
    """

    def __init__(
        self,
        plan: Plan,
        data: LongTailed,
        model: str,
        seed: int,
        device: torch.device,
        store: StageStore | None = None,
        evaluate: bool = True,
    ) -> None:
        self.plan, self.data, self.store, self.evaluate = plan, data.to(device), store, evaluate
        network = partial(_network, model, data.classes, int(data.train_images.shape[1]))
        self.start = Start(self.data, network, seed, device)
        self.keys = stage_keys(plan, trial_context(data.fingerprint, model, seed, device))
        self._at = _Progress()
        self._run: StageRun | None = None
        self._run_seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether every stage is behind."""
        return self._at.stage >= len(self.plan.stages)

    @property
    def first_stage(self) -> str:
        """Id of the first stage's checkpoint: what claims about first-stage tricks are replicated over."""
        return self.keys[0][-1]

    @property
    def points(self) -> list[Point]:
        """Every evaluation so far, those of re-used stages included."""
        return self._at.points

    @property
    def cost(self) -> Cost:
        """What has been paid so far."""
        return self._at.cost

    @property
    def reused(self) -> list[str]:
        """Names of the stages (`name#member` for members) that came from the store."""
        return self._at.reused

    @property
    def progress(self) -> float:
        """Fraction of the plan that is behind, in [0, 1]; the members of a stage share its part."""
        done = float(sum(stage.epochs for stage in self.plan.stages[: self._at.stage]))
        if not self.finished:
            stage = self.plan.stages[self._at.stage]
            inside = self._run.epoch if self._run is not None else 0
            done += (self._at.member * stage.epochs + inside) / stage.members
        return done / self.plan.epochs

    def advance(self) -> list[Point]:
        """Trains one epoch, or takes one finished stage from the store.

        Returns:
            The evaluations that this gave: several where a stage was re-used, whose history is replayed.

        Raises:
            Diverged: The loss is no longer finite.
        """
        before = len(self._at.points)
        if self._run is None and self._reuse():
            return self._at.points[before:]
        began = time.perf_counter()
        if self._run is None:
            self._run = StageRun(self.start, self.plan, self._at.stage, self._at.member, self._at.handed)
            self._run_seconds = 0.0
        run = self._run
        run.train_epoch()
        stage = self.plan.stages[self._at.stage]
        # members are judged as one, when they are merged
        due = run.epoch % stage.eval_every == 0 or run.finished
        if due and stage.members == 1:
            self._evaluate(run.network, run.epoch, run.train_loss)
        self._run_seconds += time.perf_counter() - began
        if run.finished:
            self._finish(run)
        return self._at.points[before:]

    def run(self) -> None:
        """Advances to the end."""
        while not self.finished:
            self.advance()

    def network(self) -> Any:
        """The trained network, with the last stage's head; only when finished."""
        assert self.finished and self._at.handed is not None
        network, _ = assemble(self.start, self.plan, len(self.plan.stages) - 1, lambda _: torch.Generator(), None)
        network.load_state_dict(self._at.handed.model)
        return network.eval()

    def result(self, prefix: str = "final") -> tuple[dict[str, float], list[float], list[int]]:
        """Metrics (`final/accuracy`, …), recalls per class and correctness per image of the last evaluation."""
        return summary(self._at.last, self.data.counts, self.data.val_labels, prefix)

    def test(self) -> tuple[dict[str, float], list[float], list[int]]:
        """The same on the test split. For confirmed recipes alone: nothing may be chosen by it."""
        last = measure(self.network(), self.start, self.plan, len(self.plan.stages) - 1, split="test")
        return summary(last, self.data.counts, self.data.test_labels, "test")

    # --- state between two epochs -------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able values from which `load_state` goes on exactly."""
        tensors: dict[str, Tensor] = {}
        for number, member in enumerate(self._at.members):
            tensors |= _flat(f"members/{number}", member)
        if self._at.handed is not None:
            tensors |= _flat_handed("handed", self._at.handed)
        rest = asdict(self._at) | {"handed": None, "members": len(self._at.members), "run": None}
        rest["handed"] = None if self._at.handed is None else self._at.handed.chain_epoch
        if self._run is not None:
            handed = self._run.handed()
            tensors |= _flat_handed("run", handed)
            rest["run"] = {
                "epoch": self._run.epoch,
                "images": self._run.images,
                "steps": self._run.steps,
                "seconds": self._run_seconds,
                "chain_epoch": handed.chain_epoch,
            }
        return tensors, rest

    def load_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Goes on from a `state`, exactly."""
        tensors = {name: tensor.to(self.start.device) for name, tensor in tensors.items()}
        handed = None if rest["handed"] is None else _unflat_handed("handed", tensors, rest["handed"])
        self._at = _Progress(
            stage=rest["stage"],
            member=rest["member"],
            handed=handed,
            members=[_unflat(f"members/{number}", tensors) for number in range(rest["members"])],
            points=[Point(**point) for point in rest["points"]],
            cost=Cost(**rest["cost"]),
            reused=list(rest["reused"]),
            last=dict(rest["last"]),
        )
        self._run = None
        if rest["run"] is not None:
            run = rest["run"]
            self._run = StageRun(self.start, self.plan, self._at.stage, self._at.member, handed)
            self._run.load(
                _unflat_handed("run", tensors, run["chain_epoch"]), run["epoch"], run["images"], run["steps"]
            )
            self._run_seconds = run["seconds"]

    # --- one stage ----------------------------------------------------------------------------------------

    def _reuse(self) -> bool:
        """Takes the current member, or the whole stage, from the store if it is there."""
        if self.store is None:
            return False
        at, stage = self._at, self.plan.stages[self._at.stage]
        if at.member == 0 and stage.members > 1 and self._reuse_merged():
            return True
        stored = self.store.get(self.keys[at.stage][at.member])
        if stored is None:
            return False
        tensors = {name: tensor.to(self.start.device) for name, tensor in stored.tensors.items()}
        handed = _unflat_handed("handed", tensors, stored.state["chain_epoch"])
        at.points.extend(self._replayed(stored.state["points"]))
        at.last = stored.state["last"] or at.last
        self._account(stored.state, reused=True)
        self._hand_over(handed)
        return True

    def _reuse_merged(self) -> bool:
        """A merged stage whose members were all finished before."""
        assert self.store is not None
        at = self._at
        stored = self.store.get(self.keys[at.stage][-1])
        if stored is None:
            return False
        tensors = {name: tensor.to(self.start.device) for name, tensor in stored.tensors.items()}
        at.points.extend(self._replayed(stored.state["points"]))
        at.last = stored.state["last"]
        self._account(stored.state, reused=True)
        at.handed = _unflat_handed("handed", tensors, 0)
        at.stage, at.member, at.members = at.stage + 1, 0, []
        return True

    def _finish(self, run: StageRun) -> None:
        handed = run.handed()
        at, stage = self._at, self.plan.stages[self._at.stage]
        state = {
            "epochs": run.epoch,
            "images": run.images,
            "steps": run.steps,
            "seconds": self._run_seconds,
            "chain_epoch": handed.chain_epoch,
            "seed": self.start.seed,
            "first_stage": self.first_stage,
            "points": self._own_points() if stage.members == 1 else [],
            "last": at.last if stage.members == 1 else {},
        }
        if self.store is not None:
            self.store.put(self.keys[at.stage][at.member], _flat_handed("handed", handed), state)
        self._account(state, reused=False)
        self._run = None
        self._hand_over(handed)

    def _hand_over(self, handed: Handed) -> None:
        """Moves on to the next member or stage; merges after the last member."""
        at, stage = self._at, self.plan.stages[self._at.stage]
        if stage.members == 1:
            at.handed, at.stage = handed, at.stage + 1
            return
        at.members.append(handed.model)
        at.member += 1
        if at.member < stage.members:
            return
        began = time.perf_counter()
        at.handed = merge(self.start, self.plan, at.stage, at.members, at.handed)
        network, _ = assemble(self.start, self.plan, at.stage, lambda _: torch.Generator(), None)
        network.load_state_dict(at.handed.model)
        self._evaluate(network, stage.epochs, float("nan"))
        if self.store is not None:
            whole = {
                "epochs": stage.epochs * stage.members,
                "images": 0,
                "steps": 0,
                "seconds": time.perf_counter() - began,
                "seed": self.start.seed,
                "first_stage": self.first_stage,
                "points": self._own_points(),
                "last": at.last,
            }
            for key in self.keys[at.stage][:-1]:
                member = self.store.get(key)
                if member is not None:
                    for name in ("images", "steps", "seconds"):
                        whole[name] += member.state[name]
            self.store.put(self.keys[at.stage][-1], _flat_handed("handed", at.handed), whole)
        at.stage, at.member, at.members = at.stage + 1, 0, []

    def _evaluate(self, network: Any, stage_epoch: int, train_loss: float) -> None:
        if not self.evaluate:
            return
        at = self._at
        measured = measure(network, self.start, self.plan, at.stage)
        epoch = sum(stage.epochs for stage in self.plan.stages[: at.stage]) + stage_epoch
        shown = {name: value for name, value in measured.items() if isinstance(value, float)}
        if train_loss == train_loss:
            shown["train_loss"] = train_loss
        at.last = measured
        at.points.append(Point(self.plan.stages[at.stage].name, at.member, epoch, epoch / self.plan.epochs, shown))

    def _own_points(self) -> list[dict[str, Any]]:
        """The current stage's evaluations, with epochs counted from its start, as another plan can replay them."""
        before = sum(stage.epochs for stage in self.plan.stages[: self._at.stage])
        return [
            {"epoch": point.epoch - before, "metrics": point.metrics}
            for point in self._at.points
            if before < point.epoch <= before + self.plan.stages[self._at.stage].epochs
        ]

    def _replayed(self, points: list[dict[str, Any]]) -> list[Point]:
        before = sum(stage.epochs for stage in self.plan.stages[: self._at.stage])
        name, total = self.plan.stages[self._at.stage].name, self.plan.epochs
        return [
            Point(name, self._at.member, before + point["epoch"], (before + point["epoch"]) / total, point["metrics"])
            for point in points
        ]

    def _account(self, state: Mapping[str, Any], reused: bool) -> None:
        at, cost = self._at, self._at.cost
        cost.epochs += state["epochs"]
        cost.images += state["images"]
        cost.steps += state["steps"]
        if reused:
            stage = self.plan.stages[at.stage]
            at.reused.append(stage.name if stage.members == 1 else f"{stage.name}#{at.member}")
            cost.seconds_saved += state["seconds"]
        else:
            cost.epochs_trained += state["epochs"]
            cost.seconds += state["seconds"]


def summary(
    last: Mapping[str, Any], counts: Tensor, labels: Tensor, prefix: str
) -> tuple[dict[str, float], list[float], list[int]]:
    """Metrics under a prefix, recalls per class and correctness per image from what `measure` returned."""
    recalls = torch.tensor(last["recalls"], dtype=torch.float64)
    totals = torch.bincount(labels.cpu(), minlength=len(recalls)).double()
    smoothed = metrics.smoothed_recalls((recalls.nan_to_num() * totals).round(), totals)
    found = metrics.summarise(recalls, counts.cpu())
    found["smoothed_harmonic_mean"] = metrics.summarise(smoothed, counts.cpu())["harmonic_mean"]
    found["calibration_error"] = last["calibration_error"]
    found["loss"] = last["loss"]
    n = float(totals.sum())
    found["accuracy_error"] = (found["accuracy"] * (1 - found["accuracy"]) / n) ** 0.5
    return {f"{prefix}/{name}": value for name, value in found.items()}, list(last["recalls"]), list(last["correct"])


def recipe_hash(plan: Plan, seed: int) -> str:
    """Short id of a plan with a seed."""
    return digest([plan.to_dict(), seed])[:10]


def _network(model: str, classes: int, channels: int, generator: torch.Generator) -> Any:
    return build(model, classes=classes, channels=channels, generator=generator)


def _flat(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _unflat(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _flat_handed(prefix: str, handed: Handed) -> dict[str, Tensor]:
    return _flat(f"{prefix}/model", handed.model) | _flat(f"{prefix}/optimiser", handed.optimiser)


def _unflat_handed(prefix: str, tensors: Mapping[str, Tensor], chain_epoch: int) -> Handed:
    return Handed(_unflat(f"{prefix}/model", tensors), _unflat(f"{prefix}/optimiser", tensors), chain_epoch)


def to_json(state: Mapping[str, Any]) -> str:
    """The JSON-able part of a state, as text."""
    return json.dumps(state)
