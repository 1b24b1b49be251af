"""Trains one stage: the only training loop.

At a stage's start, in this order: take over, head, train, `Facts`, then the other tricks. An epoch draws its
images, and every batch goes through image tricks, the data set's own shift and flip, augment tricks,
normalisation, the mix, the network, the objective, one optimiser step, and the after-step tricks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables import metrics
from trainables.batch import Batch, Facts, Outputs, evaluation_batch
from trainables.data import LongTailed
from trainables.data.augment import own
from trainables.data.loaders import feed_of
from trainables.models import Network
from trainables.objective import Objective, reduce
from trainables.plan.model import Plan, StagePlan
from trainables.registry import PlanError, entry
from trainables.training import linear_steps
from trainables.training.batch_sharding import Parts, blended_at_input, rows_of, synchronised, unmixed
from trainables.training.cuda_graph import GraphedStep, can_be_captured
from trainables.training.numerics import Numerics
from trainables.training.optimizer import clip_gradient, optimizer_of, restore, saved, set_rate
from trainables.training.schedule import schedule_of
from trainables.training.seeding import generator, sent

State = dict[str, Tensor]


class Diverged(ArithmeticError):
    """The loss, or a weight, is no longer a finite number."""


@dataclass(frozen=True)
class Handed:
    """What one stage hands to the next.

    Args:
        model: State of the network, buffers included.
        optimiser: Momentum buffers by position of the parameter; empty where a new chain must start.
        chain_epoch: Epochs of the chain that lie behind.
        chain_step: Steps of the chain that lie behind.
        averaged: The averaged network, where a trick keeps one: what is evaluated, and what a new chain starts from.
    """

    model: State
    optimiser: State = field(default_factory=dict)
    chain_epoch: int = 0
    chain_step: int = 0
    averaged: State = field(default_factory=dict)

    @property
    def result(self) -> State:
        """The weights that the stage is judged by."""
        return self.averaged or self.model


@dataclass(frozen=True)
class Start:
    """What a stage is trained from, apart from the plan: data, network, seed, place, numerics, parts of a batch."""

    data: LongTailed
    network: Callable[[torch.Generator], Network]
    seed: int
    device: torch.device
    numerics: Numerics = field(default_factory=Numerics)
    parts: Parts = field(default_factory=Parts)


@dataclass(frozen=True)
class Epoch:
    """An epoch that has begun.

    Args:
        number: Epochs of the chain before it.
        images: How many it draws.
        steps: In how many batches.
        expected: Mean weight of its images.
        stream: The batches, with features where they are cached.
        generator: For losses that draw.
        batches: The indices of each batch.
        draws: A generator for each purpose.
    """

    number: int
    images: int
    steps: int
    expected: float
    stream: Iterator[tuple[Batch, Tensor | None]]
    generator: torch.Generator
    batches: Sequence[Tensor]
    draws: Mapping[str, torch.Generator]


class StageRun:
    """One member of one stage, advanced epoch by epoch.

    Args:
        start: Data, network, seed, device.
        plan: The whole plan; heads of earlier stages shape the network.
        index: Which stage of the plan.
        member: Which of the stage's members.
        handed: From the stage before; `None` in the first one.
        kept: Features that were computed before: given how to compute them, they are taken or computed.
    """

    def __init__(
        self,
        start: Start,
        plan: Plan,
        index: int,
        member: int,
        handed: Handed | None,
        kept: Callable[[Callable[[], Tensor]], Tensor] = lambda compute: compute(),
    ) -> None:
        self.start, self.plan, self.index, self.member = start, plan, index, member
        self.stage = plan.stages[index]
        self.data = start.data
        self._chain_epochs = sum(plan.stages[i].epochs for i in plan.chain(index))
        continues = handed is not None and not plan.starts_chain(index)
        self._first_epoch = handed.chain_epoch if handed is not None and continues else 0
        self._first_step = handed.chain_step if handed is not None and continues else 0
        # an average goes on where its trick does; where it comes on anew, it knows nothing of what was before
        averages_from = _average_begins(plan, index)
        goes_on = handed is not None and continues and averages_from < self._first_epoch
        self.averaged: State = dict(handed.averaged) if handed is not None and goes_on else {}
        self.epoch = 0
        self.images = 0
        self.steps = 0
        self.train_loss = math.nan

        # members of one stage start from the same network and differ in what they draw
        self.network, groups = assemble(start, plan, index, self._shared_generator, handed)
        backbone = self.network.backbone_parameters()
        self._frozen = self.network.fix_batchnorm and not any(parameter.requires_grad for parameter in backbone)
        self.optimiser = optimizer_of(self.stage, groups, self.network)
        if handed is not None and continues:
            restore(self.optimiser, handed.optimiser)
        tricks = {seam: [t.made() for t in self.stage.on(seam)] for seam in _BUILT_HERE}
        facts = stage_facts(start, self.network, self._chain_epochs, self._generator)
        facts = replace(facts, averages_from=averages_from)
        seen = facts
        if any("trained" in entry(trick.name).needs for seam in _OF_IMAGES for trick in self.stage.on(seam)):
            # what looks at images through the network looks through the trained one, not through a classifier that
            # this stage has just reset
            seen = replace(facts, model=handed_over(start, plan, index, self._shared_generator, handed))
        built = {
            seam: [made.build(seen if seam in _OF_IMAGES else facts) for made in sitting]
            for seam, sitting in tricks.items()
        }
        self._draw, self.mix, self._average = (next(iter(built[seam]), None) for seam in ("draw", "mix", "average"))
        self._image, self._augment, self._after_step = (built[seam] for seam in ("image", "augment", "after_step"))
        self.objective = Objective([t.made() for t in self.stage.tricks], facts)
        self._features = kept(self._view_features) if self.stage.views else None
        self._shadow: Network | None = None
        # features that are cached need no network, and every worker has them all
        self._parts = start.parts if self._features is None else replace(start.parts, workers=1, rank=0)
        synchronised(self.network, self._parts, start.device)
        self._called: torch.nn.Module | None = None
        self._graphed: GraphedStep | None = None
        self._fixed = linear_steps.fixed_features(self, self._features)

    @property
    def finished(self) -> bool:
        """Whether every epoch is behind."""
        return self.epoch >= self.stage.epochs

    def train_epoch(self) -> None:
        """Trains one epoch.

        Raises:
            Diverged: The epoch's mean loss, or a weight behind it, is not finite.
        """
        epoch = self.begin_epoch()
        if self._fixed is not None:
            self.end_epoch(epoch, linear_steps.train(self, epoch, self._fixed))
            return
        if self._called is None:  # not before all workers are here
            self._called = self._parts.parallel(self.network)
            self._graphed = self._graph(epoch)
        total = torch.zeros((), device=self.start.device)
        for step, (batch, features) in enumerate(epoch.stream):
            set_rate(self.optimiser, self.rate(epoch, step))
            if self._graphed is None:
                batch, outputs, loss = self._step(epoch, batch, features)
            else:
                batch, outputs, loss = self._graphed(batch)
            self.behind_step(batch, outputs)
            total += loss
        self.end_epoch(epoch, total)

    def _step(self, epoch: Epoch, batch: Batch, features: Tensor | None) -> tuple[Batch, Outputs, Tensor]:
        """One step of the optimiser; the last part of the batch, what the network said of it, and the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        batch, outputs, loss = self._gradient(epoch, batch, features)
        self._update()
        return batch, outputs, loss

    def _update(self) -> None:
        clip_gradient(self.optimiser, self.stage.clip)
        self.optimiser.step()

    def _graph(self, epoch: Epoch) -> GraphedStep | None:
        """The step as a CUDA graph, where that is asked for and can be; it keeps nothing of the epoch."""
        wanted = self.start.numerics.graph == "on" and self._parts.count == 1
        if not wanted or not can_be_captured(self.stage, self.start.device):
            return None
        size = min(self.stage.batch_size, epoch.images)
        return GraphedStep(lambda batch: self._step(epoch, batch, None), self.network, self.optimiser, size)

    # --- the parts of an epoch, for those who train several members at once -----------------------------------

    def images_in(self, epoch: int) -> int:
        """How many images an epoch of the stage draws."""
        chain_epoch = self._first_epoch + epoch
        return len(self._indices(chain_epoch, self._generator("draw", chain_epoch)))

    def begin_epoch(self) -> Epoch:
        """Draws the next epoch's images; the network is put into training mode."""
        chain_epoch = self._first_epoch + self.epoch
        draws = {purpose: self._generator(purpose, chain_epoch) for purpose in _PURPOSES}
        indices = sent(self._indices(chain_epoch, draws["draw"]), self.start.device)
        weights = self.objective.weights(self.data.train_labels[indices])
        expected = float(weights.mean()) if self.objective.weighted else 1.0
        if not expected > 0:
            raise PlanError(f"stage {self.stage.name!r}: the weights of all drawn images are 0")
        batches = list(_split(indices, self.stage.batch_size))
        self.network.train()
        return Epoch(
            chain_epoch,
            len(indices),
            len(batches),
            expected,
            self._batches(batches, draws),
            draws["loss"],
            batches,
            draws,
        )

    def rate(self, epoch: Epoch, step: int) -> float:
        """The learning rate of a step."""
        position = epoch.number + step / epoch.steps
        return self.stage.lr * schedule_of(self.stage.schedule)(position, self._chain_epochs)

    def loss(self, epoch: Epoch, batch: Batch, outputs: Outputs) -> Tensor:
        """The loss of a batch: one number."""
        losses, penalties = self.objective.parts(outputs, batch.y, batch.share, batch=batch, generator=epoch.generator)
        # only one of the reductions reads the weights
        weights = self._mixed_weights(batch) if self.stage.reduction == "weighted_mean" else losses
        return reduce(losses, weights, epoch.expected, self.stage.reduction) + penalties.mean()

    @torch.no_grad()
    def behind_step(self, batch: Batch, outputs: Outputs) -> None:
        """What comes after the optimiser's step."""
        for after in self._after_step:
            after(self.network, outputs, batch)
        self._count_step()

    def take_step(self, epoch: Epoch, step: int) -> None:
        """A step of the optimiser along the gradient that is there, where no trick acts behind it."""
        set_rate(self.optimiser, self.rate(epoch, step))
        self._update()
        self._count_step()

    def _count_step(self) -> None:
        self.steps += 1
        self._update_average(None)

    def end_epoch(self, epoch: Epoch, total: Tensor) -> None:
        """Counts the epoch, and looks whether it ended well.

        Args:
            epoch: As begun.
            total: Sum of the losses of its steps.

        Raises:
            Diverged: Its mean, or a weight, is not finite.
        """
        self.epoch += 1
        with torch.no_grad():
            self._update_average(epoch.number + 1)
        self._parts.agree(dict(self.network.named_buffers()), self.averaged)
        self.images += epoch.images
        self.train_loss = float(self._parts.total(total)) / epoch.steps
        where = f"stage {self.stage.name!r}, epoch {self.epoch}"
        if not math.isfinite(self.train_loss):
            raise Diverged(f"{where}: the training loss is {self.train_loss}")
        # the last step of an epoch may be the one that breaks it
        # statistics too; a frozen backbone with fixed ones does not move
        moving = self.network.head if self._frozen else self.network
        if not torch.stack([tensor.isfinite().all() for tensor in moving.state_dict().values()]).all():
            raise Diverged(f"{where}: a weight is no longer finite")

    def _gradient(self, epoch: Epoch, batch: Batch, features: Tensor | None) -> tuple[Batch, Outputs, Tensor]:
        """The gradient of a batch; the batch, or this process's last part of it, what the network said, the loss."""
        if self._parts.count > 1:
            return self._gradient_of_parts(epoch, batch, features)
        outputs = self._outputs(batch, features)
        loss = self.loss(epoch, batch, outputs)
        loss.backward()
        return batch, outputs, loss.detach()

    def _outputs(self, batch: Batch, features: Tensor | None) -> Outputs:
        """What the network says of a batch, or of a part."""
        assert self._called is not None
        if features is not None:
            return self.network.classify(features, batch.blend)
        outputs: Outputs = self._called(batch.images, batch.blend)
        return outputs

    def _gradient_of_parts(self, epoch: Epoch, whole: Batch, features: Tensor | None) -> tuple[Batch, Outputs, Tensor]:
        """Adds up the gradients of this process's parts of a batch; the last part, and their share of the loss."""
        parts, called = self._parts, self._called
        assert called is not None
        divided = self._divided(whole)
        size = len(whole.index)
        mixed = [self._mixed_weights(part) for part in divided]
        mine = parts.own(size)
        loss = torch.zeros((), device=self.start.device)
        for number, share in mine:
            batch = divided[number]
            # a whole batch draws as ever, so that nothing changes where nothing is divided
            drawn = epoch.generator if len(divided) == 1 else self._generator(f"loss {number}", self._counted())
            with parts.alone(called, last=number == mine[-1][0]):
                outputs = self._outputs(batch, None if features is None else features[parts.slices(size)[number]])
                losses, penalties = self.objective.parts(outputs, batch.y, batch.share, batch=batch, generator=drawn)
                of_weights = self.stage.reduction == "weighted_mean" and len(divided) > 1
                scale = mixed[number].sum() / torch.cat(mixed).sum() if of_weights else share
                part = scale * reduce(losses, mixed[number], epoch.expected, self.stage.reduction)
                part = part + share * penalties.mean()
                # workers' gradients are averaged
                (parts.workers * part if parts.workers > 1 else part).backward()
            loss = loss + part.detach()
        return batch, outputs, loss

    def _mixed_weights(self, batch: Batch) -> Tensor:
        """Weights of a batch's images (B,), each mixed as its labels are."""
        return (self.objective.weights(batch.y) * batch.share).sum(dim=1)

    def _divided(self, whole: Batch) -> list[Batch]:
        """A batch in parts, those of other processes included: their labels count in a weighted mean."""
        slices = self._parts.slices(len(whole.index))
        whole = blended_at_input(whole)
        if whole.blend is None:
            return [rows_of(whole, rows) for rows in slices]
        if len(slices) == 1:
            return [whole]
        # partners inside the network must be of the same part
        plain, mix, epoch = unmixed(whole), self.mix, self._counted()
        assert mix is not None
        return [
            mix(rows_of(plain, rows), self._generator(f"mix {number}", epoch)) for number, rows in enumerate(slices)
        ]

    def _counted(self) -> int:
        """A number of its own for every step of the chain."""
        return self._first_step + self.steps

    def handed(self) -> Handed:
        """What the next stage takes over."""
        return Handed(
            _copy(self.network.state_dict()),
            saved(self.optimiser),
            self._first_epoch + self.epoch,
            self._first_step + self.steps,
            _copy(self.averaged),
        )

    def judged(self) -> Network:
        """The network that is evaluated: the averaged one, where a trick keeps one."""
        if not self.averaged:
            return self.network
        if self._shadow is None:
            self._shadow = copy.deepcopy(self.network)
        self._shadow.load_state_dict(self.averaged)
        return self._shadow

    def load(self, handed: Handed, epoch: int, images: int, steps: int) -> None:
        """Continues from the middle of the stage."""
        self.network.load_state_dict(handed.model)
        restore(self.optimiser, handed.optimiser)
        self.averaged = dict(handed.averaged)
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

    def _batches(
        self, batches: Sequence[Tensor], draws: Mapping[str, torch.Generator]
    ) -> Iterator[tuple[Batch, Tensor | None]]:
        """Batches with these indices as the network is to see them, mixed; with features where they are cached."""
        plain: Iterator[tuple[Batch, Tensor | None]]
        if self._features is None:
            plain = ((batch, None) for batch in self._augmented(batches, draws))
        else:
            plain = self._of_views(self._features, batches, draws["view"])
        for batch, features in plain:
            yield (batch if self.mix is None else self.mix(batch, draws["mix"])), features

    def _augmented(self, batches: Sequence[Tensor], draws: Mapping[str, torch.Generator]) -> Iterator[Batch]:
        """Images with these indices, changed, shifted and flipped, augmented and normalised; not mixed."""
        data, feed = self.data, feed_of(self.data)
        # what changes raw images must see them before they are shifted
        fed = feed.raw(batches) if self._image else feed.augmented(batches, draws["shift"])
        for index, images in zip(batches, fed, strict=True):
            batch = Batch.plain(images, index, data.train_labels[index])
            if self._image:
                for change in self._image:
                    batch = change(batch, draws["image"])
                batch = batch.with_images(own(batch.images, data.pad, data.flip, data.crop, draws["shift"]))
            for change in self._augment:
                batch = change(batch, draws["augment"])
            yield batch.with_images(data.normalise(batch.images))

    def _of_views(
        self, features: Tensor, batches: Sequence[Tensor], draws: torch.Generator
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches without pixels, and the features of one view of each image."""
        sizes = [len(index) for index in batches]
        views = self._drawn_views(draws, len(features), sizes).split(sizes)
        for index, view in zip(batches, views, strict=True):
            labels = self.data.train_labels[index]
            yield Batch.plain(labels.new_zeros(len(labels), 0, 0, 0), index, labels), features[view, index]

    def drawn_views(self, epoch: Epoch, count: int, sizes: Sequence[int]) -> Tensor:
        """(M,) which of the cached views each image of an epoch is seen in."""
        return self._drawn_views(epoch.draws["view"], count, sizes)

    def _drawn_views(self, draws: torch.Generator, count: int, sizes: Sequence[int]) -> Tensor:
        return sent(torch.cat([torch.randint(count, (size,), generator=draws) for size in sizes]), self.start.device)

    @torch.no_grad()
    def _view_features(self) -> Tensor:
        """(V, N, D) features of V augmented views of every image; the same for all stages from one start."""
        everything = torch.arange(len(self.data.train_labels), device=self.start.device)
        batches = everything.split(evaluation_batch(self.data.train_images))
        self.network.eval()
        views = []
        for view in range(self.stage.views):
            draws = {purpose: generator(self.start.seed, "view", view, purpose) for purpose in _PURPOSES}
            # a trick that makes views of its own is asked for the first: a feature stands for one view
            seen = [self.network(batch.images[0]).features for batch in self._augmented(batches, draws)]
            views.append(torch.cat(seen))
        return torch.stack(views)

    def _update_average(self, epoch: int | None) -> None:
        """Lets the averaging trick see the network after every step, and after every epoch of the chain."""
        if self._average is not None:
            state = self.network.state_dict()
            self.averaged = self._average(self.averaged, state, self._first_step + self.steps, epoch)


_BUILT_HERE = ("draw", "image", "augment", "mix", "after_step", "average")
_OF_IMAGES = ("image", "augment")
_PURPOSES = ("draw", "view", "image", "shift", "augment", "mix", "loss")


def _average_begins(plan: Plan, index: int) -> int:
    """Epochs of the chain that lie before the stage in which the stage's averaging trick came on."""
    chain = plan.chain(index)
    own = [(trick.name, trick.numbers) for trick in plan.stages[index].on("average")]
    first = index
    while first > chain[0] and own == [(trick.name, trick.numbers) for trick in plan.stages[first - 1].on("average")]:
        first -= 1
    return sum(plan.stages[i].epochs for i in range(chain[0], first))


def stage_facts(start: Start, network: Network, epochs: int, generators: Callable[[str], torch.Generator]) -> Facts:
    """What the tricks of a stage may know."""
    data = start.data

    def score(state: Mapping[str, Tensor]) -> Tensor:
        kept = _copy(network.state_dict())
        network.load_state_dict(dict(state))
        logits = torch.cat([outputs.logits for _, outputs in facts.outputs()])
        network.load_state_dict(kept)
        return metrics.recalls(logits.argmax(dim=1), data.train_labels, data.classes)

    facts = Facts(
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
    return facts


def handed_over(
    start: Start,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    handed: Handed | None,
) -> Network:
    """The network as the stage before leaves it; where a chain starts, as it was judged."""
    network = start.network(generator(start.seed, "init")).to(start.device)
    starts = plan.starts_chain(index)
    for earlier in plan.stages[: index if starts else plan.chain(index)[0] + 1]:
        network = _change_head(start, network, earlier.on("head"), earlier.epochs, generators)
        for trick in earlier.on("train"):
            reshape = getattr(trick.made(), "reshape", None)
            network = network if reshape is None else reshape(network)
    if handed is not None:
        network.load_state_dict(handed.result if starts else handed.model)
    return network


def assemble(
    start: Start,
    plan: Plan,
    index: int,
    generators: Callable[[str], torch.Generator],
    handed: Handed | None,
) -> tuple[Network, list[dict[str, Any]]]:
    """The network at a stage's start, and the parameter groups that learn.

    Heads and train tricks of earlier chains give the network its shape, the handed state its weights. Where a
    chain starts, the stage's own head and train tricks then act on it; inside a chain, those of the chain's first
    stage are in force already, and the handed state has the last word.
    """
    network = handed_over(start, plan, index, generators, handed)
    first = plan.chain(index)[0]
    starts = index == first
    if starts:
        network = _change_head(start, network, plan.stages[index].on("head"), plan.stages[index].epochs, generators)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    for trick in plan.stages[first].on("train"):
        groups = trick.made().build(stage_facts(start, network, plan.stages[index].epochs, generators))(network)
    if not starts and handed is not None:
        network.load_state_dict(handed.model)
    return _settled(start, plan.stages[index], network.to(start.device)), groups


def _settled(start: Start, stage: StagePlan, network: Network) -> Network:
    """The network as the stage's numerics want it."""
    images = start.data.train_images
    # a backbone with cached features sees evaluation batches alone, so its features are those of any batch size
    size = evaluation_batch(images) if stage.views else stage.batch_size
    last = start.numerics.channels_last_for(start.device.type, size * images.shape[-2] * images.shape[-1])
    return network.settle(start.numerics.precision, torch.channels_last if last else torch.contiguous_format)


class Judge:
    """Measures networks of one stage on a split.

    Args:
        start: Data, network, seed, device.
        plan: The plan.
        index: The stage, whose readout is used.
        split: "val" or "test".
    """

    def __init__(self, start: Start, plan: Plan, index: int, split: str = "val") -> None:
        data = start.data
        self._start, self._stage = start, plan.stages[index]
        self._images = data.val_images if split == "val" else data.test_images
        self._labels = data.val_labels if split == "val" else data.test_labels
        self._generators = partial(generator, start.seed, plan.chain_number(index))
        self._frozen = self._stage.views > 0
        self._features: list[Tensor] = []
        self._class_means: float | None = None

    @torch.no_grad()
    def __call__(self, network: Network) -> dict[str, Any]:
        """Measures a network. Where the stage learns from fixed views, what the backbone says is computed once.

        Returns:
            "loss", "accuracy" (mean recall), "adjusted" (post-hoc logit adjustment, Menon et al. 2021,
            arXiv:2007.07314, eq. 9, τ = 1) and "class_means" (nearest mean of the training features by cosine):
            the last two are what a second stage would roughly reach. Also "calibration_error", "recalls",
            "logits_magnitude" and "regularized_std" (C,), and "predicted" (M,), classes. All others are fractions but
            the loss and the two diagnostics of label over-smoothing.
        """
        data, labels = self._start.data, self._labels
        training = network.training
        network.eval()
        facts = stage_facts(self._start, network, self._stage.epochs, self._generators)
        logits = torch.cat(list(self._logits(network, facts))).double()
        if self._class_means is None or not (self._frozen or len(network.backbone) == 0):
            self._class_means = self._nearest_mean(network, facts)
        network.train(training)
        predicted = logits.argmax(dim=1)
        recalls = metrics.recalls(predicted, labels, data.classes)
        prior = (data.counts.double() / data.counts.sum()).clamp(min=1e-12).log().to(logits.device)
        return {
            "loss": float(functional.cross_entropy(logits, labels)),
            "accuracy": float(recalls.nanmean()),
            "adjusted": float(metrics.recalls((logits - prior).argmax(dim=1), labels, data.classes).nanmean()),
            "class_means": self._class_means,
            "calibration_error": metrics.calibration_error(logits.softmax(dim=1), labels),
            "recalls": recalls.tolist(),
            "logits_magnitude": metrics.logits_magnitude(logits, labels).tolist(),
            "regularized_std": metrics.regularized_std(logits, labels).tolist(),
            "predicted": predicted.tolist(),
        }

    def _logits(self, network: Network, facts: Facts) -> Iterator[Tensor]:
        """Logits of the split, batch by batch, through the stage's readout."""
        made = next((trick.made() for trick in self._stage.on("readout")), None)
        readout = None if made is None else made.build(facts)
        views = getattr(made, "views", lambda images: images[None])
        for number, images in enumerate(self._images.split(evaluation_batch(self._images))):
            if number < len(self._features):
                outputs = network.classify(self._features[number])
            else:
                outputs = network(self._start.data.normalise(views(images)))
                if self._frozen and not outputs.views and outputs.features is not None:
                    self._features.append(outputs.features)
            yield outputs.logits if readout is None else readout(outputs)

    def _nearest_mean(self, network: Network, facts: Facts) -> float:
        data = self._start.data
        features = facts.features()
        sums = features.new_zeros(data.classes, features.shape[1]).index_add_(0, data.train_labels, features)
        means = functional.normalize(sums, dim=1)
        batches = self._images.split(evaluation_batch(self._images))
        seen = torch.cat([network(data.normalise(images)).features for images in batches])
        nearest = (functional.normalize(seen, dim=1) @ means.T).argmax(dim=1)
        return float(metrics.recalls(nearest, self._labels, data.classes).nanmean())


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


def _copy(state: Mapping[str, Tensor]) -> State:
    # in one memory format, whichever the network is trained in
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
