"""Geometric mean loss (GML)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import log_prior


@trick(
    seam="loss",
    family="balanced training and merging",
    source="Du & Wu 2023, arXiv:2303.03630 (GML), as in the public code of Yu et al. 2024, arXiv:2401.16811",
    space={"p": uniform(1.0, 4.0, step=0.5)},
)
@dataclass(frozen=True)
class Gml:
    """Maximises the geometric mean over the classes of their mean probability; for re-training the classifier.

        L = ( mean over the classes c in the batch of (−ln p̄_c) ** p ) ** (1/p)
        p̄_c = mean of p_y over the batch's images of class c,   p = softmax(z + ln n), kept in [1e-5, 1]

    It is one number of the batch and stands in every image's entry. The target q plays no role: the loss reads
    the labels. With equal counts the probabilities are the plain softmax's.

    Args:
        p: Order of the mean over classes, at least 1; 1 is the geometric mean.

    Source:
        Du, Wu 2023, "No One Left Behind: Improving the Worst Categories in Long-Tailed Learning", CVPR,
        arXiv:2303.03630, as the public code of the same authors' BTM (arXiv:2401.16811) has it (`methods.py`,
        commented out).

    Differs:
        None from that code. The paper's own repository was not available.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> Gml().build(facts)(Outputs(torch.zeros(2, 2)), torch.eye(2), torch.tensor([0, 1]), None)
    tensor([0.6931, 0.6931])
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "p", 1, below=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        prior = log_prior(facts)

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            z = outputs.logits
            chance = torch.softmax(z + prior.to(z.dtype), dim=1).gather(1, y[:, None])[:, 0].clamp(1e-5, 1)
            member = functional.one_hot(y, facts.classes).to(z.dtype)  # (B, C)
            size = member.sum(dim=0)
            there = size > 0
            mean = (chance @ member)[there] / size[there]
            # −ln 1 may round to just below 0, whose power is not a number
            value = ((-mean.log()).clamp(min=0) ** self.p).mean() ** (1 / self.p)
            return value.expand(len(z))

        return loss
