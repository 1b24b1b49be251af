"""Class frequencies on the scale of logits: what the adjustments share."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.batch import Facts


def log_prior(facts: Facts, tau: float = 1.0, floor: float = 0.0) -> Tensor:
    """ln(π_c ** τ + floor), π_c = n_c / N; (C,) float64 on the device of the facts.

    A class without images has −inf, unless τ = 0 or there is a floor.

    >>> log_prior(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])), tau=2.0)
    tensor([-1.3863, -1.3863], dtype=torch.float64)
    """
    counts = facts.counts.double()
    if floor:
        return torch.log((counts / counts.sum()) ** tau + floor).to(facts.device)
    return (tau * torch.log(counts / counts.sum()) if tau else torch.zeros_like(counts)).to(facts.device)


def without_ruled_out(log_p: Tensor) -> Tensor:
    """Log-probabilities with 0 for −inf, the classes that the logits seam rules out.

    In a cross-entropy such a class takes no part, whatever the target gives it: a smoothed target that meets
    `balanced_softmax` on a class without images would make the loss infinite.

    >>> without_ruled_out(torch.tensor([-1.0, -torch.inf]))
    tensor([-1.,  0.])
    """
    return log_p.masked_fill(log_p.isneginf(), 0)
