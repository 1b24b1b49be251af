import pytest
import torch

from trainables.batch import MissingFact
from trainables.registry import make


def rows(known, *lengths):
    weight = torch.zeros(3, 64)
    weight[:, 0] = torch.tensor(lengths)
    known.model.head.weight.data.copy_(weight)
    known.start["head.weight"] = weight.clone()
    return known


def lengths(known):
    return known.model.head.weight.detach().norm(dim=1).tolist()


def test_the_radius_lies_a_tenth_above_the_smallest_norm_at_the_start(known):
    project = make("max_norm").build(rows(known, 1.0, 2.0, 3.0))
    known.model.head.weight.data.mul_(2)  # 2, 4, 6 against 1 + 0.1 · 2
    bias = known.model.head.bias.clone()
    project(known.model, None, None)
    assert lengths(known) == pytest.approx([1.2, 1.2, 1.2])
    assert known.model.head.bias.equal(bias)


def test_shorter_rows_stay_and_directions_stay(known):
    weight = rows(known, 1.0, 2.0, 0.0).model.head.weight.detach().clone()
    make("max_norm", radius=1.5).build(known)(known.model, None, None)
    assert known.model.head.weight[0].equal(weight[0])
    assert known.model.head.weight[1, 0].item() == pytest.approx(1.5)
    assert lengths(known)[2] == 0.0


def test_a_large_radius_changes_nothing(known):
    before = known.model.head.weight.detach().clone()
    make("max_norm", radius=1e6).build(known)(known.model, None, None)
    assert known.model.head.weight.equal(before)


def test_equal_norms_stay_at_the_start(known):
    project = make("max_norm").build(rows(known, 2.0, 2.0, 2.0))
    project(known.model, None, None)
    assert lengths(known) == pytest.approx([2.0] * 3)


def test_without_a_start_the_models_own_norms_count(known, facts):
    rows(known, 1.0, 2.0, 3.0)
    make("max_norm", fraction=1.0).build(facts(5, 3, 1, model=known.model))(known.model, None, None)
    assert lengths(known) == pytest.approx([1.0, 2.0, 3.0])


def test_the_rows_within_a_scaled_head_are_projected(known):
    make("learnable_scale", weight_lr=0.1).build(known)(known.model)
    known.model.head.inner.weight.data.mul_(100)
    make("max_norm", radius=1.0).build(known)(known.model, None, None)
    assert known.model.head.inner.weight.norm(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_what_it_needs(facts):
    with pytest.raises(MissingFact, match="'max_norm' needs model"):
        make("max_norm").build(facts(3, 1))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"fraction must be a number in \[0, 1\], got 2"):
        make("max_norm", fraction=2)
    with pytest.raises(ValueError, match=r"radius must be a number in \(0, inf\), got 0"):
        make("max_norm", radius=0)
