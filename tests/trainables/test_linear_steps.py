"""A linear classifier of fixed features in closed form: the weights of the usual path, from the same draws."""

import dataclasses

import pytest
import torch

from spaces.domain import Stage, trick
from trainables.data.long_tail import LongTailed
from trainables.pipeline.pipeline import _fresh
from trainables.training import linear_steps
from trainables.training.acceleration.batch_sharding import BatchSharding
from trainables.training.context import CarryOver, TrainingContext
from trainables.training.stage_run import StageRun

CPU = torch.device("cpu")
TRICKS = [
    [],
    ["class_balanced"],
    ["cost_sensitive", "balanced_softmax"],
    ["label_smoothing", "logit_adjusted", "ema"],
    [trick("label_over_smoothing", delta=0.9), "square_root"],
    [trick("manifold_mixup", layer="pool"), "effective_number"],
    [trick("manifold_mixup", layer="logits"), "cost_sensitive", "label_smoothing", "balanced_softmax"],
]


def network(generator):
    return _fresh("resnet8", 10, 1, generator).double()


def trained(digits, plan, monkeypatch, closed, epochs=3):
    """The second stage of a plan, and what the closed form was asked."""
    with monkeypatch.context() as patch:
        plain = LongTailed.normalise
        patch.setattr(LongTailed, "normalise", lambda data, images: plain(data, images).double())
        if not closed:
            patch.setattr(linear_steps, "fixed_features", lambda run: None)
        context = TrainingContext(digits, network, 0, CPU)
        first = StageRun(context, plan, 0, 0, None).carry_over()
        run = StageRun(context, plan, 1, 0, CarryOver(first.model))
        assert (run._fixed_features is not None) is closed
        for _ in range(epochs):
            run.train_epoch()
    return run


def close(one, other, atol=1e-9):
    mine, theirs = one.carry_over(), other.carry_over()
    for part in ("model", "optimiser", "averaged"):
        for name, value in getattr(mine, part).items():
            torch.testing.assert_close(getattr(theirs, part)[name], value, rtol=0, atol=atol)
    assert one.train_loss == pytest.approx(other.train_loss, abs=atol)
    assert (one.images, one.steps, one.epoch) == (other.images, other.steps, other.epoch)


@pytest.mark.parametrize("reduction", ["expected", "mean", "weighted_mean"])
@pytest.mark.parametrize("choose", TRICKS)
def test_the_weights_are_those_of_the_usual_path(digits, make_plan, monkeypatch, choose, reduction):
    numbers = {"lr": 0.2, "batch_size": 24, "reduction": reduction, "weight_decay": 1e-3, "schedule": "cosine"}
    stage = Stage("b", epochs=3, views=2, choose=["classifier", *choose], **numbers)
    plan = make_plan(Stage("a", epochs=1), stage)
    usual, ours = (trained(digits, plan, monkeypatch, closed) for closed in (False, True))
    close(ours, usual)
    assert not ours.network.head.weight.equal(trained(digits, plan, monkeypatch, True, 0).network.head.weight)


@pytest.mark.parametrize("numbers", [{"optimizer": "adamw"}, {"clip": 0.05}, {"nesterov": True}])
def test_with_any_optimizer(digits, make_plan, monkeypatch, numbers):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=3, views=1, lr=0.05, choose=["classifier"], **numbers))
    close(*(trained(digits, plan, monkeypatch, closed) for closed in (True, False)), atol=1e-7)


def test_a_class_without_images(digits, make_plan, monkeypatch):
    """Balanced softmax rules it out, and label smoothing gives it a part of the target all the same."""
    some = digits.train_labels != 3
    without = dataclasses.replace(
        digits, train_images=digits.train_images[some], train_labels=digits.train_labels[some], fingerprint=""
    )
    stage = Stage("b", epochs=3, views=1, lr=0.1, choose=["classifier", "balanced_softmax", "label_smoothing"])
    plan = make_plan(Stage("a", epochs=1), stage)
    close(*(trained(without, plan, monkeypatch, closed) for closed in (True, False)))


@pytest.mark.parametrize(
    "choose",
    [["classifier", "focal"], ["classifier", "max_norm"], ["classifier", "class_dependent_temperature"],
     ["learnable_scale"], ["classifier", "cosine_head"], ["classifier", "gml"]],
)  # fmt: skip
def test_what_has_no_closed_form_takes_the_usual_path(digits, make_plan, choose):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, views=1, choose=choose))
    context = TrainingContext(digits, lambda generator: _fresh("resnet8", 10, 1, generator), 0, CPU)
    carry_over = CarryOver(StageRun(context, plan, 0, 0, None).carry_over().model)
    run = StageRun(context, plan, 1, 0, carry_over)
    assert run._fixed_features is None
    run.train_epoch()


def test_a_backbone_that_moves_and_a_batch_in_parts_take_the_usual_path(digits, make_plan):
    plan = make_plan(Stage("a", epochs=1), Stage("b", epochs=1, views=1, choose=["classifier"]))
    context = TrainingContext(
        digits, lambda generator: _fresh("resnet8", 10, 1, generator), 0, CPU, sharding=BatchSharding(2)
    )
    first = StageRun(context, plan, 0, 0, None)
    assert first._fixed_features is None
    assert StageRun(context, plan, 1, 0, CarryOver(first.carry_over().model))._fixed_features is None


# --- data that are features -------------------------------------------------------------------------------


@pytest.fixture
def features():
    """A hundred images of four classes as 8 numbers each."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 4
    x = torch.randn(100, 8, generator=random) + 2 * torch.eye(8)[labels]
    return LongTailed(
        name="mine", classes=4, class_names=tuple("abcd"), imbalance=1.0, split_seed=0, mean=torch.zeros(8),
        std=torch.ones(8), pad=0, flip=False, train_images=x[:60], train_labels=labels[:60], val_images=x[60:80],
        val_labels=labels[60:80], test_images=x[80:], test_labels=labels[80:],
    )  # fmt: skip


@pytest.mark.parametrize("choose", [[], ["input_mixup", "cost_sensitive"], ["balanced_softmax", "class_balanced"]])
def test_features_as_data(features, make_plan, monkeypatch, choose):
    plan = make_plan(Stage("a", epochs=4, lr=0.1, batch_size=16, schedule="cosine", choose=choose))
    runs = []
    for closed in (True, False):
        if not closed:
            monkeypatch.setattr(linear_steps, "fixed_features", lambda run: None)
        context = TrainingContext(features, lambda generator: _fresh("linear", 4, 8, generator), 0, CPU)
        runs.append(StageRun(context, plan, 0, 0, None))
        assert (runs[-1]._fixed_features is not None) is closed
        for _ in range(4):
            runs[-1].train_epoch()
    close(*runs, atol=1e-5)
