"""Fine-tuning of the last blocks alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.models.layers import layers_of
from trainables.registry import in_range, trick
from trainables.tricks._shared.fine_tuning import head_and


@trick(
    seam="train",
    family="light fine-tuning",
    source="Yosinski et al. 2014, arXiv:1411.1792, section 2",
    space={"count": one_of(1, 2, 4)},
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class LastBlock:
    """Trains the last residual or transformer blocks of the backbone, a final normalisation included, and the head.

    BatchNorm keeps its pretrained statistics, also in these blocks.

    Args:
        count: How many layers of the backbone learn (`trainables.models.layers`), at least 1; a network with fewer
            learns as a whole.

    Source:
        Yosinski et al. 2014, "How transferable are features in deep neural networks?", NeurIPS, arXiv:1411.1792:
        the first layers frozen, the others fine-tuned. For long tails: Shi et al. 2024 (LIFT), arXiv:2309.10019,
        partial fine-tuning.

    Differs:
        The layers before are those of a pretrained network and not of one that was trained here.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = LastBlock().build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> sum(p.numel() for p in groups[0]["params"])
    55747
    """

    count: int = 1

    def __post_init__(self) -> None:
        in_range(self, "count", 1, whole=True)

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            last = layers_of(model.backbone)[-self.count :]
            return head_and(model, [parameter for layer in last for parameter in layer])

        return train
