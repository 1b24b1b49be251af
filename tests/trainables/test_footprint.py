"""What a trial takes, measured on a few steps."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.domain import Stage
from trainables.data import load
from trainables.data.images.streamed import StreamedImages
from trainables.data.loaders import held_bytes
from trainables.pipeline.footprint import fewer, footprint
from trainables.pipeline.pipeline import Pipeline

CPU = torch.device("cpu")


def test_fewer_images_have_every_class(digits):
    small = fewer(digits, 25)
    # three of each class, where there are so many
    assert small.counts.tolist() == [min(3, count) for count in digits.counts.tolist()]
    assert (small.val_images is digits.val_images) and small.fingerprint != digits.fingerprint


def test_what_is_streamed_or_laid_out_as_a_table_is_counted(tmp_path, make_plan):
    noise = np.random.RandomState(0).randint(0, 256, (24, 12, 12, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    name = f"folder:{tmp_path / 'photos'}?val=1&test=1&pad=2"
    streamed, resident = load(f"{name}&feed=streamed&workers=0"), load(name)
    small = fewer(streamed, 4)
    assert isinstance(small.train_images, StreamedImages) and small.counts.tolist() == [2, 2]
    assert torch.equal(small.train_images[torch.arange(4)], fewer(resident, 4).train_images)
    found = footprint(make_plan(Stage("a", epochs=1, batch_size=4)), streamed, "resnet8", CPU)
    assert found.seconds > 0
    # 20 images, their labels, and the table: each image and its mirror image with two pixels on every side
    assert len(resident.train_labels) == 20 and held_bytes(streamed) == 160
    assert held_bytes(resident) == 20 * 3 * 12**2 + 160 + 2 * 20 * 3 * 16**2


def test_every_stage_is_measured_and_the_whole_plan_reckoned(digits, make_plan, monkeypatch):
    plan = make_plan(
        Stage("a", epochs=30, batch_size=16),
        Stage("b", epochs=10, batch_size=8, carry="weights", choose=["classifier"]),
    )
    trained = []
    advance = Pipeline.advance
    monkeypatch.setattr(Pipeline, "advance", lambda self: trained.append(self.plan) or advance(self))
    found = footprint(plan, digits, "resnet8", CPU)
    # a stage is one epoch, once to warm up and once to measure
    assert len(trained) == 4 and {stage.epochs for each in trained for stage in each.stages} == {1}
    assert math.isnan(found.busy) and found.total > found.memory >= 0
    # ⌈N / 16⌉ steps in each of 30 epochs and ⌈N / 8⌉ in each of 10
    images = len(digits.train_labels)
    steps = 30 * math.ceil(images / 16) + 10 * math.ceil(images / 8)
    assert 1e-4 < found.seconds / steps < 5


@pytest.mark.gpu
def test_on_a_gpu(digits, make_plan):
    found = footprint(make_plan(Stage("a", epochs=2, batch_size=16)), digits, "resnet8", torch.device("cuda"))
    assert 0.6e9 < found.memory < 3e9 < found.total
