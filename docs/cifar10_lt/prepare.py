"""Makes an npz file from a pack of CIFAR-10-LT: val is 200 test images per class, test the other 800.

    python docs/cifar10_lt/prepare.py FOLDER cifar10_lt.npz
    python docs/cifar10_lt/prepare.py FOLDER cifar10_lt_small.npz --size 16 --largest 1250

FOLDER holds `unpack.py` and `cifar10_lt_if100.npz`. Val is the same in every seed block, because the training images
are long-tailed already; the variance between images is therefore part of every interval.
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VAL = 200
SIDE = 32
LARGEST = 5000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of unpack.py and cifar10_lt_if100.npz")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument(
        "--size", type=int, default=SIDE, choices=(8, 16, SIDE),
        help=f"side in pixels; smaller images are means of squares (default: {SIDE})",
    )  # fmt: skip
    parser.add_argument(
        "--largest", type=int, default=LARGEST, help=f"training images of the largest class (default: {LARGEST})"
    )
    options = parser.parse_args()
    if not 100 <= options.largest <= LARGEST:
        parser.error(f"--largest must lie between 100 and {LARGEST}, got {options.largest}")
    pack = runpy.run_path(str(options.folder / "unpack.py"))["load"](options.folder / "cifar10_lt_if100.npz")
    given, labels = pack["y_train"], pack["y_test"]
    counts = np.bincount(given) * options.largest // LARGEST
    train = np.sort(np.concatenate([np.flatnonzero(given == c)[:count] for c, count in enumerate(counts)]))
    draws = np.random.default_rng(0)
    val = np.sort(np.concatenate([draws.permutation(np.flatnonzero(labels == c))[:VAL] for c in np.unique(labels)]))
    test = np.setdiff1d(np.arange(len(labels)), val)
    images = {name: reduced(pack[f"x_{name}"], options.size) for name in ("train", "test")}
    np.savez(
        options.out,
        x_train=images["train"][train], y_train=given[train],
        x_val=images["test"][val], y_val=labels[val],
        x_test=images["test"][test], y_test=labels[test],
        classes=pack["classes"],
    )  # fmt: skip


def reduced(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Averages squares of pixels.

    Args:
        images: (N, 32, 32, 3).
        size: Side of the result; 32 is a multiple of it.

    Returns:
        (N, size, size, 3).
    """
    blocks = images.reshape(len(images), size, SIDE // size, size, SIDE // size, 3)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


if __name__ == "__main__":
    main()
