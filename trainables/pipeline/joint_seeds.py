"""Several seeds of one recipe in one process: stages that allow it are trained as one fused network.

One trial leads, and trains the stages of the other seeds beside its own. They are kept under the keys of those seeds,
whose own trials find them finished. Nothing is shared but the convolutions: splits, draws, losses, evaluation and
store entries are those of each seed, so in float64 the weights are those of separate trials to rounding. In float32
their last bits depend on which seeds are trained together. So these seeds are part of the key, and a stage of which one
seed's entry is lost is trained by all of them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from trainables.batch import pixels_of
from trainables.pipeline.pipeline import Diverged, Pipeline
from trainables.plan.model import Plan
from trainables.training.acceleration.fusion import CannotFuse, FusedRun
from trainables.training.numerics import Numerics, why_apart
from trainables.training.stage_run import StageRun


def fused_stages(plan: Plan, numerics: Numerics, device: str, pixels: int) -> list[int]:
    """The stages of a plan that several seeds train as one network.

    Args:
        plan: The plan.
        numerics: What the trial asks for.
        device: "cpu" or "cuda".
        pixels: H·W of an image; 1 of features.
    """
    return [
        index
        for index, stage in enumerate(plan.stages)
        if not why_alone(plan, index) and numerics.fuses_trials(device, stage.batch_size * pixels)
    ]


def why_alone(plan: Plan, index: int) -> str:
    """What keeps the seeds of a recipe from being trained as one network in a stage; or ""."""
    if plan.stages[index].members > 1:
        return "members"
    trained_in_part = any(plan.stages[each].on("train") for each in plan.chain(index))
    return why_apart(plan.stages[index]) or ("a train trick" if trained_in_part else "")


class JointSeeds:
    """The pipeline of a trial, and those of other seeds with the same plan that are trained with it in fused stages.

    Args:
        lead: The trial's pipeline.
        others: Makes the pipelines of all seeds in their order, `None` in the lead's place. Not called where all of
            the lead's stages are finished, or none is fused.
    """

    def __init__(self, lead: Pipeline, others: Callable[[], Sequence[Pipeline | None]]) -> None:
        self.lead = lead
        pixels = pixels_of(lead.data.train_images)
        self._fusable = fused_stages(lead.plan, lead.context.numerics, lead.context.device.type, pixels)
        store = lead.executor.cache.store
        known = store is not None and all(store.has(keys[-1]) for keys in lead.keys)
        made = [] if known or not self._fusable else others()
        self._active = [lead if pipeline is None else pipeline for pipeline in made] or [lead]  # none that diverged
        self._others = [pipeline for pipeline in self._active if pipeline is not lead]
        self._run: FusedRun | None = None
        self._in_run: list[Pipeline] = []  # whose networks these are
        self._saved_at = 0.0

    @property
    def epochs_trained(self) -> int:
        """Epochs that were trained here for the other seeds."""
        return sum(pipeline.cost.epochs_trained for pipeline in self._others)

    @property
    def seconds(self) -> float:
        """Seconds that these epochs took."""
        return sum(pipeline.cost.seconds for pipeline in self._others)

    def advance(self) -> None:
        """Trains one epoch of the lead, or takes one of its finished stages from the store.

        Raises:
            Diverged: The lead has diverged. Another pipeline that diverges is dropped.
        """
        stage = self.lead.executor.state.stage
        if stage in self._fusable and len(self._active) > 1:
            self._advance_together(stage)
            return
        self.lead.advance()
        if self.lead.executor.state.stage > stage and stage < max(self._fusable, default=-1):
            # up to the next fused stage; after the last one, the trials of the other seeds take over
            for pipeline in [one for one in self._others if one in self._active]:
                try:
                    while pipeline.executor.state.stage == stage:
                        pipeline.advance()
                except Diverged:
                    self._active.remove(pipeline)

    def _advance_together(self, stage: int) -> None:
        if self._run is None:
            executors = [pipeline.executor for pipeline in self._active]
            found = [executor.cache.find(stage, executor.state.member) for executor in executors]
            whole = [each for each in found if each is not None]
            if len(whole) == len(executors):
                for executor, (snapshot, is_stage) in zip(executors, whole, strict=True):
                    executor.take(snapshot, is_stage)
                return
            try:
                self._start(stage)
            except CannotFuse:
                self._fusable.remove(stage)
                self.advance()
                return
        assert self._run is not None
        began = time.perf_counter()
        ends = self._run.train_epoch_of_each()
        seconds = (time.perf_counter() - began) / len(ends)
        save = time.perf_counter() - self._saved_at >= self.lead.executor.save_seconds
        for pipeline, diverged in zip(self._in_run, ends, strict=True):
            if pipeline not in self._active:
                continue
            if diverged is None:
                pipeline.executor.end_epoch(seconds, save)
            elif pipeline is self.lead:
                raise diverged
            else:
                self._active.remove(pipeline)
        if save:
            self._saved_at = time.perf_counter()
        if self._run.finished:
            self._run = None

    def _start(self, stage: int) -> None:
        """Starts a stage, or continues it if all pipelines stopped at the same epoch.

        Raises:
            CannotFuse: The networks cannot be stacked; each pipeline has started on its own.
        """
        alone = range(1)  # a fused stage has one member
        middles = [pipeline.executor.cache.unfinished(stage, alone) for pipeline in self._active]
        epochs = {middle[0].epochs if middle else 0 for middle in middles}
        runs = []
        for pipeline in self._active:
            run = pipeline.executor.start(None if len(epochs) == 1 else []).run
            assert isinstance(run, StageRun)
            runs.append(run)
        self._run, self._in_run = FusedRun(runs), list(self._active)
        self._saved_at = time.perf_counter()
