"""A network of transformer blocks for tests: the layers and maps of a ResNet, small enough for images of 8 × 8."""

from torch import Tensor, nn

from trainables.models import Network
from trainables.models.heads import LinearHead

WIDTH = 16


class Block(nn.Module):
    """Pre-normalised attention and MLP over the places of maps (B, D, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.flatten(2).mT
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return x.mT.unflatten(2, maps.shape[2:])


def transformer(num_classes: int, channels: int) -> Network:
    stem = nn.Conv2d(channels, WIDTH, 2, stride=2)
    parts = {"stem": stem, **{f"layer{number}": nn.Sequential(Block()) for number in (1, 2, 3)}}
    return Network(parts, LinearHead(WIDTH, num_classes), features=WIDTH, classes=num_classes)
