"""A trick that does nothing: what a test of conflicts must not find anything in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainables.registry import trick

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from trainables.batch import Facts


@trick(seam="weight", family="none", source="no paper: weight 1, but for its own random draws", space={})
@dataclass(frozen=True)
class Neutral:
    """Weight 1 ± 0.001 for every image, anew in each step: a trial with it is another trial, and no better or worse.

    Args:
        jitter: Standard deviation of the weights.
    """

    jitter: float = 1e-3

    def build(self, facts: Facts) -> Callable[[Tensor], Tensor]:
        """Weights of labels."""
        own = facts.generator("neutral")

        def weights(labels: Tensor) -> Tensor:
            draws = torch.randn(labels.shape, generator=own)
            return 1 + self.jitter * draws.to(labels.device)

        return weights
