"""Mixtures of images and labels: what the mixup tricks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainables.batch import Batch, Blend
from trainables.training.seeding import sent

MixFn = Callable[[Batch, torch.Generator], Batch]


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator seeded by one draw from a CPU generator of torch."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def beta_share(alpha: float, generator: torch.Generator) -> float:
    """λ ~ Beta(α, α) in [0, 1]; 1 where α = 0, which mixes nothing.

    torch draws from a Beta distribution out of the global stream only, so numpy draws it.

    >>> beta_share(0.0, torch.Generator())
    1.0
    """
    return 1.0 if alpha == 0 else float(numpy_generator(generator).beta(alpha, alpha))


def partners(batch: Batch, generator: torch.Generator) -> Tensor:
    """(B,) a random permutation of the batch, on its device."""
    return sent(torch.randperm(len(batch.index), generator=generator), batch.y.device)


def with_partners(batch: Batch, order: Tensor, share: Tensor, blend: Blend | None) -> Batch:
    """The batch with two labels per image, its own with `share` (B,) and its partner's with the rest.

    Raises:
        ValueError: The batch is mixed already.
    """
    if batch.y.shape[1] != 1:
        raise ValueError(f"a batch is mixed once: it has {batch.y.shape[1]} labels per image already")
    y = batch.y[:, 0]
    share = share.to(batch.share)
    return replace(
        batch, y=torch.stack((y, y[order]), dim=1), share=torch.stack((share, 1 - share), dim=1), blend=blend
    )


def partner_of(batch: Batch, trick: str) -> Batch:
    """As many images of the partner seam's own draw.

    Raises:
        ValueError: No trick draws partners, or the batch is mixed already.
    """
    if batch.partner is None:
        raise ValueError(f"trick {trick!r} mixes with partners that another trick draws; add 'weighted_partner'")
    if batch.y.shape[1] != 1:
        raise ValueError(f"a batch is mixed once: it has {batch.y.shape[1]} labels per image already")
    return batch.partner


def with_other(batch: Batch, images: Tensor, other: Batch, share: float) -> Batch:
    """A batch of mixed images (V, B, c, H, W), with its own label in this share and the other batch's in the rest."""
    y = torch.cat((batch.y, other.y), dim=1)
    shares = batch.share.new_tensor([share, 1 - share]).expand(len(y), 2)
    return replace(batch, images=images, y=y, share=shares)


def rectangle(height: int, width: int, share: float, generator: torch.Generator, up: bool = False) -> tuple[slice, ...]:
    """Rows and columns of a rectangle with sides √(1 − λ) · (H, W), centred anywhere and cut at the border.

    Args:
        height: H.
        width: W.
        share: λ in [0, 1].
        generator: On the CPU.
        up: Round the sides up instead of down.
    """
    side = math.sqrt(1 - share)

    def span(length: int) -> slice:
        cut = math.ceil(length * side) if up else int(length * side)
        centre = int(torch.randint(length, (), generator=generator))
        return slice(max(centre - cut // 2, 0), min(centre + cut // 2, length))

    return span(height), span(width)


def area_of(rows: slice, columns: slice) -> int:
    """Pixels of a rectangle."""
    return int(max(rows.stop - rows.start, 0) * max(columns.stop - columns.start, 0))


def mixed_at(layer: str, alpha: float) -> MixFn:
    """Mixup at one layer of the network: one λ ~ Beta(α, α) and one permutation per batch."""

    def mix(batch: Batch, generator: torch.Generator) -> Batch:
        share = torch.full_like(batch.share[:, 0], beta_share(alpha, generator))
        order = partners(batch, generator)
        return with_partners(batch, order, share, Blend(layer, order, share))

    return mix
