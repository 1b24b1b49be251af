"""Trains or re-uses the stages of a plan in order: carry-over, members, merge, evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.batch import pixels_of
from trainables.models import Network
from trainables.pipeline.snapshot import PipelineState, StageSnapshot
from trainables.pipeline.stage_cache import StageCache
from trainables.plan.model import Plan, StagePlan
from trainables.training.acceleration.fusion import CannotFuse, FusedRun
from trainables.training.context import CarryOver, TrainingContext
from trainables.training.evaluator import Evaluator
from trainables.training.network_setup import merge_members, trained_network
from trainables.training.numerics import can_be_fused, group_of
from trainables.training.stage_run import StageRun


@dataclass
class MembersInTraining:
    """The member, or the group of members, that is being trained.

    Args:
        run: Trains them.
        first: Number of the first member.
        seconds: Seconds of training so far, summed over the members.
        saved_at: `time.perf_counter()` when they were last saved.
    """

    run: StageRun | FusedRun
    first: int
    seconds: float
    saved_at: float

    @property
    def runs(self) -> list[StageRun]:
        """The run of each member."""
        return [self.run] if isinstance(self.run, StageRun) else self.run.runs

    def unfinished(self, member: int) -> range:
        """The members from `member` on that are not finished; earlier ones may come from the store."""
        return range(member, self.first + len(self.runs))


class StageExecutor:
    """Advances a plan by one epoch, or by one finished stage from the store.

    `Pipeline` calls `advance`; `JointSeeds`, which trains several pipelines at once, calls its parts.

    Args:
        plan: The plan.
        context: Data, network, seed, device, numerics.
        cache: The stages in the store.
        evaluate: Whether networks are measured on `val`.
        save_seconds: Shortest time between two saves of an unfinished stage.
    """

    def __init__(
        self, plan: Plan, context: TrainingContext, cache: StageCache, evaluate: bool, save_seconds: float
    ) -> None:
        self.plan, self.context, self.cache = plan, context, cache
        self.save_seconds = save_seconds
        self.state = PipelineState()
        self.training: MembersInTraining | None = None
        self.now = (plan.stages[0].name, 0, math.nan)
        """Stage of the last advance, its trained epochs and its last training loss (NaN if the stage was re-used)."""
        self._evaluates = evaluate
        self._evaluator: Evaluator | None = None

    @property
    def finished(self) -> bool:
        """Whether every stage is finished."""
        return self.state.stage >= len(self.plan.stages)

    def advance(self) -> None:
        """Trains one epoch, or takes one finished stage from the store.

        Raises:
            Diverged: The loss is no longer finite.
        """
        self.now = (self.plan.stages[self.state.stage].name, 0, math.nan)
        if self.training is None:
            found = self.cache.find(self.state.stage, self.state.member)
            if found is not None:
                self.take(*found)
                return
        began = time.perf_counter()
        training = self.training or self.start()
        training.run.train_epoch()
        self.end_epoch(time.perf_counter() - began)

    def resume(self) -> None:
        """Takes every finished stage from the store and starts the next one, without training it."""
        while not self.finished and self.training is None:
            found = self.cache.find(self.state.stage, self.state.member)
            if found is None:
                self.start()
            else:
                self.take(*found)

    def take(self, snapshot: StageSnapshot, whole: bool) -> None:
        """Advances by a finished stage or member that `StageCache.find` has returned."""
        state = self.state
        name = self.plan.stages[state.stage].name
        state.reused.append(name if whole else f"{name}#{state.member}")
        state.cost.seconds_saved += snapshot.seconds
        state.count(snapshot)
        if whole:
            state.replay(self.plan, snapshot)
            self._end_stage(snapshot.carry_over)
        else:
            self._end_member(snapshot.carry_over)

    def start(self, snapshots: Sequence[StageSnapshot] | None = None) -> MembersInTraining:
        """Starts the current member of the current stage, or the group of members that it is trained with.

        Args:
            snapshots: States to continue from, one per member; empty to start from the beginning (default: those in the
                store, whose evaluations are replayed).
        """
        state = self.state
        members = members_together(self.plan.stages[state.stage], state.member, self.context)
        alone = range(state.member, state.member + 1)
        if snapshots is not None and len(snapshots) != len(members):  # they could not be trained together
            members = alone
        try:
            self.training = self._start_members(members, snapshots)
        except CannotFuse:
            self.training = self._start_members(alone, snapshots)

        def features(split: str, compute: Callable[[], Tensor]) -> Tensor:
            return self.cache.split_features(self.state.stage, split, self.state.ancestors, compute)

        self._evaluator = Evaluator(self.context, self.plan, state.stage, stored=features)
        return self.training

    def _start_members(self, members: range, snapshots: Sequence[StageSnapshot] | None) -> MembersInTraining:
        """Starts members, from snapshots if there are any.

        Raises:
            CannotFuse: There are several members, and they cannot be trained as one network.
        """
        state = self.state

        def features(compute: Callable[[], Tensor]) -> Tensor:
            return self.cache.features(state.stage, state.ancestors, compute)

        runs = [StageRun(self.context, self.plan, state.stage, m, state.carry_over, features) for m in members]
        found = self.cache.unfinished(state.stage, members) if snapshots is None else snapshots
        for each, snapshot in zip(runs, found, strict=bool(found)):
            each.load(snapshot.carry_over, snapshot.epochs, snapshot.images, snapshot.steps)
        run: StageRun | FusedRun = runs[0] if len(runs) == 1 else FusedRun(runs)
        if snapshots is None and found and self.plan.stages[state.stage].members == 1:
            state.replay(self.plan, found[0])
        return MembersInTraining(run, members[0], found[0].seconds if found else 0.0, time.perf_counter())

    def end_epoch(self, seconds: float, save: bool | None = None) -> None:
        """Evaluates after a trained epoch, saves, and starts the next stage if this one is finished.

        Args:
            seconds: Seconds that the epoch took.
            save: Whether an unfinished stage is saved now (default: every `save_seconds`).
        """
        began = time.perf_counter()
        training = self.training
        assert training is not None
        run, stage = training.run, self.plan.stages[self.state.stage]
        self.now = (stage.name, run.epoch, run.train_loss)
        # members are evaluated when they are merged
        due = run.epoch % stage.eval_every == 0 or run.finished
        if due and isinstance(run, StageRun) and stage.members == 1:
            self._evaluate(run.average.network(run.network), run.epoch, train_loss=run.train_loss)
        training.seconds += seconds + time.perf_counter() - began
        if run.finished:
            self._finish(training)
        elif time.perf_counter() - training.saved_at >= self.save_seconds if save is None else save:
            self.save_unfinished()

    def snapshots(self) -> list[StageSnapshot]:
        """Snapshots of the members in training; `seconds` of each is the sum over all of them."""
        training = self.training
        if training is None:
            return []
        seconds, points, last = training.seconds, self.state.stage_points(self.plan), self.state.last
        return [
            StageSnapshot(run.carry_over(), run.epoch, run.images, run.steps, seconds, points, last)
            for run in training.runs
        ]

    def save_unfinished(self) -> None:
        """Saves the members in training, for a later pipeline with the same store."""
        if self.training is not None and self.cache.store is not None:
            self.cache.save_unfinished(self.state.stage, self.training.first, self.snapshots())
            self.training.saved_at = time.perf_counter()

    def load(self, state: PipelineState) -> None:
        """Continues exactly from a saved state."""
        snapshots, state.training = state.training, []
        self.state, self.training = state, None
        if snapshots:
            self.start(snapshots)

    def _finish(self, training: MembersInTraining) -> None:
        """Stores the members that have finished their last epoch and moves on to the next ones."""
        state = self.state
        left = training.unfinished(state.member)
        self.training = None
        alone = self.plan.stages[state.stage].members == 1
        points, last = (state.stage_points(self.plan), state.last) if alone else ([], {})
        seconds = training.seconds / len(left)
        for member in left:
            run = training.runs[member - training.first]
            snapshot = StageSnapshot(run.carry_over(), run.epoch, run.images, run.steps, seconds, points, last)
            state.count(snapshot)
            state.cost.epochs_trained += run.epoch
            state.cost.seconds += seconds
            self.cache.save(self.cache.keys[state.stage][member], snapshot, state.ancestors, measured=alone)
            if alone:
                self._end_stage(snapshot.carry_over)
            else:
                self._end_member(snapshot.carry_over)

    def _end_member(self, carry_over: CarryOver) -> None:
        """Moves on to the next member; merges after the last one."""
        state, stage = self.state, self.plan.stages[self.state.stage]
        state.members.append(carry_over.result)
        state.member += 1
        if state.member < stage.members:
            return
        began = time.perf_counter()
        merged = merge_members(self.context, self.plan, state.stage, state.members, state.carry_over)
        self._evaluate(trained_network(self.context, self.plan, state.stage, merged.result), stage.epochs)
        seconds = time.perf_counter() - began
        state.cost.seconds += seconds
        epochs, images, steps = (int(state.spent[name]) for name in ("epochs", "images", "steps"))
        snapshot = StageSnapshot(
            merged, epochs, images, steps, state.spent["seconds"] + seconds, state.stage_points(self.plan), state.last
        )
        self.cache.save(self.cache.keys[state.stage][-1], snapshot, state.ancestors, measured=True)
        self._end_stage(merged)

    def _end_stage(self, carry_over: CarryOver) -> None:
        """Moves on to the next stage."""
        state, self._evaluator = self.state, None
        state.ancestors.append((self.cache.keys[state.stage][-1], state.spent["seconds"]))
        state.carry_over, state.stage, state.member, state.members, state.spent = carry_over, state.stage + 1, 0, [], {}

    def _evaluate(self, network: Network, stage_epoch: int, **more: float) -> None:
        if not self._evaluates:
            return
        evaluator = self._evaluator or Evaluator(self.context, self.plan, self.state.stage)
        self.state.last = evaluator(network)
        shown = {name: value for name, value in self.state.last.items() if isinstance(value, float)}
        self.state.add_point(self.plan, stage_epoch, shown | more)


def members_together(stage: StagePlan, member: int, context: TrainingContext) -> range:
    """The members of a stage that share a network with the given one; that one alone if none do."""
    pixels = stage.batch_size * pixels_of(context.data.train_images)
    fused = can_be_fused(stage) and context.sharding.count == 1
    if fused and context.numerics.fuses(context.device.type, pixels):
        return group_of(member, stage.members)
    return range(member, member + 1)
