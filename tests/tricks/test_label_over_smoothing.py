import pytest
import torch

from trainables.batch import Facts
from trainables.registry import make


@pytest.mark.parametrize(
    ("classes", "true", "other"), [(100, 0.0298, 0.0098), (10, 0.118, 0.098), (1000, 0.02098, 0.00098)]
)
def test_published_numbers(classes, true, other):
    q = make("label_over_smoothing", delta=0.98).build(Facts(torch.ones(classes), torch.tensor([0])))(torch.tensor([1]))
    assert q[0, 1].item() == pytest.approx(true)
    assert q[0, [0, 2, classes - 1]].tolist() == pytest.approx([other] * 3)
    assert q.sum().item() == pytest.approx(1.0)


def test_delta_zero_changes_nothing(facts):
    assert make("label_over_smoothing", delta=0.0).build(facts(5, 3))(torch.tensor([1])).tolist() == [[0.0, 1.0]]


def test_counts_play_no_role(facts):
    one, other = (make("label_over_smoothing").build(facts(*c))(torch.tensor([0, 1])) for c in ((9, 1), (5, 5)))
    assert one.equal(other)


@pytest.mark.parametrize("delta", [1.0, -0.1, "0.98"])
def test_delta_out_of_range(delta):
    with pytest.raises(ValueError, match=r"'label_over_smoothing'.*delta must be a number in \[0, 1\), got"):
        make("label_over_smoothing", delta=delta)
