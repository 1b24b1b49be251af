"""Changes of one view of an image, where there are several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from trainables.batch import Batch
from trainables.registry import in_range

Change: TypeAlias = Callable[[Batch, torch.Generator], Batch]


def check_view(made: Any) -> None:
    """Checks the number `view` of a trick: from 0, or `None` for all views."""
    if made.view is not None:
        in_range(made, "view", 0, 15, whole=True)


def on_view(change: Change, view: int | None) -> Change:
    """The change of one view alone, with the draws of a batch that has no other; of all of them with `None`."""
    if view is None:
        return change

    def one(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch.images.clone()
        images[view] = change(batch.with_images(images[view : view + 1]), generator).images[0]
        return batch.with_images(images)

    return one
