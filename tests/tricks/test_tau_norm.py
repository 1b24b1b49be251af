import pytest
import torch

from trainables.batch import MissingFact, Outputs
from trainables.registry import make


def prepared(known):
    weight = torch.zeros(3, 64)
    weight[0, :2], weight[1, 0], weight[2, 1] = torch.tensor([3.0, 4.0]), 0.5, 2.0
    known.model.head.weight.data.copy_(weight)
    known.model.head.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    features = torch.zeros(1, 64)
    features[0, :2] = torch.tensor([1.0, 2.0])
    return Outputs(known.model.head(features).detach(), features)


def test_hand_worked_numbers(known):
    # products 11, 0.5, 4; norms 5, 0.5, 2
    outputs = prepared(known)
    assert make("tau_norm").build(known)(outputs).tolist() == [pytest.approx([2.2, 1.0, 2.0])]
    squared = make("tau_norm", tau=2.0).build(known)(outputs)
    assert squared.tolist() == [pytest.approx([11 / 25, 2.0, 1.0])]
    kept = make("tau_norm", keep_bias=True).build(known)(outputs)
    assert kept.tolist() == [pytest.approx([3.2, 3.0, 5.0])]


def test_tau_zero_with_the_bias_changes_nothing(known):
    outputs = known.model(known.normalise(known.images))
    readout = make("tau_norm", tau=0.0, keep_bias=True).build(known)
    assert torch.allclose(readout(outputs), outputs.logits, atol=1e-6)


def test_equal_norms_change_no_order(known):
    known.model.head.weight.data.copy_(torch.nn.functional.normalize(known.model.head.weight.data))
    outputs = known.model(known.normalise(known.images))
    one, two = (make("tau_norm", tau=tau).build(known)(outputs) for tau in (0.0, 1.5))
    assert torch.allclose(one, two, atol=1e-5)


def test_a_row_of_zeros_gives_no_nan(known):
    outputs = prepared(known)
    known.model.head.weight.data[1] = 0
    assert make("tau_norm", tau=2.0).build(known)(outputs)[0, 1].item() == 0.0


def test_what_it_needs(known, facts):
    with pytest.raises(MissingFact, match="'tau_norm' needs model"):
        make("tau_norm").build(facts(3, 1))
    with pytest.raises(ValueError, match=r"'tau_norm': Outputs must have features \(B, D\), got None"):
        make("tau_norm").build(known)(Outputs(torch.zeros(1, 3)))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"tau must be a number in \[0, inf\), got -1"):
        make("tau_norm", tau=-1)
    with pytest.raises(ValueError, match="keep_bias must be one of False, True, got 'yes'"):
        make("tau_norm", keep_bias="yes")
