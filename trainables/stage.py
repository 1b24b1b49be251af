"""Trains one stage: the only training loop.

At a stage's start, in this order: take over, head, train, `Facts`, then the other tricks. An epoch draws its
images, and every batch goes through image tricks, the data set's own shift and flip, augment tricks,
normalisation, the mix, the network, the objective, one optimiser step, and the after-step tricks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables import metrics
from trainables.batch import Batch, Facts, Outputs
from trainables.data import LongTailed
from trainables.data.augment import shift_and_flip
from trainables.models import Network
from trainables.objective import Objective, reduce
from trainables.plan import Plan
from trainables.registry import PlanError
from trainables.schedule import SCHEDULES
from trainables.seeding import generator

State = dict[str, Tensor]

EVALUATION_BATCH = 1024


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Handed:
    """What one stage hands to the next.

    Args:
        model: State of the network, buffers included.
        optimiser: Momentum buffers by position of the parameter; empty where a new chain must start.
        chain_epoch: Epochs of the chain that lie behind.
    """

    model: State
    optimiser: State = field(default_factory=dict)
    chain_epoch: int = 0


@dataclass(frozen=True)
class Start:
    """What a stage is trained from, apart from the plan: data, network, seed, place."""

    data: LongTailed
    network: Callable[[torch.Generator], Network]
    seed: int
    device: torch.device


class StageRun:
    """One member of one stage, advanced epoch by epoch.

    Args:
        start: Data, network, seed, device.
        plan: The whole plan; heads of earlier stages shape the network.
        index: Which stage of the plan.
        member: Which of the stage's members.
        handed: From the stage before; `None` in the first one.
    """

    def __init__(self, start: Start, plan: Plan, index: int, member: int, handed: Handed | None) -> None:
        self.start, self.plan, self.index, self.member = start, plan, index, member
        self.stage = plan.stages[index]
        self.data = start.data
        self._chain = plan.chain(index)
        self._chain_epochs = sum(plan.stages[i].epochs for i in self._chain)
        self._first_epoch = handed.chain_epoch if handed is not None and not plan.starts_chain(index) else 0
        self.epoch = 0
        self.images = 0
        self.steps = 0
        self.train_loss = math.nan

        # members of one stage start from the same network and differ in what they draw
        self.network, groups = assemble(start, plan, index, self._shared_generator, handed)
        self.optimiser = torch.optim.SGD(
            [_group(group, self.stage.lr) for group in groups],
            lr=self.stage.lr,
            momentum=self.stage.momentum,
            weight_decay=self.stage.weight_decay,
            nesterov=self.stage.nesterov,
        )
        if handed is not None and not plan.starts_chain(index):
            _load_optimiser(self.optimiser, handed.optimiser)
        tricks = {seam: [t.made() for t in self.stage.on(seam)] for seam in _BUILT_HERE}
        facts = stage_facts(start, self.network, self.stage.epochs, self._generator)
        built = {seam: [made.build(facts) for made in sitting] for seam, sitting in tricks.items()}
        self._draw, self._mix = (next(iter(built[seam]), None) for seam in ("draw", "mix"))
        self._image, self._augment, self._after_step = (built[seam] for seam in ("image", "augment", "after_step"))
        self.objective = Objective([t.made() for t in self.stage.tricks], facts)

    @property
    def finished(self) -> bool:
        """Whether every epoch is behind."""
        return self.epoch >= self.stage.epochs

    def train_epoch(self) -> None:
        """Trains one epoch.

        Raises:
            Diverged: The epoch's mean loss is not finite.
        """
        chain_epoch = self._first_epoch + self.epoch
        draws = {purpose: self._generator(purpose, chain_epoch) for purpose in _PURPOSES}
        indices = self._indices(chain_epoch, draws["draw"])
        weights = self.objective.weights(self.data.train_labels[indices.to(self.start.device)])
        expected = float(weights.mean()) if self.objective.weighted else 1.0
        if not expected > 0:
            raise PlanError(f"stage {self.stage.name!r}: the weights of all drawn images are 0")
        batches = list(_split(indices, self.stage.batch_size))
        self.network.train()
        total = torch.zeros((), device=self.start.device)
        for step, index in enumerate(batches):
            self._set_rate(chain_epoch + step / len(batches))
            batch = self._batch(index, draws)
            outputs = self.network(batch.images, batch.blend)
            losses, penalties = self.objective.parts(
                outputs, batch.y, batch.share, batch=batch, generator=draws["loss"]
            )
            mixed = (self.objective.weights(batch.y) * batch.share).sum(dim=1)
            loss = reduce(losses, mixed, expected, self.stage.reduction) + penalties.mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            with torch.no_grad():
                for after in self._after_step:
                    after(self.network, outputs, batch)
            total += loss.detach()
        self.epoch += 1
        self.steps += len(batches)
        self.images += len(indices)
        self.train_loss = float(total) / len(batches)
        if not math.isfinite(self.train_loss):
            raise Diverged(f"stage {self.stage.name!r}, epoch {self.epoch}: the training loss is {self.train_loss}")

    def handed(self) -> Handed:
        """What the next stage takes over."""
        return Handed(_copy(self.network.state_dict()), _save_optimiser(self.optimiser), self._first_epoch + self.epoch)

    def load(self, handed: Handed, epoch: int, images: int, steps: int) -> None:
        """Continues from the middle of the stage."""
        self.network.load_state_dict(handed.model)
        _load_optimiser(self.optimiser, handed.optimiser)
        self.epoch, self.images, self.steps = epoch, images, steps

    def _generator(self, purpose: str, epoch: int = -1) -> torch.Generator:
        return generator(self.start.seed, self.plan.chain_number(self.index), self.member, purpose, epoch)

    def _shared_generator(self, purpose: str) -> torch.Generator:
        return generator(self.start.seed, self.plan.chain_number(self.index), "start", purpose)

    def _indices(self, chain_epoch: int, draws: torch.Generator) -> Tensor:
        if self._draw is None:
            return torch.randperm(len(self.data.train_labels), generator=draws)
        # of the chain, as the papers count: a stage that keeps its draw goes on where the one before it ended
        indices: Tensor = self._draw(chain_epoch / max(1, self._chain_epochs - 1), draws)
        return indices

    def _batch(self, index: Tensor, draws: Mapping[str, torch.Generator]) -> Batch:
        index = index.to(self.start.device)
        batch = Batch.plain(self.data.train_images[index], index, self.data.train_labels[index])
        for change in self._image:
            batch = change(batch, draws["image"])
        batch = batch.with_images(shift_and_flip(batch.images, self.data.pad, self.data.flip, draws["shift"]))
        for change in self._augment:
            batch = change(batch, draws["augment"])
        batch = batch.with_images(self.data.normalise(batch.images))
        if self._mix is not None:
            batch = self._mix(batch, draws["mix"])
        return batch

    def _set_rate(self, position: float) -> None:
        factor = SCHEDULES[self.stage.schedule](position, self._chain_epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = self.stage.lr * group["lr_scale"] * factor


_BUILT_HERE = ("draw", "image", "augment", "mix", "after_step")
_PURPOSES = ("draw", "image", "shift", "augment", "mix", "loss")


def stage_facts(start: Start, network: Network, epochs: int, generators: Callable[[str], torch.Generator]) -> Facts:
    """What the tricks of a stage may know."""
    data = start.data

    def score(state: Mapping[str, Tensor]) -> Tensor:
        kept = _copy(network.state_dict())
        network.load_state_dict(dict(state))
        logits = evaluate(network, data.train_images, data)
        network.load_state_dict(kept)
        return metrics.recalls(logits.argmax(dim=1), data.train_labels, data.classes)

    return Facts(
        counts=data.counts,
        labels=data.train_labels,
        epochs=epochs,
        device=start.device,
        model=network,
        images=data.train_images,
        normalise=data.normalise,
        pixel_mean=data.mean,
        start=_copy(network.state_dict()),
        score=score,
        generators=generators,
    )


def assemble(
    start: Start,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    handed: Handed | None,
) -> tuple[Network, list[dict[str, Any]]]:
    """The network at a stage's start, and the parameter groups that learn.

    Heads and train tricks of earlier chains give the network its shape, the handed state its weights. Where a chain starts,
    the stage's own head and train tricks then act on it; inside a chain, those of the chain's first stage are
    in force already, and the handed state has the last word.
    """
    network = start.network(generator(start.seed, "init")).to(start.device)
    first = plan.chain(index)[0]
    starts = index == first
    for earlier in plan.stages[: first if starts else first + 1]:
        network = _change_head(start, network, earlier.on("head"), earlier.epochs, generators)
        for trick in earlier.on("train"):
            reshape = getattr(trick.made(), "reshape", None)
            network = network if reshape is None else reshape(network)
    if starts and handed is not None:
        network.load_state_dict(handed.model)
    if starts:
        network = _change_head(start, network, plan.stages[index].on("head"), plan.stages[index].epochs, generators)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    for trick in plan.stages[first].on("train"):
        groups = trick.made().build(stage_facts(start, network, plan.stages[index].epochs, generators))(network)
    if not starts and handed is not None:
        network.load_state_dict(handed.model)
    return network.to(start.device), groups


@torch.no_grad()
def evaluate(
    network: Network,
    images: Tensor,
    data: LongTailed,
    readout: Callable[[Outputs], Tensor] | None = None,
    views: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits (M, C) of images (M, c, H, W), in evaluation mode and without augmentation.

    Args:
        network: The network.
        images: uint8.
        data: For the normalisation.
        readout: Turns outputs into logits; the network's own where absent.
        views: images (B, c, H, W) -> (V, B, c, H, W), where a readout asks for several.
    """
    training = network.training
    network.eval()
    parts = []
    for batch in images.split(EVALUATION_BATCH):
        seen = views(batch) if views is not None else batch[None]
        outputs = network(data.normalise(seen))
        parts.append(outputs.logits if readout is None else readout(outputs))
    network.train(training)
    return torch.cat(parts)


def measure(run_network: Network, start: Start, plan: Plan, index: int, split: str = "val") -> dict[str, Any]:
    """Evaluates a network at one point of a stage.

    Returns:
        "loss", "accuracy", "adjusted" (post-hoc logit adjustment, Menon et al. 2021, arXiv:2007.07314, eq. 9,
        τ = 1) and "class_means" (nearest mean of the training features by cosine), all as fractions but the
        loss: the last two are what a second stage would roughly reach. Also "recalls" (C,), "correct" (M,) and
        "calibration_error".
    """
    data, stage = start.data, plan.stages[index]
    images, labels = (data.val_images, data.val_labels) if split == "val" else (data.test_images, data.test_labels)
    chain = plan.chain_number(index)
    facts = stage_facts(start, run_network, stage.epochs, lambda purpose: generator(start.seed, chain, purpose))
    made = [trick.made() for trick in stage.on("readout")]
    readout = made[0].build(facts) if made else None
    views = getattr(made[0], "views", None) if made else None
    logits = evaluate(run_network, images, data, readout, views).double()
    recalls = metrics.recalls(logits.argmax(dim=1), labels, data.classes)
    prior = (data.counts.double() / data.counts.sum()).clamp(min=1e-12).log().to(logits.device)
    return {
        "loss": float(functional.cross_entropy(logits, labels)),
        "accuracy": float(recalls.mean()),
        "adjusted": float(metrics.recalls((logits - prior).argmax(dim=1), labels, data.classes).mean()),
        "class_means": _class_means(run_network, facts, images, labels, data),
        "calibration_error": metrics.calibration_error(logits.softmax(dim=1), labels),
        "recalls": [float(recall) for recall in recalls],
        "correct": (logits.argmax(dim=1) == labels).int().tolist(),
    }


@torch.no_grad()
def _class_means(network: Network, facts: Facts, images: Tensor, labels: Tensor, data: LongTailed) -> float:
    training = network.training
    features = facts.features()
    sums = features.new_zeros(data.classes, features.shape[1]).index_add_(0, data.train_labels, features)
    means = functional.normalize(sums, dim=1)
    network.eval()
    seen = torch.cat([network(data.normalise(batch)).features for batch in images.split(EVALUATION_BATCH)])
    network.train(training)
    nearest = (functional.normalize(seen, dim=1) @ means.T).argmax(dim=1)
    return float(metrics.recalls(nearest, labels, data.classes).mean())


def merge(start: Start, plan: Plan, index: int, members: Sequence[State], handed: Handed | None) -> Handed:
    """Merges the members of a stage into one network; a new chain starts behind it."""

    chain = plan.chain_number(index)

    def generators(kind: str, purpose: str) -> torch.Generator:
        return generator(start.seed, chain, kind, purpose)

    stage = plan.stages[index]
    # the members' own start, so that a merge that goes back towards it finds it
    network, _ = assemble(start, plan, index, partial(generators, "start"), handed)
    facts = stage_facts(start, network, stage.epochs, partial(generators, "merge"))
    merged: State = stage.on("merge")[0].made().build(facts)(list(members))
    return Handed(_copy(merged))


def _change_head(
    start: Start,
    network: Network,
    heads: Sequence[Any],
    epochs: int,
    generators: Callable[[str], torch.Generator],
) -> Network:
    for trick in heads:
        network = trick.made().build(stage_facts(start, network, epochs, generators))(network)
    return network


def _split(indices: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Batches; a single left-over image joins the last one, because BatchNorm has no variance of one value."""
    batches = list(indices.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def _group(group: Mapping[str, Any], lr: float) -> dict[str, Any]:
    scale = group.get("lr_scale", 1.0)
    return {**group, "lr_scale": scale, "lr": lr * scale}


def _copy(state: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _parameters(optimiser: torch.optim.Optimizer) -> Iterator[Any]:
    for group in optimiser.param_groups:
        yield from group["params"]


def _save_optimiser(optimiser: torch.optim.Optimizer) -> State:
    buffers = {}
    for position, parameter in enumerate(_parameters(optimiser)):
        momentum = optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            buffers[str(position)] = momentum.detach().clone()
    return buffers


def _load_optimiser(optimiser: torch.optim.Optimizer, buffers: Mapping[str, Tensor]) -> None:
    for position, parameter in enumerate(_parameters(optimiser)):
        if str(position) in buffers:
            optimiser.state[parameter]["momentum_buffer"] = buffers[str(position)].clone().to(parameter.device)
