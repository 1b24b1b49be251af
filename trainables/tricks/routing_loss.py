"""The loss of the routers between experts (RIDE's expert assignment)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.expert_losses import experts_of
from trainables.tricks._shared.routing import running_means


@trick(
    seam="loss",
    family="experts",
    source="Wang et al. 2021, arXiv:2010.01809, expert assignment (RIDE)",
    needs=("routers",),
    provides=("routing loss",),
)
@dataclass(frozen=True)
class RoutingLoss:
    """Teaches routers to ask for the next expert where the experts so far are wrong and more of them are right.

        L = 1/(E − 1) Σ_e [ −positive_weight · t_e ln σ(r_e) − (1 − t_e) ln(1 − σ(r_e)) ]
        t_e = 1 where the mean logits of experts 1 … e are wrong, and those of 1 … e' are right for some e' > e

    r_e is the logit of router e; nothing but the routers has a gradient. The published stage draws class-balanced
    batches of 512 for 5 epochs, at a tenth of the learning rate.

    Args:
        positive_weight: Above 0. The larger it is, the more experts an image takes.

    Raises:
        ValueError: When called without experts, or without routers.

    Source:
        Wang, Lian, Miao, Liu, Yu 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR,
        arXiv:2010.01809, the routing loss of the expert assignment module; ω_p = 100 as there.

    Differs:
        None. Mixed labels have one loss for each part of the mixture; tricks of the logits seam take part in what is
        right.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> z = torch.tensor([[[0.0, 1.0]], [[3.0, 0.0]]])
    >>> outputs = Outputs(z.mean(dim=0), experts=z, routing=torch.zeros(1, 1))
    >>> loss = RoutingLoss().build(facts)
    >>> loss(outputs, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)
    tensor([69.3147])
    """

    positive_weight: float = 100.0

    reads_experts = True

    def __post_init__(self) -> None:
        in_range(self, "positive_weight", 0, above=True, below=True)

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""

        def loss(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
            experts, routing = experts_of(outputs, "routing_loss"), outputs.routing
            if routing is None:
                raise ValueError("trick 'routing_loss' needs the routers of 'expert_assignment'; add it to the stage")
            right = running_means(experts).argmax(dim=2) == y
            later = right[1:].flip(0).cumsum(dim=0).flip(0) > 0
            needed = (~right[:-1] & later).to(routing.dtype)
            weight = routing.new_tensor(self.positive_weight)
            losses = functional.binary_cross_entropy_with_logits(routing, needed, reduction="none", pos_weight=weight)
            return losses.mean(dim=0)

        return loss
