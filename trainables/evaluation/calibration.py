"""Calibration after training: probabilities for the class frequencies of deployment, and when to abstain.

The softmax of a network is p(y | x) under some prior over classes: about that of the training images where the loss is
plain, about the uniform one where it was re-balanced. Which one, and how sure the network is of itself, is fitted on
val; from there Bayes' rule leads to the prior of deployment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy import special
from torch import Tensor

from analysis.records.schema import MOST_CONFUSIONS
from trainables import metrics

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Coverages at which the selective risk is reported."""

CONFIDENCES = (0.5, 0.7, 0.9)
"""Confidences above which the record counts how many answers there are and how many of them are wrong."""

SHARPEST, STEPS = 100.0, 50
"""Upper limit of 1/T and of T, and the maximum number of Newton steps."""


@dataclass(frozen=True)
class Calibration:
    """From the logits of a network to probabilities.

    p(y | x) ∝ π(y) · exp(z_y / T) / π_train(y)^a, for deployment's prior π.

    Args:
        temperature: T, above 0; above 1 where the network is too sure of itself.
        exponent: a: the prior under which the network's softmax holds is proportional to the training images' to this
            power. About 1 after plain training, about 0 after re-balancing.
    """

    temperature: float = 1.0
    exponent: float = 0.0

    def shift(self, counts: Tensor, prior: Tensor) -> Tensor:
        """log π − a · log π_train, what is added to z / T: (C,) float64, −∞ for a class that does not occur.

        Args:
            counts: (C,) training images per class.
            prior: (C,) probability of each class in deployment, sum 1.
        """
        return prior.double().log() - self.exponent * _log_shares(counts).to(prior.device)

    def probabilities(self, logits: Tensor, counts: Tensor, prior: Tensor) -> Tensor:
        """(N, C) float64, rows sum to 1.

        Args:
            logits: (N, C).
            counts: (C,) training images per class.
            prior: (C,) probability of each class in deployment, sum 1.
        """
        return (logits.double() / self.temperature + self.shift(counts, prior).to(logits.device)).softmax(dim=1)


def fit(logits: Tensor, labels: Tensor, counts: Tensor, ridge: float = 1.0) -> Calibration:
    """Temperature and exponent that make the labels of val most likely, under the prior that val itself has.

    Maximises Σ_i log softmax(b · z_i − a · log π_train + log π_val)[y_i] − ridge/2 · ((b − 1)² + a²) over b = 1/T and
    a, by Newton's method: the sum is concave, and has one maximum. The last term weighs as much as about one image, and
    keeps both finite where val is classified without a mistake, or the training images are balanced. Classes without
    val images are left out.

    Args:
        logits: (N, C) of val images.
        labels: (N,) their classes.
        counts: (C,) training images per class.
        ridge: Weight of the last term.

    Raises:
        ValueError: There is no image.

    Source: temperature: Guo et al. 2017, arXiv:1706.04599, section 4.2; another prior by Bayes' rule: Saerens, Latinne
        and Decaestecker 2002, doi:10.1162/089976602753284446, eq. 2.4; temperature with a bias of each class before
        that rule: Alexandari, Kundaje and Shrikumar 2020, arXiv:1901.06852, section 3.
    Differs: the biases are a multiple of log π_train: tail classes have too few val images for one of their own.
        Post-hoc logit adjustment (Menon et al. 2021, arXiv:2007.07314) sets a = T = 1 without looking.
    """
    if not len(labels):
        raise ValueError("calibration: needs at least one val image")
    held = torch.bincount(labels, minlength=logits.shape[1]).double()
    known = held > 0
    place = known.cumsum(0) - 1
    z = logits.double()[:, known]
    z = z - z.mean(dim=1, keepdim=True)
    tail = -_log_shares(counts).to(z.device)[known]
    tail = tail - tail.mean()
    base, target = (held[known] / held.sum()).log(), place[labels][:, None]
    start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=z.device)

    def objective(at: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (at[0] * z + at[1] * tail + base).log_softmax(dim=1)
        return -log_p.gather(1, target).sum() + ridge / 2 * (at - start).square().sum(), log_p.exp()

    at = start.clone()
    value, p = objective(at)
    for _ in range(STEPS):
        of_z, of_tail = (p * z).sum(dim=1), p @ tail
        gradient = ridge * (at - start) + torch.stack(
            [(of_z - z.gather(1, target)[:, 0]).sum(), (of_tail - tail[target[:, 0]]).sum()]
        )
        cross = ((p * z) @ tail - of_z * of_tail).sum()
        hessian = ridge * torch.eye(2, dtype=torch.float64, device=z.device) + torch.stack(
            [
                torch.stack([((p * z * z).sum(dim=1) - of_z**2).sum(), cross]),
                torch.stack([cross, (p @ tail**2 - of_tail**2).sum()]),
            ]
        )
        if not bool(torch.isfinite(hessian).all()):  # logits that are too large for a product of two
            break
        step = torch.linalg.lstsq(hessian.cpu(), gradient.cpu()).solution.to(z.device)
        size = 1.0
        while size > 1e-6 and objective(at - size * step)[0] > value:
            size /= 2
        at = at - size * step
        value, p = objective(at)
        if float(step.abs().max()) < 1e-9:
            break
    return Calibration(1 / min(max(float(at[0]), 1 / SHARPEST), SHARPEST), float(at[1]))


def cross_fitted(logits: Tensor, labels: Tensor, counts: Tensor, prior: Tensor) -> Tensor:
    """(N, C) probabilities of val images, each by a calibration that was fitted on the other half of val.

    So that the calibration is judged on images that it has not seen. Every second image of a class is in one half.
    """
    order = torch.empty_like(labels)
    for label in labels.unique():
        mine = labels == label
        order[mine] = torch.arange(int(mine.sum()), device=labels.device)
    found = logits.double().softmax(dim=1)
    for half in (0, 1):
        own, other = order % 2 == half, order % 2 != half
        if bool(own.any()) and bool(other.any()):
            found[own] = fit(logits[other], labels[other], counts).probabilities(logits[own], counts, prior)
    return found


def on_val(logits: Tensor, labels: Tensor, counts: Tensor) -> tuple[dict[str, float], dict[str, Any], Calibration]:
    """A calibration, and what it reaches on val at equal class frequencies.

    Args:
        logits: (N, C) of val images.
        labels: (N,) their classes.
        counts: (C,) training images per class.

    Returns:
        "temperature" and "prior_exponent" of the calibration, and the scores of `before_and_after`, calibrated by
        halves that were not fitted on; how often confident answers are wrong; the calibration.
    """
    prior = torch.full((len(counts),), 1 / len(counts), dtype=torch.float64)
    fitted = fit(logits, labels, counts)
    unseen = cross_fitted(logits, labels, counts, prior)
    found = {"temperature": fitted.temperature, "prior_exponent": fitted.exponent}
    found |= before_and_after(logits.double().softmax(dim=1), unseen, labels, prior)
    return found, confident(unseen, labels), fitted


def before_and_after(plain: Tensor, calibrated: Tensor, labels: Tensor, prior: Tensor) -> dict[str, float]:
    """`scores` of both under one prior, so that they can be compared.

    Args:
        plain: (N, C) softmax of the network.
        calibrated: (N, C) probabilities after calibration.
        labels: (N,) true classes.
        prior: (C,) class frequencies at which both are measured.

    Returns:
        "calibration_error_uncalibrated", "loss_uncalibrated" and "accuracy_uncalibrated" of the softmax;
        "calibrated_error", "calibrated_loss" and "calibrated_accuracy".
    """
    weights = importance(labels, prior)
    before, after = scores(plain, labels, weights), scores(calibrated, labels, weights)
    return {f"{name}_uncalibrated": value for name, value in before.items()} | {
        f"calibrated_{name.removeprefix('calibration_')}": value for name, value in after.items()
    }


def importance(labels: Tensor, prior: Tensor) -> Tensor:
    """(N,) weights under which the images stand for a prior: π(y) over the share of y among them, with mean 1.

    Raises:
        ValueError: No class with a prior above 0 has an image.

    Source: Saerens et al. 2002, eq. 2.4. Classes without images keep no weight.
    """
    held = torch.bincount(labels, minlength=len(prior)).double()
    weights = (prior.double().to(labels.device) / held.clamp(min=1))[labels]
    if not weights.sum() > 0:
        raise ValueError("calibration: no class that the prior names has an image")
    return weights * len(labels) / weights.sum()


def scores(probabilities: Tensor, labels: Tensor, weights: Tensor) -> dict[str, float]:
    """How good probabilities are: "calibration_error", "loss" (negative log likelihood) and "accuracy", all weighted.

    Args:
        probabilities: (N, C).
        labels: (N,) true classes.
        weights: (N,) of the images, mean 1.
    """
    own = probabilities.gather(1, labels[:, None])[:, 0]
    counted = weights > 0
    right = (probabilities.argmax(dim=1) == labels).double()
    return {
        "calibration_error": metrics.calibration_error(probabilities, labels, weights=weights),
        "loss": float(-(weights[counted] * own[counted].log()).sum() / weights.sum()),
        "accuracy": float((weights * right).sum() / weights.sum()),
    }


# --- abstention ---------------------------------------------------------------------------------------------


def risk_bound(wrong: float, images: float, level: float = 0.95) -> float:
    """Upper limit of the share that is wrong, from how many of some images are; 1 without images.

    Args:
        wrong: Images that are wrong, at least 0; need not be whole.
        images: Effective number of images.
        level: Coverage of the one-sided limit.

    Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.

    >>> round(risk_bound(0, 29), 3), round(risk_bound(1, 29), 3)
    (0.098, 0.153)
    """
    if images <= wrong:
        return 1.0
    return float(special.betaincinv(wrong + 1, images - wrong, level))


def thresholds(
    probabilities: Tensor, labels: Tensor, weights: Tensor, risk: float, level: float = 0.95
) -> list[float | None]:
    """For each class, the lowest confidence at which its answers meet the requested risk; `None` if no threshold does.

    Of the images of a predicted class, the most confident ones are accepted: as many as a test of every number, from
    the fewest that could pass to all, passes one after the other. That is fixed-sequence testing, so that the level
    holds for each class: exactly for equal weights and probabilities that do not depend on these images, approximately
    otherwise. Weighted images count as (Σw)² / Σw² images (Kish).

    Args:
        probabilities: (N, C) of val images.
        labels: (N,) their classes.
        weights: (N,) of the images.
        risk: Largest share of wrong answers among those accepted, in (0, 1).
        level: Probability with which that holds, for each class with val images.

    Source: Angelopoulos et al. 2021, arXiv:2110.01052, section 2.3 (fixed-sequence testing); selective classification:
        Geifman and El-Yaniv 2017, arXiv:1705.08500.
    Differs: a limit for each predicted class instead of one for all.
    """
    confidence, predicted = probabilities.max(dim=1)
    fewest = math.ceil(math.log(1 - level) / math.log(1 - risk))
    found: list[float | None] = []
    for label in range(probabilities.shape[1]):
        mine = predicted == label
        order = confidence[mine].argsort(descending=True)
        sure, w = confidence[mine][order], weights[mine][order]
        wrong = (w * (labels[mine][order] != label)).cumsum(0).tolist()
        total, squares = w.cumsum(0).tolist(), (w * w).cumsum(0).tolist()
        ends = [*(sure[1:] < sure[:-1]).tolist(), True] if len(sure) else []  # equal confidences stand together
        threshold = None
        for number, end in enumerate(ends):
            images = total[number] ** 2 / squares[number] if squares[number] else 0.0
            if not end or images < fewest:
                continue
            if not risk_bound(images * wrong[number] / total[number], images, level) <= risk:
                break
            threshold = float(sure[number])
        found.append(threshold)
    return found


def accepted(probabilities: Tensor, limits: Sequence[float | None]) -> Tensor:
    """(N,) whether the answer to an image reaches the threshold of its class."""
    confidence, predicted = probabilities.max(dim=1)
    table = torch.tensor([math.inf if limit is None else limit for limit in limits], dtype=torch.float64)
    return confidence >= table.to(confidence.device)[predicted]


def selective_risk(probabilities: Tensor, labels: Tensor, weights: Tensor) -> list[dict[str, float]]:
    """Share of wrong answers where only the most confident are given, for each of `COVERAGES`.

    Returns:
        "coverage" (the share that is answered), "confidence" (the lowest among them), "risk", and "images", the
        effective number that it is measured on.
    """
    confidence, predicted = probabilities.max(dim=1)
    order = confidence.argsort(descending=True)
    w, wrong = weights[order], (predicted != labels)[order].double()
    answered = w.cumsum(0) / w.sum()
    found = []
    for coverage in COVERAGES:
        number = int((answered < coverage - 1e-9).sum()) + 1
        kept = w[:number]
        found.append(
            {
                "coverage": float(answered[number - 1]),
                "confidence": float(confidence[order[number - 1]]),
                "risk": float((kept * wrong[:number]).sum() / kept.sum()) if float(kept.sum()) else math.nan,
                "images": float(kept.sum() ** 2 / kept.square().sum()) if float(kept.sum()) else 0.0,
            }
        )
    return found


# --- confusions ---------------------------------------------------------------------------------------------


def confusions(predicted: Tensor, labels: Tensor, classes: int) -> list[tuple[int, int, int]]:
    """The `MOST_CONFUSIONS` most frequent mistakes: (true class, predicted class, images), the most frequent first.

    >>> confusions(torch.tensor([1, 1, 0, 2]), torch.tensor([0, 0, 0, 1]), classes=3)
    [(0, 1, 2), (1, 2, 1)]
    """
    wrong = predicted != labels
    pairs, counts = (labels[wrong] * classes + predicted[wrong]).unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MOST_CONFUSIONS]
    return [
        (pair // classes, pair % classes, count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def confident(probabilities: Tensor, labels: Tensor) -> dict[str, list[list[int]]]:
    """For each of `CONFIDENCES`, how many answers each predicted class has above it, and how many of them are wrong."""
    confidence, predicted = probabilities.max(dim=1)
    classes = probabilities.shape[1]
    found = {}
    for limit in CONFIDENCES:
        sure = confidence >= limit
        given = torch.bincount(predicted[sure], minlength=classes)
        wrong = torch.bincount(predicted[sure & (predicted != labels)], minlength=classes)
        found[f"{limit:g}"] = [given.tolist(), wrong.tolist()]
    return found


def _log_shares(counts: Tensor) -> Tensor:
    """(C,) log of the classes' shares of the training images; a class without any counts as one of one image."""
    n = counts.double().clamp(min=1)
    return (n / n.sum()).log()
