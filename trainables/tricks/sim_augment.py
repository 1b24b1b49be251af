"""The augmentation of contrastive learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as images_by

from spaces.domain import uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.views import check_view, on_view

SHARPEST, SOFTEST = 0.1, 2.0
"""Range of the blur's standard deviation in pixels."""


@trick(
    seam="augment",
    family="contrastive",
    source="Chen et al. 2020, arXiv:2002.05709, appendix A; Chen et al. 2020, arXiv:2003.04297 (MoCo v2)",
    space={"smallest": uniform(0.1, 0.5, step=0.1)},
)
@dataclass(frozen=True)
class SimAugment:
    """Puts each image through the strong augmentation of SimCLR and MoCo v2.

    A resized crop of a share of the area in [smallest, 1] and of aspect 3/4 to 4/3; brightness, contrast and saturation
    each by a factor in 1 ± jitter and the hue by ± jitter/4, in random order, with probability 0.8; grey with
    probability `grey`; blur with probability `blur`.

    Args:
        smallest: Share of the area, in (0, 1].
        jitter: In [0, 1]; 0 leaves the colours.
        grey: Probability.
        blur: Probability: 0.5 in PaCo's CIFAR script, 0.2 in GPaCo's.
        view: The view that is changed, from 0; `None` changes all of them.

    Source:
        Chen, Kornblith, Norouzi, Hinton 2020, ICML, arXiv:2002.05709, appendix A; Chen, Fan, Girshick, He 2020,
        arXiv:2003.04297; numbers of PaCo's public code (Cui et al. 2021, arXiv:2107.12028).

    Differs:
        It comes behind the data set's own crop and flip instead of in their place. The blur's kernel is a tenth of the
        image wide.

    >>> batch = Batch.plain(torch.zeros((2, 3, 8, 8), dtype=torch.uint8), torch.arange(2), torch.tensor([0, 1]))
    >>> augment = SimAugment().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> augment(batch, torch.Generator()).images.shape
    torch.Size([1, 2, 3, 8, 8])
    """

    smallest: float = 0.2
    jitter: float = 0.4
    grey: float = 0.2
    blur: float = 0.5
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "smallest", 0, 1, above=True)
        for name in ("jitter", "grey", "blur"):
            in_range(self, name, 0, 1)
        check_view(self)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""

        def augment(batch: Batch, generator: torch.Generator) -> Batch:
            flat = batch.images.flatten(0, 1)  # (V·B, c, H, W)
            drawn = torch.rand(len(flat), 13, dtype=torch.float64, generator=generator).tolist()
            seen = torch.stack([self._changed(image, numbers) for image, numbers in zip(flat, drawn, strict=True)])
            return batch.with_images(seen.view_as(batch.images))

        return on_view(augment, self.view)

    def _changed(self, image: Tensor, drawn: list[float]) -> Tensor:
        """One image (c, H, W), changed by thirteen numbers in [0, 1)."""
        height, width = image.shape[-2:]
        area, aspect, down, right, *rest = drawn
        share = self.smallest + (1 - self.smallest) * area
        ratio = (3 / 4) ** (1 - 2 * aspect)  # uniform in the logarithm
        rows, columns = (
            min(side, max(1, round(side * (share * factor) ** 0.5)))
            for side, factor in ((height, 1 / ratio), (width, ratio))
        )
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        changed: Any = images_by.resized_crop(image, top, left, rows, columns, [height, width], antialias=True)
        jittered, grey, blurred, sigma, *colours = rest
        if jittered < 0.8:
            changed = self._coloured(changed, colours)
        if grey < self.grey:
            changed = images_by.rgb_to_grayscale(changed, len(image))
        if blurred < self.blur:
            kernel = 2 * max(1, round(max(height, width) / 20)) + 1
            spread = SHARPEST + (SOFTEST - SHARPEST) * sigma
            changed = images_by.gaussian_blur(changed, [kernel, kernel], [spread, spread])
        assert isinstance(changed, Tensor)
        return changed

    def _coloured(self, image: Any, drawn: list[float]) -> Any:
        """The four changes of colour by five numbers, the last of which orders them."""
        brightness, contrast, saturation, hue, order = drawn
        changes = [
            (images_by.adjust_brightness, 1 + self.jitter * (2 * brightness - 1)),
            (images_by.adjust_contrast, 1 + self.jitter * (2 * contrast - 1)),
            (images_by.adjust_saturation, 1 + self.jitter * (2 * saturation - 1)),
            (images_by.adjust_hue, self.jitter / 4 * (2 * hue - 1)),
        ]
        number = int(order * 24)
        for left in range(4, 0, -1):
            number, which = divmod(number, left)
            change, amount = changes.pop(which)
            image = change(image, amount)
        return image
