"""Per-class recall and all that derives from it, calibration, and what the logits look like.

Every function takes tensors, NumPy arrays or plain sequences; fractions lie in [0, 1], and everything is
computed in float64. A class without images has recall NaN: unknown, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainables.data.splits import STARVING

Numbers: TypeAlias = Tensor | Sequence[Any] | Any
"""A tensor, a NumPy array or a plain sequence."""

MANY_ABOVE = 100
FEW_BELOW = 20
ZERO_RECALL = 1e-3
"""What a recall of 0 counts as in the harmonic and the geometric mean."""


def group_of(count: int) -> str:
    """The group of a class by its training images: many, medium or few.

    >>> group_of(101), group_of(100), group_of(20), group_of(19)
    ('many', 'medium', 'medium', 'few')
    """
    return "many" if count > MANY_ABOVE else "few" if count < FEW_BELOW else "medium"


def recalls(predictions: Numbers, labels: Numbers, classes: int) -> Tensor:
    """The share of each class's images that is predicted right.

    Args:
        predictions: (N,) predicted classes.
        labels: (N,) true classes in [0, C).
        classes: C.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without images.

    Raises:
        ValueError: The two differ in length, or a label is out of its range.

    >>> recalls([0, 1, 1, 0], [0, 0, 1, 1], classes=3)
    tensor([0.5000, 0.5000,    nan], dtype=torch.float64)
    """
    predicted, true = torch.as_tensor(predictions), torch.as_tensor(labels).to(torch.int64)
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(
            f"recalls: predictions and labels must both be (N,), got {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    if len(true) and not 0 <= int(true.min()) <= int(true.max()) < classes:
        raise ValueError(f"recalls: labels must lie in 0 … {classes - 1}, got {int(true.min())} … {int(true.max())}")
    correct = true[predicted == true].bincount(minlength=classes)
    return correct.double() / true.bincount(minlength=classes).double()


def smoothed_recalls(correct: Numbers, totals: Numbers) -> Tensor:
    """Recalls that a single image cannot make 0 or 1: (k + ½) / (n + 1).

    For selection by means that a few images decide (harmonic mean, lowest recall).

    Args:
        correct: (C,) k, right predictions per class.
        totals: (C,) n, images per class.

    Returns:
        (C,) float64 in (0, 1); NaN for a class without images.

    Raises:
        ValueError: A k outside 0 … n.

    Source: the posterior mean under Jeffreys' prior, Beta(½, ½); Brown, Cai and DasGupta 2001,
        doi:10.1214/ss/1009213286.

    >>> smoothed_recalls([0, 24], [24, 24])
    tensor([0.0200, 0.9800], dtype=torch.float64)
    """
    k, n = _float64(correct), _float64(totals)
    if k.shape != n.shape or bool((k < 0).any()) or bool((k > n).any()):
        raise ValueError(f"smoothed_recalls: 0 ≤ correct ≤ totals must hold per class, got {correct} and {totals}")
    return ((k + 0.5) / (n + 1)).masked_fill(n == 0, math.nan)


def mean_recall_error(correct: Numbers, totals: Numbers) -> float:
    """Standard error of the mean recall, by the number of images: √(Σ_c s_c (1 − s_c) / n_c) / C.

    With s the smoothed recalls, over the C classes that have images. Classes are not drawn, images are: a class of one
    image adds as much as its own recall may be wrong, which an error by the number of all images would hide.

    Args:
        correct: (C,) k, right predictions per class.
        totals: (C,) n, images per class.

    Returns:
        In [0, ½]; NaN without any image.

    Raises:
        ValueError: A k outside 0 … n.

    Source: stratified sampling; Cochran 1977, Sampling Techniques, 3rd ed., chapter 5, with equal weights.
    Differs: smoothed recalls, because k = n does not mean that the recall is 1.

    >>> round(mean_recall_error([49, 0], [99, 0]), 4), round(mean_recall_error([49, 1], [99, 1]), 4)
    (0.0502, 0.218)
    """
    s, n = smoothed_recalls(correct, totals), _float64(totals)
    known = n > 0
    s, n = s[known], n[known]
    return float((s * (1 - s) / n).sum().sqrt() / len(n)) if len(n) else math.nan


def summarise(recalls: Numbers, counts: Numbers, totals: Numbers | None = None) -> dict[str, float]:
    """The numbers that a table of long-tailed results shows.

    Args:
        recalls: (C,) in [0, 1]; a NaN (a class without evaluation images) is left out everywhere.
        counts: (C,) training images per class.
        totals: (C,) evaluation images per class; enough of each where absent.

    Returns:
        accuracy: the mean recall, which on balanced images is the plain accuracy;
        harmonic_mean and geometric_mean of the recalls, where zeros count as 1e-3;
        lowest_recall; these three leave out classes with fewer than 5 evaluation images, unless there are no others:
        one image would decide them, while in a mean of recalls it counts as one of many;
        many (n > 100), medium (20 ≤ n ≤ 100), few (n < 20): the mean recall of each group, by training
        counts. A group without classes is absent;
        classes_judged: number of classes that accuracy is the mean over, if not all of them; classes_in_worst: the same
        of the harmonic and geometric mean and the lowest recall.

    Raises:
        ValueError: Lengths that differ, recalls outside [0, 1], or no recall at all.

    Source: groups: Liu et al. 2019, arXiv:1904.05160; zeros in the two means: public code of
        BTM, yuhao318/BTM.
    Differs: an empty group is absent; the public code of Kang et al. 2020, arXiv:1910.09217, says 0.

    >>> summary = summarise([1.0, 0.5, 0.0], counts=[500, 100, 80])
    >>> " ".join(f"{name}={value:.4f}" for name, value in summary.items())
    'accuracy=0.5000 harmonic_mean=0.0030 geometric_mean=0.0794 lowest_recall=0.0000 many=1.0000 medium=0.2500'
    """
    r = _float64(recalls)
    n = _float64(counts).to(r.device)
    if r.shape != n.shape or r.ndim != 1:
        raise ValueError(f"summarise: recalls and counts must both be (C,), got {tuple(r.shape)} and {tuple(n.shape)}")
    known = ~r.isnan()
    enough = torch.ones_like(known) if totals is None else _float64(totals).to(r.device) >= STARVING
    r, n, enough = r[known], n[known], enough[known]
    if not len(r):
        raise ValueError("summarise: no class has a recall; evaluate on at least one image")
    if bool((r < 0).any()) or bool((r > 1).any()):
        raise ValueError(f"summarise: recalls are fractions in [0, 1], got {float(r.min()):g} … {float(r.max()):g}")
    own = r[enough] if bool(enough.any()) else r
    positive = torch.where(own == 0, ZERO_RECALL, own)
    summary = {
        "accuracy": float(r.mean()),
        "harmonic_mean": float(1 / (1 / positive).mean()),
        "geometric_mean": float(positive.log().mean().exp()),
        "lowest_recall": float(own.min()),
    }
    for name, number in (("classes_judged", len(r)), ("classes_in_worst", len(own))):
        summary |= {name: float(number)} if number < len(known) else {}
    groups = {"many": n > MANY_ABOVE, "medium": (n >= FEW_BELOW) & (n <= MANY_ABOVE), "few": n < FEW_BELOW}
    return summary | {name: float(r[members].mean()) for name, members in groups.items() if bool(members.any())}


def calibration_error(probabilities: Numbers, labels: Numbers, bins: int = 15, weights: Numbers | None = None) -> float:
    """Expected calibration error of the top prediction: Σ_b (n_b / N) |accuracy_b − confidence_b|.

    Images are binned by confidence (their largest probability), in bins ((b − 1)/bins, b/bins] of equal
    width, closed on the right.

    Args:
        probabilities: (N, C) in [0, 1], e.g. the softmax of the logits.
        labels: (N,) true classes.
        bins: At least 1.
        weights: (N,) of at least 0, where images count differently: n_b, accuracy_b and confidence_b are then weighted.

    Returns:
        In [0, 1]; 0 is calibrated.

    Raises:
        ValueError: No images, shapes that do not belong together, or values outside [0, 1] (logits?).

    Source: Naeini, Cooper and Hauskrecht 2015, doi:10.1609/aaai.v29i1.9602; Guo et al. 2017,
        arXiv:1706.04599, eq. 3.
    Differs: a confidence of exactly 0 goes to the first bin, where public codes lose it.

    >>> round(calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0]), 4)  # right at 0.9, wrong at 0.8
    0.45
    """
    p, true = _float64(probabilities), torch.as_tensor(labels).to(torch.int64)
    if p.ndim != 2 or true.shape != p.shape[:1] or not len(p):
        raise ValueError(
            f"calibration_error: needs probabilities (N, C) and labels (N,) with N ≥ 1, "
            f"got {tuple(p.shape)} and {tuple(true.shape)}"
        )
    if bins < 1:
        raise ValueError(f"calibration_error: bins must be at least 1, got {bins}")
    if not (float(p.min()) >= 0 and float(p.max()) <= 1 + 1e-6):
        raise ValueError(
            f"calibration_error: probabilities must lie in [0, 1], got {float(p.min()):g} … {float(p.max()):g}; "
            "are these logits? Take their softmax first"
        )
    confidence, predicted = p.max(dim=1)
    inner_edges = torch.arange(1, bins, dtype=torch.float64, device=p.device) / bins
    bin_of = torch.bucketize(confidence, inner_edges)
    w = torch.ones_like(confidence) if weights is None else _float64(weights).to(p.device)
    gap = w * ((predicted == true.to(p.device)).double() - confidence)
    # n_b · |accuracy_b − confidence_b| is the absolute sum of the bin's gaps.
    return float(torch.stack([gap[bin_of == b].sum().abs() for b in range(bins)]).sum() / w.sum())


def logits_magnitude(logits: Numbers, labels: Numbers) -> Tensor:
    """How far the true class's logit stands above the others, per class (LoMa).

    LoMa_k = mean over the images of class k of m, with m = z_k − (mean of the image's other C − 1 logits).

    Args:
        logits: (N, C), C at least 2.
        labels: (N,) true classes in [0, C).

    Returns:
        (C,) float64, in the logits' unit; NaN for a class without images.

    Raises:
        ValueError: Shapes that do not belong together.

    Source: "Logits Magnitude", Sun et al. 2025, label over-smoothing (preprint "LORT", arXiv:2403.00250).
    Differs: the reading taken is over the logits of the images of class k ("rows"); the other one is over
        the k-th logit of all images ("columns"). No public code settles it.

    >>> logits_magnitude([[3.0, 1.0, 0.0], [5.0, 1.0, 2.0], [0.0, 4.0, 2.0]], [0, 0, 1])
    tensor([3., 3., nan], dtype=torch.float64)
    """
    return _margin_moments(logits, labels)[0]


def regularized_std(logits: Numbers, labels: Numbers) -> Tensor:
    """The spread of the true class's lead, relative to its size, per class (RSD).

    RSD_k = (standard deviation over the images of class k of m) / LoMa_k, with m and LoMa_k as in
    `logits_magnitude`: a coefficient of variation, which a rescaling of the logits does not change.

    Args:
        logits: (N, C), C at least 2.
        labels: (N,) true classes in [0, C).

    Returns:
        (C,) float64, negative where LoMa_k is; NaN for a class with fewer than two images.

    Raises:
        ValueError: Shapes that do not belong together.

    Source: "Regularized Standard Deviation", Sun et al. 2025, label over-smoothing (preprint "LORT",
        arXiv:2403.00250).
    Differs: the spread is that of m, not of z_k alone, because adding a constant to an image's logits
        changes z_k but nothing that the softmax sees; "rows" as in `logits_magnitude`; divided by n − 1.

    >>> regularized_std([[3.0, 1.0, 0.0], [5.0, 1.0, 2.0], [0.0, 4.0, 2.0]], [0, 0, 1])
    tensor([0.2357,    nan,    nan], dtype=torch.float64)
    """
    mean, deviation = _margin_moments(logits, labels)
    return deviation / mean


def _margin_moments(logits: Numbers, labels: Numbers) -> tuple[Tensor, Tensor]:
    """Per class the mean and the standard deviation (n − 1) of the true logit minus the mean of the others."""
    z, y = _float64(logits), torch.as_tensor(labels).to(torch.int64)
    if z.ndim != 2 or z.shape[1] < 2 or y.shape != z.shape[:1]:
        raise ValueError(f"needs logits (N, C) with C ≥ 2 and labels (N,), got {tuple(z.shape)} and {tuple(y.shape)}")
    y = y.to(z.device)
    own = z.gather(1, y[:, None]).squeeze(1)
    margin = own - (z.sum(dim=1) - own) / (z.shape[1] - 1)
    count = y.bincount(minlength=z.shape[1]).double()
    mean = torch.zeros_like(count).index_add(0, y, margin) / count
    squares = torch.zeros_like(count).index_add(0, y, (margin - mean[y]).square())
    # 0 / 0 where there is one image, and 0 / −1 where there is none: both unknown.
    deviation = (squares / (count - 1)).sqrt().masked_fill(count < 2, math.nan)
    return mean, deviation


def _float64(values: Numbers) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).detach()
