import numpy as np
import pytest

from spaces.domain import trick
from tests.tricks.sharpness import COUNTS, START, Gradient, by_hand, ends, gradient_of
from trainables.registry import make


def test_factors_by_hand(facts):
    """λ (1 − n/N) ** γ with N = 85."""
    a = make("focal_sam", gamma=3.2, sharpness=0.8).factors(facts(*COUNTS)).numpy()
    assert a == pytest.approx([0.8 * (25 / 85) ** 3.2, 0.8 * (65 / 85) ** 3.2, 0.8 * (80 / 85) ** 3.2])


@pytest.mark.parametrize(("rho", "gamma", "sharpness"), [(0.3, 3.2, 0.8), (0.2, 3.0, 0.5), (0.05, 0.0, 1.0)])
def test_hand_worked_numbers(facts, rho, gamma, sharpness):
    a = sharpness * (1 - np.array(COUNTS) / 85) ** gamma
    gradient = Gradient()
    made = make("focal_sam", rho=rho, gamma=gamma, sharpness=sharpness)
    assert gradient.after(made, facts) == pytest.approx(by_hand(rho, a), abs=1e-12)
    assert gradient.passes == 2


def test_limits(facts):
    flat = gradient_of(START, np.ones(3))
    assert Gradient().after(make("focal_sam", rho=0.0), facts) == pytest.approx(flat)
    # λ = 0 perturbs nothing either
    assert Gradient().after(make("focal_sam", sharpness=0.0), facts) == pytest.approx(flat)
    sam = Gradient().after(make("sam", rho=0.3), facts)
    assert Gradient().after(make("focal_sam", rho=0.3, gamma=0.0, sharpness=1.0), facts) == pytest.approx(sam)


def test_in_training_all_factors_one_are_sam(make_plan, pipeline):
    sam, focal, other = ends(
        make_plan, pipeline, [trick("sam", rho=0.1)], [trick("focal_sam", rho=0.1, gamma=0.0, sharpness=1.0)],
        [trick("focal_sam", rho=0.1), "input_mixup"],
    )  # fmt: skip
    for name, tensor in sam[0].items():
        assert (tensor - focal[0][name]).abs().max() < 1e-3, name
    assert all(tensor.isfinite().all() for tensor in other[0].values())


def test_numbers_out_of_range():
    for numbers, message in (({"rho": -1}, "rho"), ({"gamma": -1}, "gamma"), ({"sharpness": 1.5}, "sharpness")):
        with pytest.raises(ValueError, match=rf"'focal_sam'.*{message} must be a number in"):
            make("focal_sam", **numbers)
