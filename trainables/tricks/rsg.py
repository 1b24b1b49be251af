"""Rare-class sample generator (RSG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of, uniform
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.tricks._shared.drawn_layers import convolution


class Centres(nn.Module):
    """K centres of each class, and the linear functions that assign an image to one of its class's.

    Args:
        classes: C.
        k: K.
        channels: D.
        generator: Of the assignment's initial weights; the centres start at zero, the biases at one.
    """

    def __init__(self, classes: int, k: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(classes, k, channels))
        self.weight = nn.Parameter(torch.randn(classes, k, channels, generator=generator))
        self.bias = nn.Parameter(torch.ones(classes, k))

    def assigned(self, pooled: Tensor, y: Tensor) -> Tensor:
        """γ (B, K) of pooled maps (B, D) with labels (B,), rows sum to 1."""
        z = torch.einsum("bd,bkd->bk", pooled, self.weight[y]) + self.bias[y]
        return z.softmax(dim=1)

    def nearest(self, pooled: Tensor, y: Tensor) -> Tensor:
        """The centre (B, D) that each image is assigned to, without gradient."""
        with torch.no_grad():
            centre: Tensor = self.centres[y, self.assigned(pooled, y).argmax(dim=1)]
        return centre


class Pairs(nn.Module):
    """Says whether two maps are of one class: logits (B, 2) of maps (B, D, h, w) and (B, D, h, w).

    Args:
        channels: D.
        width: Of the two convolutions.
        generator: Of the initial weights.
    """

    def __init__(self, channels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.mix = _kaiming(convolution(2 * channels, width, 1, generator), generator)
        self.read = _kaiming(convolution(width, width, 3, generator), generator)
        self.same = nn.utils.skip_init(nn.Linear, width, 2)
        nn.init.normal_(self.same.weight, generator=generator)
        nn.init.zeros_(self.same.bias)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, 2): different, the same."""
        maps = self.read(functional.relu(self.mix(torch.cat((one, other), dim=1))))
        found: Tensor = self.same(maps.mean(dim=(2, 3)))
        return found


def _kaiming(layer: nn.Conv2d, generator: torch.Generator) -> nn.Conv2d:
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@trick(
    seam="inside",
    family="data synthesis",
    source="Wang et al. 2021, arXiv:2106.09859, eq. 2 to 6 (RSG)",
    space={"strength": uniform(0.25, 1.0, step=0.25), "head": one_of(0.1, 0.2, 0.3)},
    needs=("images", "one_head"),
)
@dataclass(frozen=True)
class Rsg:
    """Generates maps of rare classes inside the network from the variation of frequent ones.

    Behind `layer`, on maps f without gradient, with γ = softmax_K(A_y pool(f) + b_y):

        loss 1 = mean over images of Σ_k γ_k ‖f − μ_yk‖² + CE(pairs(f_i, f_j), same class?)
        new = f_tail + T(v),   v = f_head − μ_head of the largest γ,   T a 3×3 convolution, with the tail's label
        loss 2 = CE(pairs(f_head, T v), different)
                 + mean over images of Σ_positions |‖T v‖ − ‖v‖| + |cos(f_tail − μ_tail, T v) − 1|
        total = L + λ₁ loss 1 + λ₂ loss 2

    The first half of a batch is paired with the second. Up to the share `start` of the epochs the pairs are learned;
    from there on they are fixed, and samples are made: tail images meet head images in order, in
    max(1, int(strength · larger / smaller group)) rounds of the smaller group's size. New rows go through the rest of
    the network, and every loss counts them. Head are the `head` · C largest classes. λ₁ = λ₂ = 0 with start = 1 leaves
    the network as it is without.

    Args:
        layer: The part behind which it acts: "layer2" on CIFAR, "layer3" on ImageNet.
        k: K, centres of each class.
        width: Of the pair network.
        head: Share of the classes, in (0, 1).
        strength: In (0, 1].
        start: Share of the epochs of the chain before samples are made: 160 of 200.
        lambda1: λ₁, at least 0.
        lambda2: λ₂, at least 0.

    Raises:
        ValueError: At the stage's start, the network has no such part.

    Source:
        Wang, Lukasiewicz, Hu, Cai, Xu 2021, "RSG: A Simple but Effective Module for Learning Imbalanced Datasets",
        CVPR, arXiv:2106.09859, eq. 2 to 6; layers and constants of the public code.

    Differs:
        From the public code, as the paper has it: norms and cosines of loss 2 are over the channels of a position,
        where the code's rows are no channel vectors and its second term is taken number by number. An odd image is
        paired with none, where the code fails. At least one class is head. A mixed image counts with the label of its
        largest share.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.tensor([6, 3, 1]), torch.tensor([0, 1, 2]), model=network)
    >>> own = Rsg(k=2, width=8).modules(facts)
    >>> [(name, sum(p.numel() for p in module.parameters())) for name, module in own.items()]
    [('centres', 390), ('pairs', 1122), ('transform', 9248)]
    """

    layer: str = "layer2"
    k: int = 15
    width: int = 256
    head: float = 0.2
    strength: float = 1.0
    start: float = 0.8
    lambda1: float = 0.1
    lambda2: float = 0.01

    def __post_init__(self) -> None:
        for name in ("k", "width"):
            in_range(self, name, 1, whole=True)
        in_range(self, "head", 0, 1, above=True, below=True)
        in_range(self, "strength", 0, 1, above=True)
        in_range(self, "start", 0, 1)
        in_range(self, "lambda1", 0, below=True)
        in_range(self, "lambda2", 0, below=True)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """Centres, pair network and transformation."""
        facts.require("rsg", "model")
        generator = facts.generator("rsg")
        channels = self._channels(facts)
        return {
            "centres": Centres(facts.classes, self.k, channels, generator),
            "pairs": Pairs(channels, self.width, generator),
            "transform": _kaiming(convolution(channels, channels, 3, generator), generator),
        }

    def _channels(self, facts: Facts) -> int:
        """Channels of the layer's maps: of its last convolution, or as an image shows them where it has none."""
        parts, known = facts.model.backbone, ", ".join(facts.model.backbone)
        if self.layer not in parts:
            raise ValueError(f"trick 'rsg': layer must be a part of the network ({known}), got {self.layer!r}")
        convolutions = [module for module in parts[self.layer].modules() if isinstance(module, nn.Conv2d)]
        if convolutions:
            return convolutions[-1].out_channels
        facts.require("rsg", "images", "normalise")
        assert facts.images is not None and facts.normalise is not None
        was_training = facts.model.training
        facts.model.eval()
        x = facts.normalise(facts.images[:1])
        with torch.no_grad():
            for name, part in parts.items():
                x = part(x)
                if name == self.layer:
                    break
        facts.model.train(was_training)
        return int(x.shape[1])

    def build(self, facts: Facts) -> Callable[[Tensor, Batch, torch.Generator], tuple[Tensor, Batch]]:
        """(maps (B, D, h, w), Batch, generator) -> the same with rows added."""
        return _Generator(self, facts)


class _Generator:
    """What the trick does to a batch's maps."""

    def __init__(self, made: Rsg, facts: Facts) -> None:
        self._made = made
        own = facts.own_modules(made)
        self._centres: Any = own["centres"]
        self._pairs, self._transform = own["pairs"], own["transform"]
        count = max(1, int(made.head * facts.classes))
        largest = facts.counts.argsort(descending=True, stable=True)[:count]
        self._is_head = torch.zeros(facts.classes, dtype=torch.bool)
        self._is_head[largest.cpu()] = True
        self._is_head = self._is_head.to(facts.device)
        self._generates = False

    def begin_epoch(self, progress: float, generator: torch.Generator) -> None:
        """Fixes the pair network where samples are made."""
        self._generates = progress >= self._made.start
        self._pairs.requires_grad_(not self._generates)

    def __call__(self, x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Batch]:
        made, maps = self._made, x.detach()
        y = batch.y.gather(1, batch.share.argmax(dim=1, keepdim=True))[:, 0]
        total = made.lambda1 * self._first_loss(maps, y)
        head = self._is_head[y].nonzero()[:, 0]
        tail = (~self._is_head[y]).nonzero()[:, 0]
        if self._generates and len(head) and len(tail):
            smaller, larger = sorted((len(head), len(tail)))
            rounds = max(1, int(made.strength * larger / smaller))
            head, tail = (_rounds(rows, rounds, smaller) for rows in (head, tail))
            new, second = self._new(maps, y, head, tail)
            x = torch.cat((x, maps[tail] + new))
            total = total + made.lambda2 * second
            batch = replace(
                batch,
                index=torch.cat((batch.index, batch.index[tail])),
                y=torch.cat((batch.y, y[tail, None].expand(-1, batch.y.shape[1]))),
                share=torch.cat((batch.share, batch.share[tail])),
            )
        return x, replace(batch, penalty=total.expand(len(x)))

    def _first_loss(self, maps: Tensor, y: Tensor) -> Tensor:
        gamma = self._centres.assigned(maps.mean(dim=(2, 3)), y)
        centres = self._centres.centres[y]  # (B, K, D)
        # ‖f − μ‖² over channels and positions, without (B, K, D, h, w) numbers
        square = maps.square().sum(dim=(1, 2, 3))[:, None]
        product = torch.einsum("bkd,bd->bk", centres, maps.sum(dim=(2, 3)))
        places = maps.shape[2] * maps.shape[3]
        loss: Tensor = (gamma * (square - 2 * product + places * centres.square().sum(dim=2))).sum(dim=1).mean()
        half = len(maps) // 2
        if self._generates or not half:
            return loss
        one, other = maps[:half], maps[half : 2 * half]
        same = (y[:half] == y[half : 2 * half]).long()
        pairs: Tensor = functional.cross_entropy(self._pairs(one, other), same)
        return loss + pairs

    def _new(self, maps: Tensor, y: Tensor, head: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """T(v) for each pair of a head and a tail image, and loss 2."""
        around = [
            maps[rows] - self._centres.nearest(maps[rows].mean(dim=(2, 3)), y[rows])[:, :, None, None]
            for rows in (head, tail)
        ]
        v, own = around
        new = self._transform(v)
        different = torch.zeros(len(head), dtype=torch.int64, device=maps.device)
        loss = functional.cross_entropy(self._pairs(maps[head], new), different)
        length = (new.norm(dim=1) - v.norm(dim=1)).abs()
        angle = (functional.cosine_similarity(own, new, dim=1) - 1).abs()
        return new, loss + (length + angle).sum(dim=(1, 2)).mean()


def _rounds(rows: Tensor, rounds: int, size: int) -> Tensor:
    """Rows in rounds of a size: the smaller group again in each, the larger one further on."""
    return rows[: rounds * size] if len(rows) > size else rows.repeat(rounds)
