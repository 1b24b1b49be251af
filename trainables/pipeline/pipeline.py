"""Runs the stages of one trial in order: hands over, merges members, re-uses what the store has.

A `Pipeline` advances by the smallest unit that can be re-done exactly, one epoch; its `state` between two
epochs is all that is needed to go on, on another machine or after a crash.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables import metrics
from trainables.batch import pixels_of
from trainables.data import LongTailed
from trainables.evaluation.deployment import Deployment
from trainables.models import Network, build, identity, input_format
from trainables.pipeline.store import (
    StageStore,
    StoredStage,
    features_key,
    numerics,
    plain_features_key,
    stage_keys,
    start_key,
)
from trainables.plan.model import Plan
from trainables.training.batch_sharding import Parts
from trainables.training.fusion import CannotFuse, FusedRun
from trainables.training.numerics import Numerics, can_be_fused, group_of
from trainables.training.stage_run import Diverged, Handed, Judge, StageRun, Start, State, assemble, merge

SAVE_SECONDS = 5.0
"""A stage in the middle is kept at most this often: what a crash may cost, unless an epoch takes longer."""

NEUTRAL = Deployment()
"""Weighs nothing."""

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


def normalised_for(model: str, data: LongTailed) -> LongTailed:
    """The data with the mean and deviation that a pretrained network expects; as they are for any other."""
    expected = input_format(model)
    if expected is None or data.kind == "features":
        return data
    mean, std = map(torch.tensor, expected.of_channels(int(data.train_images.shape[1])))
    return replace(data, mean=mean, std=std)


def trial_context(
    fingerprint: str,
    model: str,
    seed: int,
    device: torch.device,
    asked: Numerics | None = None,
    company: Sequence[tuple[int, str]] = (),
) -> dict[str, Any]:
    """Everything outside the plan that the result of a stage depends on."""
    asked = asked or Numerics()
    context = {"data": fingerprint, "model": identity(model), "seed": seed, "numerics": numerics(device, asked)}
    return context | ({"company": [list(each) for each in company]} if len(company) > 1 else {})


@dataclass
class _Progress:
    """Where a pipeline is, between two epochs.

    Args:
        stage: The stage that is being trained.
        member: Its member that is being trained.
        handed: From the stage before.
        members: The states of its members that are finished.
        points: Every evaluation so far.
        cost: What has been paid so far.
        reused: What came from the store.
        last: All that the last evaluation measured.
        spent: What the finished members took: epochs, images, steps, seconds.
    """

    stage: int = 0
    member: int = 0
    handed: Handed | None = None
    members: list[State] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    reused: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    ancestors: list[tuple[str, float]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """One plan, one seed.

    Args:
        plan: What to train.
        data: On any device; moved to `device`.
        model: A name of `trainables.models`.
        seed: Of the trial.
        device: Where to train.
        store: Finished stages; without one everything is trained.
        evaluate: Whether to measure on `val` on the way (there is none in a final training). What is kept without
            measurements is never taken for what has them.
        numerics: How numbers are computed.
        save_seconds: A stage in the middle is kept at most this often.
        deployment: How the final metrics are weighed as well.
        parts: Parts that each batch is divided into, and this process's own.
        company: (seed, fingerprint of its data) of all that it is trained with in one network, itself included; see
            `trainables.training.joint_seeds`.
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
        numerics: Numerics | None = None,
        save_seconds: float = SAVE_SECONDS,
        deployment: Deployment = NEUTRAL,
        parts: Parts | None = None,
        company: Sequence[tuple[int, str]] = (),
    ) -> None:
        self.plan, self.store, self.evaluate = plan, store, evaluate
        self.data = normalised_for(model, data).to(device)
        self.deployment = deployment
        network = partial(_fresh, model, data.classes, int(data.train_images.shape[1]))
        parts = parts or Parts()
        self.start = Start(self.data, network, seed, device, numerics or Numerics(), parts)
        context = trial_context(data.fingerprint, model, seed, device, numerics, company) | parts.identity()
        self.keys = stage_keys(plan, context if evaluate else {**context, "measured": False})
        self._start_key = start_key(context)
        self.save_seconds = save_seconds
        self._at = _Progress()
        self._run: StageRun | FusedRun | None = None
        self._first = 0  # the first member of those that are being trained
        self._judge: Judge | None = None
        self._now = (plan.stages[0].name, 0, math.nan)
        self._saved_at = 0.0
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
        done = float(self._epochs_before)
        if not self.finished:
            stage = self.plan.stages[self._at.stage]
            inside = self._run.epoch * len(self._left()) if self._run is not None else 0
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
        self._now = (self.plan.stages[self._at.stage].name, 0, math.nan)
        if self._run is None and self._reuse():
            return self._at.points[before:]
        began = time.perf_counter()
        if self._run is None:
            self._begin()
        assert self._run is not None
        self._run.train_epoch()
        self.behind_epoch(time.perf_counter() - began)
        return self._at.points[before:]

    # --- for those who train several pipelines at once: `advance` in its parts ----------------------------

    @property
    def stage(self) -> int:
        """Number of the stage that comes, or is being trained."""
        return self._at.stage

    def stored(self) -> tuple[StoredStage, bool] | None:
        """The stage, or else the current member of it, from the store; and whether it is the whole stage."""
        if self.store is None:
            return None
        *members, whole = self.keys[self._at.stage]
        # a merged stage is asked for before its first member is
        for key in dict.fromkeys([whole, members[0]] if self._at.member == 0 else [members[self._at.member]]):
            stored = self.store.get(key)
            if stored is not None:
                return stored, key == whole
        return None

    def left_at(self) -> int:
        """The epoch at which some trial left the current stage in its middle; 0 where none did."""
        middle = None if self.store is None else self.store.get_partial(self.keys[self._at.stage][self._at.member])
        return 0 if middle is None else int(middle.state["epoch"])

    def begin(self, from_start: bool = False) -> StageRun:
        """Begins a stage without members, in its middle where some trial left it there."""
        self._begin([] if from_start else None)
        assert isinstance(self._run, StageRun)
        return self._run

    def behind_epoch(self, seconds: float, keep: bool | None = None) -> None:
        """What comes after a trained epoch: measuring, keeping, moving on.

        Args:
            seconds: That the epoch took.
            keep: Whether a stage in its middle is kept now; every `save_seconds` where absent.
        """
        began = time.perf_counter()
        run = self._run
        assert run is not None
        self._now = (run.stage.name, run.epoch, run.train_loss)
        stage = self.plan.stages[self._at.stage]
        # members are judged as one, when they are merged
        due = run.epoch % stage.eval_every == 0 or run.finished
        if due and isinstance(run, StageRun) and stage.members == 1:
            self._evaluate(run.judged(), run.epoch, train_loss=run.train_loss)
        self._run_seconds += seconds + time.perf_counter() - began
        if run.finished:
            self._finish(run)
        elif time.perf_counter() - self._saved_at >= self.save_seconds if keep is None else keep:
            self._keep_partial(run)

    def take_up(self) -> None:
        """Takes from the store all that is finished, and what is in the middle, without training."""
        while not self.finished and self._run is None:
            if not self._reuse():
                self._begin()

    def keep(self) -> None:
        """Keeps what is trained of the current stage now, for a later pipeline with the same store."""
        if self._run is not None:
            self._keep_partial(self._run)

    @property
    def now(self) -> tuple[str, int, float]:
        """The stage of the last advance, its epochs that are behind, and its last training loss; nan where re-used."""
        return self._now

    def run(self) -> None:
        """Advances to the end."""
        while not self.finished:
            self.advance()

    def network(self) -> Network:
        """The trained network, with the last stage's head; only when finished."""
        assert self.finished and self._at.handed is not None
        return self._network(len(self.plan.stages) - 1, self._at.handed).eval()

    def result(self, prefix: str = "final") -> tuple[dict[str, float], list[float], list[int]]:
        """Metrics (`final/accuracy`, …), recalls per class and correctness per image of the last evaluation."""
        return summary(self._at.last, self.data.counts, self.data.val_labels, prefix, self.deployment)

    def per_class(self) -> dict[str, list[float]]:
        """The diagnostics of label over-smoothing by class, at the last evaluation."""
        return {name: list(self._at.last[name]) for name in DIAGNOSTICS}

    def test(self, deployment: Deployment | None = None) -> tuple[dict[str, float], list[float], list[int]]:
        """The same on the test split. For confirmed recipes alone: nothing may be chosen by it.

        Args:
            deployment: How it is weighed as well; the pipeline's own where absent.
        """
        last = Judge(self.start, self.plan, len(self.plan.stages) - 1, split="test")(self.network())
        return summary(last, self.data.counts, self.data.test_labels, "test", deployment or self.deployment)

    # --- state between two epochs -------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able values from which `load_state` goes on exactly."""
        at = self._at
        tensors: dict[str, Tensor] = {}
        for number, member in enumerate(at.members):
            tensors |= _flat(f"members/{number}", member)
        if at.handed is not None:
            tensors |= _flat_handed("handed", at.handed)
        rest: dict[str, Any] = {
            "stage": at.stage,
            "member": at.member,
            "handed": None if at.handed is None else _place(at.handed),
            "members": len(at.members),
            "points": [asdict(point) for point in at.points],
            "cost": asdict(at.cost),
            "reused": list(at.reused),
            "last": dict(at.last),
            "ancestors": list(at.ancestors),
            "spent": dict(at.spent),
            "run": None,
        }
        if self._run is not None:
            parts = []
            for number, part in enumerate(_parts(self._run)):
                handed = part.handed()
                tensors |= _flat_handed(f"run{number}", handed)
                parts.append({"images": part.images, "steps": part.steps, "place": _place(handed)})
            rest["run"] = {
                "epoch": self._run.epoch, "seconds": self._run_seconds, "first": self._first, "parts": parts,
            }  # fmt: skip
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
            ancestors=[(key, seconds) for key, seconds in rest["ancestors"]],
            spent=dict(rest["spent"]),
        )
        self._run = None
        if rest["run"] is not None:
            run = rest["run"]
            self._begin(
                [
                    (
                        _unflat_handed(f"run{number}", tensors, part["place"]),
                        run["epoch"],
                        part["images"],
                        part["steps"],
                    )
                    for number, part in enumerate(run["parts"])
                ]
            )
            self._run_seconds = run["seconds"]

    # --- one stage ----------------------------------------------------------------------------------------

    def _begin(self, middles: Sequence[Middle] | None = None) -> None:
        """Starts the current member of the current stage, or the group that it is trained with.

        Args:
            middles: Where each of them goes on, where they had begun before; looked for in the store where absent.
        """
        at = self._at
        stage, numerics = self.plan.stages[at.stage], self.start.numerics
        pixels = stage.batch_size * pixels_of(self.data.train_images)
        together = can_be_fused(stage) and numerics.fuses(self.start.device.type, pixels)
        together &= self.start.parts.count == 1
        members = group_of(at.member, stage.members) if together else range(at.member, at.member + 1)
        if middles is not None and len(middles) != len(members):  # they could not be trained together
            members = range(at.member, at.member + 1)
        if len(members) > 1:
            try:
                self._start_members(members, middles)
            except CannotFuse:
                members = range(at.member, at.member + 1)
        if len(members) == 1:
            self._start_members(members, middles)
        self._judge = Judge(self.start, self.plan, at.stage, kept=self._kept_of_split)
        self._saved_at = time.perf_counter()

    def _start_members(self, members: range, middles: Sequence[Middle] | None) -> None:
        """One member, or a group, from the start or from the middle."""
        at = self._at
        runs = [StageRun(self.start, self.plan, at.stage, m, at.handed, self._kept_features) for m in members]
        self._run_seconds = 0.0
        found = self._partials(members) if middles is None else middles
        for run, middle in zip(runs, found, strict=bool(found)):
            run.load(*middle)
        self._run = runs[0] if len(runs) == 1 else FusedRun(runs)
        self._first = members[0]

    def _left(self) -> range:
        """The members in training that are not finished yet: the first of a group may be known from the store."""
        assert self._run is not None
        return range(self._at.member, self._first + len(_parts(self._run)))

    def _kept_features(self, compute: Callable[[], Tensor]) -> Tensor:
        """Features of fixed views from the store, or computed and kept there for other stages from this start."""
        return self._kept(features_key(self._before, self.plan.stages[self._at.stage]), compute)

    def _kept_of_split(self, split: str, compute: Callable[[], Tensor]) -> Tensor:
        """Likewise, features of a split's images as they are."""
        return self._kept(plain_features_key(self._before, split), compute)

    @property
    def _before(self) -> str:
        """The key of what the current stage starts from; before the first one, of data and network."""
        return self.keys[self._at.stage - 1][-1] if self._at.stage else self._start_key

    def _kept(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        if self.store is None:
            return compute()
        stored = self.store.get(key)
        if stored is not None:
            return stored.tensors["features"].to(self.start.device)
        began = time.perf_counter()
        features = compute()
        seconds = time.perf_counter() - began
        self.store.put(
            key, {"features": features}, {"kind": "features", "seconds": seconds, "ancestors": self._at.ancestors}
        )
        return features

    def _reuse(self) -> bool:
        """Takes the whole stage, or else its current member, from the store if it is there."""
        found = self.stored()
        if found is not None:
            self.take(*found)
        return found is not None

    def take(self, stored: StoredStage, whole: bool) -> None:
        """Moves on by what `stored` has found."""
        at, state = self._at, stored.state
        tensors = {name: tensor.to(self.start.device) for name, tensor in stored.tensors.items()}
        handed = _unflat_handed("handed", tensors, state["place"])
        name = self.plan.stages[at.stage].name
        at.reused.append(name if whole else f"{name}#{at.member}")
        at.cost.seconds_saved += state["seconds"]
        self._count(state)
        if whole:
            at.points.extend(self._point(point["epoch"], point["metrics"]) for point in state["points"])
            at.last = state["last"]
            self._next_stage(handed)
        else:
            self._next_member(handed)

    def _finish(self, run: StageRun | FusedRun) -> None:
        at, parts, first = self._at, _parts(run), self._first
        left = self._left()
        self._run = None
        alone = self.plan.stages[at.stage].members == 1
        for member in left:
            part = parts[member - first]
            seconds = self._run_seconds / len(left)
            spent = {"epochs": part.epoch, "images": part.images, "steps": part.steps, "seconds": seconds}
            self._count(spent)
            at.cost.epochs_trained += part.epoch
            at.cost.seconds += seconds
            handed = part.handed()
            self._keep(self.keys[at.stage][member], handed, spent, measured=alone)
            if alone:
                self._next_stage(handed)
            else:
                self._next_member(handed)

    def _next_member(self, handed: Handed) -> None:
        """Moves on to the next member; merges after the last one."""
        at, stage = self._at, self.plan.stages[self._at.stage]
        at.members.append(handed.result)
        at.member += 1
        if at.member < stage.members:
            return
        began = time.perf_counter()
        merged = merge(self.start, self.plan, at.stage, at.members, at.handed)
        self._evaluate(self._network(at.stage, merged), stage.epochs)
        seconds = time.perf_counter() - began
        at.cost.seconds += seconds
        self._keep(
            self.keys[at.stage][-1], merged, at.spent | {"seconds": at.spent["seconds"] + seconds}, measured=True
        )
        self._next_stage(merged)

    def _next_stage(self, handed: Handed) -> None:
        at, self._judge = self._at, None
        at.ancestors.append((self.keys[at.stage][-1], at.spent["seconds"]))
        at.handed, at.stage, at.member, at.members, at.spent = handed, at.stage + 1, 0, [], {}

    def _keep_partial(self, run: StageRun | FusedRun) -> None:
        """Keeps a stage in the middle, so that a crash costs no more than the seconds since."""
        if self.store is None:
            return
        for number, part in enumerate(_parts(run)):
            handed = part.handed()
            state = {
                "epoch": part.epoch,
                "images": part.images,
                "steps": part.steps,
                "seconds": self._run_seconds,
                "place": _place(handed),
                "points": self._own_points(),
                "last": self._at.last,
            }
            key = self.keys[self._at.stage][self._first + number]
            self.store.put_partial(key, _flat_handed("run", handed), state)
        self._saved_at = time.perf_counter()

    def _partials(self, members: range) -> list[Middle]:
        """Where some trial left these members in the middle; empty unless all are at one epoch."""
        at = self._at
        if self.store is None:
            return []
        found = [self.store.get_partial(self.keys[at.stage][member]) for member in members]
        stored = [one for one in found if one is not None]
        if len(stored) < len(members) or len({one.state["epoch"] for one in stored}) > 1:
            return []
        middles = []
        for one in stored:
            tensors = {name: tensor.to(self.start.device) for name, tensor in one.tensors.items()}
            handed = _unflat_handed("run", tensors, one.state["place"])
            middles.append((handed, one.state["epoch"], one.state["images"], one.state["steps"]))
        state = stored[0].state
        self._run_seconds = state["seconds"]
        if self.plan.stages[at.stage].members == 1:
            at.points.extend(self._point(point["epoch"], point["metrics"]) for point in state["points"])
            at.last = state["last"]
        return middles

    def _own_points(self) -> list[dict[str, Any]]:
        """The current stage's evaluations, epochs counted from its start."""
        before = self._epochs_before
        own = [point for point in self._at.points if point.epoch > before]
        return [{"epoch": point.epoch - before, "metrics": point.metrics} for point in own]

    def _keep(self, key: str, handed: Handed, spent: Mapping[str, float], measured: bool) -> None:
        """Writes an entry: what is handed over, what it took, and (of a whole stage) what was measured."""
        if self.store is None:
            return
        state = {
            **spent,
            "kind": "stage" if measured else "member",
            "ancestors": self._at.ancestors,
            "place": _place(handed),
            "seed": self.start.seed,
            "first_stage": self.first_stage,
            "points": self._own_points() if measured else [],
            "last": self._at.last if measured else {},
        }
        self.store.put(key, _flat_handed("handed", handed), state)
        self.store.drop_partial(key)

    def _network(self, index: int, handed: Handed) -> Network:
        """The network of a stage with the weights that it ended with."""
        network, _ = assemble(self.start, self.plan, index, lambda _: torch.Generator(), None)
        network.load_state_dict(handed.result)
        return network

    def _evaluate(self, network: Network, stage_epoch: int, **more: float) -> None:
        if not self.evaluate:
            return
        judge = self._judge if self._judge is not None else Judge(self.start, self.plan, self._at.stage)
        self._at.last = judge(network)
        shown = {name: value for name, value in self._at.last.items() if isinstance(value, float)}
        self._at.points.append(self._point(stage_epoch, shown | more))

    def _point(self, stage_epoch: int, measured: dict[str, float]) -> Point:
        epoch = self._epochs_before + stage_epoch
        # member 0: what is measured is a stage without members, or the merged one
        return Point(self.plan.stages[self._at.stage].name, 0, epoch, epoch / self.plan.epochs, measured)

    @property
    def _epochs_before(self) -> int:
        """Epochs of the stages that lie behind."""
        return sum(stage.epochs for stage in self.plan.stages[: self._at.stage])

    def _count(self, spent: Mapping[str, float]) -> None:
        """Counts what a stage or a member took, here or when it was trained."""
        at = self._at
        at.cost.epochs += int(spent["epochs"])
        at.cost.images += int(spent["images"])
        at.cost.steps += int(spent["steps"])
        at.spent = {name: at.spent.get(name, 0) + spent[name] for name in ("epochs", "images", "steps", "seconds")}


Middle = tuple[Handed, int, int, int]
"""A member in the middle of its stage: what it would hand over, and its epochs, images and steps so far."""


def _parts(run: StageRun | FusedRun) -> list[StageRun]:
    return [run] if isinstance(run, StageRun) else run.runs


DIAGNOSTICS = ("logits_magnitude", "regularized_std")
"""Of label over-smoothing, per class: the means are metrics, the classes stand in the record."""


def summary(
    last: Mapping[str, Any], counts: Tensor, labels: Tensor, prefix: str, deployment: Deployment = NEUTRAL
) -> tuple[dict[str, float], list[float], list[int]]:
    """Metrics under a prefix, recalls per class and correctness per image from what a `Judge` returned.

    On images that are not balanced, "image_accuracy" is the share of them that is right, beside the mean recall.
    """
    recalls = torch.tensor(last["recalls"], dtype=torch.float64)
    totals = torch.bincount(labels.cpu(), minlength=len(recalls)).double()
    right = (recalls.nan_to_num() * totals).round()
    smoothed = metrics.smoothed_recalls(right, totals)
    found = metrics.summarise(recalls, counts.cpu(), totals)
    found["smoothed_harmonic_mean"] = metrics.summarise(smoothed, counts.cpu(), totals)["harmonic_mean"]
    true = labels.tolist()
    correct = [int(said == label) for said, label in zip(last["predicted"], true, strict=True)]
    if float(totals.min()) != float(totals.max()):
        found["image_accuracy"] = sum(correct) / len(correct)
    if deployment:
        found |= deployment.measure(last["recalls"], last["predicted"], true, counts.tolist())
    found["calibration_error"] = last["calibration_error"]
    found["loss"] = last["loss"]
    for name in DIAGNOSTICS:
        found[name] = float(torch.tensor(last[name], dtype=torch.float64).nanmean())
    found["accuracy_error"] = metrics.mean_recall_error(right, totals)
    return {f"{prefix}/{name}": value for name, value in found.items()}, list(last["recalls"]), correct


def _fresh(model: str, classes: int, channels: int, generator: torch.Generator) -> Network:
    return build(model, classes=classes, channels=channels, generator=generator)


def _flat(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _unflat(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def _flat_handed(prefix: str, handed: Handed) -> dict[str, Tensor]:
    parts = {"model": handed.model, "optimiser": handed.optimiser, "averaged": handed.averaged}
    return {f"{prefix}/{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def _unflat_handed(prefix: str, tensors: Mapping[str, Tensor], place: Mapping[str, int]) -> Handed:
    model, optimiser, averaged = (_unflat(f"{prefix}/{part}", tensors) for part in ("model", "optimiser", "averaged"))
    return Handed(model, optimiser, place["chain_epoch"], place["chain_step"], averaged)


def _place(handed: Handed) -> dict[str, int]:
    """Where in its chain a state is."""
    return {"chain_epoch": handed.chain_epoch, "chain_step": handed.chain_step}
