"""What a trial takes, measured on a few steps."""

import math

import pytest
import torch

from spaces.domain import Stage
from trainables.footprint import fewer, footprint
from trainables.pipeline import Pipeline

CPU = torch.device("cpu")


def test_fewer_images_have_every_class(digits):
    small = fewer(digits, 25)
    # three of each class, where there are so many
    assert small.counts.tolist() == [min(3, count) for count in digits.counts.tolist()]
    assert (small.val_images is digits.val_images) and small.fingerprint != digits.fingerprint


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
