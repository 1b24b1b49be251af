"""The loss of a batch and its gradient: of the whole batch at once, or summed over its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainables.batch import Batch, Outputs
from trainables.models import Network
from trainables.objective import Objective, reduce
from trainables.training.batch_sharding import BatchSharding, blended_at_input, rows_of, unmixed
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
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        reduction: str,
        sharding: BatchSharding,
        mix: Any | None,
        generators: Callable[[str, int], torch.Generator],
    ) -> None:
        self._network, self._objective, self._reduction = network, objective, reduction
        self._sharding, self._mix, self._generators = sharding, mix, generators
        self._called: torch.nn.Module | None = None

    def connect(self) -> None:
        """Joins the workers that share each batch; all of them must have come this far."""
        if self._called is None:
            self._called = self._sharding.parallel(self._network)

    def loss(self, epoch: Epoch, batch: Batch, outputs: Outputs) -> Tensor:
        """The loss of a batch: one number."""
        losses, penalties = self._objective.parts(outputs, batch.y, batch.share, batch=batch, generator=epoch.generator)
        # only one of the reductions reads the weights
        weights = self._mixed_weights(batch) if self._reduction == "weighted_mean" else losses
        return reduce(losses, weights, epoch.expected, self._reduction) + penalties.mean()

    def __call__(self, epoch: Epoch, batch: Batch, features: Tensor | None, step: int) -> tuple[Batch, Outputs, Tensor]:
        """Adds the gradient of a batch.

        Args:
            epoch: The epoch of the batch.
            batch: The batch, mixed.
            features: Features of its images, where they are cached.
            step: Number of the step in its chain.

        Returns:
            The batch (or this process's last part of it), the network's outputs for it, and this process's share of
            the loss.
        """
        if self._sharding.count > 1:
            return self._of_parts(epoch, batch, features, step)
        outputs = self._outputs(batch, features)
        loss = self.loss(epoch, batch, outputs)
        loss.backward()
        return batch, outputs, loss.detach()

    def _outputs(self, batch: Batch, features: Tensor | None) -> Outputs:
        """The network's outputs for a batch, or for a part of one."""
        assert self._called is not None
        if features is not None:
            return self._network.classify(features, batch.blend)
        outputs: Outputs = self._called(batch.images, batch.blend)
        return outputs

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
                outputs = self._outputs(batch, None if features is None else features[sharding.slices(size)[number]])
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
        """Weights of a batch's images (B,), each mixed as its labels are."""
        return (self._objective.weights(batch.y) * batch.share).sum(dim=1)

    def _divide(self, whole: Batch, step: int) -> list[Batch]:
        """A batch in parts, those of other processes included: their labels count in a weighted mean."""
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
