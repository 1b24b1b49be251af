"""Facts of any counts, a small network, and a batch, for the tests of the tricks."""

from collections.abc import Callable

import pytest
import torch

from trainables.batch import Batch, Facts
from trainables.models import build


def _facts(*counts: int, **more: object) -> Facts:
    tensor = torch.tensor(counts)
    return Facts(counts=tensor, labels=torch.repeat_interleave(torch.arange(len(counts)), tensor), **more)


@pytest.fixture
def facts() -> Callable[..., Facts]:
    """facts(100, 10): two classes, their labels one behind the other."""
    return _facts


@pytest.fixture
def generator() -> Callable[[int], torch.Generator]:
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    """ResNet-8 for three classes of grey images."""
    return build("resnet8", classes=3, channels=1, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def known(network) -> Facts:
    """Nine images of three classes (5, 3, 1), and all that a stage knows."""
    images = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return _facts(
        5, 3, 1,
        model=network,
        images=images,
        normalise=lambda x: x.float() / 255 - 0.5,
        pixel_mean=torch.tensor([0.5]),
        start={name: tensor.clone() for name, tensor in network.state_dict().items()},
        score=lambda state: torch.tensor([0.5, 0.25, 1.0]),
    )  # fmt: skip


@pytest.fixture
def batch(known) -> Batch:
    """All nine images."""
    return Batch.plain(known.images, torch.arange(9), known.labels)
