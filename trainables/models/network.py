"""A backbone in named parts, average pooling, and a head that can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from trainables.batch import Blend, Outputs

Inside: TypeAlias = Callable[[str, Tensor], Tensor]
"""(layer, x) -> x, what acts behind the parts of a network."""


class Network(nn.Module):
    """Backbone parts in order, global average pooling, head.

    Args:
        backbone: The parts by name, in order; the last one's output (B, D, h, w) is `Outputs.maps`. One that pools by
            itself gives (B, D), and there are no maps. Without parts the network takes features instead of images.
        head: features (B, D) -> logits (B, C), or (E, B, C) for E experts, whose mean is then the logits. One whose
            `reads` is the name of the last part is given that part's maps and the blend, and returns `Outputs`.
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
        self.extra = nn.ModuleDict()
        """Modules of the tricks of a stage's chain by trick; the exported network has none."""
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

    def forward(self, images: Tensor, blend: Blend | None = None, inside: Inside | None = None) -> Outputs:
        """Runs a batch, all its views in one pass, so that BatchNorm sees them together.

        Args:
            images: (B, c, H, W) or (V, B, c, H, W) normalised floats; without a backbone (B, D) or (V, B, D).
            blend: Mixes the images of each view at one layer: "input", one of `layers`, "pool" or "logits".
            inside: (layer, x) -> x behind each part and at "pool", for images of one view; may add rows, which no
                blend behind it mixes.

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
        outputs = self._run(flat, blend, inside)
        return views_of(outputs, views)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters before the pooling."""
        return self.backbone.parameters()

    def _run(self, images: Tensor, blend: Blend | None, inside: Inside | None) -> Outputs:
        maps = blended(images, blend, "input").contiguous(memory_format=self.memory_format)
        with self._autocast(images.device):
            for name, part in self.backbone.items():
                maps = blended(part(maps), blend, name)  # ends as (V·B, D, h, w), or pooled already
                if inside is not None:
                    maps = inside(name, maps)
                    blend = for_rows(blend, len(maps))
        if self.precision == "bf16":
            maps = maps.float()
        if getattr(self.head, "reads", "pool") != "pool":
            outputs: Outputs = self.head(maps, blend)
            return outputs
        features, maps_ = (maps, None) if maps.ndim == 2 else (maps.mean(dim=(2, 3)), maps)
        if inside is not None:
            features = inside("pool", features)
            blend = for_rows(blend, len(features))
        return self.classify(features, blend, maps_)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        # where nothing is asked for, a caller's own autocast stays in force
        # each weight is used once a pass, so nothing is lost without the cache, which a CUDA graph must not have
        wanted = self.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if wanted else nullcontext()

    def classify(self, features: Tensor, blend: Blend | None = None, maps: Tensor | None = None) -> Outputs:
        """The head alone, on pooled features (B, D); a blend acts at "pool" or "logits"."""
        features = blended(features, blend, "pool")
        z: Tensor = self.head(features)
        if z.ndim == 2:
            return Outputs(blended(z, blend, "logits"), features, maps)
        experts = torch.stack([blended(expert, blend, "logits") for expert in z])
        return Outputs(experts.mean(dim=0), features, maps, experts)

    def _check(self, blend: Blend) -> None:
        allowed = ("input", *self.layers, "pool", "logits")
        if blend.layer not in allowed:
            raise ValueError(f"blend at layer {blend.layer!r}: this network blends at {', '.join(allowed)}")


def blended(x: Tensor, blend: Blend | None, layer: str) -> Tensor:
    """The mixture of `x` (B, …), where the blend acts at this layer; `x` elsewhere."""
    return blend(x) if blend is not None and blend.layer == layer else x


def for_rows(blend: Blend | None, rows: int) -> Blend | None:
    """The same blend for a batch with rows added behind it, which stay as they are."""
    if blend is None or len(blend.order) == rows:
        return blend
    added = torch.arange(len(blend.order), rows, device=blend.order.device)
    share = torch.cat((blend.share, blend.share.new_ones(len(added))))
    return Blend(blend.layer, torch.cat((blend.order, added)), share)


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
    return replace(first, views=tuple(others), each=outputs.each)


def _split(outputs: Outputs, views: int) -> list[Outputs]:
    assert outputs.features is not None

    # by shape and not by chunk: an exported program must not fix the number of images
    def apart(x: Tensor | None, dim: int = 0) -> Sequence[Tensor | None]:
        return [None] * views if x is None else x.unflatten(dim, (views, -1)).unbind(dim)

    rows = outputs.features.ndim - 2  # (E, B, D) of experts with features of their own
    parts = (apart(outputs.logits), apart(outputs.features, rows), apart(outputs.maps), apart(outputs.experts, 1))
    separate = [Outputs(*view) for view in zip(*parts, strict=True)]  # type: ignore[arg-type]
    routing = apart(outputs.routing, 1)
    return [replace(view, routing=routed) for view, routed in zip(separate, routing, strict=True)]
