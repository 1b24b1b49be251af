"""De-confounded classifier: a normalised head whose evaluation removes the drift of the training (De-confound-TDE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spaces.domain import one_of, uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick


class CausalNormHead(nn.Module):
    """The classifier of De-confound: one form in training, another one in evaluation.

    Args:
        features: D, a multiple of K.
        classes: C.
        num_head: K, groups of features.
        tau: τ.
        gamma: γ.
        alpha: α.
        mu: μ.
        generator: Where the initial weight comes from.
    """

    kind = "causal"
    bias = None

    def __init__(
        self,
        features: int,
        classes: int,
        num_head: int,
        tau: float,
        gamma: float,
        alpha: float,
        mu: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.num_head, self.tau, self.gamma, self.alpha, self.mu = num_head, tau, gamma, alpha, mu
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.reset(generator)

    def reset(self, generator: torch.Generator) -> None:
        """Draws the initial weight anew; the moving mean starts again."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        self.mean.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        if self.training:
            with torch.no_grad():
                self.mean.mul_(self.mu).add_(features.detach().mean(dim=0))
        rows = self._rows()
        z = self._logits(_unit(self._grouped(features)), rows)
        if self.training or not self.alpha:
            return z
        # alpha times the part of the feature that lies along the mean, seen by each group on its own
        drift = _unit(self._grouped(self.mean[None]))  # (1, K, D/K)
        along = (_unit(self._grouped(features)) * drift).sum(dim=2, keepdim=True)  # (B, K, 1) cosines
        return z - self.alpha * self._logits(along * drift, rows)

    def _grouped(self, x: Tensor) -> Tensor:
        groups: Tensor = x.unflatten(1, (self.num_head, -1))  # type: ignore[no-untyped-call]
        return groups

    def _rows(self) -> Tensor:
        rows = self._grouped(self.weight)
        scaled: Tensor = rows / (rows.norm(dim=2, keepdim=True) + self.gamma)  # (C, K, D/K)
        return scaled

    def _logits(self, x: Tensor, rows: Tensor) -> Tensor:
        z: Tensor = self.tau / self.num_head * x.flatten(1) @ rows.flatten(1).T
        return z


def _unit(x: Tensor) -> Tensor:
    """Groups (B, K, d) of length 1; a group of zeros stays one."""
    unit: Tensor = x / x.norm(dim=2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return unit


@trick(
    seam="head",
    family="margin and adjustment",
    source="Tang et al. 2020, arXiv:2009.12991, eq. 7 and 8 (De-confound-TDE)",
    space={"alpha": one_of(0.0, 1.0, 1.5, 3.0), "tau": uniform(8, 32, step=8)},
    provides=("causal", "one_head"),
)
@dataclass(frozen=True)
class CausalNorm:
    """Replaces the classifier by a multi-head normalised one, and subtracts the average feature's part when evaluated.

        training:    z_c = (τ / K) Σ_k w_c^k·x^k / ((‖w_c^k‖ + γ) ‖x^k‖)
        evaluation:  z_c − (τ / K) Σ_k α cos(x^k, d^k) · w_c^k·d^k / (‖w_c^k‖ + γ),   d^k = m^k / ‖m^k‖
        m ← μ m + mean of the batch's features, before each training step's classifier

    Features and rows are split into K equal groups; there is no bias. m is kept with the network and takes no part in
    training, and α acts in evaluation alone: α = 0 evaluates what was trained.

    Args:
        num_head: K, divides the number of features.
        tau: τ, above 0.
        gamma: γ, at least 0.
        alpha: α, at least 0: 1.0 on CIFAR-10-LT, 1.5 on CIFAR-100-LT, 3.0 on ImageNet-LT and Places-LT.
        mu: μ, in [0, 1).

    Raises:
        ValueError: At the stage's start, K does not divide the number of features.

    Source:
        Tang, Huang, Zhang 2020, "Long-Tailed Classification by Keeping the Good and Removing the Bad Momentum Causal
        Effect", NeurIPS, arXiv:2009.12991, eq. 7 and 8; constants of the public code.

    Differs:
        From the public code: off CIFAR it has μ = 1 − 0.1 · min(50 · lr, 1), read once an epoch; here μ is a number.
        m decays without a factor 1 − μ in both, of which the direction of each group alone is used.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> CausalNorm().build(Facts(torch.ones(3), torch.arange(3)))(network).head.weight.shape
    torch.Size([3, 64])
    """

    num_head: int = 2
    tau: float = 16.0
    gamma: float = 0.03125
    alpha: float = 1.5
    mu: float = 0.9

    def __post_init__(self) -> None:
        in_range(self, "num_head", 1, whole=True)
        in_range(self, "tau", 0, above=True, below=True)
        in_range(self, "gamma", 0, below=True)
        in_range(self, "alpha", 0, below=True)
        in_range(self, "mu", 0, 1, below=True)

    def build(self, facts: Facts) -> Callable[[Any], Any]:
        """Model -> the same model with the head."""

        def replace(model: Any) -> Any:
            if model.features % self.num_head:
                raise ValueError(
                    f"trick 'causal_norm': num_head must divide the network's {model.features} features, "
                    f"got {self.num_head}"
                )
            like = next(model.parameters())
            numbers = (self.num_head, self.tau, self.gamma, self.alpha, self.mu)
            old = model.head
            head = CausalNormHead(model.features, model.classes, *numbers, facts.generator("head"))
            head = head.to(device=like.device, dtype=like.dtype)
            if isinstance(old, CausalNormHead):  # one of a stage before keeps what it has learned
                head.load_state_dict(old.state_dict())
            model.head = head
            return model

        return replace
