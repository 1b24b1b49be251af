"""Mixup of activations."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.domain import one_of, uniform
from trainables.batch import Facts
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.mixing import MixFn, mixed_at

LAYERS = ("layer1", "layer2", "layer3", "layer4", "pool", "logits")


@trick(
    seam="mix",
    family="mixup",
    source="Verma et al. 2019, arXiv:1806.05236; at one layer: Zhang et al. 2021, Bag of Tricks, AAAI",
    space={"alpha": uniform(0.2, 2.0, step=0.2), "layer": one_of("layer1", "layer2", "layer3", "pool")},
)
@dataclass(frozen=True)
class ManifoldMixup:
    """Mixes the activations of two images at one layer, with the two labels in the same shares.

        h' = λ h_i + (1 − λ) h_j,   L = λ L(y_i) + (1 − λ) L(y_j),   λ ~ Beta(α, α) once per batch

    α = 0 gives λ = 1 and changes nothing.

    Args:
        alpha: α of the Beta distribution, at least 0.
        layer: "layer1" … "layer4" (behind that part of the network), "pool" (the features) or "logits"
            (Bag of Tricks' "fc"; behind a linear classifier the same operation as "pool").

    Raises:
        ValueError: At `build`, where the model is known and has no such layer.

    Source:
        Verma, Lamb, Beckham, Najafi, Mitliagkas, Lopez-Paz, Bengio 2019, "Manifold Mixup", ICML,
        arXiv:1806.05236, section 2; at one layer as in Zhang et al. 2021, Bag of Tricks, AAAI 35(4).

    Differs:
        Verma et al. draw the layer anew for every batch; Bag of Tricks, and this, keep to one.

    >>> import torch
    >>> from trainables.batch import Batch
    >>> batch = Batch.plain(torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([0, 1]))
    >>> mix = ManifoldMixup(layer="layer2").build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> mix(batch, torch.Generator()).blend.layer
    'layer2'
    """

    alpha: float = 1.0
    layer: str = "pool"

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        among(self, "layer", LAYERS)

    def build(self, facts: Facts) -> MixFn:
        """(Batch, generator) -> Batch with y (B, 2), share (B, 2) and the blend at the layer."""
        layers = (*getattr(facts.model, "layers", LAYERS), "pool", "logits")
        if self.layer not in layers:
            raise ValueError(
                f"trick 'manifold_mixup': layer must be one that the network has, got {self.layer!r}; "
                f"it has {', '.join(layers)}"
            )
        return mixed_at(self.layer, self.alpha)
