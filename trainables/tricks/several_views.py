"""Several views of every image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick


@trick(
    seam="image",
    family="contrastive",
    source="Chen et al. 2020, arXiv:2002.05709, section 2.1 (two views)",
    needs=("images",),
)
@dataclass(frozen=True)
class SeveralViews:
    """Gives the network several views of every image, which the data set's crop and flip change independently.

    Augment tricks then change each view with draws of its own, or the one that their `view` names. Losses read the
    first view, view 0; methods of several views read the others. An epoch costs as many passes as there are views.
    count = 1 changes nothing.

    Args:
        count: V, at least 1.

    Source:
        Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual
        Representations", ICML, arXiv:2002.05709, section 2.1.

    Differs:
        The views are no method by themselves: what they share is up to the tricks behind them.

    >>> batch = Batch.plain(torch.zeros((3, 1, 8, 8), dtype=torch.uint8), torch.arange(3), torch.tensor([0, 1, 1]))
    >>> SeveralViews(count=2).build(Facts(torch.tensor([1, 2]), batch.y[:, 0]))(batch, torch.Generator()).images.shape
    torch.Size([2, 3, 1, 8, 8])
    """

    count: int = 2

    def __post_init__(self) -> None:
        in_range(self, "count", 1, 16, whole=True)

    @property
    def makes_views(self) -> int:
        """How many views there are."""
        return self.count

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images (V, B, c, H, W)."""

        def repeat(batch: Batch, generator: torch.Generator) -> Batch:
            return batch.with_images(batch.images[:1].expand(self.count, *batch.images.shape[1:]))

        return repeat
