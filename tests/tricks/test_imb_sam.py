import numpy as np
import pytest

from tests.tricks.sharpness import START, Gradient, by_hand, gradient_of
from trainables.registry import make


@pytest.mark.parametrize(("eta", "tail"), [(20, [0, 0, 1]), (21, [0, 1, 1]), (61, [1, 1, 1]), (0, [0, 0, 0])])
def test_hand_worked_numbers(facts, eta, tail):
    """Classes of 60, 20 and 5 images; those with fewer than η are the tail."""
    found = Gradient().after(make("imb_sam", rho=0.4, eta=eta), facts)
    assert found == pytest.approx(by_hand(0.4, np.array(tail, dtype=float)), abs=1e-12)


def test_limits(facts):
    sam = Gradient().after(make("sam", rho=0.2), facts)
    assert Gradient().after(make("imb_sam", rho=0.2, eta=100), facts) == pytest.approx(sam)
    assert Gradient().after(make("imb_sam", rho=0.0), facts) == pytest.approx(gradient_of(START, np.ones(3)))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"'imb_sam'.*rho must be a number in \[0, inf\), got -1"):
        make("imb_sam", rho=-1)
    with pytest.raises(ValueError, match=r"'imb_sam'.*eta must be a whole number in \[0, inf\), got 1.5"):
        make("imb_sam", eta=1.5)
