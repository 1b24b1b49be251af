"""Classifier re-training (cRT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.batch import Facts
from trainables.registry import among, trick
from trainables.tricks._shared.classifier_rows import BATCHNORM, only_head_learns, reset_head


@trick(
    seam="train",
    family="classifier re-training",
    source="Kang et al. 2020, arXiv:1910.09217, section 4 (cRT)",
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class Classifier:
    """Trains the classifier alone; the backbone is frozen.

    Args:
        reset: Start from a freshly initialised classifier (cRT); `False` starts from the one handed over (LOS, and
            the stage that balanced training and merging puts before its own where the start is re-balanced).
        batchnorm: "fixed": the backbone's BatchNorm keeps its statistics, so that its features stay the same;
            "moving": they follow the batches of this stage.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, section 4.

    Differs:
        From the paper, none. The public codes of Kang, Bag of Tricks, LOS and (for cRT) MiSLAS leave the backbone
        in training mode, so its statistics drift: `batchnorm="moving"`.

    >>> import torch
    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> groups = Classifier().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))(network)
    >>> [tuple(p.shape) for p in groups[0]["params"]], sum(p.requires_grad for p in network.parameters())
    ([(2, 64), (2,)], 2)
    """

    reset: bool = True
    batchnorm: str = "fixed"

    def __post_init__(self) -> None:
        among(self, "reset", (False, True))
        among(self, "batchnorm", BATCHNORM)

    def build(self, facts: Facts) -> Callable[[Any], list[dict[str, Any]]]:
        """Model -> parameter groups."""

        def train(model: Any) -> list[dict[str, Any]]:
            only_head_learns(model, self.batchnorm)
            if self.reset:
                reset_head(model.head, facts.generator("head"))
            return [{"params": list(model.head.parameters())}]

        return train
