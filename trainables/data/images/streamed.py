"""Images that do not fit into memory: decoded from their files when they are asked for.

`StreamedImages` stands where a tensor of images would: it has a shape and a length, gives single batches by index,
and gives an epoch's batches through workers that persist, decode ahead and hand over pinned memory.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainables.data.augment import ResizedCrops
from trainables.data.catalogue import DataError, spelled
from trainables.data.images.decoding import Preprocessing, quiet
from trainables.data.images.files import decoded
from trainables.data.images.progress import side_by_side

AHEAD = 3
"""Batches that each worker decodes ahead."""

Task = tuple[NDArray[np.int64], ResizedCrops | None]
"""Numbers of the files of a batch, and what their crops were drawn as; `None` for whole images."""


def default_workers() -> int:
    """Number of cores that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class _Files(Dataset[Tensor]):
    """Data set of a worker: takes whole batches, returns pixels."""

    where: str
    files: tuple[Path, ...]
    preprocessing: Preprocessing
    side: tuple[int, int]

    def __getitems__(self, task: Task) -> Tensor:
        numbers, crops = task
        with quiet():
            return torch.stack([self.one(int(number), crops, row) for row, number in enumerate(numbers)])

    def one(self, number: int, crops: ResizedCrops | None, row: int) -> Tensor:
        """(c, H, W) uint8 pixels of one file."""
        whole = crops is not None
        preprocessing = replace(self.preprocessing, size=None) if whole else self.preprocessing
        found = decoded(self.where, self.files[number], preprocessing, None if whole else self.side)
        if isinstance(found, str):
            raise DataError(
                f"{self.where}: {spelled(self.files[number])} {found}, and was whole when all images were decoded "
                "before training; put it back and resume"
            )
        pixels = torch.from_numpy(found[0])
        return pixels if crops is None else crops.of(pixels, row, self.side)


class _Epoch:
    """The batches of the current epoch; persistent workers keep reading the same object."""

    def __init__(self) -> None:
        self.tasks: Sequence[Task] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class Reader:
    """Files and the workers that decode them; shared by all splits.

    Args:
        where: Name of the data set, for messages.
        files: All image files.
        digests: What stands for the pixels of each, as `Examined.digests`.
        preprocessing: How they are decoded.
        side: (H, W) that comes out.
        workers: Processes that decode; 0 decodes in threads of this process.
    """

    def __init__(
        self, where: str, files: Sequence[Path], digests: Sequence[str], preprocessing: Preprocessing,
        side: tuple[int, int], workers: int,
    ) -> None:  # fmt: skip
        self.dataset = _Files(where, tuple(files), preprocessing, side)
        self.digests = np.array(digests)
        self.workers = workers
        self._epoch, self._busy = _Epoch(), False
        self._loader: DataLoader[Tensor] | None = None

    def now(self, task: Task) -> Tensor:
        """Decodes a batch (B, c, H, W) uint8 in threads of this process."""
        numbers, crops = task
        rows = side_by_side(lambda row: self.dataset.one(int(numbers[row]), crops, row), range(len(numbers)), block=8)
        return torch.stack(rows) if rows else torch.zeros(0, *self.shape, dtype=torch.uint8)

    def stream(self, tasks: Sequence[Task], pinned: bool) -> Iterator[Tensor]:
        """Yields the batches in order, decoded ahead by the workers."""
        if self.workers == 0 or self._busy or len(tasks) < 2:
            yield from map(self.now, tasks)
            return
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset, batch_sampler=self._epoch, collate_fn=_as_it_is, num_workers=self.workers,
                prefetch_factor=AHEAD, persistent_workers=True, pin_memory=pinned,
                generator=torch.Generator(),  # else every epoch would draw from the global stream
            )  # fmt: skip
        self._epoch.tasks, self._busy = tasks, True
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any fork beside threads; these workers touch neither Ray nor a GPU
                warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
                batches = iter(self._loader)
            yield from batches
        finally:
            self._busy = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, H, W) of an image."""
        return (self.dataset.preprocessing.channels, *self.dataset.side)


def _as_it_is(batch: Any) -> Any:
    return batch


class StreamedImages:
    """Stands for a tensor (N, c, H, W) uint8 whose images lie in files.

    Args:
        reader: Reader of the files.
        rows: (N,) indices of the files.
        device: Device of the batches.
    """

    dtype = torch.uint8
    ndim = 4

    def __init__(self, reader: Reader, rows: NDArray[np.int64], device: torch.device) -> None:
        self.reader, self.rows, self.device = reader, rows, device

    @property
    def stamp(self) -> bytes:
        """Stands for the pixels in the data's fingerprint: those of the files, and the size they are brought to."""
        rules = self.reader.dataset.preprocessing
        size = rules.size if rules.interpolation == "bilinear" else (rules.size, rules.interpolation)
        return hashlib.sha256(repr((size, self.reader.digests[self.rows].tolist())).encode()).digest()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, c, H, W)."""
        return (len(self.rows), *self.reader.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        """Decodes the images with these indices."""
        rows = self.rows[index.cpu().numpy() if isinstance(index, Tensor) else index]
        found = self.reader.now((np.atleast_1d(rows), None)).to(self.device)
        return found if np.ndim(rows) else found[0]

    def of(self, index: NDArray[np.int64]) -> StreamedImages:
        """Returns a subset without decoding it."""
        return StreamedImages(self.reader, self.rows[index], self.device)

    def to(self, device: torch.device | str) -> StreamedImages:
        """Returns the same images with batches on another device."""
        return StreamedImages(self.reader, self.rows, torch.device(device))

    def split(self, size: int) -> Iterator[Tensor]:
        """Yields all images in order, `size` at a time."""
        return self.batches([torch.arange(len(self))[first : first + size] for first in range(0, len(self), size)])

    def batches(self, batches: Sequence[Tensor], crops: Sequence[ResizedCrops] | None = None) -> Iterator[Tensor]:
        """Yields the images of each batch, decoded ahead.

        Args:
            batches: Indices (B,) of each batch.
            crops: What was drawn for each batch; whole images where absent.
        """
        indices = torch.cat(list(batches)).cpu() if batches else torch.zeros(0, dtype=torch.int64)
        parts = [part.numpy() for part in indices.split([len(batch) for batch in batches])]
        drawn: Sequence[ResizedCrops | None] = [None] * len(parts) if crops is None else crops
        tasks = [(self.rows[part], crop) for part, crop in zip(parts, drawn, strict=True)]
        pinned = self.device.type == "cuda"
        for images in self.reader.stream(tasks, pinned):
            yield images.to(self.device, non_blocking=pinned)
