import math

import pytest
import torch
from torch.nn import functional

from trainables.objective import Objective
from trainables.registry import make


def test_hand_worked_numbers(facts):
    # (1/16)^¼ = ½: margins 0.25 and 0.5
    z = torch.tensor([[0.5, 0.1], [0.5, 0.1]], dtype=torch.float64)
    losses = Objective([make("ldam", max_margin=0.5, scale=10.0)], facts(16, 1))(z, torch.tensor([0, 1]))
    # (2.5, 1) and (5, −4)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(9.0))])


def test_no_margin_and_no_scale_change_nothing(facts):
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert make("ldam", max_margin=0.0, scale=1.0).build(facts(9, 5, 1))(z, torch.tensor([0, 1, 2, 0])).equal(z)


def test_equal_counts_have_equal_margins(facts):
    z = torch.zeros(2, 2)
    adjusted = make("ldam", max_margin=0.3, scale=10.0).build(facts(4, 4))(z, torch.tensor([0, 1]))
    assert adjusted.tolist() == [pytest.approx([-3.0, 0.0]), pytest.approx([0.0, -3.0])]


def test_the_scale_that_the_head_has_applied_is_taken_off(known):
    network = make("cosine_head", scale=20.0).build(known)(known.model)
    features = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    cosine = functional.normalize(features) @ functional.normalize(network.head.weight).T
    y = torch.tensor([0, 1, 2, 0])
    with_head = make("ldam").build(known)(network.head(features), y)
    plain = make("ldam").build(type(known)(known.counts, known.labels))(cosine, y)
    assert torch.allclose(with_head, plain, atol=1e-5)


def test_a_class_without_images_is_not_the_rarest(facts):
    adjusted = make("ldam", max_margin=0.5, scale=1.0).build(facts(16, 0, 1))(torch.zeros(1, 3), torch.tensor([2]))
    assert adjusted.tolist() == [[0.0, 0.0, -0.5]]


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"max_margin must be a number in \[0, inf\), got -0.5"):
        make("ldam", max_margin=-0.5)
    with pytest.raises(ValueError, match=r"scale must be a number in \(0, inf\), got 0"):
        make("ldam", scale=0)
