"""Learnable weight scaling (LWS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.classifier_rows import BATCHNORM, ScaledHead, only_head_learns, weight_of


@trick(
    seam="train",
    family="classifier re-training",
    source="Kang et al. 2020, arXiv:1910.09217, section 4 (LWS)",
    space={"weight_lr": one_of(0.0, 0.05, 0.1, 0.2, 0.5)},
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class LearnableScale:
    """Learns one factor for each class's row of the classifier; everything else is frozen.

        z_c = s_c · w_c·x + b_c,   s_c = 1 at first

    Untrained it changes nothing. A head that is scaled already keeps its factors.

    Args:
        scale_bias: Scale the bias too, z_c = s_c (w_c·x + b_c).
        weight_lr: Train the classifier itself as well, with this multiple of the stage's learning rate; 0 freezes
            it. MiSLAS has 0.5, 0.2 and 0.1 on CIFAR, 0.05 on large sets.
        batchnorm: "fixed": the backbone's BatchNorm keeps its statistics; "moving": they follow the batches.

    Raises:
        ValueError: The head has no weight row per class.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, section 4; with weight_lr: Zhong et al. 2021, MiSLAS, arXiv:2104.00466.

    Differs:
        From the paper, none; the public code scales the bias too (`scale_bias=True`) and lets the backbone's
        statistics move (`batchnorm="moving"`).

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = LearnableScale().build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> [tuple(p.shape) for group in groups for p in group["params"]]
    [(3,)]
    """

    scale_bias: bool = False
    weight_lr: float = 0.0
    batchnorm: str = "fixed"

    def __post_init__(self) -> None:
        among(self, "scale_bias", (False, True))
        in_range(self, "weight_lr", 0, below=True)
        among(self, "batchnorm", BATCHNORM)

    def reshape(self, model: Any) -> Any:
        """Model -> the same model with the factors in it; for who rebuilds a network to load its state."""
        weight_of(model.head, "learnable_scale")
        if not isinstance(model.head, ScaledHead):
            model.head = ScaledHead(model.head, self.scale_bias)
        return model

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            model = self.reshape(model)
            only_head_learns(model, self.batchnorm)
            groups: list[dict[str, Any]] = [{"params": [model.head.scale]}]
            inner = list(model.head.inner.parameters())
            if self.weight_lr:
                groups.append({"params": inner, "lr_scale": self.weight_lr})
            else:
                for parameter in inner:
                    parameter.requires_grad_(False)
            return groups

        return train
