"""Label distribution disentangling (LADE)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import log_uniform
from trainables.batch import Facts, Outputs
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.adjustment import log_prior, without_ruled_out


@trick(
    seam="loss",
    family="margin and adjustment",
    source="Hong et al. 2021, arXiv:2012.00321, LADE loss",
    space={"alpha": log_uniform(0.01, 1.0), "square": log_uniform(0.01, 1.0)},
)
@dataclass(frozen=True)
class Lade:
    """Balanced softmax, and a term that makes each class's logit a log-ratio free of the class frequencies.

        L = CE(z + ln π) + α · LADER
        LADER = −Σ_c π_c [ mean_{i: y_i = c} z_ic − L_c − λ L_c² ]
        L_c = ln (1/B) Σ_i exp(z_ic) · (1/C) / π_c

    LADER is one number of the batch; it stands in every image's entry, so that the mean is the paper's value.
    The first term of a class that the batch does not have is 0; a class without training images is left out.
    α = 0 is the cross-entropy of `balanced_softmax`.

    Args:
        alpha: α, at least 0.
        square: λ, at least 0.
        importance: Whose frequency weighs image i in L_c: "class", π_c as above; "image", π of its own label y_i,
            which estimates the expectation over a balanced set.

    Source:
        Hong, Han, Choi, Seo, Kim, Chang 2021, "Disentangling Label Distribution for Long-tailed Visual
        Recognition", CVPR, arXiv:2012.00321; the public code's form (`importance="class"`).

    Differs:
        None from the public code, but for its 1e-9 and 1e-8 against division by zero.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> loss = Lade(alpha=1.0, square=1.0).build(facts)
    >>> loss(Outputs(torch.zeros(2, 2)), torch.eye(2), torch.tensor([0, 1]), None)
    tensor([0.6931, 0.6931])
    """

    alpha: float = 0.1
    square: float = 0.1
    importance: str = "class"

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        in_range(self, "square", 0, below=True)
        among(self, "importance", ("class", "image"))

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        prior = log_prior(facts)
        present = (facts.counts > 0).nonzero()[:, 0].to(facts.device)
        uniform = -math.log(len(present))

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            z = outputs.logits
            log_prior_ = prior.to(z.dtype)
            log_p = functional.log_softmax(z + log_prior_, dim=1)
            entropy = -(q * without_ruled_out(log_p)).sum(dim=1)
            if self.alpha == 0:
                return entropy
            member = functional.one_hot(y, facts.classes)[:, present].to(z.dtype)  # (B, P)
            z = z[:, present]
            frequency = log_prior_[present] if self.importance == "class" else log_prior_[y][:, None]
            second = torch.logsumexp(z - frequency + uniform, dim=0) - math.log(len(z))  # (P,)
            first = (member * z).sum(dim=0) / member.sum(dim=0).clamp(min=1)
            bound = first - second - self.square * second**2
            return entropy - self.alpha * (log_prior_[present].exp() * bound).sum()

        return loss
