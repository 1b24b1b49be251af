"""Global and local mixture consistency, cumulative learning (GLMC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of, uniform
from trainables.batch import Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import without_ruled_out
from trainables.tricks._shared.drawn_layers import linear


@trick(
    seam="loss",
    family="contrastive",
    source="Du et al. 2023, arXiv:2305.08661, eq. 4 to 9",
    space={"k": uniform(0.4, 1.6, step=0.4), "w": one_of(1.0, 4.0, 6.0, 10.0)},
    needs=("one_head",),
)
@dataclass(frozen=True)
class Glmc:
    """Learns from two views of a mixed image with a plain classifier first, with a re-weighted one more and more.

        L = α (CE(plain(x_1)) + CE(plain(x_2))) + (1 − α) w_y (CE(z_1) + CE(z_2)) + w (D(p_1, v_2) + D(p_2, v_1))
        α = 1 − (t / T)²,   w_c ∝ n_c ** −k with sum C,   D(p, v) = −cos(p, v), no gradient through v

    t is the epoch of T. The network's own classifier gives z and is the one that is evaluated; the plain one, the
    projection v (D → width) and the prediction p (width → width) are modules of the trick. The published method has
    `several_views`, `weighted_partner(power=q)` and `mixup_cutmix` with it; then each label of the mixture has its own
    weight. k = 0 and w = 0 leave the two classifiers alone.

    Args:
        k: Power of the counts in the class weights, at least 0; 1.2 on CIFAR.
        w: Weight of the consistency, at least 0; 4 on CIFAR-100-LT at imbalance 100, 6 at 50, 1 to 4 on CIFAR-10-LT.
        width: Outputs of the projection, at least 1; 128 of the ResNet-32, 256 of the ResNet-34.

    Raises:
        MissingFact: Facts without a model, whose features are projected.
        ValueError: Outputs of one view.

    Source:
        Du, Yang, Jia, Nan, Chen, Yang 2023, "Global and Local Mixture Consistency Cumulative Learning for
        Long-tailed Visual Recognitions", CVPR, arXiv:2305.08661; numbers and layers from the public code.

    Differs:
        Both views go through the network in one pass, so BatchNorm sees them together, where the code has a pass for
        each. The code draws the new layers Kaiming-normal in its ResNet-32. Its "ResNet-32" is `resnet32?width=64`.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.tensor([4, 1]), torch.tensor([0, 0, 0, 0, 1]), model=network)
    >>> Glmc(k=1.0).weights(facts)
    tensor([0.4000, 1.6000], dtype=torch.float64)
    """

    k: float = 1.2
    w: float = 4.0
    width: int = 128
    needs_views = 2

    def __post_init__(self) -> None:
        in_range(self, "k", 0, below=True)
        in_range(self, "w", 0, below=True)
        in_range(self, "width", 1, whole=True)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The plain classifier, the projection and the prediction."""
        facts.require("glmc", "model")
        features, generator = int(facts.model.features), facts.generator("glmc")
        return {
            "plain": linear(features, facts.classes, generator),
            "projection": linear(features, self.width, generator),
            "prediction": linear(self.width, self.width, generator),
        }

    def weights(self, facts: Facts) -> Tensor:
        """w (C,) float64; classes without images have weight 0."""
        counts = facts.counts.double()
        weights = torch.where(counts > 0, counts.clamp(min=1) ** -self.k, 0.0)
        return (weights * ((weights > 0).sum() / weights.sum())).to(facts.device)

    def build(self, facts: Facts) -> GlmcLoss:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        return GlmcLoss(facts.own_modules(self), self.weights(facts), self.w, facts.epochs)


class GlmcLoss:
    """The loss, whose α is that of the epoch."""

    def __init__(self, own: Mapping[str, nn.Module], weights: Tensor, w: float, epochs: int) -> None:
        self._own, self._weights, self._w, self._epochs = own, weights, w, epochs
        self.alpha = 1.0

    def begin_epoch(self, progress: float, generator: torch.Generator) -> None:
        """α = 1 − (t / T)² of epoch t of T."""
        self.alpha = 1 - (progress * (self._epochs - 1) / self._epochs) ** 2

    def __call__(self, outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Glmc.build`."""
        if not outputs.views or outputs.features is None or outputs.views[0].features is None:
            raise ValueError("trick 'glmc' needs the features of two views of each image; add 'several_views'")
        views = (outputs, outputs.views[0])
        features = [view.features for view in views]
        plain = sum(_cross_entropy(self._own["plain"](x), q) for x in features)
        weighted = self._weights[y].to(q.dtype) * sum(_cross_entropy(view.logits, q) for view in views)
        v1, v2 = (self._own["projection"](x) for x in features)
        p1, p2 = (self._own["prediction"](v) for v in (v1, v2))
        apart = _distance(p1, v2) + _distance(p2, v1)
        return self.alpha * plain + (1 - self.alpha) * weighted + self._w * apart


def _cross_entropy(z: Tensor, q: Tensor) -> Tensor:
    return -(q * without_ruled_out(functional.log_softmax(z, dim=1))).sum(dim=1)


def _distance(p: Tensor, v: Tensor) -> Tensor:
    return -functional.cosine_similarity(p, v.detach(), dim=1)
