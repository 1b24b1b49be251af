"""Sharpness-aware minimisation (SAM)."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import one_of
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.sharpness import StepFn, ascended_step


@trick(
    seam="step",
    family="sharpness",
    source="Foret et al. 2021, arXiv:2010.01412, algorithm 1; long-tailed: Rangwani et al. 2022, arXiv:2212.13827",
    space={"rho": one_of(0.05, 0.1, 0.2, 0.5, 0.8)},
)
@dataclass(frozen=True)
class Sam:
    """Steps along the gradient at nearby weights where the batch's loss is larger, so that minima become flat.

        g = ∇L(w + ε),   ε = ρ ∇L(w) / (‖∇L(w)‖ + 1e-12)

    The norm is one over all parameters. Momentum, weight decay and clipping act on g at w. A step costs two passes.
    ρ = 0 is a plain step.

    Args:
        rho: ρ, at least 0; on CIFAR-10-LT 0.1 (cross-entropy), 0.5 (deferred re-weighting), 0.8 (with LDAM), on
            CIFAR-100-LT 0.2 and 0.8.

    Source:
        Foret, Kleiner, Mobahi, Neyshabur 2021, "Sharpness-Aware Minimization for Efficiently Improving
        Generalization", ICLR, arXiv:2010.01412, algorithm 1; numbers of Rangwani, Aithal, Mishra, Babu 2022,
        "Escaping Saddle Points for Effective Generalization on Class-Imbalanced Data", NeurIPS, arXiv:2212.13827.

    Differs:
        None from the public codes, in which BatchNorm's running statistics move in both passes, too.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimiser = torch.optim.SGD([w], lr=1.0)
    >>> step = Sam(rho=5.0).build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> step(lambda factors=None: (w.square().sum() / 2).backward(), optimiser)  # ∇L(w) = w
    >>> w.grad, w.data
    (tensor([6., 8.]), tensor([3., 4.]))
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        in_range(self, "rho", 0, below=True)

    def build(self, facts: Facts) -> StepFn:
        """(gradient, optimiser) -> None."""
        return ascended_step(self.rho, None)
