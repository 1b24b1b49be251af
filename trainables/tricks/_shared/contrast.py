"""What the contrastive penalties share: labels of mixed images, projected views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.batch import Batch, Outputs
from trainables.tricks._shared.drawn_layers import unit


def main_label(batch: Batch) -> Tensor:
    """(B,) the label that has the largest share of each image."""
    return batch.y.gather(1, batch.share.argmax(dim=1, keepdim=True))[:, 0]


def projected_views(outputs: Outputs, layers: nn.Module, trick: str) -> Sequence[Tensor]:
    """Projections (B, P) of length 1 of the first three views, all of one pass, so that BatchNorm sees them together.

    Raises:
        ValueError: There are fewer views, or no features.
    """
    features = [view.features for view in (outputs, *outputs.views[:2])]
    known = [x for x in features if x is not None]
    if len(known) < 3:
        raise ValueError(f"trick {trick!r} needs the features of three views of each image; add 'several_views'")
    views: Sequence[Tensor] = unit(layers, torch.cat(known)).chunk(3)
    return views
