"""Adapters beside the MLPs of a transformer (AdaptFormer)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.fine_tuning import drawn, head_and


class AdaptMlp(nn.Module):
    """MLP(x) + s · (ReLU(x D) U), with x as the block's normalisation leaves it.

    Args:
        mlp: The block's own, which is frozen.
        width: Inputs and outputs of the MLP.
        bottleneck: Of the adapter, at least 1.
        scale: s.
        learn_scale: Whether s is a parameter.
        generator: Where D comes from; U and both biases are zero. Zeros where absent.
    """

    def __init__(
        self,
        mlp: nn.Module,
        width: int,
        bottleneck: int,
        scale: float,
        learn_scale: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.mlp = mlp
        like = next(mlp.parameters()).detach()
        self.down, self.up = (
            nn.utils.skip_init(nn.Linear, *sizes, device=like.device, dtype=like.dtype)
            for sizes in ((width, bottleneck), (bottleneck, width))
        )
        with torch.no_grad():
            self.down.weight.copy_(drawn(self.down.weight, width, generator))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()
        self.scale: float | nn.Parameter = nn.Parameter(like.new_tensor(scale)) if learn_scale else scale

    @property
    def adapter(self) -> list[nn.Parameter]:
        """What learns."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("mlp.")]

    def forward(self, x: Tensor) -> Tensor:
        """(B, …, D) -> (B, …, D)."""
        found: Tensor = self.mlp(x) + self.scale * self.up(functional.relu(self.down(x)))
        return found


@trick(
    seam="train",
    family="light fine-tuning",
    source="Chen et al. 2022, arXiv:2205.13535, eq. 3 and 4 (AdaptFormer)",
    space={"bottleneck": one_of(4, 16, 64), "scale": one_of(0.1, 1.0)},
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class AdaptFormer:
    """Trains a small adapter beside the MLP of every transformer block, and the head.

    x̃ = ReLU(LN(x′) D + b) U + c and x = MLP(LN(x′)) + s · x̃ + x′. D (width, bottleneck) is uniform in ±1/√width, the
    rest of the adapter zero, so that training starts from the pretrained network; s = 0 stays there. The adapter is
    kept in the exported model.

    Args:
        bottleneck: At least 1; 64 in the paper.
        scale: s, at least 0; 0.1 in the paper.
        learn_scale: Learn s, one for each block, from `scale` on (LIFT, from 1).

    Raises:
        ValueError: The backbone has no block with an MLP.

    Source:
        Chen et al. 2022, "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS,
        arXiv:2205.13535, eq. 3 and 4.

    Differs:
        From the paper, none; its public code feeds the adapter x′ and not LN(x′), LIFT's public code has a LayerNorm of
        the adapter's own. Where a block scales its MLP's output (LayerScale), it scales the adapter's too.

    >>> from trainables.models import Network
    >>> from trainables.models.heads import LinearHead
    >>> block = nn.Sequential()
    >>> block.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    >>> network = Network({"block": block}, LinearHead(4, 3), features=4, classes=3)
    >>> groups = AdaptFormer(bottleneck=2).build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> [tuple(p.shape) for p in groups[0]["params"]]
    [(2, 4), (2,), (4, 2), (4,), (3, 4), (3,)]
    """

    bottleneck: int = 64
    scale: float = 0.1
    learn_scale: bool = False

    def __post_init__(self) -> None:
        in_range(self, "bottleneck", 1, whole=True)
        in_range(self, "scale", 0)
        among(self, "learn_scale", (False, True))

    def reshape(self, model: Any) -> Any:
        """Model -> the same model with the adapters in it; for who rebuilds a network to load its state."""
        self._adapters(model, None)
        return model

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            adapters = self._adapters(model, facts.generator("adapt_former"))
            return head_and(model, [parameter for adapter in adapters for parameter in adapter.adapter])

        return train

    def _adapters(self, model: Any, generator: torch.Generator | None) -> list[AdaptMlp]:
        """An adapter beside every MLP; those of a stage before with the same settings learn on."""
        adapters = []
        blocks = [module for module in model.backbone.modules() if not isinstance(module, AdaptMlp)]
        for block in blocks:
            mlp: Any = getattr(block, "mlp", None)
            if isinstance(mlp, AdaptMlp) and self._made(mlp):
                adapters.append(mlp)
            elif width := _width(mlp):
                block.mlp = AdaptMlp(mlp, width, self.bottleneck, self.scale, self.learn_scale, generator)
                adapters.append(block.mlp)
        if not adapters:
            raise ValueError("trick 'adapt_former': no block of the backbone has an MLP; use a transformer, or 'lora'")
        return adapters

    def _made(self, adapted: AdaptMlp) -> bool:
        if adapted.down.out_features != self.bottleneck:
            return False
        return self.learn_scale if isinstance(adapted.scale, nn.Parameter) else adapted.scale == self.scale


def _width(mlp: Any) -> int:
    """Inputs of an MLP that gives as many outputs; 0 for what is none."""
    if isinstance(mlp, AdaptMlp):
        return int(mlp.down.in_features)
    linear = [layer for layer in mlp.modules() if isinstance(layer, nn.Linear)] if isinstance(mlp, nn.Module) else []
    same = len(linear) > 1 and linear[0].in_features == linear[-1].out_features
    return linear[0].in_features if same else 0
