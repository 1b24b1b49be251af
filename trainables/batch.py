"""The data types of training: `Batch`, `Outputs`, and the `Facts` from which a trick is built.

Letters with a fixed meaning: N images of the training split, B batch, C classes, D features, K parts of a
label mixture, V views of an image, E experts; (c, H, W) channels, height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainables.training.seeding import generator

EVALUATION_PIXELS = 2**22
"""Upper limit of the pixels in one evaluation batch: 1024 images of 64×64."""


def evaluation_batch(images: Any, most: int = 1024) -> int:
    """Number of images (N, c, H, W) that one evaluation batch holds.

    >>> evaluation_batch(torch.zeros(1, 3, 32, 32)), evaluation_batch(torch.zeros(1, 3, 224, 224))
    (1024, 83)
    """
    return max(1, min(most, EVALUATION_PIXELS // pixels_of(images)))


def pixels_of(images: Any) -> int:
    """Number of pixels H·W of an image; 1 if the data are features (N, D).

    >>> pixels_of(torch.zeros(1, 3, 32, 32)), pixels_of(torch.zeros(5, 256))
    (1024, 1)
    """
    return 1 if images.ndim == 2 else int(images.shape[-2] * images.shape[-1])


class MissingFact(ValueError):
    """A trick was built without a fact that it needs."""


@dataclass(frozen=True)
class Blend:
    """A mixture of each image with another one of the batch, applied by the network at one layer.

    At the layer the activations become `share · x + (1 − share) · x[order]`.

    Args:
        layer: "input", a layer's name (`model.layers`), "pool" or "logits".
        order: (B,) int64, the partner of each image.
        share: (B,) in [0, 1], each image's own share.
    """

    layer: str
    order: Tensor
    share: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, …) with `x[order]`."""
        share = self.share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return torch.lerp(x[self.order], x, share)


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Args:
        images: (V, B, c, H, W); uint8 up to and including the augment seam, normalised floats behind it. (V, B, D)
            if the data are features.
        index: (B,) int64, positions in the training split.
        y: (B, K) int64, the labels of each image's mixture.
        share: (B, K), rows sum to 1.
        blend: The mixture of images that the network applies; `None` without one.
        partner: An equally large batch drawn by the partner seam; `None` without such a trick.
        aside: (V', B, c, H, W), views that bypass the network, for a momentum encoder.
        penalty: (B,), added to the loss by tricks of the inside seam.
    """

    images: Tensor
    index: Tensor
    y: Tensor
    share: Tensor
    blend: Blend | None = None
    partner: Batch | None = None
    aside: Tensor | None = None
    penalty: Tensor | None = None

    @staticmethod
    def plain(images: Tensor, index: Tensor, labels: Tensor) -> Batch:
        """A batch of unmixed images (B, c, H, W) with labels (B,) and a single view."""
        y = labels[:, None]
        return Batch(images[None], index, y, torch.ones_like(y, dtype=torch.float32))

    def with_images(self, images: Tensor) -> Batch:
        """The same batch with other images (V, B, c, H, W)."""
        return replace(self, images=images)


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for a batch.

    Args:
        logits: (B, C).
        features: (B, D), the head's input; (E, B, D) if each expert has its own branch.
        maps: (B, D, h, w), the last convolution's output, before pooling.
        experts: (E, B, C), the logits of each expert; `None` with a single one.
        views: Outputs of the second and later views.
        each: Whether a loss that does not know experts is summed over them; otherwise it reads the fused `logits`.
        batch: The batch that produced them, if a trick of the inside seam added rows to it or a loss reads more of it
            than the labels.
        routing: (E − 1, B), for each expert but the last the logit that the image needs the next one; `None` of a
            head without routers.
    """

    logits: Tensor
    features: Tensor | None = None
    maps: Tensor | None = None
    experts: Tensor | None = None
    views: tuple[Outputs, ...] = ()
    each: bool = False
    batch: Batch | None = None
    routing: Tensor | None = None

    @property
    def joint_features(self) -> Tensor | None:
        """The features (B, D) of each image; (B, E·D) if every expert has its own."""
        features = self.features
        return features if features is None or features.ndim == 2 else features.transpose(0, 1).flatten(1)

    @property
    def experts_used(self) -> Tensor | None:
        """The experts that each image takes one after another (B,), until a router is not above 0; `None` without any.

        >>> routing = torch.tensor([[1.0, -1.0, 2.0], [-1.0, 1.0, 2.0]])
        >>> Outputs(torch.zeros(3, 2), routing=routing).experts_used
        tensor([2, 1, 3])
        """
        return None if self.routing is None else 1 + (self.routing > 0).long().cumprod(dim=0).sum(dim=0)

    def of_expert(self, expert: int) -> Outputs:
        """The outputs of one expert, as if it were the network's only one."""
        assert self.experts is not None
        features = self.features
        own = features if features is None or features.ndim == 2 else features[expert]
        views = tuple(view.of_expert(expert) for view in self.views)
        return replace(
            self, logits=self.experts[expert], features=own, experts=None, views=views, each=False, routing=None
        )

    def with_logits(self, logits: Tensor, experts: Tensor | None = None) -> Outputs:
        """The same outputs with other logits."""
        return replace(self, logits=logits, experts=experts)

    def detached(self) -> Outputs:
        """The same tensors, detached from the autograd graph."""

        def apart(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.detach()

        return Outputs(
            self.logits.detach(), apart(self.features), apart(self.maps), apart(self.experts),
            tuple(view.detached() for view in self.views), self.each, self.batch, apart(self.routing),
        )  # fmt: skip


def _seeded_by_purpose(purpose: str) -> torch.Generator:
    return generator(0, purpose)


@dataclass(frozen=True)
class Facts:
    """The facts from which a trick is built. All but counts and labels have defaults.

    Args:
        counts: (C,) int64, training images per class.
        labels: (N,) int64, the training labels.
        epochs: Epochs of the stage's chain; of the stage itself if it is not part of a longer one.
        averages_from: Epoch of the chain at which its averaging trick starts.
        device: Device of the batches.
        model: The network as handed over to the stage (for a readout: the evaluated one).
        images: (N, c, H, W) uint8, the training images without augmentation.
        normalise: uint8 images -> floats as the network expects them.
        crop_and_flip: uint8 images (B, c, H, W) and a generator -> the images after the data set's own augmentation.
        pixel_mean: (c,) in [0, 1], the mean that `normalise` subtracts.
        start: State of the network at the stage's start.
        earlier_network: Makes the network that the stage's chain took over from the stage before, with its weights
            where the chain starts, later on without; `None` in the first chain.
        score: State -> recalls (C,) on the training images, or one number computed from them; never reads `val`.
        generators: Purpose -> generator, seeded by trial, chain and member.
    """

    counts: Tensor
    labels: Tensor
    epochs: int = 1
    averages_from: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    model: Any = None
    images: Tensor | None = None
    normalise: Callable[[Tensor], Tensor] | None = None
    crop_and_flip: Callable[[Tensor, torch.Generator], Tensor] | None = None
    pixel_mean: Tensor | None = None
    start: Mapping[str, Tensor] | None = None
    earlier_network: Callable[[], Any] | None = None
    score: Callable[[Mapping[str, Tensor]], Tensor | float] | None = None
    generators: Callable[[str], torch.Generator] = _seeded_by_purpose

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.counts.numel())

    def generator(self, purpose: str) -> torch.Generator:
        """A separate generator for one purpose of one stage."""
        return self.generators(purpose)

    def require(self, trick: str, *fields: str) -> None:
        """Raises `MissingFact` if one of the named fields is `None`."""
        missing = [name for name in fields if getattr(self, name) is None]
        if missing:
            given = ", ".join(f"{name}=…" for name in missing)
            raise MissingFact(f"trick {trick!r} needs {' and '.join(missing)}: build it with Facts(…, {given})")

    def outputs(self) -> Iterator[tuple[Tensor, Outputs]]:
        """The network's outputs over the training images, without augmentation, in evaluation mode.

        Yields:
            Pairs of image indices (B,) and `Outputs`.
        """
        self.require("outputs()", "model", "images", "normalise")
        assert self.images is not None and self.normalise is not None
        model: nn.Module = self.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                everything = torch.arange(len(self.images), device=self.images.device)
                size = evaluation_batch(self.images, most=512)
                for index, images in zip(everything.split(size), self.images.split(size), strict=True):
                    yield index, model(self.normalise(images))
        finally:
            model.train(was_training)

    def features(self) -> Tensor:
        """(N, D) features of the training images, without augmentation."""
        found = (outputs.joint_features for _, outputs in self.outputs())
        return torch.cat([features for features in found if features is not None])

    def own_modules(self, made: Any) -> Mapping[str, nn.Module]:
        """The trick's modules: those that the network holds and trains, or new ones if the network has none."""
        name = type(made).entry.name
        extra = getattr(self.model, "extra", {})
        if name in extra:
            return dict(extra[name].items())
        fresh: Mapping[str, nn.Module] = made.modules(self)
        like = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        return fresh if like is None else {key: module.to(like) for key, module in fresh.items()}
