"""The long tail's profile, and what a long-tailed data set consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.data.images.decoding import Preprocessing


def class_counts(largest: int, classes: int, imbalance: float) -> list[int]:
    """Images per class of an exponential long tail.

    n_c = int(largest · (1 / imbalance)^(c / (C − 1))) for c = 0 … C − 1: truncated, not rounded, in the
    public codes' own floating-point arithmetic.

    Args:
        largest: Images of class 0, at least 1.
        classes: C, at least 2.
        imbalance: largest / smallest, at least 1; 1 gives equal classes.

    Returns:
        C counts, never increasing, each at least 1.

    Raises:
        ValueError: A number out of its range, or a class that would have no image.

    Source: Cui et al. 2019, arXiv:1901.05555, section 5.1; Cao et al. 2019, arXiv:1906.07413, public code
        `get_img_num_per_cls`.
    Differs: none.

    >>> class_counts(largest=5000, classes=10, imbalance=100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if isinstance(largest, bool) or largest != int(largest) or largest < 1:
        raise ValueError(f"class_counts: largest must be a whole number of at least 1, got {largest!r}")
    if isinstance(classes, bool) or classes != int(classes) or classes < 2:
        raise ValueError(f"class_counts: classes must be a whole number of at least 2, got {classes!r}")
    if not 1 <= imbalance < float("inf"):
        raise ValueError(f"class_counts: imbalance must be a number of at least 1, got {imbalance!r}")
    counts = [int(largest * (1 / imbalance) ** (c / (classes - 1.0))) for c in range(int(classes))]
    if counts[-1] < 1:
        raise ValueError(
            f"class_counts: imbalance {imbalance:g} with {largest} images in the largest class leaves class "
            f"{counts.index(0)} without any; lower the imbalance"
        )
    return counts


def equal_counts(counts: Sequence[int], available: Sequence[int]) -> list[int]:
    """Training images per class of a balanced set that is as large as a long tail, rounded down to equal classes.

    Args:
        counts: (C,) images per class of the long tail.
        available: (C,) images per class that there are to draw from.

    Raises:
        ValueError: A class has too few.

    >>> equal_counts([100, 30, 5], available=[100, 100, 100])
    [45, 45, 45]
    """
    each = sum(counts) // len(counts)
    least = min(range(len(available)), key=lambda label: available[label])
    if available[least] < each:
        raise ValueError(
            f"a balanced training set as large as this long tail ({sum(counts)} images) needs {each} images of every "
            f"class, and class {least} has {available[least]}"
        )
    return [each] * len(counts)


def balanced_note(counts: Sequence[int], imbalance: float) -> str:
    """What a balanced training set is, for people.

    >>> balanced_note([45, 45, 45], 20)
    'train is balanced: 45 images of each class, as many in all as the long tail of imbalance 20 has'
    """
    return (
        f"train is balanced: {counts[0]} images of each class, as many in all as the long tail of imbalance "
        f"{imbalance:g} has"
    )


def in_proportion(counts: Sequence[int], largest: int) -> list[int]:
    """Held-out images per class in the proportions of the training images, at least one of each.

    Args:
        counts: (C,) training images per class.
        largest: Held-out images of the largest class.

    >>> in_proportion([100, 64, 11, 2], 24)
    [24, 15, 3, 1]
    """
    return [max(1, round(largest * count / max(counts))) for count in counts]


@dataclass(frozen=True)
class LongTailed:
    """A long-tailed data set in memory, with its splits.

    Args:
        name: As in `trainables.data.names()`.
        classes: C.
        class_names: C names.
        imbalance: The factor that the tail was cut with; of data taken as they are, that of all the images that
            may be trained on. Where val was taken out, the factor of `counts` may be another (see `notes`).
        split_seed: What `train` and `val` were drawn with.
        train_images: (N, c, H, W) uint8, long-tailed; as those of val and test, a tensor, or `StreamedImages`,
            which answer as one. Of data that are features (N, D) float32: a tensor, or `MappedFeatures`.
        train_labels: (N,) int64 in [0, C).
        val_images: (M, c, H, W) uint8, balanced; empty where val was folded back.
        val_labels: (M,) int64.
        test_images: (T, c, H, W) uint8, the data set's own, or cut once for all split seeds.
        test_labels: (T,) int64.
        mean: (c,) float32 of the pixels, in [0, 1]; of features (D,).
        std: (c,) float32 of the pixels, above 0, in the same unit; of features (1,), one for all.
        pad: Pixels of the random shift in training, at least 0.
        flip: Whether training mirrors images at random.
        crop: "shift" by `pad` pixels, or "resized": crops of random size and shape, brought to the image's size.
        fingerprint: 16 hexadecimal digits; equal ones mean equal images, labels, splits and augmentation.
            Computed where absent.
        preprocessing: How encoded images become the pixels above; `None` where the data are arrays.
        train_views: (V, N, D) float32, features of several views of the training images, one of which training draws
            each time; `None` where there is one.
        backbone: The network that the features come from, with the hash of its weights; "" where that is not known.
            Not part of the fingerprint.
        val_given: Whether val is the same images for every split seed, because it was given: each block then measures
            on them, and an interval for new images needs their own share of the variance. Not part of the fingerprint.
        notes: Sentences for people: what was held out or left out, and which classes starve. Not part of the
            fingerprint.
        problems: Those of the notes that say what is left out, assumed, or cannot be judged. Not part of the
            fingerprint.

    Raises:
        ValueError: Images and labels of a split that do not belong together.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    imbalance: float
    split_seed: int
    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    pad: int
    flip: bool
    crop: str = "shift"
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    val_given: bool = False
    problems: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    train_views: Tensor | None = None
    backbone: str = ""

    def __post_init__(self) -> None:
        rank, dtype, wanted = (
            (2, "torch.float32", "float32 features (N, D)")
            if self.kind == "features"
            else (4, "torch.uint8", "uint8 images (N, c, H, W)")
        )
        for split in ("train", "val", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.ndim != rank or str(images.dtype) != dtype or len(images) != len(labels):
                raise ValueError(
                    f"{self.name}: {split} needs {wanted} and as many labels, got "
                    f"{images.dtype} {tuple(images.shape)} and {len(labels)} labels"
                )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._digest())

    @property
    def kind(self) -> str:
        """ "images", or "features" where a network has seen the images already."""
        return "features" if self.train_images.ndim == 2 else "images"

    @property
    def counts(self) -> Tensor:
        """(C,) int64, training images per class."""
        return self.train_labels.bincount(minlength=self.classes)

    def normalise(self, images: Tensor) -> Tensor:
        """(x / 255 − mean) / std; of features (x − mean) / std.

        Args:
            images: (…, c, H, W) uint8, or features (…, D).

        Returns:
            The same shape, float32, on the images' device.
        """
        if self.kind == "features":
            return (images - self.mean.to(images.device)).div_(self.std.to(images.device))
        # as one factor and one summand, in place: half the passes over the memory
        scale, shift = 1 / (255 * self.std), -self.mean / self.std
        scale, shift = (value.to(images.device, non_blocking=True).view(-1, 1, 1) for value in (scale, shift))
        floats = images.float()  # first: multiplying bytes by floats is 15 times slower
        return (floats.clone() if floats is images else floats).mul_(scale).add_(shift)

    def to(self, device: torch.device | str) -> LongTailed:
        """The same data on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if hasattr(value, "device")}

    def _digest(self) -> str:
        own = (self.classes, self.pad, self.flip) + (() if self.crop == "shift" else (self.crop,))
        if self.preprocessing is not None:
            own += self.preprocessing.unusual
        digest = hashlib.sha256(repr(own).encode())
        for name, value in self._tensors().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            files = getattr(value, "stamp", None)  # of images that are not in memory
            digest.update(value.detach().cpu().numpy().tobytes() if files is None else files)
        return digest.hexdigest()[:16]
