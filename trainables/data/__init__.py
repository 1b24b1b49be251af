"""Data sets by name: the one seam through which everything else finds them.

data = load("digits-lt", imbalance=50, split_seed=3)
data.train_images, data.train_labels, data.counts
"""

from __future__ import annotations

from trainables.data.catalogue import MODULES, DataError, Standard, module_of
from trainables.data.long_tail import LongTailed, class_counts

__all__ = ["DataError", "LongTailed", "Standard", "class_counts", "load", "names", "standard"]


def names() -> list[str]:
    """The known data sets, in alphabetical order.

    >>> "digits-lt" in names()
    True
    """
    return sorted(MODULES)


def standard(name: str) -> Standard:
    """The standard schedule of a data set, without loading it.

    Raises:
        DataError: The name is unknown; the nearest known one is offered.

    >>> standard("digits-lt").epochs, standard("digits-lt").model
    (30, 'resnet8')
    """
    return module_of(name).standard(name)


def load(
    name: str,
    *,
    root: str | None = None,
    imbalance: float | None = None,
    split_seed: int = 0,
    fold_val: bool = False,
) -> LongTailed:
    """A data set, cut to a long tail and split.

    Args:
        name: One of `names()`.
        root: Folder of the data, where it is not bundled.
        imbalance: Images of the largest class over those of the smallest, at least 1; the data set's
            standard one where absent.
        split_seed: Which images go to `val` and `train`, where `val` is cut from a pool. `test` stays.
        fold_val: No `val`: its images go back into the pool that `train` is cut from (final training).

    Raises:
        DataError: The name is unknown, or the imbalance is out of its range.

    >>> data = load("digits-lt", imbalance=50)
    >>> data.counts.tolist(), len(data.val_labels), len(data.test_labels)
    ([100, 64, 41, 27, 17, 11, 7, 4, 3, 2], 240, 500)
    """
    module = module_of(name)
    if imbalance is None:
        imbalance = module.standard(name).imbalance
    return module.load(name, root=root, imbalance=imbalance, split_seed=split_seed, fold_val=fold_val)
