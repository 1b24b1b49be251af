"""Makes `cifar10_lt.npz` from a pack of CIFAR-10-LT: train unchanged, val 200 test images per class, test the rest.

    python docs/cifar10_lt/prepare.py FOLDER cifar10_lt.npz

FOLDER holds `unpack.py` and `cifar10_lt_if100.npz`. Val is the same in every seed block, because the training images
are long-tailed already; the variance between images is therefore part of every interval.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np

VAL = 200


def main(folder: str, out: str) -> None:
    """The command."""
    unpack = runpy.run_path(str(Path(folder, "unpack.py")))
    pack = unpack["load"](Path(folder, "cifar10_lt_if100.npz"))
    labels = pack["y_test"]
    draws = np.random.default_rng(0)
    val = np.sort(np.concatenate([draws.permutation(np.flatnonzero(labels == c))[:VAL] for c in np.unique(labels)]))
    test = np.setdiff1d(np.arange(len(labels)), val)
    np.savez(
        out,
        x_train=pack["x_train"], y_train=pack["y_train"],
        x_val=pack["x_test"][val], y_val=labels[val],
        x_test=pack["x_test"][test], y_test=labels[test],
        classes=pack["classes"],
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
