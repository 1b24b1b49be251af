"""Classifiers on top of the features.

A head is a module features (B, D) -> logits (B, C), or (E, B, C) where it has several experts. Single heads
show `weight` (C, D), `bias` (C,) or `None`, `kind`, and `reset(generator)`, so that whatever re-trains,
re-scales or replaces the classifier need not know which one it has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.training import seeding


class LinearHead(nn.Module):
    """The ordinary classifier, z = W x + b.

    Initial values: W uniform in ±1/√D, as `torch.nn.Linear`; b zero.

    Args:
        features: D, at least 1.
        classes: C, at least 2.
        generator: Where the initial weight comes from; a fixed seed of the head's own where absent.

    Source: the public code of Bag of Tricks (Zhang et al. 2021), whose classifier keeps torch's default, with
        the paper's zero bias.
    Differs: LDAM (Cao et al. 2019) and MiSLAS (Zhong et al. 2021) draw W Kaiming-normal, 2.4 times as wide at
        D = 64, which matters in short training.

    >>> head = LinearHead(features=64, classes=10)
    >>> head(torch.zeros(2, 64)).shape, head.kind, head.bias.abs().max().item()
    (torch.Size([2, 10]), 'linear', 0.0)
    """

    kind = "linear"

    def __init__(self, features: int, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.bias = nn.Parameter(torch.empty(classes))
        self.reset(generator or seeding.generator(0, "head"))

    def reset(self, generator: torch.Generator) -> None:
        """Draws new initial values."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        return functional.linear(features, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"features={self.weight.shape[1]}, classes={self.weight.shape[0]}"


class CosineHead(nn.Module):
    """The cosine between feature and class weight, z_c = s · x·w_c / (‖x‖ ‖w_c‖), without bias.

    Initial values: uniform in [−1, 1), each w_c then scaled to length 1.

    Args:
        features: D, at least 1.
        classes: C, at least 2.
        scale: s, above 0. A plain attribute: a trick that scales by itself (LDAM) divides by it.
        generator: Where the initial weight comes from; a fixed seed of the head's own where absent.

    Raises:
        ValueError: The scale is not above 0.

    Source: Cao et al. 2019, arXiv:1906.07413, public code `NormedLinear`.
    Differs: the weight is stored (C, D) and the scale belongs to the head, not to the loss.

    >>> head = CosineHead(features=2, classes=2, scale=30.0)
    >>> _ = head.weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    >>> head(torch.tensor([[3.0, 4.0]]))
    tensor([[18., 24.]], grad_fn=<MulBackward0>)
    """

    kind = "cosine"

    def __init__(self, features: int, classes: int, scale: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"CosineHead: scale must be above 0, got {scale}")
        self.scale = float(scale)
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.register_parameter("bias", None)
        self.reset(generator or seeding.generator(0, "head"))

    def reset(self, generator: torch.Generator) -> None:
        """Draws new initial values; the scale stays."""
        with torch.no_grad():
            self.weight.uniform_(-1, 1, generator=generator)
            self.weight.copy_(functional.normalize(self.weight, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C), each in [−s, s]."""
        cosine = functional.linear(functional.normalize(features, dim=1), functional.normalize(self.weight, dim=1))
        return self.scale * cosine

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"features={self.weight.shape[1]}, classes={self.weight.shape[0]}, scale={self.scale:g}"
