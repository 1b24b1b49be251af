"""Expert assignment (RIDE): routers that spare an image the experts that it does not need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import generator
from trainables.tricks._shared.routing import Routers


@trick(
    seam="train",
    family="experts",
    source="Wang et al. 2021, arXiv:2010.01809, expert assignment (RIDE)",
    needs=("trained", "several experts", "routing loss"),
    provides=("routers",),
)
@dataclass(frozen=True)
class ExpertAssignment:
    """Freezes the experts, and trains a router behind each but the last: does this image need the next expert?

        r_e = u · [the k largest of z̄_e; ReLU(V_e x_e / ‖x_e‖ + b_e)] + t,   the next expert is taken while r_e > 0

    z̄_e is the mean logits of the experts up to e, x_e the features of expert e. An evaluated image has the mean logits
    of the experts that it takes, in the exported network as well. The record has how many these are in the mean
    (`experts_used`), and which share of the computation of all experts they cost (`flops_share`).

    Args:
        hidden: Rows of V_e, at least 1.
        top: k, at least 1; all logits where there are fewer classes.

    Source:
        Wang, Lian, Miao, Liu, Yu 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR,
        arXiv:2010.01809, the expert assignment module; its form and constants from the public code.

    Differs:
        Initial values are those of `torch.nn.Linear`, where the public code draws them Kaiming-normal. The experts that
        an image is spared are computed nevertheless, so that one program serves every batch.

    >>> from trainables.models import build
    >>> from trainables.registry import make
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.ones(3), torch.arange(3))
    >>> network = make("experts").build(facts)(network)
    >>> groups = ExpertAssignment().build(facts)(network)
    >>> [tuple(p.shape) for p in groups[0]["params"]]
    [(16, 48), (16,), (16, 48), (16,), (1, 19), (1,)]
    """

    hidden: int = 16
    top: int = 30

    def __post_init__(self) -> None:
        in_range(self, "hidden", 1, whole=True)
        in_range(self, "top", 1, whole=True)

    def reshape(self, model: Any) -> Any:
        """Model -> the same model with new routers; for who rebuilds a network to load its state."""
        return self._with_routers(model, generator(0, "routers"))

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            model.requires_grad_(False)
            head = self._with_routers(model, facts.generator("routers")).head
            model.fix_batchnorm = head.fix_batchnorm = True
            return [{"params": list(head.routers.parameters())}]

        return train

    def _with_routers(self, model: Any, drawn: torch.Generator) -> Any:
        head, like = model.head, next(model.parameters())
        classes, features = head.heads[0].weight.shape
        made = Routers(len(head.heads), features, classes, self.hidden, self.top, drawn)
        head.routers = made.to(device=like.device, dtype=like.dtype)
        return model
