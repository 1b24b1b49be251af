"""Focal loss over the softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts, Outputs
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.adjustment import without_ruled_out


@trick(
    seam="loss",
    family="re-weighting",
    source="Lin et al. 2017, arXiv:1708.02002, eq. 4, over the softmax as in Cao et al. 2019, arXiv:1906.07413",
    space={"gamma": one_of(0.5, 1.0, 2.0, 3.0)},
)
@dataclass(frozen=True)
class SoftmaxFocal:
    """Cross-entropy that fades out for images that are classified with confidence.

        L = −(1 − p_y) ** γ · ln p_y,   p = softmax(z)

    For a soft target q it is Σ_c q_c times the term of class c. γ = 0 is the cross-entropy.

    Args:
        gamma: γ, at least 0; 1 in LDAM's public code, 3 in the survey's.
        constant_factor: Take (1 − p_y) ** γ as a constant in the gradient, as the survey's public code does.

    Source:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", ICCV, arXiv:1708.02002, eq. 4, with the softmax
        for the sigmoid: the public codes of LDAM (Cao et al. 2019, arXiv:1906.07413) and RIDE.

    Differs:
        None; the survey's variant is `gamma=3, constant_factor=True`. Bag of Tricks' focal loss is over the
        sigmoids: see `focal`.

    >>> loss = SoftmaxFocal(gamma=1.0).build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> loss(Outputs(torch.zeros(1, 2)), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)  # 0.5 · ln 2
    tensor([0.3466])
    """

    gamma: float = 1.0
    constant_factor: bool = False

    def __post_init__(self) -> None:
        in_range(self, "gamma", 0)
        among(self, "constant_factor", (False, True))

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            log_p = without_ruled_out(functional.log_softmax(outputs.logits, dim=1))
            # the smallest number instead of 0: for γ < 1 the gradient of 0 ** γ is infinite
            factor = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** self.gamma
            if self.constant_factor:
                factor = factor.detach()
            return -(q * factor * log_p).sum(dim=1)

        return loss
