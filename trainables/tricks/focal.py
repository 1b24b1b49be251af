"""Focal loss over the classes' sigmoids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick


@trick(
    seam="loss",
    family="re-weighting",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, eq. 4; Lin et al. 2017, arXiv:1708.02002",
    space={"gamma": one_of(0.5, 1.0, 2.0)},
)
@dataclass(frozen=True)
class Focal:
    """A binary loss per class that fades out for what is already well told apart.

        L = −Σ_c (1 − p_c^t) ** γ · log p_c^t,   p_c^t = σ(z_c) if c = y, else 1 − σ(z_c)

    For a soft target q each class's term is q_c times the one of the true class plus 1 − q_c times the other.
    γ = 0 is the sum of the classes' binary cross-entropies.

    Args:
        gamma: γ, at least 0.

    Source:
        Zhang et al. 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional Neural
        Networks", AAAI 35(4), eq. 4; Lin, Goyal, Girshick, He, Dollár 2017, "Focal Loss for Dense Object
        Detection", ICCV, arXiv:1708.02002, eq. 4.

    Differs:
        From Bag of Tricks, none. Its public code multiplies the loss by n_min / n_y once deferred re-weighting
        begins: add `cost_sensitive` for that. The focal losses of LDAM, RIDE and the survey are over the softmax:
        see `softmax_focal`.

    >>> outputs = Outputs(torch.tensor([[0.0, 0.0]]))
    >>> loss = Focal(gamma=2.0).build(Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1])))
    >>> loss(outputs, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)  # 2 · 0.5² · ln 2
    tensor([0.3466])
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        in_range(self, "gamma", 0)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            # a class that the logits seam rules out (−inf) takes no part, whatever the target gives it
            out = outputs.logits.isneginf()
            z = outputs.logits.masked_fill(out, 0)
            log_p, log_not_p = functional.logsigmoid(z), functional.logsigmoid(-z)
            # the factor as exp(γ log(1 − p)): its gradient stays finite where 1 − p underflows and γ < 1
            true = torch.exp(self.gamma * log_not_p) * log_p
            other = torch.exp(self.gamma * log_p) * log_not_p
            return -(q * true + (1 - q) * other).masked_fill(out, 0).sum(dim=1)

        return loss
