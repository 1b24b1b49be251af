import numpy as np
import pytest
import torch

from trainables.batch import Outputs
from trainables.registry import make


def set_numbers(head):
    """s, b, v and t, and the same in numpy."""
    values = {"scale": [1.0, 2.0, 0.5], "shift": [0.5, -1.0, 0.0], "trust": np.linspace(-0.2, 0.3, 64), "offset": 0.1}
    for name, value in values.items():
        getattr(head, name).data.copy_(torch.as_tensor(np.array(value)))
    return {name: np.array(value) for name, value in values.items()}


def test_hand_worked_numbers(known):
    features = torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = known.model.double()
    z = model.head(features).detach().numpy()
    make("disalign").build(known)(model)
    n = set_numbers(model.head)
    share = 1 / (1 + np.exp(-(features.numpy() @ n["trust"] + n["offset"])))[:, None]
    expected = share * (n["scale"] * z + n["shift"]) + (1 - share) * z
    assert model.head(features).detach().numpy() == pytest.approx(expected, abs=1e-6)
    # the public code's form, with s less 1
    assert expected == pytest.approx((1 + share * (n["scale"] - 1)) * z + share * n["shift"])


def test_untrained_it_changes_nothing(known):
    images = known.normalise(known.images)
    before = known.model(images).logits
    make("disalign").build(known)(known.model)
    assert torch.allclose(known.model(images).logits, before, atol=1e-6)


def test_only_the_correction_learns(known):
    groups = make("disalign").build(known)(known.model)
    learning = {name for name, parameter in known.model.named_parameters() if parameter.requires_grad}
    assert learning == {"head.scale", "head.shift", "head.trust", "head.offset"}
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in known.model.head.parameters() if p.requires_grad]
    assert known.model.fix_batchnorm is True
    make("disalign", batchnorm="moving").build(known)(known.model)
    assert known.model.fix_batchnorm is False


def test_a_corrected_head_keeps_its_correction(known):
    make("disalign").build(known)(known.model)
    known.model.head.shift.data.fill_(3.0)
    make("disalign").build(known)(known.model)
    assert known.model.head.shift.tolist() == [3.0] * 3
    assert not hasattr(known.model.head.inner, "inner")


def test_the_weights_of_the_paper_are_a_power_of_the_counts(known):
    """(1 / π) ** 1.2, scaled to the sum C."""
    weights = make("cost_sensitive", power=1.2).build(known)(torch.arange(3)).numpy()
    paper = (1 / (np.array([5, 3, 1]) / 9)) ** 1.2
    assert weights / weights.sum() == pytest.approx(paper / paper.sum())


def test_what_was_learned_corrects_other_readings_of_the_rows(known):
    make("disalign").build(known)(known.model)
    set_numbers(known.model.head)
    outputs = known.model(known.normalise(known.images))
    plain = make("tau_norm", tau=0.0, keep_bias=True).build(known)(outputs)
    assert torch.allclose(plain, outputs.logits, atol=1e-5)


def test_other_heads_within_and_around(known):
    make("cosine_head", scale=20.0).build(known)(known.model)
    make("learnable_scale").build(known)(known.model)
    make("disalign").build(known)(known.model)
    assert known.model.head.kind == "cosine"
    # a later chain with another scale keeps the classifier
    weight = known.model.head.inner.inner.weight.detach().clone()
    make("cosine_head", scale=10.0).build(known)(known.model)
    assert known.model.head.inner.inner.scale == 10.0
    make("max_norm", radius=0.5).build(known)(known.model, Outputs(torch.zeros(1, 3)), None)
    assert known.model.head.inner.inner.weight.norm(dim=1).max() <= 0.5 + 1e-6 < weight.norm(dim=1).max()
    assert torch.isfinite(known.model(known.normalise(known.images)).logits).all()


def test_the_head_needs_rows(known):
    known.model.head = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"'disalign': the head must have one weight row per class"):
        make("disalign").build(known)(known.model)
    with pytest.raises(ValueError, match="batchnorm must be one of 'fixed', 'moving', got 'x'"):
        make("disalign", batchnorm="x")
