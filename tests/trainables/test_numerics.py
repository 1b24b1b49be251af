"""Precision and memory format: what they change, what they must not."""

import dataclasses

import pytest
import torch

from search.settings import Settings, SettingsError
from spaces.domain import Stage
from trainables.models import build
from trainables.pipeline.keys import trial_context
from trainables.pipeline.store import StageStore
from trainables.training.numerics import Numerics, NumericsError
from trainables.training.seeding import generator
from trainables.trial import pipeline_of
from trainables.trial_spec import TrialSpec

CPU = torch.device("cpu")
BF16 = Numerics(precision="bf16", channels_last="on")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"precision": "bf61"}, "--precision must be fp32 or bf16, got 'bf61': did you mean 'bf16'?"),
        ({"channels_last": "yes"}, "--channels-last must be auto, on or off, got 'yes'"),
        ({"fused_members": "of"}, "--fused-members must be auto, on or off, got 'of': did you mean 'off'?"),
        ({"graph": "auto"}, "--graph must be on or off, got 'auto'"),
    ],
)
def test_what_cannot_be_asked(fields, sentence):
    for asked in (Numerics.of, lambda given: Settings(name="a", space="b", data="digits-lt", **given)):
        with pytest.raises((NumericsError, SettingsError)) as caught:
            asked(fields)
        assert str(caught.value) == sentence


def test_everything_that_is_asked_is_in_the_key():
    plain = trial_context("f", "resnet8", 0, CPU)
    assert plain == trial_context("f", "resnet8", 0, CPU, Numerics())
    for change in ({"precision": "bf16"}, {"channels_last": "on"}, {"fused_members": "on"}, {"graph": "on"}):
        assert trial_context("f", "resnet8", 0, CPU, dataclasses.replace(Numerics(), **change)) != plain


def test_bfloat16_is_in_the_convolutions_alone():
    network = build("resnet8", classes=5, channels=3, generator=generator(0)).settle("bf16", torch.channels_last)
    images = torch.randn(16, 3, 16, 16, generator=generator(1))
    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    outputs = network(images)
    assert seen["backbone.layer1.0.conv1"].dtype == torch.bfloat16
    assert seen["backbone.layer1.0.conv1"].is_contiguous(memory_format=torch.channels_last)
    assert {tensor.dtype for tensor in (outputs.logits, outputs.features, outputs.maps)} == {torch.float32}
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}
    # BatchNorm's statistics are those of the numbers that come in, summed in float32
    entered = seen["backbone.layer1.0.conv1"].float()
    mean = 0.1 * entered.mean(dim=(0, 2, 3))
    assert torch.allclose(network.backbone["layer1"][0].bn1.running_mean, mean, rtol=1e-4, atol=1e-6)
    outputs.logits.sum().backward()
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}
    plain = build("resnet8", classes=5, channels=3, generator=generator(0))
    difference = (plain(images).logits - outputs.logits).norm() / outputs.logits.norm()
    assert 1e-5 < difference < 0.05


@pytest.mark.parametrize("channels_last", ["on", "off"])
def test_memory_format_changes_nothing_but_rounding(make_plan, digits, pipeline, channels_last):
    plan = make_plan(Stage("a", epochs=1))
    one = pipeline(plan, numerics=Numerics(channels_last=channels_last))
    one.run()
    other = pipeline(plan)
    other.run()
    weights, expected = one.network().state_dict(), other.network().state_dict()
    assert all(torch.allclose(weights[name], expected[name], rtol=1e-3, atol=1e-4) for name in weights)
    assert all(tensor.is_contiguous() for tensor in one.executor.state.carry_over.model.values())


def test_training_in_bfloat16_resumes_exactly(make_plan, pipeline, tmp_path):
    """Momentum comes back in the memory format of its weights; stored stages in the plain one."""
    plan = make_plan(
        Stage("a", epochs=3),
        Stage("b", epochs=1, carry="all"),
        Stage("c", epochs=1, choose=["classifier"], carry="weights"),
    )
    whole = pipeline(plan, numerics=BF16, store=StageStore(tmp_path / "s"))
    whole.run()
    cut = pipeline(plan, numerics=BF16)
    cut.advance()
    state = cut.state()
    again = pipeline(plan, numerics=BF16)
    again.load_state(*state)
    momentum = [
        again.executor.training.run.optimiser.state[p]["momentum_buffer"]
        for p in again.executor.training.run.network.parameters()
    ]
    assert all(
        m.stride() == p.stride()
        for m, p in zip(momentum, again.executor.training.run.network.parameters(), strict=True)
    )
    again.run()
    reused = pipeline(plan, numerics=BF16, store=StageStore(tmp_path / "s"))
    reused.run()
    assert reused.cost.epochs_trained == 0
    ends = [run.network().state_dict() for run in (whole, again, reused)]
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in ends[0])
    assert whole.points == again.points == reused.points


def test_a_trial_computes_as_it_is_told(make_plan):
    plan = make_plan(Stage("a", epochs=1)).to_dict()
    spec = TrialSpec(plan, 0, 0, "digits-lt", None, 50.0, "resnet8", device="cpu", numerics=BF16.to_dict())
    run = pipeline_of(spec)
    run.advance()
    assert run.network().precision == "bf16" and run.network().memory_format == torch.channels_last
