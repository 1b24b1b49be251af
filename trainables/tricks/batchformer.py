"""BatchFormer: a transformer over the images of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.domain import one_of
from trainables.batch import Batch, Facts
from trainables.registry import in_range, trick
from trainables.training.seeding import sent
from trainables.tricks._shared.drawn_layers import linear

HEADS = 4


class BatchEncoder(nn.Module):
    """One post-norm layer of a transformer encoder whose sequence is the batch.

    Args:
        features: D, divisible by 4; also the width of the hidden layer.
        generator: Of the initial values.
    """

    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.into, self.out = linear(features, 3 * features, generator), linear(features, features, generator)
        # as torch's attention begins
        nn.init.xavier_uniform_(self.into.weight, generator=generator)
        nn.init.zeros_(self.into.bias)
        nn.init.zeros_(self.out.bias)
        self.hidden, self.back = linear(features, features, generator), linear(features, features, generator)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, D) -> (B, D)."""
        q, k, v = (part.unflatten(1, (HEADS, -1)).transpose(0, 1) for part in self.into(x).chunk(3, dim=1))
        attention = drop(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=2))  # (heads, B, B)
        x = self.norm1(x + drop(self.out((attention @ v).transpose(0, 1).flatten(1))))
        encoded: Tensor = self.norm2(x + drop(self.back(drop(functional.relu(self.hidden(x))))))
        return encoded


@trick(
    seam="inside",
    family="contrastive",
    source="Hou et al. 2022, arXiv:2203.01522, section 3",
    space={"dropout": one_of(0.1, 0.3, 0.5), "lr_scale": one_of(0.1, 1.0)},
    needs=("one_head",),
)
@dataclass(frozen=True)
class Batchformer:
    """Lets the images of a batch attend to each other before the classifier, in training alone.

        rows = [x; encoder(x)],   labels twice; the classifier is shared

    The encoder is one layer of a transformer with 4 heads whose sequence is the batch. Evaluation has none of it.

    Args:
        dropout: Share of what is dropped in the encoder, in [0, 1).
        lr_scale: Multiple of the learning rate at which the encoder learns, above 0.

    Raises:
        MissingFact: Facts without a model.
        ValueError: Features that four heads cannot share.

    Source:
        Hou, Yu, Tao 2022, "BatchFormer: Learning to Explore Sample Relationships for Robust Representation
        Learning", CVPR, arXiv:2203.01522, section 3; numbers from the public code.

    Differs:
        None, but for where dropout draws. Images that a mix trick has yet to mix behind the pooling are mixed behind
        the encoder, too.

    >>> from trainables.models import build
    >>> network = build("resnet8", classes=2, channels=1, generator=torch.Generator().manual_seed(0))
    >>> facts = Facts(torch.tensor([1, 1]), torch.tensor([0, 1]), model=network)
    >>> batch = Batch.plain(torch.zeros(2, 1, 4, 4), torch.arange(2), torch.tensor([0, 1]))
    >>> x, batch = Batchformer().build(facts)(torch.ones(2, 64), batch, torch.Generator())
    >>> x.shape, batch.y.tolist()
    (torch.Size([4, 64]), [[0], [1], [0], [1]])
    """

    dropout: float = 0.5
    lr_scale: float = 0.1
    layer = "pool"

    def __post_init__(self) -> None:
        in_range(self, "dropout", 0, 1, below=True)
        in_range(self, "lr_scale", 0, above=True, below=True)

    def modules(self, facts: Facts) -> Mapping[str, nn.Module]:
        """The encoder."""
        facts.require("batchformer", "model")
        features = int(facts.model.features)
        if features % HEADS:
            raise ValueError(f"trick 'batchformer' has {HEADS} heads, which cannot share {features} features evenly")
        return {"encoder": BatchEncoder(features, facts.generator("batchformer"))}

    def build(self, facts: Facts) -> Callable[[Tensor, Batch, torch.Generator], tuple[Tensor, Batch]]:
        """(x (B, D), Batch, generator) -> x (2 B, D), Batch with every row twice."""
        encoder = facts.own_modules(self)["encoder"]

        def attend(x: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Batch]:
            def drop(values: Tensor) -> Tensor:
                if self.dropout == 0:
                    return values
                kept = torch.rand(values.shape, generator=generator) >= self.dropout
                return values * sent(kept, values.device) / (1 - self.dropout)

            encoded = encoder(x, drop)
            if batch.blend is not None and batch.blend.layer in ("pool", "logits"):
                encoded = batch.blend(encoded) if len(batch.blend.order) == len(encoded) else encoded
            index, y, share = (torch.cat((rows, rows)) for rows in (batch.index, batch.y, batch.share))
            penalty = None if batch.penalty is None else torch.cat((batch.penalty, batch.penalty))
            return torch.cat((x, encoded)), replace(batch, index=index, y=y, share=share, penalty=penalty)

        return attend
