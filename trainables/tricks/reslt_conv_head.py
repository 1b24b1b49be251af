"""Residual learning of the long tail (ResLT): the head of its ImageNet code, three branches of one convolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Blend, Facts, Outputs
from trainables.models.heads import LinearHead
from trainables.models.network import blended
from trainables.registry import in_range, trick

BRANCHES = 3


class ResltConvHead(nn.Module):
    """A convolution of size 1 that gives each of three branches its own features, and one linear classifier.

    Args:
        reads: Name of the network's last part.
        linear: The classifier (C, D).
        gamma: γ.
        generator: Of the convolution's initial values, Kaiming-normal.
    """

    kind = "reslt"

    def __init__(self, reads: str, linear: LinearHead, gamma: float, generator: torch.Generator) -> None:
        super().__init__()
        features = linear.weight.shape[1]
        self.reads, self.linear, self.gamma = reads, linear, gamma
        self.conv = nn.utils.skip_init(nn.Conv2d, features, BRANCHES * features, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        self.norm = nn.BatchNorm2d(BRANCHES * features)

    def forward(self, maps: Tensor, blend: Blend | None = None) -> Outputs:
        """Maps (B, D, h, w), or features (B, D) -> Outputs, whose logits are the branches' sum."""
        maps = maps if maps.ndim == 4 else maps[:, :, None, None]
        if self.training:
            pooled = functional.relu(self.norm(self.conv(maps))).mean(dim=(2, 3))
        else:
            pooled = functional.relu(self.norm(self.conv(maps.mean(dim=(2, 3), keepdim=True)))).flatten(1)
        features = [blended(part, blend, "pool") for part in pooled.chunk(BRANCHES, dim=1)]
        logits = torch.stack([blended(self._classify(part), blend, "logits") for part in features])
        return Outputs(logits.sum(dim=0), torch.stack(features), None, logits)

    def _classify(self, features: Tensor) -> Tensor:
        if self.training:
            return self.linear(features)  # type: ignore[no-any-return]
        weight = self.linear.weight
        norms = weight.norm(dim=1, keepdim=True)
        return functional.linear(features, weight / torch.where(norms > 0, norms, 1) ** self.gamma)


@trick(
    seam="head",
    family="experts",
    source="Cui et al. 2022, arXiv:2101.10633, section 3.3 (ResLT on ImageNet-LT)",
    space={"gamma": one_of(0.0, 0.3, 0.7)},
    provides=("experts", "3 experts"),
)
@dataclass(frozen=True)
class ResltConvBranches:
    """Reads the last maps through one convolution of size 1: head, medium and tail branch, with one classifier.

        training:    z_b = W pool(ReLU(BatchNorm(conv(maps)))_b) + b
        evaluation:  z_b = Ŵ ReLU(BatchNorm(conv(pool(maps))))_b,   Ŵ's rows are w_c / ‖w_c‖ ** γ

    The convolution has D channels for each branch; the prediction is the branches' sum. The loss `reslt` trains the
    branches; another one learns from their sum. The network's linear classifier keeps its values.

    Args:
        gamma: γ, at least 0: 0.7, and 0.3 for ResNet-10 and on iNaturalist; 0 leaves the rows, and drops the bias.

    Source:
        Cui, Liu, Tian, Zhong, Jia 2022, "ResLT: Residual Learning for Long-Tailed Recognition", TPAMI,
        arXiv:2101.10633, section 3.3; the form of the public ImageNet code, whose `--after_1x1conv` puts the pool
        before the convolution in evaluation.

    Differs:
        None. Training and evaluation are different functions there as here, except where all places of the maps are
        equal.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.ones(3), torch.arange(3))
    >>> outputs = ResltConvBranches().build(facts)(network)(torch.zeros(2, 1, 8, 8))
    >>> outputs.experts.shape, outputs.logits.equal(outputs.experts.sum(dim=0))
    (torch.Size([3, 2, 3]), True)
    """

    gamma: float = 0.7

    def __post_init__(self) -> None:
        in_range(self, "gamma", 0, below=True)

    def build(self, facts: Facts) -> Callable[[Any], Any]:
        """Model -> the same model with the head."""

        def replace(model: Any) -> Any:
            if isinstance(model.head, ResltConvHead):
                return model
            like, generator = next(model.parameters()), facts.generator("head")
            linear = model.head
            if type(linear) is not LinearHead:
                linear = LinearHead(model.features, model.classes, generator)
            reads = next(reversed(list(model.backbone)), "input")
            model.head = ResltConvHead(reads, linear, self.gamma, generator).to(device=like.device, dtype=like.dtype)
            return model

        return replace
