"""Nearest class mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Facts, Outputs
from trainables.registry import among, trick


@trick(
    seam="readout",
    family="classifier re-training",
    source="Kang et al. 2020, arXiv:1910.09217, section 4 (NCM)",
    space={"features": one_of("un", "l2n", "cl2n")},
)
@dataclass(frozen=True)
class NearestMean:
    """Evaluates by the distance of the features to the mean features of each class's training images.

        z_c = −‖g(x) − mean_{i: y_i = c} g(x_i)‖²

    The classifier plays no role, so there is no neutral setting. A class without images gets −inf.

    Args:
        features: g: "un" the features; "l2n" scaled to length 1; "cl2n" less their mean over the training images,
            then scaled to length 1. The class means are not scaled again.

    Raises:
        MissingFact: Facts without the evaluated model, the training images or how to normalise them.
        ValueError: The outputs have no features.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR,
        arXiv:1910.09217, section 4; variants and default from the public code.

    Differs:
        From the public code, none; its fourth variant, by cosine, ranks the classes as "l2n" with scaled means
        would.

    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]))
    >>> means, middle = class_means(torch.tensor([[0.0, 0.0], [3.0, 3.0]]), facts, "un")
    >>> distances(torch.tensor([[3.0, 4.0]]), means, middle, "un")
    tensor([[-25.,  -1.]])
    """

    features: str = "cl2n"

    def __post_init__(self) -> None:
        among(self, "features", ("un", "l2n", "cl2n"))

    def build(self, facts: Facts) -> Callable[[Outputs], Tensor]:
        """Outputs -> z (B, C)."""
        facts.require("nearest_mean", "model", "images", "normalise")
        # once, so that an exported program holds C means and no training image's features
        means, middle = class_means(facts.features(), facts, self.features)

        def readout(outputs: Outputs) -> Tensor:
            features = outputs.joint_features
            if features is None:
                raise ValueError("trick 'nearest_mean': Outputs must have features (B, D), got None")
            return distances(features, means, middle, self.features)

        return readout


def class_means(training: Tensor, facts: Facts, kind: str) -> tuple[Tensor, Tensor]:
    """Features of the training images (N, D) -> class means (C, D), NaN without images, and the mean of all (D,)."""
    middle = training.double().mean(dim=0)
    labels = facts.labels.to(training.device)
    sums = torch.zeros(facts.classes, training.shape[1], dtype=torch.float64, device=training.device)
    sums.index_add_(0, labels, _g(training, middle, kind))
    size = torch.bincount(labels, minlength=facts.classes)
    return sums / size[:, None], middle


def distances(features: Tensor, means: Tensor, middle: Tensor, kind: str) -> Tensor:
    """Features (B, D) and class means (C, D) -> z (B, C)."""
    own = _g(features, middle, kind)
    # ‖a‖² − 2 a·b + ‖b‖² in float64: (B, C, D) differences would not fit with thousands of classes
    z = 2 * own @ means.T - own.square().sum(dim=1, keepdim=True) - means.square().sum(dim=1)
    return z.masked_fill(means.isnan().all(dim=1), -torch.inf).to(features.dtype)


def _g(x: Tensor, middle: Tensor, kind: str) -> Tensor:
    x = x.double() - middle if kind == "cl2n" else x.double()
    return x if kind == "un" else functional.normalize(x, dim=1)
