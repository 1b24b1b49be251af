from dataclasses import replace

import pytest
import torch

from spaces.domain import Stage
from trainables.batch import Blend
from trainables.models import build
from trainables.registry import make


def test_without_dropout_it_is_torchs_layer(known, batch, generator):
    made = make("batchformer", dropout=0.0)
    encoder = made.modules(known)["encoder"]
    known.model.extra["batchformer"] = torch.nn.ModuleDict({"encoder": encoder})
    theirs = torch.nn.TransformerEncoderLayer(64, 4, 64, 0.0).train()
    ours = encoder.state_dict()
    theirs.load_state_dict({
        "self_attn.in_proj_weight": ours["into.weight"], "self_attn.in_proj_bias": ours["into.bias"],
        **{f"{name}.{part}": ours[f"{own}.{part}"] for name, own in (
            ("self_attn.out_proj", "out"), ("linear1", "hidden"), ("linear2", "back"), ("norm1", "norm1"),
            ("norm2", "norm2")) for part in ("weight", "bias")},
    })  # fmt: skip
    x = torch.randn(9, 64, generator=generator(0))
    found, twice = made.build(known)(x, batch, generator(1))
    assert found[:9].equal(x)
    # (sequence, batch, features): the images are the sequence
    assert torch.allclose(found[9:], theirs(x[:, None])[:, 0], atol=1e-5)
    assert twice.y.equal(torch.cat((batch.y, batch.y))) and twice.share.shape == (18, 1)
    assert twice.index.tolist() == [*range(9), *range(9)]


def test_dropout_drops_its_share_and_keeps_the_mean(known, batch, generator):
    seen = []
    made = make("batchformer", dropout=0.25)

    class Encoder(torch.nn.Module):
        def forward(self, x, drop):
            seen.append(drop(torch.ones(400, 50)))
            return x

    known.model.extra["batchformer"] = torch.nn.ModuleDict({"encoder": Encoder()})
    made.build(known)(torch.zeros(9, 64), batch, generator(0))
    assert sorted(seen[0].unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)


def test_rows_that_are_mixed_behind_the_pooling_are_mixed_twice(known, batch, generator):
    made = make("batchformer", dropout=0.0)
    known.model.extra["batchformer"] = torch.nn.ModuleDict(made.modules(known))
    attend = made.build(known)
    x, order = torch.randn(9, 64, generator=generator(0)), torch.arange(9).flip(0)
    blend = Blend("pool", order, torch.full((9,), 0.3))
    plain, mixed = (attend(x, replace(batch, blend=one), generator(1))[0] for one in (None, blend))
    assert torch.allclose(mixed[9:], 0.3 * plain[9:] + 0.7 * plain[9:].flip(0), atol=1e-6)
    at_input = attend(x, replace(batch, blend=replace(blend, layer="input")), generator(1))[0]
    assert at_input.equal(plain)


def test_in_training_it_learns_slowly_and_is_gone_at_the_end(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=1, batch_size=64, choose=["batchformer", "manifold_mixup"])))
    run.executor.start()
    groups = run.executor.training.run.optimiser.param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, 0.1]
    run.run()
    assert not any("extra" in name for name in run.network().state_dict())


def test_bad_input():
    network = build("resnet8?width=1", classes=3, channels=1, generator=torch.Generator())
    network.features = 6
    from trainables.batch import Facts

    with pytest.raises(ValueError, match="'batchformer' has 4 heads, which cannot share 6 features evenly"):
        make("batchformer").modules(Facts(torch.ones(3), torch.arange(3), model=network))
    for numbers in ({"dropout": 1.0}, {"lr_scale": 0}):
        with pytest.raises(ValueError, match=f"'batchformer'.*{next(iter(numbers))} must be"):
            make("batchformer", **numbers)
