"""A classifier by cosine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.models.heads import CosineHead as Cosine
from trainables.registry import in_range, trick
from trainables.tricks._shared.classifier_rows import innermost


@trick(
    seam="head",
    family="classifier re-training",
    source="Cao et al. 2019, arXiv:1906.07413, section 3.2 (its scale s)",
    space={"scale": uniform(10, 30, step=5)},
    provides=("cosine", "one_head"),
)
@dataclass(frozen=True)
class CosineHead:
    """Replaces the classifier by one that reads the angle between features and class weights.

        z_c = s · x·w_c / (‖x‖ ‖w_c‖)

    A network that has a cosine classifier already keeps its weights and takes the scale.

    Args:
        scale: s, above 0.

    Source:
        Cao, Wei, Gaidon, Arechiga, Ma 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS, arXiv:1906.07413, section 3.2; after Wang et al. 2018, NormFace and CosFace.

    Differs:
        The scale is the head's, not the loss's, so any loss and any evaluation read scaled logits.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> CosineHead().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))(network).head
    CosineHead(features=64, classes=2, scale=30)
    """

    scale: float = 30.0

    def __post_init__(self) -> None:
        in_range(self, "scale", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Any], Any]:
        """Model -> the same model with a cosine head."""

        def replace(model: Any) -> Any:
            head = innermost(model.head)
            if isinstance(head, Cosine):
                head.scale = float(self.scale)
                return model
            like = next(model.parameters())
            head = Cosine(model.features, model.classes, self.scale, facts.generator("head"))
            model.head = head.to(device=like.device, dtype=like.dtype)
            return model

        return replace
