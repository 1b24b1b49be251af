"""What a val split that is the same in every block leaves out of an interval: other images.

A contrast z(s, i) of block s and image i differs between images for two reasons: the cells treat image i differently
(β), or trainings scatter (ε). The scatter over blocks estimates the latter alone, so an interval for new images lacks

    var(β) / n = max(0, var over i of z̄(·, i) − σ²(ε) / blocks) / n

with σ²(ε) from the two-way layout blocks × images. Images count as a simple random sample; a val split that is balanced
by class varies a little less, so that intervals are slightly wide.

Source: Searle, Casella & McCulloch 1992, "Variance Components" (two-way layout with one observation a cell).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def images_variance(contrast: Floats) -> float:
    """Variance of a mean contrast from which images a fixed val split happens to hold.

    Args:
        contrast: z(s, i), (blocks, images).

    Returns:
        var(β) / n, at least 0. With one block there is nothing to tell scatter by: all of the variance between images.

    >>> z = np.array([[1, 0, 0, 1, 0], [1, 0, 0, 1, 0]], dtype=float)   # the same images in both blocks
    >>> round(images_variance(z), 3)
    0.06
    """
    blocks, images = contrast.shape
    if images < 2:
        return 0.0
    between = float(contrast.mean(0).var(ddof=1))
    if blocks < 2:
        return float(between / images)
    rest = contrast - contrast.mean(1, keepdims=True) - contrast.mean(0, keepdims=True) + contrast.mean()
    scatter = float((rest**2).sum()) / ((blocks - 1) * (images - 1))
    return float(max(between - scatter / blocks, 0.0) / images)
