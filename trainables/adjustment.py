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
