"""Low-rank adaptation (LoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.fine_tuning import drawn, head_and


class LowRank(nn.Module):
    """A weight with a product of two factors added, W + s · U D.

    Args:
        weight: W (out, in), or (out, in, kh, kw) of a convolution, whose kernel belongs to the inputs.
        rank: r, at least 1.
        scale: s.
        generator: Where D comes from; U is zero. Zeros where absent.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.scale = scale
        inputs = weight[0].numel()
        self.down = nn.Parameter(drawn(weight.new_empty(rank, inputs), inputs, generator))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """W -> the weight that the layer computes with."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


@trick(
    seam="train",
    family="light fine-tuning",
    source="Hu et al. 2022, arXiv:2106.09685, eq. 3 (LoRA)",
    space={"rank": one_of(2, 4, 8, 16)},
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class Lora:
    """Trains a low-rank addition to the frozen weights of the backbone, h = W₀ x + (α / r) U D x, and the head.

    D (r, in) is uniform in ±1/√in, U (out, r) zero, so that training starts from the pretrained network; α = 0
    stays there. In the exported model the product is part of the weight. BatchNorm keeps its pretrained statistics.

    Args:
        rank: r, at least 1.
        alpha: α, at least 0.
        where: "all": every linear layer and every convolution without groups; "attention": linear layers inside
            attention alone.

    Raises:
        ValueError: The backbone has no such layer.

    Source:
        Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", ICLR, arXiv:2106.09685, eq. 3; initial
        values of the public code.

    Differs:
        The product is added to the weight before the layer is applied, which gives the same function, takes
        convolutions along, and costs the gradient of the whole weight. The paper adapts W_q and W_v; here the joint
        projection of a layer gets one product. Members of a stage merge factor by factor, not product by product.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = Lora(rank=2).build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> [tuple(p.shape) for p in groups[0]["params"][:2]]
    [(2, 9), (16, 2)]
    """

    rank: int = 8
    alpha: float = 8.0
    where: str = "all"

    def __post_init__(self) -> None:
        in_range(self, "rank", 1, whole=True)
        in_range(self, "alpha", 0)
        among(self, "where", ("all", "attention"))

    def reshape(self, model: Any) -> Any:
        """Model -> the same model with the factors in it; for who rebuilds a network to load its state."""
        return self._added(model, None)

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            model = self._added(model, facts.generator("lora"))
            factors = (module for module in model.backbone.modules() if isinstance(module, LowRank))
            return head_and(model, [parameter for module in factors for parameter in module.parameters()])

        return train

    def _added(self, model: Any, generator: torch.Generator | None) -> Any:
        layers = list(self._layers(model.backbone))
        if not layers:
            raise ValueError(f"trick 'lora': the backbone has no layer for where={self.where!r}; use where='all'")
        for layer, name in layers:
            if parametrize.is_parametrized(layer, name):  # by a stage before: its product is part of the weight now
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
            weight = getattr(layer, name)
            product = LowRank(weight.detach(), self.rank, self.alpha / self.rank, generator)
            # unsafe: without its trial run, which would only compute W + 0
            parametrize.register_parametrization(layer, name, product, unsafe=True)
        return model

    def _layers(self, backbone: nn.Module) -> Iterator[tuple[nn.Module, str]]:
        for path, module in backbone.named_modules():
            if self.where == "attention" and "att" not in path:
                continue
            if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                yield module, "in_proj_weight"
            elif isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
                yield module, "weight"
