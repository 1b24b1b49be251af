"""Feature fusion from head to tail (H2T)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import sent


@trick(
    seam="inside",
    family="two-stage",
    source="Li et al. 2024, arXiv:2306.06963, section 3.2",
    space={"rho": uniform(0.1, 0.5, step=0.1)},
    needs=("trained", "partner", "one_head"),
)
@dataclass(frozen=True)
class H2t:
    """Replaces some channels of an image's features by those of a partner, in training alone; the label stays.

        x'_d = x_jd for int(ρ D) channels d, drawn for the whole batch, else x_id

    The published method re-trains the classifier alone on this (`classifier`), the images class-balanced and the
    partners of the ordinary draw (`class_balanced`, `weighted_partner(power=0)`), so that rare classes see how wide the
    frequent ones spread. ρ = 0 changes nothing. A step costs a second pass, without gradient.

    Args:
        rho: ρ in [0, 1], the share of the channels; 0.25 in the public configuration.

    Raises:
        MissingFact: Facts without a model, which gives the partners' features.
        ValueError: A batch without partners.

    Source:
        Li, Hu, Lu, Zhang, Hu, Huang 2024, "Feature Fusion from Head to Tail for Long-Tailed Visual Recognition",
        AAAI, arXiv:2306.06963, section 3.2.

    Differs:
        None: the code replaces whole maps before they are pooled, which is the same.

    >>> from dataclasses import replace
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0)).eval()
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=network)
    >>> batch = Batch.plain(torch.zeros(2, 1, 8, 8), torch.arange(2), torch.tensor([0, 1]))
    >>> x, _ = H2t(rho=0.5).build(facts)(torch.full((2, 64), -1.0), replace(batch, partner=batch), torch.Generator())
    >>> (x == -1).sum(dim=1)
    tensor([32, 32])
    """

    rho: float = 0.25
    layer = "pool"

    def __post_init__(self) -> None:
        in_range(self, "rho", 0, 1)

    def build(self, facts: Facts) -> Callable[[Tensor, Batch, torch.Generator], tuple[Tensor, Batch]]:
        """(x (B, D), Batch, generator) -> x (B, D), the same Batch."""
        facts.require("h2t", "model")
        model = facts.model

        def fuse(x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Batch]:
            if batch.partner is None:
                raise ValueError("trick 'h2t' reads partners that another trick draws; add 'weighted_partner'")
            channels = torch.randperm(x.shape[1], generator=generator)[: int(self.rho * x.shape[1])]
            with torch.no_grad():
                theirs: Tensor = model(batch.partner.images[0]).features
            times = -(-len(x) // len(theirs))  # where another trick has added rows
            replaced = torch.zeros(x.shape[1], dtype=torch.bool).index_fill_(0, channels, True)
            return torch.where(sent(replaced, x.device), theirs.repeat(times, 1)[: len(x)], x), batch

        return fuse
