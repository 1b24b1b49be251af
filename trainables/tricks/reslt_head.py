"""Residual learning of the long tail (ResLT): the head with three branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batch import Blend, Facts, Outputs
from trainables.models.heads import LinearHead
from trainables.models.network import blended
from trainables.registry import trick

BRANCHES = 3


class ResltHead(nn.Module):
    """Three normalisations of the last maps in front of one pool and one linear classifier.

    Args:
        reads: Name of the network's last part.
        features: D.
        linear: The classifier.
    """

    kind = "reslt"

    def __init__(self, reads: str, features: int, linear: LinearHead) -> None:
        super().__init__()
        self.reads = reads
        self.norms = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(BRANCHES))
        self.linear = linear

    def forward(self, maps: Tensor, blend: Blend | None = None) -> Outputs:
        """Maps (B, D, h, w), or features (B, D) -> Outputs, whose logits are the branches' sum."""
        maps = maps if maps.ndim == 4 else maps[:, :, None, None]
        pooled = [blended(norm(maps).mean(dim=(2, 3)), blend, "pool") for norm in self.norms]
        logits = torch.stack([blended(self.linear(features), blend, "logits") for features in pooled])
        return Outputs(logits.sum(dim=0), torch.stack(pooled), None, logits)


@trick(
    seam="head",
    family="experts",
    source="Cui et al. 2022, arXiv:2101.10633, section 3.3 (ResLT)",
    provides=("experts", "3 experts"),
)
@dataclass(frozen=True)
class ResltBranches:
    """Reads the last maps through three BatchNorms: head, medium and tail branch, with one classifier.

        z = z_H + z_M + z_T,   z_b = W pool(BatchNorm_b(maps)) + b

    The loss `reslt` trains the branches; another one learns from their sum. The network's linear classifier keeps its
    values.

    Source:
        Cui, Liu, Tian, Zhong, Jia 2022, "ResLT: Residual Learning for Long-Tailed Recognition", TPAMI,
        arXiv:2101.10633, section 3.3; the form of the public CIFAR code.

    Differs:
        From the public code's ImageNet form, which is `reslt_conv_head`.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> outputs = ResltBranches().build(Facts(torch.ones(3), torch.arange(3)))(network)(torch.zeros(2, 1, 8, 8))
    >>> outputs.logits.equal(outputs.experts.sum(dim=0))
    True
    """

    def build(self, facts: Facts) -> Callable[[Any], Any]:
        """Model -> the same model with the head."""

        def replace(model: Any) -> Any:
            if isinstance(model.head, ResltHead):
                return model
            like = next(model.parameters())
            linear = model.head
            if type(linear) is not LinearHead:
                linear = LinearHead(model.features, model.classes, facts.generator("head"))
            reads = next(reversed(list(model.backbone)), "input")
            model.head = ResltHead(reads, model.features, linear).to(device=like.device, dtype=like.dtype)
            return model

        return replace
