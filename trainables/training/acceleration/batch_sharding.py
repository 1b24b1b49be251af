"""A batch in parts: one after another in one process (accumulation), side by side in several (workers), or both.

The gradient of a batch is the sum of its parts' gradients, each with its share of the loss, so without BatchNorm the
weights are those of whole batches, up to rounding. What differs, and only for batches in parts:

- BatchNorm's statistics are those of a part (of all workers' parts at a time on GPUs, where it is synchronised), and
  its running statistics move once a part.
- A mixture inside the network (manifold mixup, "pool", "logits") finds its partners within the part, and draws its
  share there. Mixtures of images are made before the batch is divided.
- A loss over a batch (GML, LADE) is one over a part; random numbers that a loss draws are a part's own.
- An after-step trick sees the last part.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batch import Batch


@dataclass(frozen=True)
class BatchSharding:
    """Division of each batch into parts, and the parts of this process.

    Args:
        accumulate: Parts that each process computes one after another.
        workers: Processes.
        rank: This process, from 0.

    >>> BatchSharding(accumulate=2, workers=2, rank=1).worker_shards(8)
    [(2, 0.25), (3, 0.25)]
    """

    accumulate: int = 1
    workers: int = 1
    rank: int = 0

    @property
    def count(self) -> int:
        """BatchSharding of a batch."""
        return self.accumulate * self.workers

    def slices(self, size: int) -> list[slice]:
        """Slices of a batch of B images, in order; a single one if some part would have fewer than two images.

        >>> BatchSharding(accumulate=2).slices(5), BatchSharding(accumulate=3).slices(5)
        ([slice(0, 3, None), slice(3, 5, None)], [slice(0, 5, None)])
        """
        if size < 2 * self.count:
            return [slice(0, size)]
        bounds = [-(-size * number // self.count) for number in range(self.count + 1)]
        return [slice(first, last) for first, last in itertools.pairwise(bounds)]

    def worker_shards(self, size: int) -> list[tuple[int, float]]:
        """Numbers of this process's parts of B images, with the share of the batch that each stands for.

        Shares sum to 1 over all processes: of a batch that is too small to be divided, each has all.
        """
        slices = self.slices(size)
        if len(slices) == 1:
            return [(0, 1 / self.workers)]
        mine = range(self.rank * self.accumulate, (self.rank + 1) * self.accumulate)
        return [(number, (slices[number].stop - slices[number].start) / size) for number in mine]

    def parallel(self, network: nn.Module) -> nn.Module:
        """Wraps the network so that gradients are summed over the workers, if there are several."""
        if self.workers == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def gradient_sync(self, called: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Context in which gradients stay in this process; those of the last part are summed over the workers."""
        if isinstance(called, nn.parallel.DistributedDataParallel) and not last:
            return called.no_sync()
        return nullcontext()

    def sum_over_workers(self, value: Tensor) -> Tensor:
        """The sum of a number over the workers."""
        if self.workers > 1:
            torch.distributed.all_reduce(value)
        return value

    def broadcast(self, *states: Mapping[str, Tensor]) -> None:
        """Gives all workers the first one's tensors: what each counted on its own parts (BatchNorm's statistics)."""
        if self.workers > 1:
            for state in states:
                for tensor in state.values():
                    torch.distributed.broadcast(tensor.data, 0)

    def key_fields(self) -> dict[str, Any]:
        """Fields for a stage's key; none if batches are whole."""
        return {} if self.count == 1 else {"parts": [self.accumulate, self.workers]}


def synchronise_batchnorm(network: nn.Module, sharding: BatchSharding, device: torch.device) -> nn.Module:
    """Synchronises BatchNorm over the workers, which PyTorch supports on GPUs only."""
    if sharding.workers == 1 or device.type != "cuda":
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return converted


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch that has no blend."""
    partner = None if batch.partner is None else rows_of(batch.partner, rows)
    aside = None if batch.aside is None else batch.aside[:, rows]
    return Batch(
        batch.images[:, rows], batch.index[rows], batch.y[rows], batch.share[rows], partner=partner, aside=aside
    )


def unmixed(batch: Batch) -> Batch:
    """The batch before it was mixed inside the network: with each image's own label."""
    return replace(batch, y=batch.y[:, :1], share=torch.ones_like(batch.share[:, :1]), blend=None)


def blended_at_input(batch: Batch) -> Batch:
    """The batch with its mixture of images made, instead of left to the network."""
    if batch.blend is None or batch.blend.layer != "input":
        return batch
    return replace(batch, images=torch.stack([batch.blend(view) for view in batch.images]), blend=None)
