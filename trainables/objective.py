"""Target, logits, loss and weight, composed into one loss per image.

For image i with the label mixture y (K parts) and shares s:

    L_i = Σ_k s_ik · w(y_ik) · loss(logits(z_i, y_ik), target(y_ik)) + Σ penalties_i

Of a head with experts the loss reads the fused logits, or it is summed over the experts where the head says so
(`Outputs.each`) and the loss knows no experts itself (`reads_experts`).

No trick sees another one: mixup never meets the loss, no loss meets mixup, so every pair composes, each in
its paper's own form. The loss is reduced once, by `reduce`, as the stage declares; penalties by their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables.batch import Batch, Facts, Outputs
from trainables.registry import SEAMS, PlanError, name_of, seam_of

REDUCTIONS = ("expected", "mean", "weighted_mean")


def one_per_seam(tricks: Sequence[Any], where: str = "these tricks") -> dict[str, list[Any]]:
    """The tricks by seam, in the order of the plan.

    Raises:
        PlanError: Two tricks share a seam that takes one.
    """
    by_seam: dict[str, list[Any]] = {seam: [] for seam in SEAMS}
    for made in tricks:
        by_seam[seam_of(made)].append(made)
    for seam, sitting in by_seam.items():
        if len(sitting) > 1 and not SEAMS[seam].many:
            named = ", ".join(name_of(made) for made in sitting)
            raise PlanError(
                f"{where}: {named} all sit on seam {seam!r}, which takes one trick per stage; "
                "keep one, or move the others to another stage"
            )
    return by_seam


@dataclass(frozen=True)
class Shift:
    """Adds the same to the logits of every image, z'_c = z_c + a_c.

    A trick of the logits seam that returns one lets a linear classifier of fixed features learn in closed form.

    Args:
        shift: a (C,) float64; −inf rules a class out.
    """

    shift: Tensor

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """(z (B, C), y (B,)) -> (B, C)."""
        return z + self.shift.to(z.dtype)


class Objective:
    """The loss of every image of a batch, weights included, not reduced.

    Args:
        tricks: Made tricks; those on other seams than target, logits, loss, penalty and weight are ignored.
        facts: What the tricks may know.

    Raises:
        PlanError: Two targets or two losses.

    >>> import torch
    >>> from trainables.registry import make
    >>> facts = Facts(counts=torch.tensor([100, 25]), labels=torch.tensor([0, 1]))
    >>> objective = Objective([make("cost_sensitive")], facts)
    >>> objective(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor([0.1733, 0.6931])
    """

    def __init__(self, tricks: Sequence[Any], facts: Facts) -> None:
        by_seam = one_per_seam(tricks)

        self.functions: list[tuple[str, Any]] = []
        """What each trick has built, by its name: some act between the steps as well."""

        def built(seam: str) -> list[Callable[..., Tensor]]:
            functions = [made.build(facts) for made in by_seam[seam]]
            self.functions += zip(map(name_of, by_seam[seam]), functions, strict=True)
            return functions

        self.classes, self._device = facts.classes, facts.device
        self._target = next(iter(built("target")), None)
        self._logits = built("logits")
        self._loss = next(iter(built("loss")), None) or _cross_entropy
        self._reads_experts = any(getattr(made, "reads_experts", False) for made in by_seam["loss"])
        self._weights = built("weight")
        self._penalties = built("penalty")

    def weights(self, labels: Tensor) -> Tensor:
        """The product of the weight seam: labels (B,) -> (B,) float64."""
        product = torch.ones(labels.shape, dtype=torch.float64, device=labels.device)
        for weight in self._weights:
            product = product * weight(labels)
        return product

    @property
    def weighted(self) -> bool:
        """Whether any trick weighs images."""
        return bool(self._weights)

    @property
    def has_target(self) -> bool:
        """Whether a trick gives the targets."""
        return self._target is not None

    @property
    def shift(self) -> Tensor | None:
        """(C,) what the logits seam adds to the logits, where the loss is the cross-entropy and that is all it does."""
        if self._loss is not _cross_entropy or self._penalties:
            return None
        total = torch.zeros(self.classes, dtype=torch.float64, device=self._device)
        for adjust in self._logits:
            if not isinstance(adjust, Shift):
                return None
            total = total + adjust.shift
        return total

    def __call__(
        self,
        outputs: Outputs | Tensor,
        labels: Tensor,
        share: Tensor | None = None,
        *,
        batch: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of each image.

        Args:
            outputs: Of the network; a tensor is taken as the logits (B, C).
            labels: (B,), or (B, K) for a mixture.
            share: (B, K), rows sum to 1; needed with (B, K) labels.
            batch: For penalties; made from the labels where absent.
            generator: For losses that draw.

        Returns:
            (B,) in the dtype of the logits.
        """
        losses, penalties = self.parts(outputs, labels, share, batch=batch, generator=generator)
        return losses + penalties

    def parts(
        self,
        outputs: Outputs | Tensor,
        labels: Tensor,
        share: Tensor | None = None,
        *,
        batch: Batch | None = None,
        generator: torch.Generator | None = None,
        factors: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted losses (B,) and the penalties (B,), whose sum is the objective.

        They are apart because penalties carry no weight: `reduce` must not divide them by the weights.

        Args:
            outputs: As above, and so are `labels`, `share`, `batch` and `generator`.
            labels: (B,) or (B, K).
            share: (B, K).
            batch: For penalties and losses that read more than labels.
            generator: For losses that draw.
            factors: labels (B,) -> (B,), by which a step trick divides the objective between several gradients;
                a penalty has the factor of its image's mixture.
        """
        if isinstance(outputs, Tensor):
            outputs = Outputs(outputs)
        if labels.ndim == 1:
            labels, share = labels[:, None], torch.ones_like(labels, dtype=outputs.logits.dtype)[:, None]
        elif share is None:
            raise ValueError("labels (B, K) need share=(B, K), the parts of each image's mixture")
        assert share is not None
        if outputs.batch is None:
            outputs = replace(outputs, batch=batch)
        losses, penalties = torch.zeros_like(outputs.logits[:, 0]), torch.zeros_like(outputs.logits[:, 0])
        for part in range(labels.shape[1]):
            y = labels[:, part]
            loss = self._loss_of(self._adjusted(outputs, y), self.targets(y, outputs.logits.dtype), y, generator)
            if self._weights or labels.shape[1] > 1:  # else the share of the only label is 1
                loss = (share[:, part] * self.weights(y)).to(loss.dtype) * loss
            losses = losses + (loss if factors is None else factors(y).to(loss.dtype) * loss)
        for penalty in self._penalties:
            if batch is None:
                batch = Batch(outputs.logits.new_zeros(1, len(labels), 0, 0, 0), labels[:, 0], labels, share)
            penalties = penalties + penalty(outputs, batch, generator)
        if batch is not None and batch.penalty is not None:
            penalties = penalties + batch.penalty
        if factors is not None:
            mixed = sum(share[:, part] * factors(labels[:, part]) for part in range(labels.shape[1]))
            penalties = torch.as_tensor(mixed).to(penalties.dtype) * penalties
        return losses, penalties

    def targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels (B,) -> q (B, C)."""
        if self._target is not None:
            return self._target(y).to(dtype)
        # one_hot would look at the labels' range, for which a CPU reads a number every step
        return torch.zeros(len(y), self.classes, dtype=dtype, device=y.device).scatter_(1, y[:, None], 1)

    def _loss_of(self, outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,), summed over the experts where each of them learns by itself."""
        if outputs.experts is None or not outputs.each or self._reads_experts:
            return self._loss(outputs, q, y, generator)
        return torch.stack(
            [self._loss(outputs.of_expert(expert), q, y, generator) for expert in range(len(outputs.experts))]
        ).sum(dim=0)

    def _adjusted(self, outputs: Outputs, y: Tensor) -> Outputs:
        if not self._logits:
            return outputs

        def chain(z: Tensor) -> Tensor:
            for adjust in self._logits:
                z = adjust(z, y)
            return z

        experts = None if outputs.experts is None else torch.stack([chain(z) for z in outputs.experts])
        return outputs.with_logits(chain(outputs.logits), experts)


def reduce(losses: Tensor, weights: Tensor, expected_weight: float, reduction: str) -> Tensor:
    """The batch's loss from the losses of its images.

    Args:
        losses: (B,), weights included, without penalties.
        weights: (B,), the weights that are in them, averaged over the parts of each image's mixture.
        expected_weight: Mean weight under the stage's own draw.
        reduction: "mean" (the papers' formula) divides by B; "weighted_mean" (many public codes) by the
            batch's sum of weights; "expected" by B times the expected weight, so that re-weighting does not
            secretly change the learning rate.
    """
    if reduction == "mean":
        return losses.mean()
    if reduction == "expected":
        return losses.mean() / expected_weight
    if reduction == "weighted_mean":
        return losses.sum() / weights.sum().to(losses.dtype)
    raise PlanError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def _cross_entropy(outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    # a class that the logits seam rules out (−inf) has no part in the loss, whatever a smoothed q gives it
    log_p = functional.log_softmax(outputs.logits, dim=1)
    log_p = log_p.masked_fill(log_p.isneginf(), 0)
    return -(q * log_p).sum(dim=1)
