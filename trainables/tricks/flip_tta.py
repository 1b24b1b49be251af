"""Evaluation on an image and its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.batch import Facts, Outputs
from trainables.registry import trick


@trick(
    seam="readout",
    family="regularisation",
    source="Sun et al. 2025 (LOS), ICLR, public code; Krizhevsky et al. 2012, NeurIPS",
    needs=("images",),
)
@dataclass(frozen=True)
class FlipTta:
    """Evaluates with the mean of the logits of an image and of its mirror image.

        z = (z(x) + z(mirrored x)) / 2

    For images that are their own mirror images it changes nothing. It costs a second pass.

    Source:
        The public code of LOS (Sun et al. 2025, ICLR), where it is on by default; Krizhevsky, Sutskever,
        Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS
        (there also with crops, and averaging probabilities).

    Differs:
        None from the public code of LOS.

    Raises:
        ValueError: When called with outputs of one view: the images must go through `views` first.

    >>> FlipTta().views(torch.tensor([[[[1, 2]]]]))[:, 0, 0, 0]
    tensor([[1, 2],
            [2, 1]])
    >>> readout = FlipTta().build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1])))
    >>> readout(Outputs(torch.tensor([[1.0, 0.0]]), views=(Outputs(torch.tensor([[0.0, 0.5]])),)))
    tensor([[0.5000, 0.2500]])
    """

    def views(self, images: Tensor) -> Tensor:
        """Images (B, c, H, W) -> (2, B, c, H, W), as they are and mirrored left to right."""
        return torch.stack((images, images.flip(-1)))

    def build(self, facts: Facts) -> Callable[[Outputs], Tensor]:
        """Outputs of two views -> z (B, C)."""

        def readout(outputs: Outputs) -> Tensor:
            if not outputs.views:
                raise ValueError(
                    "trick 'flip_tta': Outputs must have two views, got one; run the network on views(images)"
                )
            return torch.stack([outputs.logits, *(view.logits for view in outputs.views)]).mean(dim=0)

        return readout
