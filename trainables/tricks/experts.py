"""Several experts: the last parts of the network and the classifier, once for each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spaces.domain import integer, one_of
from trainables.batch import Blend, Facts, Outputs
from trainables.models.heads import CosineHead, LinearHead
from trainables.models.network import blended
from trainables.registry import among, in_range, trick
from trainables.tricks._shared.branches import branch, is_known
from trainables.tricks._shared.routing import Routers, mean_of_first


class ExpertsHead(nn.Module):
    """Branches of a network behind its shared parts, each with a classifier.

    Args:
        reads: Name of the last shared part.
        branches: The parts of each expert by name, in order.
        heads: The classifier of each expert.
        each: Whether a loss is summed over the experts.

    With `routers` an evaluated image takes the experts one after another, until a router finds that it has enough of
    them; its logits are the mean of those. All experts are computed all the same: one program serves every batch.
    """

    kind = "experts"

    def __init__(
        self, reads: str, branches: Sequence[Mapping[str, nn.Module]], heads: Sequence[nn.Module], each: bool
    ) -> None:
        super().__init__()
        self.reads, self.each = reads, each
        self.branches = nn.ModuleList(nn.ModuleDict(dict(parts)) for parts in branches)
        self.heads = nn.ModuleList(heads)
        self.routers: Routers | None = None
        """Set by a train trick."""
        self.fix_batchnorm = False
        """Keeps the experts' BatchNorm at its stored statistics while the routers train; set by a train trick."""

    def first(self, count: int) -> ExpertsHead:
        """The head of the first experts, without routers; itself where these are all."""
        if count == len(self.heads):
            return self
        branches = [dict(parts.items()) for parts in self.branches[:count]]  # type: ignore[operator,union-attr]
        return ExpertsHead(self.reads, branches, list(self.heads[:count]), self.each)

    @property
    def scale(self) -> float:
        """The factor on the cosines of every expert; 1 of linear ones."""
        return float(getattr(self.heads[0], "scale", 1.0))

    def train(self, mode: bool = True) -> ExpertsHead:
        """Training mode; frozen experts stay in evaluation mode."""
        super().train(mode)
        if self.fix_batchnorm:
            self.branches.eval()
        return self

    def forward(self, maps: Tensor, blend: Blend | None = None) -> Outputs:
        """Maps (B, D', h, w) of the shared part, or features (B, D) -> Outputs, whose logits are the experts' mean."""
        features, logits = [], []
        for parts, head in zip(self.branches, self.heads, strict=True):
            x = maps
            for name, part in parts.items():  # type: ignore[operator]
                x = blended(part(x), blend, name)
            pooled = blended(x if x.ndim == 2 else x.mean(dim=(2, 3)), blend, "pool")
            features.append(pooled)
            logits.append(blended(head(pooled), blend, "logits"))
        x, z = torch.stack(features), torch.stack(logits)
        routing = None if self.routers is None else self.routers(x, z)
        outputs = Outputs(z.mean(dim=0), x, None, z, each=self.each, routing=routing)
        used = outputs.experts_used
        return outputs if used is None or self.training else replace(outputs, logits=mean_of_first(z, used))


@trick(
    seam="head",
    family="experts",
    source="Wang et al. 2021, arXiv:2010.01809, section 3.1 (RIDE)",
    space={"count": integer(2, 4), "width": one_of(0.75, 1.0), "kind": one_of("cosine", "linear")},
    provides=("experts", "several experts", "3 experts", "cosine"),
)
@dataclass(frozen=True)
class Experts:
    """Gives the network several experts: own last parts and an own classifier for each, behind shared first parts.

        z = mean over the experts of z_e

    Every expert learns its own loss, and their sum is the objective; a loss that knows experts (`ride`, `sade`) sees
    them all. Tricks of the logits seam act on each. One linear expert of the full width is the plain network. Behind a
    stage with more experts, and otherwise the same numbers, the first ones stay.

    Args:
        count: E, at least 1.
        branch_from: The first part that every expert has for itself, "layer2" …; "last_two": the last two parts, as
            RIDE has it on all its networks; "pool": classifiers alone, on one common feature.
        width: Share of the channels of its own parts, in (0, 1]; RIDE and SADE have 0.75. Below 1 for ResNets.
        kind: Classifiers: "cosine" or "linear".
        scale: s of cosine classifiers, above 0.
        learn: "each": the loss of every expert, summed; "fused": the loss of the mean logits.

    Raises:
        ValueError: At the stage's start, the network has no such part, or parts that cannot be narrower.

    Source:
        Wang, Lian, Miao, Liu, Yu 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR,
        arXiv:2010.01809, section 3.1; Zhang, Hooi, Hong, Feng 2022 (SADE), NeurIPS, arXiv:2107.09249; widths, cosine
        and scale of their public codes.

    Differs:
        At the full width the first expert starts with the values of the network itself; the others, and all narrower
        ones, are drawn. Parts that are not a ResNet's start as copies in every expert. The branches are computed in
        float32 whatever the backbone's precision.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0))
    >>> experts = Experts().build(Facts(torch.ones(3), torch.arange(3)))(network)
    >>> outputs = experts(torch.zeros(2, 1, 8, 8))
    >>> outputs.experts.shape, outputs.features.shape
    (torch.Size([3, 2, 3]), torch.Size([3, 2, 48]))
    """

    count: int = 3
    branch_from: str = "last_two"
    width: float = 0.75
    kind: str = "cosine"
    scale: float = 30.0
    learn: str = "each"

    def __post_init__(self) -> None:
        in_range(self, "count", 1, 64, whole=True)
        in_range(self, "width", 0, 1, above=True)
        among(self, "kind", ("cosine", "linear"))
        in_range(self, "scale", 0, above=True, below=True)
        among(self, "learn", ("each", "fused"))
        if not isinstance(self.branch_from, str):
            raise ValueError(f"trick 'experts': branch_from must be a part's name, got {self.branch_from!r}")

    @property
    def provides(self) -> tuple[str, ...]:
        """How many experts there are, and the kind of their classifiers where something needs it."""
        several = ("several experts",) if self.count > 1 else ()
        return ("experts", *several, f"{self.count} experts", *(("cosine",) if self.kind == "cosine" else ()))

    def continues(self, before: Any) -> bool:
        """Whether the head of an earlier stage becomes this one, whose experts are then its first ones."""
        return isinstance(before, Experts) and self.count <= before.count and replace(before, count=self.count) == self

    def build(self, facts: Facts) -> Callable[[Any], Any]:
        """Model -> the same model with the experts."""

        def change(model: Any) -> Any:
            if isinstance(model.head, ExpertsHead):  # of a stage before
                model.head = model.head.first(self.count)
                return model
            names = list(model.backbone)
            own = self._own_parts(names)
            parts = {name: model.backbone[name] for name in own}
            generator, like = facts.generator("head"), next(model.parameters())
            made = [self._expert(number, parts, model, generator) for number in range(self.count)]
            for name in own:
                del model.backbone[name]
            reads = next(reversed(list(model.backbone)), "input")
            branches, heads = zip(*made, strict=True)
            head = ExpertsHead(reads, branches, heads, self.learn == "each")
            model.head = head.to(device=like.device, dtype=like.dtype)
            return model

        return change

    def _own_parts(self, names: list[str]) -> list[str]:
        if self.branch_from == "pool":
            return []
        if self.branch_from == "last_two":
            return names[1:][-2:]
        if self.branch_from not in names[1:]:
            raise ValueError(
                f"trick 'experts': branch_from must be one of last_two, pool, {', '.join(names[1:])}, "
                f"got {self.branch_from!r}"
            )
        return names[names.index(self.branch_from) :]

    def _expert(
        self, number: int, parts: Mapping[str, nn.Module], model: Any, generator: torch.Generator
    ) -> tuple[dict[str, nn.Module], nn.Module]:
        """Parts and classifier of one expert."""
        known = all(is_known(part) for part in parts.values())
        if parts and self.width < 1 and not known:
            raise ValueError(
                f"trick 'experts': width={self.width:g} makes parts of a ResNet narrower, and this network has others; "
                "use width=1"
            )
        own: dict[str, nn.Module] = {}
        features, inputs = int(model.features), None
        for name, part in parts.items():
            if known and (self.width < 1 or number):
                own[name], inputs = branch(part, inputs, self.width, generator)
                features = inputs
            else:
                own[name] = copy.deepcopy(part)
        kept = CosineHead if self.kind == "cosine" else LinearHead
        if number == 0 and type(model.head) is kept and features == model.features:
            head = copy.deepcopy(model.head)
            if isinstance(head, CosineHead):
                head.scale = float(self.scale)
            return own, head
        if self.kind == "cosine":
            return own, CosineHead(features, model.classes, self.scale, generator)
        return own, LinearHead(features, model.classes, generator)
