"""The loss of a batch and its gradient: of the whole batch at once, at several weights, or summed over its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainables.batch import Batch, Outputs
from trainables.models import Network
from trainables.objective import Objective, reduce
from trainables.training.acceleration.batch_sharding import BatchSharding, blended_at_input, rows_of, unmixed
from trainables.training.feed import Epoch


class BatchGradient:
    """Computes the loss of a batch and adds its gradient to the parameters.

    Args:
        network: The network that learns.
        objective: Losses and weights per image.
        reduction: How the losses of a batch become one number, see `trainables.objective.reduce`.
        sharding: How a batch is divided.
        mix: Function of the mix trick, or `None`.
        generators: (purpose, number) -> generator.
        inside: Layer and function of each trick that acts inside the network.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        reduction: str,
        sharding: BatchSharding,
        mix: Any | None,
        generators: Callable[[str, int], torch.Generator],
        inside: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._network, self._objective, self._reduction = network, objective, reduction
        self._sharding, self._mix, self._generators, self._inside = sharding, mix, generators, inside
        self._called: torch.nn.Module | None = None

    def connect(self) -> None:
        """Connects the workers that share each batch; all of them must call it."""
        if self._called is None:
            self._called = self._sharding.parallel(self._network)

    def loss(
        self, epoch: Epoch, batch: Batch, outputs: Outputs, factors: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The loss of a batch, a scalar; with `factors`, labels (B,) -> (B,), the loss of a part of the objective."""
        losses, penalties = self._objective.parts(
            outputs, batch.y, batch.share, batch=batch, generator=epoch.generator, factors=factors
        )
        # only one of the reductions reads the weights
        weights = self._mixed_weights(batch) if self._reduction == "weighted_mean" else losses
        return reduce(losses, weights, epoch.expected, self._reduction) + penalties.mean()

    def __call__(
        self,
        epoch: Epoch,
        batch: Batch,
        features: Tensor | None,
        step: int,
        factors: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Batch, Outputs, Tensor]:
        """Adds the gradient of a batch.

        Args:
            epoch: The epoch of the batch.
            batch: The batch, mixed.
            features: Features of its images, where they are cached.
            step: Number of the step in its chain.
            factors: As in `loss`, for whole batches.

        Returns:
            The batch (or this process's last part of it; with the rows that tricks inside the network added), the
            network's outputs for it, and this process's share of the loss.
        """
        if self._sharding.count > 1:
            return self._of_parts(epoch, batch, features, step)
        outputs = self._outputs(batch, features, epoch)
        batch = outputs.batch or batch
        loss = self.loss(epoch, batch, outputs, factors)
        loss.backward()
        return batch, outputs, loss.detach()

    def _outputs(self, batch: Batch, features: Tensor | None, epoch: Epoch) -> Outputs:
        """The network's outputs for a batch, or for a part of one."""
        assert self._called is not None
        if features is not None:
            return self._network.classify(features, batch.blend)
        outputs: Outputs
        if not self._inside:
            outputs = self._called(batch.images, batch.blend)
            return outputs
        inside = _Inside(self._inside, batch, epoch.draws["inside"])
        outputs = self._called(batch.images, batch.blend, inside)
        return replace(outputs, batch=inside.batch)

    def _of_parts(
        self, epoch: Epoch, whole: Batch, features: Tensor | None, step: int
    ) -> tuple[Batch, Outputs, Tensor]:
        """Adds up the gradients of this process's parts of a batch."""
        sharding, called = self._sharding, self._called
        assert called is not None
        divided = self._divide(whole, step)
        size = len(whole.index)
        mixed = [self._mixed_weights(part) for part in divided]
        shards = sharding.worker_shards(size)
        loss = torch.zeros((), device=whole.index.device)
        for number, share in shards:
            batch = divided[number]
            # an undivided batch draws from the epoch's generator, as it does without sharding
            drawn = epoch.generator if len(divided) == 1 else self._generators(f"loss {number}", step)
            with sharding.gradient_sync(called, last=number == shards[-1][0]):
                rows = None if features is None else features[sharding.slices(size)[number]]
                outputs = self._outputs(batch, rows, epoch)
                losses, penalties = self._objective.parts(outputs, batch.y, batch.share, batch=batch, generator=drawn)
                of_weights = self._reduction == "weighted_mean" and len(divided) > 1
                scale = mixed[number].sum() / torch.cat(mixed).sum() if of_weights else share
                part = scale * reduce(losses, mixed[number], epoch.expected, self._reduction)
                part = part + share * penalties.mean()
                # gradients are averaged over the workers
                (sharding.workers * part if sharding.workers > 1 else part).backward()
            loss = loss + part.detach()
        return batch, outputs, loss

    def _mixed_weights(self, batch: Batch) -> Tensor:
        """Weights of a batch's images (B,), mixed like their labels."""
        return (self._objective.weights(batch.y) * batch.share).sum(dim=1)

    def _divide(self, whole: Batch, step: int) -> list[Batch]:
        """A batch in parts, including those of other processes, whose labels count in a weighted mean."""
        slices = self._sharding.slices(len(whole.index))
        whole = blended_at_input(whole)
        if whole.blend is None:
            return [rows_of(whole, rows) for rows in slices]
        if len(slices) == 1:
            return [whole]
        # partners inside the network must be of the same part
        plain, mix = unmixed(whole), self._mix
        assert mix is not None
        return [
            mix(rows_of(plain, rows), self._generators(f"mix {number}", step)) for number, rows in enumerate(slices)
        ]


class StepGradient:
    """Adds the gradient of one batch at the current weights; the argument of a step trick.

    Every call sees the same batch, and draws the same random numbers.

    Args:
        gradient: Computes the gradient of a batch.
        epoch: The epoch of the batch.
        batch: The batch, mixed.
        features: Features of its images, where they are cached.
        step: Number of the step in its chain.
    """

    def __init__(self, gradient: BatchGradient, epoch: Epoch, batch: Batch, features: Tensor | None, step: int) -> None:
        self.batch = batch
        self._gradient, self._epoch, self._features, self._step = gradient, epoch, features, step
        self._drawn = [(generator, generator.get_state()) for generator in (epoch.generator, epoch.draws["inside"])]
        self.first: tuple[Batch, Outputs, Tensor] | None = None
        """Batch, outputs and whole loss of the first call, which the stage uses for the step."""

    def __call__(self, factors: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Adds the gradient to the parameters' `grad`, and returns the loss.

        Args:
            factors: labels (B,) -> (B,), multiplied with the loss of each label (default: 1).
        """
        self._draw_again()
        batch, outputs, loss = self._gradient(self._epoch, self.batch, self._features, self._step, factors)
        if self.first is None:
            whole = loss
            if factors is not None:
                self._draw_again()
                with torch.no_grad():
                    whole = self._gradient.loss(self._epoch, batch, outputs)
            self.first = batch, outputs, whole
        return loss

    def parts(self, factors: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[Tensor]:
        """Adds the gradients of several parts of the objective one at a time, from one pass through the network.

        Args:
            factors: The factors of each part, as in `__call__`.

        Yields:
            The loss of each part, after its gradient was added; clearing the gradient then leaves the next part intact.
        """
        gradient = self._gradient
        self._draw_again()
        outputs = gradient._outputs(self.batch, self._features, self._epoch)
        batch = outputs.batch or self.batch
        if self.first is None:
            self._draw_again()
            with torch.no_grad():
                self.first = batch, outputs, gradient.loss(self._epoch, batch, outputs)
        for number, part in enumerate(factors, start=1):
            self._draw_again()
            loss = gradient.loss(self._epoch, batch, outputs, part)
            loss.backward(retain_graph=number < len(factors))
            yield loss.detach()

    def _draw_again(self) -> None:
        for generator, state in self._drawn:
            generator.set_state(state)


class _Inside:
    """Applies the tricks of the inside seam to a batch on its way through the network."""

    def __init__(self, functions: Sequence[tuple[str, Any]], batch: Batch, generator: torch.Generator) -> None:
        self._functions, self.batch, self._generator = functions, batch, generator

    def __call__(self, layer: str, x: Tensor) -> Tensor:
        for at, function in self._functions:
            if at == layer:
                x, self.batch = function(x, self.batch, self._generator)
        return x
