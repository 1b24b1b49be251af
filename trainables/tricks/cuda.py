"""Curriculum of data augmentation (CUDA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.domain import uniform
from trainables.batch import Batch, Facts, evaluation_batch
from trainables.registry import in_range, trick
from trainables.tricks._shared.curriculum import at_levels
from trainables.tricks._shared.sampling import ClassShelves
from trainables.tricks._shared.views import check_view, on_view

LARGEST = 10
"""The highest level of a class."""


class Levels(nn.Module):
    """The level of each class, in the network's state."""

    level: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(classes, dtype=torch.int64))


@trick(
    seam="augment",
    family="regularisation",
    source="Ahn et al. 2023, arXiv:2302.05499, algorithms 1 and 2",
    space={"probability": uniform(0.25, 1.0, step=0.25), "accept_rate": uniform(0.4, 0.8, step=0.1)},
    needs=("images",),
)
@dataclass(frozen=True)
class Cuda:
    """Augments each class as strongly as the network can follow, and finds that level anew before every epoch.

        L_c <- L_c + 1 if at every l = 0 … L_c more than `accept_rate` of num_test · (l + 1) images of class c, at
        level l, are classified right; else L_c − 1;   L_c in 0 … 10, 0 at first

    At level s an image goes through s of 22 operations, drawn with replacement, each at s/30 of its range. In training
    an image gets its class's level with a given probability, and level 0 otherwise. The tests read training images,
    cropped and flipped, in evaluation mode; with its defaults they cost up to 660 images a class and epoch.
    probability = 0 changes nothing.

    Args:
        probability: Share of the images that are augmented, in [0, 1].
        accept_rate: Share of right answers above which a class has passed a level, in [0, 1].
        num_test: Images per test and level, at least 1.
        view: The view that is changed, from 0; `None` changes all of them.

    Raises:
        MissingFact: Facts without a model, images, or their normalisation.

    Source:
        Ahn, Ko, Yun 2023, "CUDA: Curriculum of Data Augmentation for Long-tailed Recognition", ICLR,
        arXiv:2302.05499, algorithms 1 and 2; operations and their ranges from the public code.

    Differs:
        The operations are torchvision's and ours instead of PIL's: blur and resizing are interpolated another
        way. As in the code, several are no stronger at a higher level: colour, contrast, brightness and sharpness
        begin at a tenth, posterising keeps one bit at low levels. Other augment tricks do not act in the tests, where
        the code has Cutout in them if it is on.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    >>> facts = Facts(torch.tensor([1, 1]), labels, model=network, images=images, normalise=lambda x: x.float())
    >>> augment = Cuda().build(facts)
    >>> augment.begin_epoch(0.0, torch.Generator())  # of two equal images one class is always right
    >>> augment.level.tolist()
    [1, 0]
    """

    probability: float = 0.5
    accept_rate: float = 0.6
    num_test: int = 10
    view: int | None = None

    def __post_init__(self) -> None:
        in_range(self, "probability", 0, 1)
        in_range(self, "accept_rate", 0, 1)
        in_range(self, "num_test", 1, whole=True)
        check_view(self)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The levels of the classes."""
        return {"levels": Levels(facts.classes)}

    def build(self, facts: Facts) -> CudaAugment:
        """(Batch, generator) -> Batch with images of the same shape and type."""
        facts.require("cuda", "model", "images", "normalise")
        return CudaAugment(self, facts)


class CudaAugment:
    """Augments by class, and tests the classes before an epoch."""

    def __init__(self, made: Cuda, facts: Facts) -> None:
        self._made, self._facts, self._shelves = made, facts, ClassShelves.of(facts)
        levels = facts.own_modules(made)["levels"]
        assert isinstance(levels, Levels)
        self._levels = levels
        self._change = on_view(self._of_all_views, made.view)

    @property
    def level(self) -> Tensor:
        """(C,) int64."""
        return self._levels.level

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """See `Cuda.build`."""
        return self._change(batch, generator)

    def _of_all_views(self, batch: Batch, generator: torch.Generator) -> Batch:
        flat = batch.images.flatten(0, 1)  # (V·B, c, H, W)
        level = self.level[batch.y[:, 0]].cpu().repeat(len(batch.images))
        chosen = torch.rand(len(flat), generator=generator) < self._made.probability
        return batch.with_images(at_levels(flat, level * chosen, generator).view_as(batch.images))

    @torch.no_grad()
    def begin_epoch(self, progress: float, generator: torch.Generator) -> None:
        """Tests every class at its levels so far, and moves it up or down."""
        level, present = self.level.cpu(), self._shelves.present
        # one row for every class and level that it is tested at
        rows = [(c, tested) for c in present.nonzero()[:, 0].tolist() for tested in range(int(level[c]) + 1)]
        classes, tested = torch.tensor(rows).T
        number = self._made.num_test * (tested + 1)
        right = self._right(classes.repeat_interleave(number), tested.repeat_interleave(number), generator)
        row = torch.arange(len(number)).repeat_interleave(number)
        share = torch.zeros(len(number), dtype=torch.float64).index_add_(0, row, right.double()) / number
        failed = torch.zeros(len(level), dtype=torch.bool)
        failed[classes[share <= self._made.accept_rate]] = True
        moved = torch.where(failed, level - 1, level + 1).clamp(0, LARGEST)
        self.level.copy_(torch.where(present, moved, level))

    def _right(self, classes: Tensor, tested: Tensor, generator: torch.Generator) -> Tensor:
        """Whether images drawn from classes (M,), augmented at levels (M,), are classified right: (M,) bool."""
        facts = self._facts
        assert facts.images is not None and facts.normalise is not None
        index, model = self._shelves.one_each(classes, generator), facts.model
        was_training, size = model.training, evaluation_batch(facts.images)
        model.eval()
        found = []
        for places, levels, truth in zip(index.split(size), tested.split(size), classes.split(size), strict=True):
            images = facts.images[places.to(facts.images.device)]
            if facts.crop_and_flip is not None:
                images = facts.crop_and_flip(images, generator)
            z = model(facts.normalise(at_levels(images, levels, generator))).logits
            found.append(z.argmax(dim=1).cpu() == truth)
        model.train(was_training)
        return torch.cat(found)
