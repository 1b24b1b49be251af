import pytest
import torch

from trainables.registry import make

Z = torch.tensor([[4.0, 4.0, 4.0]], dtype=torch.float64)
Y = torch.tensor([0])


def test_hand_worked_numbers(facts):
    # (4/100)^½ = 0.2, (25/100)^½ = 0.5
    z = make("class_dependent_temperature", gamma=0.5).build(facts(100, 25, 4))(Z, Y)
    assert z.tolist() == [pytest.approx([4.0, 2.0, 0.8])]


@pytest.mark.parametrize(("gamma", "counts"), [(0.0, (100, 25, 4)), (0.0, (5, 0, 1)), (0.3, (7, 7, 7))])
def test_gamma_zero_and_equal_counts_change_nothing(facts, gamma, counts):
    assert make("class_dependent_temperature", gamma=gamma).build(facts(*counts))(Z, Y).equal(Z)


def test_a_class_without_images(facts):
    assert make("class_dependent_temperature").build(facts(5, 0, 5))(Z, Y).tolist() == [[4.0, 0.0, 4.0]]


def test_gamma_out_of_range():
    with pytest.raises(ValueError, match=r"gamma must be a number in \[0, 1\], got 1.5"):
        make("class_dependent_temperature", gamma=1.5)
