import pytest
import torch

from trainables.registry import make


def test_hand_worked_numbers(known):
    features = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    known.model.head.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    wx = features @ known.model.head.weight.detach().T
    factors, bias = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 2.0, 3.0])
    make("learnable_scale").build(known)(known.model)
    known.model.head.scale.data.copy_(factors)
    assert torch.allclose(known.model.head(features), factors * wx + bias, atol=1e-5)
    assert torch.allclose(known.model.head.weight, factors[:, None] * known.model.head.inner.weight)


def test_the_public_code_scales_the_bias_too(known):
    features = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    known.model.head.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    z = known.model.head(features)
    make("learnable_scale", scale_bias=True).build(known)(known.model)
    known.model.head.scale.data.fill_(2.0)
    assert torch.allclose(known.model.head(features), 2 * z, atol=1e-5)


def test_untrained_it_changes_nothing(known):
    images = known.normalise(known.images)
    before = known.model(images).logits
    make("learnable_scale").build(known)(known.model)
    assert torch.allclose(known.model(images).logits, before, atol=1e-6)


def test_only_the_factors_learn(known):
    groups = make("learnable_scale").build(known)(known.model)
    assert {name for name, p in known.model.named_parameters() if p.requires_grad} == {"head.scale"}
    assert [tuple(p.shape) for group in groups for p in group["params"]] == [(3,)]
    assert known.model.fix_batchnorm is True


def test_the_classifier_may_learn_slowly_along(known):
    groups = make("learnable_scale", weight_lr=0.1, batchnorm="moving").build(known)(known.model)
    assert [group.get("lr_scale", 1.0) for group in groups] == [1.0, 0.1]
    assert [tuple(p.shape) for p in groups[1]["params"]] == [(3, 64), (3,)]
    assert known.model.fix_batchnorm is False


def test_a_scaled_head_keeps_its_factors(known):
    make("learnable_scale").build(known)(known.model)
    known.model.head.scale.data.fill_(3.0)
    make("learnable_scale").build(known)(known.model)
    assert known.model.head.scale.tolist() == [3.0] * 3
    assert not hasattr(known.model.head.inner, "inner")


def test_it_works_on_a_cosine_head(known):
    make("cosine_head").build(known)(known.model)
    make("learnable_scale").build(known)(known.model)
    assert known.model.head.kind == "cosine"
    assert known.model(known.normalise(known.images)).logits.shape == (9, 3)


def test_the_head_needs_rows(known):
    known.model.head = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"'learnable_scale': the head must have one weight row per class"):
        make("learnable_scale").build(known)(known.model)


def test_options():
    with pytest.raises(ValueError, match=r"scale_bias must be one of False, True, got 1.5"):
        make("learnable_scale", scale_bias=1.5)
    with pytest.raises(ValueError, match=r"weight_lr must be a number in \[0, inf\), got -1"):
        make("learnable_scale", weight_lr=-1)
    with pytest.raises(ValueError, match="batchnorm must be one of 'fixed', 'moving', got 'x'"):
        make("learnable_scale", batchnorm="x")
