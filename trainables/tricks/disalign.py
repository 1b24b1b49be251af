"""Distribution alignment (DisAlign)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.batch import Facts
from trainables.registry import among, trick
from trainables.tricks._shared.classifier_rows import BATCHNORM, AlignedHead, only_head_learns, weight_of


@trick(
    seam="train",
    family="classifier re-training",
    source="Zhang et al. 2021, arXiv:2103.16370, eq. 3 to 5",
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class Disalign:
    """Learns to correct the logits of a frozen network, image by image as much as it trusts the correction.

        z'_c = σ(v·x + t) (s_c z_c + b_c) + (1 − σ(v·x + t)) z_c,   s_c = 1, b_c = 0 at first

    Only s, b, v and t learn. Untrained it changes nothing. The paper's weights (1/π_y) ** ρ are
    `cost_sensitive(power=1.2)`, which differs by one factor for all images.

    Args:
        batchnorm: "fixed": the backbone's BatchNorm keeps its statistics; "moving": they follow the batches.

    Raises:
        ValueError: The head has no weight row per class.

    Source:
        Zhang, Li, Yan, He, Sun 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual Recognition",
        CVPR, arXiv:2103.16370, eq. 3 to 5; v = 0.1 at first from the public code.

    Differs:
        The public code writes z' = (1 + σ s) z + σ b, the same with s less 1, and starts at s = 1: as at s = 2 here,
        where the logits are 1 + σ times as large before anything is learned. Its t is drawn as `torch.nn.Linear`
        does, and 0 here.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = Disalign().build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> [tuple(p.shape) for p in groups[0]["params"]]
    [(3,), (3,), (64,), ()]
    """

    batchnorm: str = "fixed"

    def __post_init__(self) -> None:
        among(self, "batchnorm", BATCHNORM)

    def reshape(self, model: Any) -> Any:
        """Model -> the same model with the correction in it; for who rebuilds a network to load its state."""
        weight_of(model.head, "disalign")
        if not isinstance(model.head, AlignedHead):
            model.head = AlignedHead(model.head)
        return model

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            model = self.reshape(model)
            only_head_learns(model, self.batchnorm)
            for parameter in model.head.inner.parameters():
                parameter.requires_grad_(False)
            return [{"params": [model.head.scale, model.head.shift, model.head.trust, model.head.offset]}]

        return train
