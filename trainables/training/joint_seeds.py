"""Several seeds of one recipe in one process: stages that can be are trained as one fused network.

One trial leads, and trains the stages of its companions beside its own. They are kept under the companions' own keys,
where the companions' own trials find them finished. Nothing is shared but the convolutions: splits, draws, losses,
evaluation and store entries are each seed's own, so in float64 the weights are those of separate trials to rounding.
In float32 they depend on the company in their last bits. So the company is in the key, and a stage of which one
companion's part is lost is trained by all of them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from trainables.pipeline.pipeline import Diverged, Pipeline
from trainables.plan.model import Plan
from trainables.training.fusion import CannotFuse, FusedRun
from trainables.training.numerics import Numerics, plain_sgd


def fused_stages(plan: Plan, numerics: Numerics, device: str, pixels: int) -> list[int]:
    """The stages of a plan that several seeds train as one network.

    Args:
        plan: The plan.
        numerics: What the trial asks for.
        device: "cpu" or "cuda".
        pixels: H·W of an image.
    """

    def alone(index: int) -> bool:
        stage = plan.stages[index]
        if not plain_sgd(stage):
            return True
        return stage.members > 1 or stage.views > 0 or any(plan.stages[i].on("train") for i in plan.chain(index))

    return [
        index
        for index, stage in enumerate(plan.stages)
        if not alone(index) and numerics.fuses_trials(device, stage.batch_size * pixels)
    ]


class Company:
    """A pipeline, and those of other seeds with the same plan, which are with it at every fused stage.

    Args:
        lead: What all of this is for.
        others: Makes the pipelines of the whole company in the order of their seeds, `None` in the lead's place. Not
            called where all of the lead's stages are finished, or none is fused.
    """

    def __init__(self, lead: Pipeline, others: Callable[[], Sequence[Pipeline | None]]) -> None:
        height, width = lead.data.train_images.shape[-2:]
        self.lead = lead
        self._fusable = fused_stages(lead.plan, lead.start.numerics, lead.start.device.type, height * width)
        known = lead.store is not None and all(lead.store.has(keys[-1]) for keys in lead.keys)
        made = [] if known or not self._fusable else others()
        self._going = [lead if pipeline is None else pipeline for pipeline in made] or [lead]  # none that has diverged
        self._others = [pipeline for pipeline in self._going if pipeline is not lead]
        self._run: FusedRun | None = None
        self._in_run: list[Pipeline] = []  # whose networks these are
        self._saved_at = 0.0

    @property
    def epochs_trained(self) -> int:
        """Epochs that were trained here for the others."""
        return sum(pipeline.cost.epochs_trained for pipeline in self._others)

    @property
    def seconds(self) -> float:
        """What these have taken."""
        return sum(pipeline.cost.seconds for pipeline in self._others)

    def advance(self) -> None:
        """Trains one epoch of the lead, or takes one of its finished stages from the store.

        Raises:
            Diverged: The lead has. Another one that has is left behind.
        """
        stage = self.lead.stage
        if stage in self._fusable and len(self._going) > 1:
            self._advance_together(stage)
            return
        self.lead.advance()
        if self.lead.stage > stage and stage < max(self._fusable, default=-1):
            # to where the next fused stage begins; behind the last one the others' own trials go on
            for pipeline in [one for one in self._others if one in self._going]:
                try:
                    while pipeline.stage == stage:
                        pipeline.advance()
                except Diverged:
                    self._going.remove(pipeline)

    def _advance_together(self, stage: int) -> None:
        if self._run is None:
            stored = [pipeline.stored() for pipeline in self._going]
            if None not in stored:
                for pipeline, found in zip(self._going, stored, strict=True):
                    assert found is not None
                    pipeline.take(*found)
                return
            try:
                self._begin()
            except CannotFuse:
                self._fusable.remove(stage)
                self.advance()
                return
        assert self._run is not None
        began = time.perf_counter()
        ends = self._run.train_epoch_of_each()
        seconds = (time.perf_counter() - began) / len(ends)
        keep = time.perf_counter() - self._saved_at >= self.lead.save_seconds
        for pipeline, diverged in zip(self._in_run, ends, strict=True):
            if pipeline not in self._going:
                continue
            if diverged is None:
                pipeline.behind_epoch(seconds, keep)
            elif pipeline is self.lead:
                raise diverged
            else:
                self._going.remove(pipeline)
        if keep:
            self._saved_at = time.perf_counter()
        if self._run.finished:
            self._run = None

    def _begin(self) -> None:
        """Begins a stage, from the middle where all of them were left at one epoch.

        Raises:
            CannotFuse: The networks cannot be stacked; each has begun by itself.
        """
        middles = {pipeline.left_at() for pipeline in self._going}
        runs = [pipeline.begin(from_start=len(middles) > 1) for pipeline in self._going]
        self._run, self._in_run = FusedRun(runs), list(self._going)
        self._saved_at = time.perf_counter()
