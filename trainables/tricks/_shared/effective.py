"""The effective number of images: what one weight and one draw share."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_effective_number(counts: Tensor, beta: float) -> Tensor:
    """(1 − β) / (1 − β ** n_c), and 0 for classes without images; (C,) float64.

    >>> inverse_effective_number(torch.tensor([2, 1, 0]), 0.5)
    tensor([0.6667, 1.0000, 0.0000], dtype=torch.float64)
    """
    numbers = counts.double()
    log_beta = torch.tensor(beta, dtype=torch.float64).log().item()
    # expm1 keeps 1 − β ** n exact where β is close to 1
    covered = -torch.expm1(numbers.clamp(min=1) * log_beta)
    return torch.where(numbers > 0, (1 - beta) / covered, 0.0)
