"""Runs the stages of one trial in order: carries over, merges members, re-uses what the store has.

A `Pipeline` advances by the smallest unit that can be repeated exactly, one epoch. Its `state` between two epochs is
enough to continue on another machine or after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.data import LongTailed
from trainables.deployment import Deployment
from trainables.evaluation.summary import UNWEIGHTED, summary
from trainables.models import Network, build, input_format
from trainables.pipeline.executor import StageExecutor
from trainables.pipeline.keys import stage_keys, start_key, trial_context
from trainables.pipeline.snapshot import Cost, PipelineState, Point
from trainables.pipeline.stage_cache import StageCache
from trainables.pipeline.store import StageStore
from trainables.plan.model import Plan
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.context import TrainingContext
from trainables.training.evaluator import Evaluator
from trainables.training.network_setup import trained_network
from trainables.training.numerics import Numerics
from trainables.training.own_modules import refuse_parts
from trainables.training.stage_run import Diverged

SAVE_SECONDS = 5.0
"""Minimum seconds between two saves of an unfinished stage; a crash loses this, or one epoch if that is longer."""

__all__ = ["Cost", "Diverged", "Pipeline", "Point"]


def normalised_for(model: str, data: LongTailed) -> LongTailed:
    """The data with the mean and standard deviation that a pretrained network expects; unchanged for others."""
    expected = input_format(model)
    if expected is None or data.kind == "features":
        return data
    mean, std = map(torch.tensor, expected.of_channels(int(data.train_images.shape[1])))
    return replace(data, mean=mean, std=std)


class Pipeline:
    """Trains one plan with one seed.

    Args:
        plan: The plan to train.
        data: The data, on any device; moved to `device`.
        model: A name of `trainables.models`.
        seed: Seed of the trial.
        device: Where to train.
        store: Finished stages; without one everything is trained.
        evaluate: Whether to evaluate on `val` during training (a final training has no `val`). Stages that were stored
            without evaluations are never re-used by pipelines that evaluate.
        numerics: Precision, memory format and other numerical settings.
        save_seconds: Minimum seconds between two saves of an unfinished stage.
        deployment: Prior and costs for additional weighted metrics.
        sharding: How batches are divided among processes, and this process's share.
        joint_seeds: (seed, fingerprint of its data) of all seeds that are trained in one network with this one,
            including itself; see `trainables.pipeline.joint_seeds`.
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
        deployment: Deployment = UNWEIGHTED,
        sharding: BatchSharding | None = None,
        joint_seeds: Sequence[tuple[int, str]] = (),
    ) -> None:
        self.plan, self.deployment = plan, deployment
        self.data = normalised_for(model, data).to(device)
        network = partial(_fresh, model, data.classes, int(data.train_images.shape[1]))
        sharding = sharding or BatchSharding()
        if sharding.count > 1:
            refuse_parts(plan)
        self.context = TrainingContext(self.data, network, seed, device, numerics or Numerics(), sharding)
        outside = trial_context(data.fingerprint, model, seed, device, numerics, joint_seeds) | sharding.key_fields()
        self.keys = stage_keys(plan, outside if evaluate else {**outside, "measured": False})
        self.first_stage = self.keys[0][-1]
        """Id of the first stage's checkpoint: the unit of replication for claims about first-stage tricks."""
        cache = StageCache(store, plan, self.keys, seed, device, start_key(outside))
        self.executor = StageExecutor(plan, self.context, cache, evaluate, save_seconds)

    @property
    def finished(self) -> bool:
        """Whether every stage is finished."""
        return self.executor.finished

    @property
    def points(self) -> list[Point]:
        """Every evaluation so far, including those of re-used stages."""
        return self.executor.state.points

    @property
    def cost(self) -> Cost:
        """The cost so far."""
        return self.executor.state.cost

    @property
    def reused(self) -> list[str]:
        """Names of the stages (`name#member` for members) that came from the store."""
        return self.executor.state.reused

    @property
    def progress(self) -> float:
        """Trained fraction of the plan, in [0, 1]; the members of a stage share its fraction."""
        state, training = self.executor.state, self.executor.training
        done = float(self.plan.epochs_before(state.stage))
        if not self.finished:
            stage = self.plan.stages[state.stage]
            inside = training.run.epoch * len(training.unfinished(state.member)) if training is not None else 0
            done += (state.member * stage.epochs + inside) / stage.members
        return done / self.plan.epochs

    def advance(self) -> list[Point]:
        """Trains one epoch, or takes one finished stage from the store.

        Returns:
            The new evaluations: several if a stage was re-used, because its history is replayed.

        Raises:
            Diverged: The loss is no longer finite.
        """
        before = len(self.points)
        self.executor.advance()
        return self.points[before:]

    def run(self) -> None:
        """Advances to the end."""
        while not self.finished:
            self.advance()

    def network(self) -> Network:
        """The trained network with the last stage's head; requires `finished`."""
        carry_over = self.executor.state.carry_over
        assert self.finished and carry_over is not None
        return trained_network(self.context, self.plan, len(self.plan.stages) - 1, carry_over.result).eval()

    def result(self, prefix: str = "final") -> tuple[dict[str, float], list[float], list[int]]:
        """Metrics (`final/accuracy`, …), recalls per class and correctness per image of the last evaluation."""
        last = self.executor.state.last
        return summary(last, self.data.counts, self.data.val_labels, prefix, self.deployment)

    def val_logits(self) -> Tensor:
        """(M, C) float64 logits of val; only when finished."""
        last = len(self.plan.stages) - 1

        def features(split: str, compute: Callable[[], Tensor]) -> Tensor:
            executor = self.executor
            return executor.cache.split_features(last, split, executor.state.ancestors[:last], compute)

        return Evaluator(self.context, self.plan, last, stored=features).logits(self.network())

    def measured_on_test(self) -> tuple[dict[str, Any], Tensor]:
        """What `Evaluator.measured` returns of the test split. Only for confirmed recipes: test may select nothing."""
        return Evaluator(self.context, self.plan, len(self.plan.stages) - 1, split="test").measured(self.network())

    def test(self, deployment: Deployment | None = None) -> tuple[dict[str, float], list[float], list[int]]:
        """Metrics, recalls per class and correctness per image on the test split, see `measured_on_test`.

        Args:
            deployment: Prior and costs (default: those of the pipeline).
        """
        last, _ = self.measured_on_test()
        return summary(last, self.data.counts, self.data.test_labels, "test", deployment or self.deployment)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-serialisable values from which `load_state` continues exactly."""
        return replace(self.executor.state, training=self.executor.snapshots()).save()

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continues exactly from a state that `state` returned."""
        self.executor.load(PipelineState.load(tensors, state, self.context.device))


def _fresh(model: str, classes: int, channels: int, generator: torch.Generator) -> Network:
    return build(model, classes=classes, channels=channels, generator=generator)
