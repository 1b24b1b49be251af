"""CAM-based transformation of the foreground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Batch, Facts, MissingFact
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.classifier_rows import weight_of
from trainables.tricks._shared.warping import MOVES, Boxes, generated_share, random_moves, warp


@trick(
    seam="image",
    family="two-stage",
    source="Zhang et al. 2021, Bag of Tricks, AAAI, CAM-based sampling",
    space={"threshold": one_of(0.75, 1.0)},
    needs=("trained", "one_head"),
)
@dataclass(frozen=True)
class CamForeground:
    """Moves the foreground of an image, as the network of the stage before sees it, over its own background.

        CAM(x) = Σ_d W_yd F_d(x) of the true class y, scaled to 0 … 255 and to the size of the image
        foreground = pixels whose CAM is above threshold · mean CAM
        an image of class c is transformed with probability (n_max + n_min − n_c) / (n_max + n_min)

    The probability is the share of generated images in the paper's second-stage set, in which every class has
    n_max + n_min. The transformed image shows the moved image where the foreground was or has gone to, and the
    original elsewhere and where the moved image would come from outside the frame. An image whose CAM is constant
    has no foreground and stays as it is.
    Together with a draw (class_balanced …) this is the paper's CAM-based sampling.

    Args:
        threshold: Multiple of the mean CAM, above 0. From a value on that no pixel reaches, nothing changes.
        moves: "one_of_four": one of flip, shift, turn, zoom with equal chances. "public_code": turn and zoom
            together, or a shift, or a flip.
        limit: The public code's threshold for large sets: a_c = 0 images for n_c ≥ limit, else at most limit
            (100 on ImageNet-LT, 50 on iNaturalist); `None` for the paper's a_c = n_max + n_min − n_c.

    Raises:
        MissingFact: Facts without the model of the stage before, the images or how to normalise them.
        ValueError: At `build`, the head has no weight row per class.

    Source:
        Zhang, Wei, Zhou, Wu 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI 35(4), section "CAM-based sampling".

    Differs:
        From the paper: images are transformed anew each time they are drawn, not once beforehand.
        The public code has 0.75 · mean (`threshold=0.75`), `moves="public_code"`, and four faults that are not
        copied: bounding boxes that end at the second non-empty row, CAMs of a randomly cropped image laid over
        the uncropped one, CAMs of another checkpoint than the one trained on, and JPEG files in between.
        Ranges of the moves are the public code's; a shift keeps the foreground's box within the image.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    >>> facts = Facts(torch.tensor([1, 1]), labels, model=network, images=images, normalise=lambda x: x.float())
    >>> transform = CamForeground().build(facts)
    >>> transform(Batch.plain(images, torch.arange(2), labels), torch.Generator().manual_seed(0)).images.shape
    torch.Size([1, 2, 1, 8, 8])
    """

    threshold: float = 1.0
    moves: str = "one_of_four"
    limit: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "threshold", 0, above=True)
        among(self, "moves", MOVES)
        if self.limit is not None:
            in_range(self, "limit", 1, whole=True)

    def build(self, facts: Facts) -> Callable[[Batch, torch.Generator], Batch]:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        facts.require("cam_foreground", "model", "images", "normalise")
        maps = _activation_maps(facts)  # (N, h, w) uint8
        chances = generated_share(facts, self.limit)[facts.labels.cpu()]  # (N,)

        def transform(batch: Batch, generator: torch.Generator) -> Batch:
            views, number, channels, height, width = batch.images.shape
            index = batch.index.repeat(views)  # (V·B,)
            drawn = torch.rand(views * number, dtype=torch.float64, generator=generator)
            chosen = (drawn < chances[index.cpu()]).nonzero()[:, 0]
            flat = batch.images.flatten(0, 1)  # (V·B, c, H, W)
            chosen_there = chosen.to(flat.device)
            cam = maps[index.to(maps.device)[chosen.to(maps.device)]].to(flat.device)
            mask = foreground(cam, height, width, self.threshold)
            boxes = Boxes.around(mask)
            room = (-boxes.left, width - 1 - boxes.right, -boxes.top, height - 1 - boxes.bottom)
            matrices = random_moves(len(chosen), height, width, boxes, room, self.moves, generator)
            moved = moved_foreground(flat[chosen_there], mask, matrices)
            images = flat.index_copy(0, chosen_there, moved)
            return batch.with_images(images.view(views, number, channels, height, width))

        return transform


def foreground(cam: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Maps (B, h, w) in 0 … 255 -> masks (B, H, W), true where the enlarged map is above threshold · its mean."""
    enlarged = functional.interpolate(cam[:, None].float(), (height, width), mode="bilinear", align_corners=False)
    return (enlarged > threshold * enlarged.mean(dim=(2, 3), keepdim=True))[:, 0]


def moved_foreground(images: Tensor, mask: Tensor, matrices: Tensor) -> Tensor:
    """Images (B, c, H, W) uint8, moved where the mask (B, H, W) was or has gone to."""
    # a channel of ones tells where the moved image comes from within the frame
    layers = torch.cat((images.float(), mask[:, None].float(), torch.ones_like(mask[:, None], dtype=torch.float32)), 1)
    moved = warp(layers, matrices)
    inside = moved[:, -1:] > 0.999
    covered = (mask[:, None] | (moved[:, -2:-1] > 0.5)) & inside
    return torch.where(covered, moved[:, :-2].round().clamp(0, 255).to(images.dtype), images)


def _activation_maps(facts: Facts) -> Tensor:
    """The CAM of every training image for its true class, (N, h, w) uint8, each from 0 to 255 (or all 0)."""
    weight = weight_of(facts.model.head, "cam_foreground").detach()
    found = []
    for index, outputs in facts.outputs():
        if outputs.maps is None:
            raise MissingFact("trick 'cam_foreground' needs maps (B, D, h, w), but this network pools them by itself")
        rows = weight[facts.labels.to(weight.device)[index.to(weight.device)]]  # (B, D)
        cam = torch.einsum("bd,bdhw->bhw", rows.to(outputs.maps), outputs.maps)
        cam = cam - cam.amin(dim=(1, 2), keepdim=True)
        top = cam.amax(dim=(1, 2), keepdim=True)
        found.append((255 * cam / torch.where(top > 0, top, 1.0)).to(torch.uint8))
    return torch.cat(found)
