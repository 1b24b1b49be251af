"""`digits-lt`: scikit-learn's bundled handwritten digits with an exponential long tail. No download.

1,797 images of 8×8 pixels in 16 grey levels, 174 to 183 per class. `test` is fixed: 30 images per class.
Of the rest, at least 144 per class, each split seed draws its own `val` (44 per class) and then `train`,
whose largest class, label 0, has 100 images; with val folded back it has 144. `digits-lt?val=realistic` keeps of the
same val what has the training images' proportions, from 44 images of label 0, and at least one of each.
`digits-lt?train=balanced` trains on as many images of every class, in all as many as the long tail has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.data.catalogue import TRAINS, VALS, DataError, Name, Standard
from trainables.data.long_tail import LongTailed, balanced_note, class_counts, equal_counts, in_proportion
from trainables.training.seeding import seed_of

OPTIONS = ("val", "train")
CLASSES = 10
POOL = 174 - 30
"""Images of the rarest class (label 8) without its test images."""
TEST = 30
VAL = 44

# Over the 1,797 images, whose pixels are whole numbers from 0 to 16:
# python -c "from sklearn.datasets import load_digits as d
# x = (d().images * 255 / 16).round() / 255; print(x.mean(), x.std())"
MEAN = 0.3053
STD = 0.3759


def standard(name: str, root: str | None = None) -> Standard:
    """Ninety epochs of one cycle in batches of 64: 360 steps, long enough for published recipes to help.

    The noise of a trial within its block, 2.0 points, is what block and cell leave unexplained in the default design of
    `spaces/full_combo.py`: 33 cells over 5 seed blocks.
    """
    return Standard(
        epochs=90,
        lr=0.1,
        weight_decay=5e-4,
        batch_size=64,
        schedule="one_cycle",
        model="resnet8",
        imbalance=100.0,
        eval_every=9,
        margin=0.02,
        final_epochs=90,
        sd=0.020,
    )


def load(
    name: str, *, root: str | None = None, imbalance: float | None, split_seed: int = 0, fold_val: bool = False
) -> LongTailed:
    """The digits, split and cut; see `trainables.data.load`.

    The images of `train` are also in the `train` of the same split seed at any lower imbalance, and in the
    one with val folded back.

    Args:
        name: "digits-lt", with `?val=realistic` or `?train=balanced`.
        root: Not used: the images come with scikit-learn.
        imbalance: In [1, 100]; [1, 144] with val folded back.
        split_seed: Which images go to `val` and `train`.
        fold_val: No `val`, and a largest class of 144 images.

    Raises:
        DataError: The imbalance is out of its range.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI, doi:10.24432/C50P49,
        its test part, as bundled by scikit-learn.
    Differs: long-tailed; its own split.
    """
    largest = POOL if fold_val else POOL - VAL
    if imbalance is None:
        raise DataError(f"{name}: give an imbalance; the digits themselves have no tail")
    if not 1 <= imbalance <= largest:
        raise DataError(
            f"{name}: imbalance must lie between 1 and {largest} (the images of the largest class), got {imbalance!r}"
        )
    counts = class_counts(largest, CLASSES, imbalance)
    realistic = Name.parse(name).choice("val", VALS) == "realistic"
    held = in_proportion(counts, VAL) if realistic else [VAL] * CLASSES
    balanced = Name.parse(name).choice("train", TRAINS) == "balanced"
    if balanced:
        counts = equal_counts(counts, [largest] * CLASSES)
    images, labels = _read()
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for label, count in enumerate(counts):
        of_class = (labels == label).nonzero().flatten().tolist()
        by_lot = _shuffled(of_class, "test")
        test += by_lot[:TEST]
        pool = _shuffled(by_lot[TEST:], split_seed)
        if fold_val:
            # The val images stand last, so that folding only adds to what the search trained on.
            train += (pool[VAL:] + pool[:VAL])[:count]
        else:
            val += pool[: held[label]]
            train += pool[VAL : VAL + count]

    def part(index: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(index, dtype=torch.int64)
        return images[chosen], labels[chosen]

    (train_images, train_labels), (val_images, val_labels), (test_images, test_labels) = map(part, (train, val, test))
    return LongTailed(
        name=name,
        classes=CLASSES,
        class_names=tuple(str(label) for label in range(CLASSES)),
        imbalance=1.0 if balanced else float(imbalance),
        split_seed=split_seed,
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=torch.tensor([MEAN]),
        std=torch.tensor([STD]),
        pad=1,
        flip=False,
        notes=(balanced_note(counts, imbalance),) if balanced else (),
    )


def _read() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) uint8 images in 0 … 255 and (1797,) int64 labels, in scikit-learn's order."""
    # takes a second, and a preview needs no more than `standard`
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images)[:, None]
    return (grey * 255 / 16).round().to(torch.uint8), torch.from_numpy(digits.target).to(torch.int64)


def _shuffled(index: list[int], purpose: int | str) -> list[int]:
    # By hash, not by a random generator: the split then stays the same in every version of every library.
    return sorted(index, key=lambda image: seed_of("digits-lt", purpose, image))
