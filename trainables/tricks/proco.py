"""Probabilistic contrastive learning (ProCo)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import uniform
from trainables.batch import Batch, Facts, Outputs
from trainables.registry import in_range, trick
from trainables.tricks._shared.adjustment import log_prior
from trainables.tricks._shared.bessel import log_bessel
from trainables.tricks._shared.contrast import main_label, projected_views
from trainables.tricks._shared.drawn_layers import projection

LARGEST_KAPPA = 1e5


class Estimates(nn.Module):
    """Means of each class's projected features (C, P) and their numbers (C,): those in use, and this epoch's."""

    used_mean: Tensor
    used_amount: Tensor
    mean: Tensor
    amount: Tensor

    def __init__(self, classes: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        for name in ("used_mean", "mean"):
            self.register_buffer(name, _unknown(classes, width, generator))
        for name in ("used_amount", "amount"):
            self.register_buffer(name, torch.zeros(classes))


@trick(
    seam="penalty",
    family="contrastive",
    source="Du et al. 2024, arXiv:2403.06726, eq. 15 to 20",
    space={"alpha": uniform(0.25, 1.5, step=0.25), "temperature": uniform(0.05, 0.2, step=0.05)},
    needs=("one_head",),
)
@dataclass(frozen=True)
class Proco:
    """Contrasts the second and third view with infinitely many of each class, drawn from von Mises–Fisher laws.

        L = (1/2) Σ over views of CE(u + ln π),   u_c = ln [C_p(κ_c) / C_p(‖κ_c μ_c + f / temperature‖)]
        κ_c = p R_c / (1 − R_c²), at most 1e5;   R_c, μ_c: length and direction of the mean of class c's projections

    f is the projected view of length 1, C_p the normalising constant in p dimensions. Means are over the images of this
    and the last epoch, the batch itself included, and carry no gradient. The penalty is α times L. α = 0 changes
    nothing. The published method has `several_views(3)` and `balanced_softmax` with it. Of a mixed image the label with
    the larger share counts.

    Args:
        alpha: α, at least 0.
        temperature: Above 0.
        hidden: Width of the projection, at least 1.
        width: p, outputs of the projection, even, at least 4.

    Raises:
        MissingFact: Facts without a model, whose features are projected.
        ValueError: Outputs of fewer than three views.

    Source:
        Du, Wang, Song, Huang 2024, "Probabilistic Contrastive Learning for Long-Tailed Visual Recognition", TPAMI,
        arXiv:2403.06726; numbers and the order of the updates from the public code.

    Differs:
        The Bessel functions are right to 1e-5 at any p; the code's recurrence is so at p = 128 and wrong by tenths
        at p = 8.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=network)
    >>> Proco().modules(facts)["estimates"].mean.norm(dim=1)
    tensor([0.9000, 0.9000])
    """

    alpha: float = 1.0
    temperature: float = 0.1
    hidden: int = 512
    width: int = 128
    needs_views = 3

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        in_range(self, "temperature", 0, above=True, below=True)
        in_range(self, "hidden", 1, whole=True)
        in_range(self, "width", 4, whole=True)
        if self.width % 2:
            raise ValueError(f"trick 'proco': width must be even, got {self.width}")

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The projection, and the estimates of the classes."""
        facts.require("proco", "model")
        generator = facts.generator("proco")
        layers = projection(int(facts.model.features), self.hidden, self.width, generator)
        return {"projection": layers, "estimates": Estimates(facts.classes, self.width, generator)}

    def build(self, facts: Facts) -> ProcoPenalty:
        """(Outputs, Batch, generator) -> (B,)."""
        return ProcoPenalty(self, facts)


class ProcoPenalty:
    """The penalty, and the estimates that it moves after the step."""

    def __init__(self, made: Proco, facts: Facts) -> None:
        own = facts.own_modules(made)
        estimates = own["estimates"]
        assert isinstance(estimates, Estimates)
        self._made, self._layers, self._estimates = made, own["projection"], estimates
        self._prior = log_prior(facts)
        self._moved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def begin_epoch(self, progress: float, generator: torch.Generator) -> None:
        """The means of the last epoch come into use; those of this one begin."""
        known = self._estimates
        known.used_mean.copy_(known.mean)
        known.used_amount.copy_(known.amount)
        classes, width = known.mean.shape
        known.mean.copy_(_unknown(classes, width, generator))
        known.amount.zero_()

    def __call__(self, outputs: Outputs, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """See `Proco.build`."""
        y, known = main_label(batch), self._estimates
        moved = [(known.used_mean, known.used_amount), (known.mean, known.amount)]
        total = torch.zeros_like(outputs.logits[:, 0])
        for f in projected_views(outputs, self._layers, "proco")[1:]:
            moved = [with_features(mean, amount, f.detach(), y) for mean, amount in moved]
            u = contrast_logits(f, moved[0][0], self._made.temperature) + self._prior.to(f.dtype)
            total = total + functional.cross_entropy(u, y, reduction="none") / 2
        self._moved = moved
        return self._made.alpha * total

    @torch.no_grad()
    def after_step(self, model: object, outputs: Outputs, batch: Batch) -> None:
        """The means take the batch in."""
        known = self._estimates
        places = ((known.used_mean, known.used_amount), (known.mean, known.amount))
        for (mean, amount), (new_mean, new_amount) in zip(places, self._moved, strict=bool(self._moved)):
            mean.copy_(new_mean)
            amount.copy_(new_amount)
        self._moved = []


def with_features(mean: Tensor, amount: Tensor, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means (C, P) of `amount` (C,) features each, with more features (B, P) of classes (B,)."""
    onehot = functional.one_hot(y, len(mean)).to(mean.dtype)  # (B, C)
    number = onehot.sum(dim=0)
    share = torch.where(number > 0, number / (number + amount).clamp(min=1), 0.0)[:, None]
    of_batch = onehot.T @ f.to(mean.dtype) / number.clamp(min=1)[:, None]
    return (1 - share) * mean + share * of_batch, amount + number


def contrast_logits(f: Tensor, mean: Tensor, temperature: float) -> Tensor:
    """u (B, C) of features (B, P) of length 1 and means (C, P), with a gradient in the features."""
    p = mean.shape[1]
    order = p // 2 - 1
    length = mean.double().norm(dim=1)
    kappa = p * length / (1 - length.square())
    kappa = torch.where((kappa < 0) | (kappa > LARGEST_KAPPA), LARGEST_KAPPA, kappa)
    direction, x = functional.normalize(mean.double(), dim=1), f.double() / temperature
    # ‖κ μ + x‖, without differences (B, C, P)
    new = (kappa.square() + 2 * kappa * (x @ direction.T) + x.square().sum(dim=1, keepdim=True)).clamp(min=1e-20).sqrt()
    with torch.no_grad():
        before, _ = log_bessel(order, kappa)
        after, slope = log_bessel(order, new)
        value = (after - order * new.log()) - (before - order * kappa.clamp(min=1e-20).log())
        # d/dk [ln I_n(k) − n ln k] = I_{n+1}(k) / I_n(k)
        slope = slope.clamp(max=1)
    found: Tensor = value + slope * (new - new.detach())
    return found.to(f.dtype)


def _unknown(classes: int, width: int, generator: torch.Generator) -> Tensor:
    """Means of classes that no image is known of: random directions of length 0.9."""
    return 0.9 * functional.normalize(torch.randn(classes, width, generator=generator), dim=1)
