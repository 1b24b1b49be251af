"""Parametric contrastive learning (PaCo), generalised (GPaCo)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Batch, Facts, Outputs
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.adjustment import log_prior
from trainables.tricks._shared.drawn_layers import linear

FLOOR = 1e-9
"""Added to a prior before its logarithm."""


class Queue(nn.Module):
    """Unit vectors of earlier batches with their labels; the newest replace the oldest.

    Args:
        size: K.
        width: Of a vector.
        classes: C.
        generator: Of the vectors and labels that it starts with.
    """

    def __init__(self, size: int, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.vectors: Tensor
        self.labels: Tensor
        self.next: Tensor
        noise = torch.randn(size, width, generator=generator)
        self.register_buffer("vectors", functional.normalize(noise, dim=1))
        self.register_buffer("labels", torch.randint(classes, (size,), generator=generator))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def push(self, vectors: Tensor, labels: Tensor) -> None:
        """Replaces the oldest entries by vectors (B, d) with labels (B,)."""
        size = len(self.vectors)
        if size == 0:
            return
        vectors, labels = vectors[-size:], labels[-size:]
        rows = (self.next + torch.arange(len(vectors), device=self.next.device)) % size
        self.vectors[rows] = vectors.to(self.vectors.dtype)
        self.labels[rows] = labels
        self.next.copy_((self.next + len(vectors)) % size)


@trick(
    seam="loss",
    family="contrastive",
    source="Cui et al. 2021, arXiv:2107.12028, eq. 4 (PaCo); Cui et al. 2023, arXiv:2209.12400 (GPaCo)",
    space={"alpha": one_of(0.01, 0.02, 0.05), "temperature": one_of(0.05, 0.07, 0.2)},
    needs=("images", "one_head"),
)
@dataclass(frozen=True)
class Gpaco:
    """Contrasts each image with images and with learned class centres, the classifier's logits, in one softmax.

        L_i = −Σ_m w_m ln p_m / Σ_m w_m,   p = softmax over [z_i + ln π;  γ-weighted v_i·v_k / T]
        w = β q on the centres, α on every contrast entry of the image's class but itself

    v are unit vectors of a projection of the features. GPaCo: both views of an image are anchors, and contrast with
    both views and a queue of second views, all with gradient but the queue. PaCo (`momentum_encoder`): the first view
    is the anchor, the second one goes through a moving copy of the network, which the network itself does not see.
    Evaluation reads z alone. With α = 0 and γ = 0 it is balanced softmax.

    Args:
        alpha: α, at least 0: 0.01 on CIFAR-100-LT, 0.05 on ImageNet-LT and iNaturalist, 0.02 on Places-LT.
        beta: β, above 0.
        gamma: γ, at least 0, the factor of contrast entries in the denominator.
        temperature: T, above 0: 0.05 on CIFAR and for the survey's 0.07, 0.2 elsewhere.
        queue: K entries, 0 or at least a batch; 1024 on CIFAR, 8192 elsewhere.
        dim: Width of the projection: 32 on CIFAR, 128 elsewhere.
        momentum_encoder: PaCo.
        m: Momentum of the copy's parameters, in [0, 1].

    Raises:
        ValueError: When called without the features of two views, or PaCo without the view set aside.

    Source:
        Cui, Zhong, Liu, Yu, Jia 2021, "Parametric Contrastive Learning", ICCV, arXiv:2107.12028, eq. 4; Cui, Zhong,
        Tian, Liu, Yu, Jia 2023, "Generalized Parametric Contrastive Learning", TPAMI, arXiv:2209.12400; public code.

    Differs:
        From the public code: the queue starts as unit vectors, where it normalises over the wrong axis; K need not be a
        multiple of the batch. Label smoothing is the target seam's, over the centres as there. Mixed labels count by
        their parts; the queue keeps each image's own. The copy follows the parameters after every step, which is the
        same as before every forward pass.

    >>> facts = Facts(counts=torch.tensor([1, 1]), labels=torch.tensor([0, 1]))
    >>> loss = Gpaco(alpha=0.0, gamma=0.0, queue=0).build(facts)
    >>> view = Outputs(torch.zeros(1, 2), torch.ones(1, 64))
    >>> loss(Outputs(view.logits, view.features, views=(view,)), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), None)
    tensor([0.6931], grad_fn=<MeanBackward1>)
    """

    alpha: float = 0.01
    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 0.05
    queue: int = 1024
    dim: int = 32
    momentum_encoder: bool = False
    m: float = 0.999

    needs_views = 2

    def __post_init__(self) -> None:
        in_range(self, "alpha", 0, below=True)
        in_range(self, "beta", 0, above=True, below=True)
        in_range(self, "gamma", 0, below=True)
        in_range(self, "temperature", 0, above=True, below=True)
        in_range(self, "queue", 0, whole=True)
        in_range(self, "dim", 1, whole=True)
        among(self, "momentum_encoder", (False, True))
        in_range(self, "m", 0, 1)

    @property
    def aside(self) -> tuple[int, ...]:
        """The views that only the moving copy sees."""
        return (1,) if self.momentum_encoder else ()

    def refuses(self, stage: Any) -> str | None:
        """Why it cannot be trained in a stage."""
        if 0 < self.queue < stage.batch_size:
            return (
                f"has a queue of {self.queue} entries, fewer than the {stage.batch_size} images of a batch; "
                "use queue=0 or a longer one"
            )
        return None

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """Projection, queue, and PaCo's moving copies."""
        generator = facts.generator("gpaco")
        features = int(getattr(facts.model, "features", 64))
        own: dict[str, nn.Module] = {
            "projection": self._projection(features, generator),
            "queue": Queue(self.queue, self.dim, facts.classes, generator),
        }
        if self.momentum_encoder:
            facts.require("gpaco", "model")
            encoder = copy.deepcopy(facts.model)
            encoder.head, encoder.extra = nn.Identity(), nn.ModuleDict()
            own |= {"encoder": encoder, "key_projection": copy.deepcopy(own["projection"])}
            for name in ("encoder", "key_projection"):
                own[name].requires_grad_(False)
        return own

    def _projection(self, features: int, generator: torch.Generator) -> nn.Sequential:
        if self.momentum_encoder:
            return nn.Sequential(
                linear(features, features, generator), nn.BatchNorm1d(features), nn.ReLU(),
                linear(features, self.dim, generator),
            )  # fmt: skip
        first, second = (linear(features, features, generator) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), linear(features, self.dim, generator))

    def build(self, facts: Facts) -> Callable[[Outputs, Tensor, Tensor, torch.Generator | None], Tensor]:
        """(Outputs, q (B, C), y (B,), generator) -> (B,)."""
        return _Contrast(self, facts)


class _Contrast:
    """The loss, and what it does after a step."""

    def __init__(self, made: Gpaco, facts: Facts) -> None:
        self._made, self._log_prior = made, log_prior(facts, floor=FLOOR)
        self._own = facts.own_modules(made)
        self._pushed: tuple[Tensor, Tensor] | None = None
        """Features of the last batch, and what the queue takes of it: between a loss and the step behind it alone."""

    def __call__(self, outputs: Outputs, q: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        made, queue = self._made, self._own["queue"]
        assert isinstance(queue, Queue)
        if outputs.features is None:
            raise ValueError("trick 'gpaco' needs the features of the network: call it with Outputs(logits, features)")
        anchors, second, z = self._vectors(outputs)
        times = len(anchors) // len(y)  # views that are anchors
        contrast = torch.cat((*((anchors,) if times == 2 else (anchors, second)), queue.vectors.to(anchors.dtype)))
        own = y.repeat(2)  # of the two views
        labels = torch.cat((own, queue.labels))
        centres = z + self._log_prior.to(z.dtype)
        contrasted = anchors @ contrast.T / made.temperature
        itself = torch.eye(len(anchors), len(contrast), dtype=torch.bool, device=z.device)
        same = (own[: len(anchors), None] == labels) & ~itself
        weights = torch.cat((made.beta * q.repeat(times, 1), made.alpha * same.to(z.dtype)), dim=1)
        # a factor of the denominator is a shift of the logit that the numerator does not have
        shifted = contrasted.masked_fill(itself, -torch.inf)
        shifted = shifted + torch.tensor(made.gamma, dtype=z.dtype, device=z.device).log()
        total = torch.logsumexp(torch.cat((centres, shifted), dim=1), dim=1, keepdim=True)
        log_p = torch.cat((centres, contrasted), dim=1) - total
        log_p = log_p.masked_fill(log_p.isneginf(), 0)  # a class that the logits seam rules out
        losses = -(weights * log_p).sum(dim=1) / weights.sum(dim=1)
        return losses.view(times, -1).mean(dim=0)

    def _vectors(self, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of the anchors, those of the second view (B, d), and the anchors' logits."""
        features = outputs.features
        assert features is not None
        if not self._made.momentum_encoder:
            if not outputs.views or outputs.views[0].features is None:
                raise ValueError("trick 'gpaco' needs two views of each image, got one; add trick('several_views')")
            other = outputs.views[0]
            anchors = self._projected("projection", torch.cat((features, other.features)))  # type: ignore[arg-type]
            second = anchors[len(features) :]
            self._pushed = features, second.detach()
            return anchors, second, torch.cat((outputs.logits, other.logits))
        if outputs.batch is None or outputs.batch.aside is None:
            raise ValueError("trick 'gpaco': momentum_encoder needs the second view in Batch.aside")
        if self._pushed is None or self._pushed[0] is not features:  # once for all parts of a mixture
            with torch.no_grad():
                keys = self._own["encoder"](outputs.batch.aside[0]).features
                self._pushed = features, self._projected("key_projection", keys)
        return self._projected("projection", features), self._pushed[1], outputs.logits

    def _projected(self, name: str, features: Tensor) -> Tensor:
        return functional.normalize(self._own[name](features), dim=1)

    def after_step(self, model: Any, outputs: Outputs, batch: Batch) -> None:
        """Fills the queue, and moves the copy after the network."""
        own, made = self._own, self._made
        if self._pushed is not None:
            own["queue"].push(self._pushed[1], batch.y[:, 0])  # type: ignore[operator]
            self._pushed = None
        if made.momentum_encoder:
            pairs = [(own["encoder"].backbone, model.backbone), (own["key_projection"], own["projection"])]
            for copied, learned in pairs:
                for key, query in zip(copied.parameters(), learned.parameters(), strict=True):  # type: ignore[operator,union-attr]
                    key.mul_(made.m).add_(query, alpha=1 - made.m)
