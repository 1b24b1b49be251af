"""Trains one stage: the only training loop.

At a stage's start, in this order: carry over, head, train, `Facts`, then the other tricks. An epoch draws its
images, and every batch goes through image tricks, the data set's own shift and flip, augment tricks,
normalisation, the mix, the network, the objective, one optimiser step, and the after-step tricks
(`trainables.registry` shows the loop with every seam).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.batch import Batch, Facts, Outputs
from trainables.models import Network
from trainables.objective import Objective
from trainables.plan.model import Plan, StagePlan
from trainables.registry import PlanError, entry, name_of
from trainables.training import linear_steps
from trainables.training.acceleration.batch_sharding import synchronise_batchnorm
from trainables.training.acceleration.cuda_graph import GraphedStep, can_be_captured
from trainables.training.batch_gradient import BatchGradient, StepGradient
from trainables.training.context import CarryOver, TrainingContext, copy_state
from trainables.training.feed import PARTNER_PURPOSES, PURPOSES, Epoch, StageFeed
from trainables.training.network_setup import (
    network_at_start,
    network_before_chain,
    network_before_stage,
    stage_facts,
)
from trainables.training.optimizer import (
    clip_gradient,
    load_optimizer,
    make_optimizer,
    save_optimizer,
    set_rate,
    start_momentum,
)
from trainables.training.own_modules import add_modules, load_modules, refuse_added_modules, refuse_other_modules
from trainables.training.schedule import schedule_of
from trainables.training.seeding import generator, sent
from trainables.training.weight_average import WeightAverage


class Diverged(ArithmeticError):
    """The loss, or a weight, is no longer a finite number."""


class StageRun:
    """One member of one stage, advanced epoch by epoch.

    Args:
        context: Data, network, seed, device.
        plan: The whole plan; heads of earlier stages shape the network.
        index: Number of the stage in the plan.
        member: Number of the member in the stage.
        carry_over: The state that the stage before hands over; `None` in the first stage.
        features: Returns the features of fixed views, from a store or by the function that is passed to compute them.
    """

    def __init__(
        self,
        context: TrainingContext,
        plan: Plan,
        index: int,
        member: int,
        carry_over: CarryOver | None,
        features: Callable[[Callable[[], Tensor]], Tensor] = lambda compute: compute(),
    ) -> None:
        self.context, self.plan, self.index, self.member = context, plan, index, member
        self.stage = plan.stages[index]
        self._chain_epochs = sum(plan.stages[i].epochs for i in plan.chain(index))
        continues = carry_over is not None and not plan.starts_chain(index)
        self._first_epoch = carry_over.chain_epoch if carry_over is not None and continues else 0
        self._first_step = carry_over.chain_step if carry_over is not None and continues else 0
        # an average continues as long as its trick stays on; a new one starts empty
        averages_from = _average_begins(plan, index)
        averaged = carry_over is not None and continues and averages_from < self._first_epoch
        average_so_far = dict(carry_over.averaged) if carry_over is not None and averaged else {}
        self.epoch = 0
        self.images = 0
        self.steps = 0
        self.train_loss = math.nan

        # members of one stage start from the same network and differ in their random draws
        shared = partial(generator, context.seed, plan.chain_number(index), "start")
        where = f"stage {self.stage.name!r}"
        self.network, groups = network_at_start(context, plan, index, shared, carry_over)
        backbone = self.network.backbone_parameters()
        self._frozen = self.network.fix_batchnorm and not any(parameter.requires_grad for parameter in backbone)
        own = stage_facts(context, self.network, self._chain_epochs, shared)
        if plan.chain_number(index):
            earlier = partial(network_before_chain, context, plan, index, shared, carry_over)
            own = replace(own, earlier_network=earlier)
        groups = [*groups, *add_modules(self.network, plan, index, own)]
        if carry_over is not None and continues:
            load_modules(self.network, carry_over.model)
        if average_so_far and self.network.extra:
            # the average of a module that is added later starts from its initial values
            average_so_far = copy_state(self.network.state_dict()) | average_so_far
        self.optimiser = make_optimizer(self.stage, groups, self.network)
        start_momentum(self.optimiser, [p for p in self.network.extra.parameters() if p.requires_grad])
        if carry_over is not None and continues:
            load_optimizer(self.optimiser, carry_over.optimiser)
        facts = stage_facts(context, self.network, self._chain_epochs, self._generator)
        facts = replace(facts, averages_from=averages_from)
        seen = facts
        if any("trained" in entry(trick.name).needs for seam in _OF_IMAGES for trick in self.stage.on(seam)):
            # a trick that passes images through the network needs the trained one, not one whose classifier this
            # stage has just reset
            seen = replace(facts, model=network_before_stage(context, plan, index, shared, carry_over))
        built = {
            seam: _built(self.stage, seam, seen if seam in _OF_IMAGES else facts, self.network) for seam in _BUILT_HERE
        }
        draw, partner, mix, average, self._step_trick = (
            next((function for _, function in built[seam]), None)
            for seam in ("draw", "partner", "mix", "average", "step")
        )
        self.average = WeightAverage(average, average_so_far)
        image, augment = ([function for _, function in built[seam]] for seam in _OF_IMAGES)
        made = [trick.made() for trick in self.stage.tricks]
        aside = sorted({view for each in made for view in getattr(each, "aside", ())})
        self.feed = StageFeed(context, self._chain_epochs, draw, image, augment, mix, partner, aside)
        self._shape = set(self.network.state_dict())
        self.objective = Objective(made, facts)
        functions = [pair for seam in _BUILT_HERE for pair in built[seam]] + self.objective.functions
        refuse_added_modules(where, [name for name, _ in self.objective.functions], self.network, self._shape)
        refuse_other_modules(where, functions, [*self.network.parameters(), *seen.model.parameters()])
        self._begin_epoch = [(name, f.begin_epoch) for name, f in functions if hasattr(f, "begin_epoch")]
        self.after_step = [function for _, function in built["after_step"]]
        self.after_step += [function.after_step for _, function in functions if hasattr(function, "after_step")]
        inside = [
            (_layer(trick.made(), self.network, where), function)
            for trick, (_, function) in zip(self.stage.on("inside"), built["inside"], strict=True)
        ]
        if self.stage.views:
            self.feed.features = features(lambda: self.feed.compute_features(self.network, self.stage.views))
        # cached features need no network, and every worker holds all of them
        self._sharding = replace(context.sharding, workers=1, rank=0) if self.stage.views else context.sharding
        synchronise_batchnorm(self.network, self._sharding, context.device)
        self.gradient = BatchGradient(
            self.network, self.objective, self.stage.reduction, self._sharding, mix, self._generator, inside
        )
        self._graphed: GraphedStep | None = None
        self._fixed_features = linear_steps.fixed_features(self)

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained."""
        return self.epoch >= self.stage.epochs

    def train_epoch(self) -> None:
        """Trains one epoch.

        Raises:
            Diverged: The epoch's mean loss, or a weight after it, is not finite.
        """
        epoch = self.begin_epoch()
        if self._fixed_features is not None:
            self.end_epoch(epoch, linear_steps.train(self, epoch, self._fixed_features))
            return
        self.gradient.connect()
        if self._graphed is None:
            asked = self.context.numerics.graph == "on" and self._sharding.count == 1
            if asked and can_be_captured(self.stage, self.context.device):
                size = min(self.stage.batch_size, epoch.images)
                # a step reads nothing of the epoch that changes between epochs
                one_step = partial(self._step, epoch, features=None)
                self._graphed = GraphedStep(one_step, self.network, self.optimiser, size)
        total = torch.zeros((), device=self.context.device)
        for step, (batch, features) in enumerate(epoch.stream):
            set_rate(self.optimiser, self.rate(epoch, step))
            if self._graphed is None:
                batch, outputs, loss = self._step(epoch, batch, features)
            else:
                batch, outputs, loss = self._graphed(batch)
            self.end_step(batch, outputs)
            total += loss
        self.end_epoch(epoch, total)

    def _step(self, epoch: Epoch, batch: Batch, features: Tensor | None) -> tuple[Batch, Outputs, Tensor]:
        """One step of the optimiser; see `BatchGradient` for what it returns."""
        self.optimiser.zero_grad(set_to_none=True)
        number = self._first_step + self.steps
        if self._step_trick is None:
            batch, outputs, loss = self.gradient(epoch, batch, features, number)
        else:
            gradient = StepGradient(self.gradient, epoch, batch, features, number)
            self._step_trick(gradient, self.optimiser)
            assert gradient.first is not None, "a step trick computes a gradient"
            batch, outputs, loss = gradient.first
        self._update()
        return batch, outputs, loss

    def _update(self) -> None:
        """Clips the gradient where the stage asks for it, and takes the optimiser's step."""
        clip_gradient(self.optimiser, self.stage.clip)
        self.optimiser.step()

    # --- the steps of an epoch, which `FusedRun` calls for several members at once ------------------------------

    def images_in(self, epoch: int) -> int:
        """Number of images that an epoch of the stage draws."""
        chain_epoch = self._first_epoch + epoch
        return len(self.feed.indices(chain_epoch, self._generator("draw", chain_epoch)))

    def begin_epoch(self) -> Epoch:
        """Draws the next epoch's images, and puts the network into training mode."""
        chain_epoch = self._first_epoch + self.epoch
        with torch.no_grad():
            for name, begin in self._begin_epoch:
                begin(self.feed.progress(chain_epoch), self._generator(f"begin {name}", chain_epoch))
        purposes = (*PURPOSES, *PARTNER_PURPOSES) if self.stage.on("partner") else PURPOSES
        draws = {purpose: self._generator(purpose, chain_epoch) for purpose in purposes}
        indices = sent(self.feed.indices(chain_epoch, draws["draw"]), self.context.device)
        weights = self.objective.weights(self.context.data.train_labels[indices])
        expected = float(weights.mean()) if self.objective.weighted else 1.0
        if not expected > 0:
            raise PlanError(f"stage {self.stage.name!r}: the weights of all drawn images are 0")
        batches = list(_split(indices, self.stage.batch_size))
        self.network.train()
        stream = self.feed.batches(batches, draws, self.feed.partners(chain_epoch, batches, draws))
        return Epoch(chain_epoch, len(indices), len(batches), expected, stream, draws["loss"], batches, draws)

    def rate(self, epoch: Epoch, step: int) -> float:
        """The learning rate of a step."""
        position = epoch.number + step / epoch.steps
        return self.stage.lr * schedule_of(self.stage.schedule)(position, self._chain_epochs)

    @torch.no_grad()
    def end_step(self, batch: Batch, outputs: Outputs) -> None:
        """Runs the after-step tricks and updates the average, after the optimiser's step."""
        for after in self.after_step:
            after(self.network, outputs, batch)
        self._count_step()

    def take_step(self, epoch: Epoch, step: int) -> None:
        """Takes the optimiser's step along the current gradient; for stages without after-step tricks."""
        set_rate(self.optimiser, self.rate(epoch, step))
        self._update()
        self._count_step()

    def _count_step(self) -> None:
        self.steps += 1
        self.average.update(self.network, self._first_step + self.steps, None)

    def end_epoch(self, epoch: Epoch, total: Tensor) -> None:
        """Counts the epoch and checks that loss and weights are finite.

        Args:
            epoch: The epoch that `begin_epoch` returned.
            total: Sum of the losses of its steps.

        Raises:
            Diverged: The mean loss, or a weight, is not finite.
        """
        self.epoch += 1
        with torch.no_grad():
            self.average.update(self.network, self._first_step + self.steps, epoch.number + 1)
        self._sharding.broadcast(dict(self.network.named_buffers()), self.average.state)
        self.images += epoch.images
        self.train_loss = float(self._sharding.sum_over_workers(total)) / epoch.steps
        where = f"stage {self.stage.name!r}, epoch {self.epoch}"
        if not math.isfinite(self.train_loss):
            raise Diverged(f"{where}: the training loss is {self.train_loss}")
        # the last step of an epoch may have broken a weight or a statistic; a frozen backbone with fixed
        # statistics does not move
        if self.epoch == 1:
            refuse_added_modules(where, [trick.name for trick in self.stage.tricks], self.network, self._shape)
        moving = self.network.head if self._frozen else self.network
        if not torch.stack([tensor.isfinite().all() for tensor in moving.state_dict().values()]).all():
            raise Diverged(f"{where}: a weight is no longer finite")

    # --- hand-over and resuming ----------------------------------------------------------------------------------

    def carry_over(self) -> CarryOver:
        """The state that the next stage starts from."""
        return CarryOver(
            copy_state(self.network.state_dict()),
            save_optimizer(self.optimiser),
            self._first_epoch + self.epoch,
            self._first_step + self.steps,
            copy_state(self.average.state),
        )

    def load(self, carry_over: CarryOver, epoch: int, images: int, steps: int) -> None:
        """Resumes in the middle of the stage, from a state that `carry_over` returned there."""
        self.network.load_state_dict(carry_over.model)
        load_optimizer(self.optimiser, carry_over.optimiser)
        self.average.state = dict(carry_over.averaged)
        self.epoch, self.images, self.steps = epoch, images, steps

    def _generator(self, purpose: str, epoch: int = -1) -> torch.Generator:
        return generator(self.context.seed, self.plan.chain_number(self.index), self.member, purpose, epoch)


_BUILT_HERE = ("draw", "partner", "image", "augment", "mix", "inside", "step", "after_step", "average")
_OF_IMAGES = ("image", "augment")


def _built(stage: StagePlan, seam: str, facts: Facts, network: Network) -> list[tuple[str, Any]]:
    """Name and function of each trick of a seam, in the order of the plan."""
    built, before = [], list(network.state_dict())
    for trick in stage.on(seam):
        built.append((trick.name, trick.made().build(facts)))
        refuse_added_modules(f"stage {stage.name!r}", [trick.name], network, before)
    return built


def _layer(made: Any, network: Network, where: str) -> str:
    """The layer that a trick of the inside seam acts behind.

    Raises:
        PlanError: The network has no such layer, or its head has replaced it.
    """
    pooled = getattr(network.head, "reads", "pool") == "pool"
    known = (*network.backbone, *(("pool",) if pooled else ()))
    layer = str(made.layer)
    if layer not in known:
        raise PlanError(f"{where}: {name_of(made)} acts behind {layer!r}, and the network has {', '.join(known)}")
    return layer


def _average_begins(plan: Plan, index: int) -> int:
    """Epoch of the chain at which the stage's averaging trick starts."""
    chain = plan.chain(index)
    own = [(trick.name, trick.numbers) for trick in plan.stages[index].on("average")]
    first = index
    while first > chain[0] and own == [(trick.name, trick.numbers) for trick in plan.stages[first - 1].on("average")]:
        first -= 1
    return sum(plan.stages[i].epochs for i in range(chain[0], first))


def _split(indices: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Batches; a single left-over image joins the last one, because BatchNorm has no variance of one value."""
    batches = list(indices.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches
