"""Balanced contrastive learning (BCL)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.domain import uniform
from trainables.batch import Batch, Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.classifier_rows import weight_of
from trainables.tricks._shared.contrast import main_label, projected_views
from trainables.tricks._shared.drawn_layers import projection, unit


@trick(
    seam="penalty",
    family="contrastive",
    source="Zhu et al. 2022, arXiv:2207.09052, eq. 7 (balanced contrastive loss)",
    space={"beta": uniform(0.1, 0.7, step=0.1), "temperature": uniform(0.05, 0.2, step=0.05)},
    needs=("one_head",),
)
@dataclass(frozen=True)
class Bcl:
    """Draws the second and third view of a class together, with every class counting alike among those to keep away.

        L_i = − mean over positives p of [s_ip − ln Σ_c mean over j of c of exp s_ij],   s_ij = f_i·f_j / temperature

    Entries are the projected second and third views of the batch and one centre per class, a projection of the
    classifier's row, all of length 1. Positives are the other entries of the image's class; i itself is left out, also
    of its class's mean. The penalty is β times the mean over an image's two views. β = 0 changes nothing.

    The published method has `several_views(3)` and `balanced_softmax` with it. Of a mixed image the label with the
    larger share counts.

    Args:
        beta: β, at least 0. The paper's objective is α times the balanced softmax and β times this: 1 and 0.35 on
            ImageNet-LT; 2 and 0.6 on CIFAR, which is β = 0.3 here at twice the learning rate.
        temperature: Above 0; 0.1 on CIFAR, 0.07 on ImageNet-LT.
        hidden: Width of the two projections, at least 1.
        width: Outputs of the two projections, at least 1.

    Raises:
        MissingFact: Facts without a model, whose features and rows are projected.
        ValueError: Outputs of fewer than three views, or a head without one row per class.

    Source:
        Zhu, Wang, Chen, Chen, Jiang 2022, "Balanced Contrastive Learning for Long-Tailed Visual Recognition", CVPR,
        arXiv:2207.09052, eq. 7; numbers of CIFAR from the public code of CUDA, which has BCL.

    Differs:
        From the public code, the initial values of the projections, which it draws Kaiming-normal.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=network)
    >>> {name: sum(p.numel() for p in layers.parameters()) for name, layers in Bcl().modules(facts).items()}
    {'features': 99968, 'rows': 99968}
    """

    beta: float = 0.3
    temperature: float = 0.1
    hidden: int = 512
    width: int = 128
    needs_views = 3

    def __post_init__(self) -> None:
        in_range(self, "beta", 0, below=True)
        in_range(self, "temperature", 0, above=True, below=True)
        in_range(self, "hidden", 1, whole=True)
        in_range(self, "width", 1, whole=True)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The projections of features and of the classifier's rows."""
        facts.require("bcl", "model")
        features, generator = int(facts.model.features), facts.generator("bcl")
        return {name: projection(features, self.hidden, self.width, generator) for name in ("features", "rows")}

    def build(self, facts: Facts) -> Callable[[Outputs, Batch, torch.Generator | None], Tensor]:
        """(Outputs, Batch, generator) -> (B,)."""
        facts.require("bcl", "model")
        own, model = facts.own_modules(self), facts.model

        def penalty(outputs: Outputs, batch: Batch, generator: torch.Generator | None) -> Tensor:
            views = projected_views(outputs, own["features"], "bcl")[1:]
            centres = unit(own["rows"], weight_of(model.head, "bcl"))
            losses = balanced_contrast(torch.cat(list(views)), centres, main_label(batch).repeat(2), self.temperature)
            return self.beta * losses.view(2, -1).mean(dim=0)

        return penalty


def balanced_contrast(f: Tensor, centres: Tensor, y: Tensor, temperature: float) -> Tensor:
    """The loss of each entry.

    Args:
        f: (M, P) of length 1.
        centres: (C, P) of length 1.
        y: (M,) labels.
        temperature: Above 0.

    Returns:
        (M,).
    """
    labels = torch.cat((y, torch.arange(len(centres), device=y.device)))
    s = f @ torch.cat((f, centres)).T / temperature  # (M, M + C)
    itself = torch.eye(len(f), len(labels), dtype=torch.bool, device=y.device)
    positive = (y[:, None] == labels) & ~itself
    counted = labels.bincount(minlength=len(centres))[labels] - positive.int()
    # the logarithm of each entry's share of its class's mean; its own class may have no other entry
    terms = (s - counted.clamp(min=1).to(s.dtype).log()).masked_fill(itself, -torch.inf)
    log_p = s - terms.logsumexp(dim=1, keepdim=True)
    return -(log_p * positive).sum(dim=1) / positive.sum(dim=1)
