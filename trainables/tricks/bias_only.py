"""Fine-tuning of the biases alone (BitFit)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.batch import Facts
from trainables.registry import trick
from trainables.tricks._shared.fine_tuning import head_and


@trick(
    seam="train",
    family="light fine-tuning",
    source="Ben Zaken et al. 2022, arXiv:2106.10199, section 3 (BitFit)",
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class BiasOnly:
    """Trains the bias terms of the backbone, those of its normalisations included, and the head.

    BatchNorm keeps its pretrained statistics.

    Source:
        Ben Zaken, Goldberg & Ravfogel 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
        Masked Language-models", ACL, arXiv:2106.10199, section 3.

    Differs:
        None for transformers; the paper has no BatchNorm.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = BiasOnly().build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> [tuple(p.shape) for p in groups[0]["params"]]
    [(16,), (16,), (16,), (32,), (32,), (64,), (64,), (3, 64), (3,)]
    """

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            named = model.backbone.named_parameters()
            return head_and(model, [parameter for name, parameter in named if name.endswith("bias")])

        return train
