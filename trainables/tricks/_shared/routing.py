"""Routers between experts: whether an image needs the next one, and the logits of the experts that it takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.tricks._shared.drawn_layers import linear


class Routers(nn.Module):
    """For each expert but the last, the logit that an image needs the next one.

        r_e = u · [the k largest of z̄_e; ReLU(V_e x_e / ‖x_e‖ + b_e)] + t

    z̄_e is the mean logits of the experts up to e, x_e the features of expert e. All routers share u and t.

    Args:
        experts: E, at least 2.
        features: D of an expert.
        classes: C.
        hidden: Rows of V_e.
        top: k; at most C.
        generator: Of the initial values.
    """

    def __init__(
        self, experts: int, features: int, classes: int, hidden: int, top: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.top = min(top, classes)
        self.hidden = nn.ModuleList(linear(features, hidden, generator) for _ in range(experts - 1))
        self.last = linear(self.top + hidden, 1, generator)

    def forward(self, features: Tensor, experts: Tensor) -> Tensor:
        """Features (E, B, D) and logits (E, B, C) of the experts -> (E − 1, B)."""
        sure = running_means(experts)[:-1].topk(self.top, dim=2).values
        directions = functional.normalize(features, dim=2)
        seen = torch.stack([layer(x) for layer, x in zip(self.hidden, directions[:-1], strict=True)])
        decided: Tensor = self.last(torch.cat((sure, functional.relu(seen)), dim=2))
        return decided.squeeze(2)


def running_means(experts: Tensor) -> Tensor:
    """The mean logits of the first expert, the first two, …: (E, B, C) -> (E, B, C)."""
    count = torch.arange(1, len(experts) + 1, device=experts.device, dtype=experts.dtype)
    return experts.cumsum(dim=0) / count[:, None, None]


def mean_of_first(experts: Tensor, used: Tensor) -> Tensor:
    """The mean logits (B, C) of the first experts of each image.

    Args:
        experts: (E, B, C).
        used: (B,) int64, from 1 to E.

    >>> mean_of_first(torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]]), torch.tensor([2]))
    tensor([[1., 2.]])
    """
    last = (used - 1)[None, :, None].expand(1, -1, experts.shape[2])
    return running_means(experts).gather(0, last).squeeze(0)
