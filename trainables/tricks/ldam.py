"""Label-distribution-aware margins (LDAM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.classifier_rows import cosine_scale


@trick(
    seam="logits",
    family="margin and adjustment",
    source="Cao et al. 2019, arXiv:1906.07413, eq. 13",
    space={"max_margin": uniform(0.1, 1.0, step=0.1), "scale": uniform(10, 30, step=5)},
    needs=("cosine",),
)
@dataclass(frozen=True)
class Ldam:
    """Asks the true class to win by a margin, the larger the rarer the class.

        z'_y = s (cos_y − m_y),   z'_c = s cos_c for the others,   m_c = max_margin · (n_min / n_c) ** ¼

    max_margin = 0 only scales.

    Args:
        max_margin: m of the rarest class, at least 0; the paper's 0.5 on small sets, 0.3 on iNaturalist.
        scale: s, above 0; the paper's result hardly depends on it between 10 and 30.

    Source:
        Cao, Wei, Gaidon, Arechiga, Ma 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS, arXiv:1906.07413, eq. 13 (margins: eq. 12 with δ_y = 1 − 1/C of the softmax form).

    Differs:
        None. The cosine is that of `cosine_head`; where the model is known, the scale that its head has already
        applied is taken off first, so evaluation keeps the head's scale and the margin is in units of the cosine
        in any case. Without a model the logits are taken as cosines. n_min is the smallest count of the classes
        that have images.

    >>> facts = Facts(counts=torch.tensor([16, 1]), labels=torch.tensor([0, 1]))
    >>> Ldam(max_margin=0.5, scale=10.0).build(facts)(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor([[-2.5000,  0.0000],
            [ 0.0000, -5.0000]])
    """

    max_margin: float = 0.5
    scale: float = 30.0

    def __post_init__(self) -> None:
        in_range(self, "max_margin", 0, below=True)
        in_range(self, "scale", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Tensor, Tensor], Tensor]:
        """(z (B, C), y (B,)) -> (B, C)."""
        counts = facts.counts.double()
        smallest = counts[counts > 0].min()
        margins = (self.max_margin * (smallest / counts.clamp(min=1)) ** 0.25).to(facts.device)
        applied = cosine_scale(facts.model)

        def adjust(z: Tensor, y: Tensor) -> Tensor:
            taken = torch.zeros_like(z).scatter(1, y[:, None], margins[y][:, None].to(z.dtype))
            return self.scale * (z / applied - taken)

        return adjust
