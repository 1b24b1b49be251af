"""How images get from the data to the training loop, a whole epoch at a time.

A feed is asked once per epoch: it knows every batch before the first one is used, so all that is drawn is drawn and
moved to the device at once, and nothing in the epoch waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from trainables.data.augment import ResizedCrops, Shifts, flip_table
from trainables.data.images.streamed import StreamedImages

if TYPE_CHECKING:
    from trainables.data.long_tail import LongTailed

TABLE_BYTES = 2 * 10**9
"""Largest table of padded and mirrored images in bytes that is kept in addition to the images."""


class Feed(Protocol):
    """Source of training images, batch by batch."""

    def raw(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the unchanged images of each batch: (B, c, H, W) uint8 on the data's device."""
        ...

    def augmented(self, batches: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """Yields the images after the data set's standard augmentation, drawn batch by batch in order."""
        ...


def feed_of(data: LongTailed) -> Feed:
    """Returns the feed of the training images of a data set."""
    images: object = data.train_images
    return StreamedFeed(data, images) if isinstance(images, StreamedImages) else ResidentFeed(data)


def table_bytes(data: LongTailed) -> int:
    """Bytes of the augmentation table kept in addition to resident training images; 0 without one."""
    images = data.train_images
    if data.crop == "resized" or (data.pad == 0 and not data.flip):
        return 0
    side = (images.shape[-2] + 2 * data.pad) * (images.shape[-1] + 2 * data.pad)
    size = (1 + int(data.flip)) * len(images) * images.shape[1] * side
    return size if size <= TABLE_BYTES else 0


def held_bytes(data: LongTailed) -> int:
    """Device memory of the training images and their augmentation table, in bytes."""
    images: object = data.train_images
    resident = [tensor for tensor in (images, data.train_views) if isinstance(tensor, Tensor)]
    pixels = sum(tensor.numel() * tensor.element_size() for tensor in resident)
    return pixels + (table_bytes(data) if resident else 0) + 8 * data.train_labels.numel()


class ResidentFeed:
    """Images that lie on the device: each crop is a window of a padded table, mirrored images included.

    Of features in several views, each image's is one of them by chance.

    Args:
        data: With resident training images.
    """

    def __init__(self, data: LongTailed) -> None:
        self._data = data

    def raw(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Feed.raw`."""
        for index in batches:
            yield self._data.train_images[index]

    def augmented(self, batches: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """See `Feed.augmented`."""
        data, images = self._data, self._data.train_images
        if data.crop == "resized":
            for index in batches:
                yield ResizedCrops.draw(len(index), data.flip, generator).of_all(images[index])
            return
        if data.train_views is not None:
            sizes = [len(index) for index in batches]
            drawn_views = [torch.randint(len(data.train_views), (size,), generator=generator) for size in sizes]
            views = torch.cat(drawn_views).to(data.train_views.device).split(sizes)
            for index, view in zip(batches, views, strict=True):
                yield data.train_views[view, index]
            return
        if data.pad == 0 and not data.flip:
            yield from self.raw(batches)
            return
        drawn = [Shifts.draw(len(index), data.pad, data.flip, generator) for index in batches]
        shifts = Shifts.joined(drawn).to(images.device).split([len(index) for index in batches])
        if not table_bytes(data):
            for index, shift in zip(batches, shifts, strict=True):
                yield shift.of(flip_table(images[index], data.pad, data.flip), data.pad)
            return
        table = _table(images, data.pad, data.flip)
        for index, shift in zip(batches, shifts, strict=True):
            yield shift.of(table, data.pad, index)


class StreamedFeed:
    """Images that workers decode ahead from their files, from which resized crops are cut at full resolution.

    Args:
        data: Whose training images are `images`.
        images: In files.
    """

    def __init__(self, data: LongTailed, images: StreamedImages) -> None:
        self._data, self._images = data, images

    def raw(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Feed.raw`."""
        return self._images.batches(batches)

    def augmented(self, batches: Sequence[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """See `Feed.augmented`."""
        data, sizes = self._data, [len(index) for index in batches]
        if data.crop == "resized":
            crops = [ResizedCrops.draw(size, data.flip, generator) for size in sizes]
            yield from self._images.batches(batches, crops)
            return
        if data.pad == 0 and not data.flip:
            yield from self.raw(batches)
            return
        drawn = Shifts.joined([Shifts.draw(size, data.pad, data.flip, generator) for size in sizes])
        shifts = drawn.to(self._images.device).split(sizes)
        for images, shift in zip(self.raw(batches), shifts, strict=True):
            yield shift.of(flip_table(images, data.pad, data.flip), data.pad)


_TABLES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Of images that are still in use; trials of one process share them."""


def _table(images: Tensor, pad: int, flip: bool) -> Tensor:
    known = _TABLES.get(images)
    if known is None or known[:2] != (pad, flip):
        known = _TABLES[images] = (pad, flip, flip_table(images, pad, flip))
    table: Tensor = known[2]
    return table
