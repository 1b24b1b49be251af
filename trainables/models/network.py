"""A backbone in named parts, average pooling, and a head that can be replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from trainables.batch import Blend, Outputs


class Network(nn.Module):
    """Backbone parts in order, global average pooling, head.

    Args:
        backbone: The parts by name, in order; the last one's output (B, D, h, w) is `Outputs.maps`. One that pools by
            itself gives (B, D), and there are no maps. Without parts the network takes features instead of images.
        head: features (B, D) -> logits (B, C), or (E, B, C) for E experts, whose mean is then the logits.
        features: D.
        classes: C.
        layers: The parts behind which a `Blend` may act, besides "input", "pool" and "logits"; all of them
            where absent.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=10, channels=1, generator=torch.Generator().manual_seed(0))
    >>> outputs = network(torch.zeros(4, 1, 8, 8))
    >>> outputs.logits.shape, outputs.features.shape, outputs.maps.shape
    (torch.Size([4, 10]), torch.Size([4, 64]), torch.Size([4, 64, 2, 2]))
    >>> network.layers
    ('layer1', 'layer2', 'layer3')
    """

    def __init__(
        self,
        backbone: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        features: int,
        classes: int,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(dict(backbone))
        self.head = head
        self.features = features
        self.classes = classes
        self.layers = tuple(backbone) if layers is None else tuple(layers)
        self.fix_batchnorm = False
        """Keeps the backbone's BatchNorm at its stored statistics while the head trains; set by a train trick."""
        self.precision = "fp32"
        """Of the backbone's convolutions, "fp32" or "bf16"; head and everything kept are float32 either way."""
        self.memory_format = torch.contiguous_format
        """What images are brought to; see `settle`."""

    def settle(self, precision: str, memory_format: torch.memory_format) -> Network:
        """Sets how the backbone computes; the weights are laid out accordingly.

        Args:
            precision: "fp32" or "bf16".
            memory_format: Of images and of the convolutions' weights.
        """
        self.precision, self.memory_format = precision, memory_format
        return self.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]

    def train(self, mode: bool = True) -> Network:
        """Training mode; the backbone stays in evaluation mode where its BatchNorm is fixed."""
        super().train(mode)
        if self.fix_batchnorm:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor, blend: Blend | None = None) -> Outputs:
        """Runs a batch, all its views in one pass, so that BatchNorm sees them together.

        Args:
            images: (B, c, H, W) or (V, B, c, H, W) normalised floats; without a backbone (B, D) or (V, B, D).
            blend: Mixes the images of each view at one layer: "input", one of `layers`, "pool" or "logits".

        Returns:
            Outputs of the first view; those of the others are in its `views`. `features` and `maps` are as
            blended, if the blend acts at or before them.

        Raises:
            ValueError: Images of another rank, or a blend at an unknown layer.
        """
        rank, wanted = (
            (4, "images must be (B, c, H, W) or (V, B, c, H, W)")
            if len(self.backbone)
            else (2, "features must be (B, D) or (V, B, D)")
        )
        if images.ndim not in (rank, rank + 1):
            raise ValueError(f"{wanted}, got shape {tuple(images.shape)}")
        views = 1 if images.ndim == rank else images.shape[0]
        flat = images.flatten(0, 1) if images.ndim > rank else images  # (V·B, c, H, W)
        if blend is not None:
            self._check(blend)
            blend = for_every_view(blend, views)
        outputs = self._run(flat, blend)
        return views_of(outputs, views)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters before the pooling."""
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the classifier."""
        return self.head.parameters()

    def _run(self, images: Tensor, blend: Blend | None) -> Outputs:
        def blended(x: Tensor, layer: str) -> Tensor:
            return blend(x) if blend is not None and blend.layer == layer else x

        maps = blended(images, "input").contiguous(memory_format=self.memory_format)
        with self._autocast(images.device):
            for name, part in self.backbone.items():
                maps = blended(part(maps), name)  # ends as (V·B, D, h, w), or pooled already
        if self.precision == "bf16":
            maps = maps.float()
        if maps.ndim == 2:
            return self.classify(maps, blend)
        return self.classify(maps.mean(dim=(2, 3)), blend, maps)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        # where nothing is asked for, a caller's own autocast stays in force
        # each weight is used once a pass, so nothing is lost without the cache, which a CUDA graph must not have
        wanted = self.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if wanted else nullcontext()

    def classify(self, features: Tensor, blend: Blend | None = None, maps: Tensor | None = None) -> Outputs:
        """The head alone, on pooled features (B, D); a blend acts at "pool" or "logits"."""

        def blended(x: Tensor, layer: str) -> Tensor:
            return blend(x) if blend is not None and blend.layer == layer else x

        features = blended(features, "pool")
        z: Tensor = self.head(features)
        if z.ndim == 2:
            return Outputs(blended(z, "logits"), features, maps)
        experts = torch.stack([blended(expert, "logits") for expert in z])
        return Outputs(experts.mean(dim=0), features, maps, experts)

    def _check(self, blend: Blend) -> None:
        allowed = ("input", *self.layers, "pool", "logits")
        if blend.layer not in allowed:
            raise ValueError(f"blend at layer {blend.layer!r}: this network blends at {', '.join(allowed)}")


def for_every_view(blend: Blend, views: int) -> Blend:
    """The same blend for the images of all views in one flattened batch: partners stay within their view."""
    if views == 1:
        return blend
    first_of_view = torch.arange(views, device=blend.order.device)[:, None] * len(blend.order)  # (V, 1)
    return Blend(blend.layer, (first_of_view + blend.order).flatten(), blend.share.repeat(views))


def views_of(outputs: Outputs, views: int) -> Outputs:
    """Outputs of all views in one flattened batch, as those of the first one with the others in its `views`."""
    if views == 1:
        return outputs
    first, *others = _split(outputs, views)
    return Outputs(first.logits, first.features, first.maps, first.experts, tuple(others))


def _split(outputs: Outputs, views: int) -> list[Outputs]:
    assert outputs.features is not None

    # by shape and not by chunk: an exported program must not fix the number of images
    def apart(x: Tensor | None, dim: int = 0) -> Sequence[Tensor | None]:
        return [None] * views if x is None else x.unflatten(dim, (views, -1)).unbind(dim)

    parts = (apart(outputs.logits), apart(outputs.features), apart(outputs.maps), apart(outputs.experts, 1))
    return [Outputs(*view) for view in zip(*parts, strict=True)]  # type: ignore[arg-type]
