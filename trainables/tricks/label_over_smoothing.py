"""Label over-smoothing (LOS)."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import uniform
from trainables.batch import Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.smoothing import TargetFn, smoothed


@trick(
    seam="target",
    family="smoothing",
    source="Sun et al. 2025 (LOS), ICLR; preprint: Lu et al. 2024 (LORT), arXiv:2403.00250",
    space={"delta": uniform(0.9, 0.999)},
)
@dataclass(frozen=True)
class LabelOverSmoothing:
    """Smooths the labels so far that the true class is hardly above the others; for re-training the classifier.

        q_y = 1 − δ + δ / C,   q_c = δ / C for the others

    δ = 0 changes nothing; counts play no role.

    Args:
        delta: δ in [0, 1).

    Source:
        Sun, Lu, Li, Xie, Li, Yang, Zhang, Yan 2025, "Rethinking Classifier Re-Training in Long-Tailed Recognition:
        Label Over-Smooth Can Balance" (LOS), ICLR; preprint by Lu et al. 2024 ("A Simple Logits Retargeting
        Approach", LORT), arXiv:2403.00250.

    Differs:
        None; the public code writes it as `CrossEntropyLoss(label_smoothing=δ)`. Its command line defaults to
        δ = 0, its README says 0.98. Its reported accuracies average an image and its mirror: see `flip_tta`.

    >>> import torch
    >>> facts = Facts(counts=torch.ones(100), labels=torch.tensor([0, 1]))
    >>> LabelOverSmoothing(delta=0.98).build(facts)(torch.tensor([1]))[0, :3]
    tensor([0.0098, 0.0298, 0.0098], dtype=torch.float64)
    """

    delta: float = 0.98

    def __post_init__(self) -> None:
        in_range(self, "delta", 0, 1, below=True)

    def build(self, facts: Facts) -> TargetFn:
        """Labels (B,) -> q (B, C) float64."""
        return smoothed(self.delta, facts.classes)
