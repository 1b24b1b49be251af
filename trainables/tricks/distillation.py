"""Knowledge distillation from the network that the stage before hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Batch, Blend, Facts, Outputs
from trainables.registry import in_range, trick


class Teacher(nn.Module):
    """A network that stays as it is: without gradient, and in evaluation mode whatever mode is asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        """Evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, blend: Blend | None = None) -> Tensor:
        """Images (B, c, H, W) -> logits (B, C)."""
        logits: Tensor = self.network(images, blend).logits
        return logits


@trick(
    seam="penalty",
    family="distillation",
    source="Hinton et al. 2015, arXiv:1503.02531, section 2; Wang et al. 2021, arXiv:2010.01809 (RIDE)",
    space={"temperature": one_of(1.0, 1.5, 2.0, 4.0)},
    needs=("images", "teacher"),
)
@dataclass(frozen=True)
class Distillation:
    """Draws the network towards what the network of the stage before says of the same images.

        factor · T² KL(p ‖ q),   p = softmax(z̄ / T) of the teacher without gradient, q = softmax(z / T)

    z and z̄ are the logits that are evaluated: the mean of experts. The teacher is the network as the stage before
    handed it over, frozen and in evaluation mode; it goes with its chain of stages, and is no part of the exported
    network. The student starts as every stage does, from the weights of the stage before; `experts` with a smaller
    count keeps its first experts. RIDE's teacher has 6 experts and its students 3 or 4; beside this penalty they learn
    their own loss. factor = 0 changes nothing. A step costs a pass of the teacher besides.

    Args:
        temperature: T, above 0; 1.5 for RIDE.
        factor: At least 0.

    Raises:
        MissingFact: Facts without `earlier_network`.
        ValueError: When called without images.

    Source:
        Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2; Wang,
        Lian, Miao, Liu, Yu 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR,
        arXiv:2010.01809, and the public code.

    Differs:
        RIDE's public code trains the student from scratch, leaves the teacher's BatchNorm in training mode, and adds
        the whole loss once per expert, which multiplies the learning rate by the number of experts.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0)).eval()
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=network, earlier_network=lambda: network)
    >>> batch = Batch.plain(torch.ones(2, 1, 8, 8), torch.arange(2), torch.tensor([0, 1]))
    >>> bool(Distillation().build(facts)(network(batch.images[0]), batch, None).abs().max() < 1e-6)
    True
    """

    temperature: float = 1.5
    factor: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, "temperature", 0, above=True, below=True)
        in_range(self, "factor", 0, below=True)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The teacher."""
        facts.require("distillation", "earlier_network")
        assert facts.earlier_network is not None
        teacher = facts.earlier_network()
        if facts.model is not None:
            teacher.settle(facts.model.precision, facts.model.memory_format)
        return {"teacher": Teacher(teacher)}

    def build(self, facts: Facts) -> Callable[[Outputs, Batch, torch.Generator | None], Tensor]:
        """(Outputs, Batch, generator) -> (B,)."""
        teacher = facts.own_modules(self)["teacher"]

        def penalty(outputs: Outputs, batch: Batch, generator: torch.Generator | None) -> Tensor:
            if batch.images.numel() == 0:
                raise ValueError("trick 'distillation' needs the images of the batch, which its teacher sees")
            target = functional.softmax(teacher(batch.images[0], batch.blend) / self.temperature, dim=1)
            # rows that a trick inside the network has added have no image that the teacher could see
            log_q = functional.log_softmax(outputs.logits[: len(target)] / self.temperature, dim=1)
            apart = functional.kl_div(log_q, target, reduction="none").sum(dim=1)
            return self.factor * self.temperature**2 * functional.pad(apart, (0, len(outputs.logits) - len(target)))

        return penalty
