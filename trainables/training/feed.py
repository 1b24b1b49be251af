"""The batches of a stage: drawn, changed, augmented, normalised and mixed, or features of fixed views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainables.batch import Batch, evaluation_batch
from trainables.data.augment import own
from trainables.data.loaders import feed_of
from trainables.models import Network
from trainables.training.context import TrainingContext
from trainables.training.seeding import generator, sent

PURPOSES = ("draw", "view", "image", "shift", "augment", "mix", "inside", "loss")
"""Purposes of the random numbers of an epoch, each with its own generator."""

OF_PARTNER = "partner "
"""Prefix of the purposes of the partner's images."""
PARTNER_PURPOSES = tuple(OF_PARTNER + purpose for purpose in ("draw", "image", "shift", "augment"))

GROUP_BYTES = 2**22
"""Image and augment tricks process consecutive batches together up to this size, because on small images the calls cost
more than the pixels."""


@dataclass(frozen=True)
class Epoch:
    """An epoch that has begun.

    Args:
        number: Number of the epoch in its chain, from 0.
        images: Number of images that it draws.
        steps: Number of its batches.
        expected: Mean weight of its images.
        stream: The batches, each with its features if they are cached.
        generator: Generator of the losses that draw random numbers.
        batches: Indices of the images of each batch.
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


class StageFeed:
    """Makes the batches of one stage.

    Args:
        context: Data, seed, device.
        chain_epochs: Epochs of the stage's chain.
        draw: Function of the draw trick; `None` draws every image once.
        image: Functions of the image tricks, in the order of the plan.
        augment: Functions of the augment tricks, in the order of the plan.
        mix: Function of the mix trick, or `None`.
        partner: Function of the partner trick, or `None`.
        aside: Indices of the views that bypass the network.
    """

    def __init__(
        self,
        context: TrainingContext,
        chain_epochs: int,
        draw: Any | None,
        image: Sequence[Any],
        augment: Sequence[Any],
        mix: Any | None,
        partner: Any | None = None,
        aside: Sequence[int] = (),
    ) -> None:
        self._context, self._data, self._chain_epochs = context, context.data, chain_epochs
        self._draw, self._image, self._augment, self.mix = draw, image, augment, mix
        self._partner, self._aside = partner, list(aside)
        self.features: Tensor | None = None
        """(V, N, D) features of fixed views, where the stage trains on them instead of on pixels."""

    def indices(self, epoch: int, draws: torch.Generator) -> Tensor:
        """Indices of the images that an epoch of the chain draws (M,)."""
        if self._draw is None:
            return torch.randperm(len(self._data.train_labels), generator=draws)
        indices: Tensor = self._draw(self.progress(epoch), draws)
        return indices

    def progress(self, epoch: int) -> float:
        """Fraction of the chain's epochs before this one, in [0, 1]; it continues across the stages of a chain."""
        return epoch / max(1, self._chain_epochs - 1)

    def partners(
        self, epoch: int, batches: Sequence[Tensor], draws: Mapping[str, torch.Generator]
    ) -> Sequence[Tensor] | None:
        """Partner indices of each batch, if a trick draws them; a shorter stream is repeated."""
        if self._partner is None:
            return None
        indices: Tensor = self._partner(self.progress(epoch), draws[OF_PARTNER + "draw"])
        sizes = [len(batch) for batch in batches]
        whole = indices.repeat(-(-sum(sizes) // len(indices)))[: sum(sizes)]
        parts: Sequence[Tensor] = sent(whole, self._context.device).split(sizes)  # type: ignore[no-untyped-call]
        return parts

    def batches(
        self,
        batches: Sequence[Tensor],
        draws: Mapping[str, torch.Generator],
        partners: Sequence[Tensor] | None = None,
    ) -> Iterator[tuple[Batch, Tensor | None]]:
        """The mixed batches of the given indices, each with its features if they are cached."""
        plain: Iterator[tuple[Batch, Tensor | None]]
        if self.features is None:
            plain = ((batch, None) for batch in self._with_partners(batches, draws, partners))
        else:
            plain = self._views(self.features, batches, draws["view"])
        for batch, features in plain:
            yield (batch if self.mix is None else self.mix(batch, draws["mix"])), features

    @torch.no_grad()
    def compute_features(self, network: Network, views: int) -> Tensor:
        """(V, N, D) features of V augmented views of every image; equal for all stages with the same start."""
        everything = torch.arange(len(self._data.train_labels), device=self._context.device)
        batches = everything.split(evaluation_batch(self._data.train_images))
        network.eval()
        found = []
        for view in range(views):
            draws = {purpose: generator(self._context.seed, "view", view, purpose) for purpose in PURPOSES}
            # a trick that makes several views of an image contributes the first: a feature stands for one view
            seen = [network(batch.images[0]).joint_features for batch in self._augmented(batches, draws)]
            found.append(torch.cat(seen))
        return torch.stack(found)

    def _with_partners(
        self, batches: Sequence[Tensor], draws: Mapping[str, torch.Generator], partners: Sequence[Tensor] | None
    ) -> Iterator[Batch]:
        own = self._augmented(batches, draws)
        if partners is None:
            yield from own
            return
        others = {purpose.removeprefix(OF_PARTNER): draws[purpose] for purpose in PARTNER_PURPOSES}
        for batch, partner in zip(own, self._augmented(partners, others), strict=True):
            yield replace(batch, partner=partner)

    def _augmented(self, batches: Sequence[Tensor], draws: Mapping[str, torch.Generator]) -> Iterator[Batch]:
        """Batches of the given indices after image tricks, shift, flip, augment tricks and normalisation; not mixed."""
        data, feed = self._data, feed_of(self._data)
        # image tricks must see raw images before they are shifted
        fed = feed.raw(batches) if self._image else feed.augmented(batches, draws["shift"])
        for indices, images in _grouped(batches, fed, GROUP_BYTES if self._image or self._augment else 0):
            index = torch.cat(indices)
            batch = Batch.plain(torch.cat(images), index, data.train_labels[index])
            if self._image:
                for change in self._image:
                    batch = change(batch, draws["image"])
                batch = batch.with_images(own(batch.images, data.pad, data.flip, data.crop, draws["shift"]))
            for change in self._augment:
                batch = change(batch, draws["augment"])
            sizes = [len(index) for index in indices]
            parts = (batch.images.split(sizes, dim=1), indices, batch.y.split(sizes), batch.share.split(sizes))
            for changed, *rest in zip(*parts, strict=True):
                yield self._set_aside(Batch(data.normalise(changed), *rest))

    def _set_aside(self, batch: Batch) -> Batch:
        """The batch with the views that bypass the network moved to `aside`."""
        if not self._aside:
            return batch
        kept = [view for view in range(len(batch.images)) if view not in self._aside]
        return replace(batch, images=batch.images[kept], aside=batch.images[self._aside])

    def _views(
        self, features: Tensor, batches: Sequence[Tensor], draws: torch.Generator
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches without pixels, and the features of one view of each image."""
        sizes = [len(index) for index in batches]
        views = self.draw_views(len(features), sizes, draws).split(sizes)
        for index, view in zip(batches, views, strict=True):
            labels = self._data.train_labels[index]
            yield Batch.plain(labels.new_zeros(len(labels), 0, 0, 0), index, labels), features[view, index]

    def draw_views(self, views: int, sizes: Sequence[int], draws: torch.Generator) -> Tensor:
        """(M,) index of the cached view of each image, for batches of the given sizes."""
        drawn = [torch.randint(views, (size,), generator=draws) for size in sizes]
        return sent(torch.cat(drawn), self._context.device)


def _grouped(
    batches: Sequence[Tensor], fed: Iterator[Tensor], limit: int
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Indices and images of consecutive batches whose images have at most `limit` bytes, at least one batch each."""
    indices: list[Tensor] = []
    images: list[Tensor] = []
    for index, pixels in zip(batches, fed, strict=True):
        if indices and sum(each.nbytes for each in (*images, pixels)) > limit:
            yield indices, images
            indices, images = [], []
        indices.append(index)
        images.append(pixels)
    if indices:
        yield indices, images
