import numpy as np
import pytest

from spaces.domain import Stage, trick
from tests.tricks.sharpness import START, Gradient, by_hand, ends, gradient_of
from trainables.registry import make
from trainables.training.stage_run import StageRun


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_hand_worked_numbers(facts, rho):
    gradient = Gradient()
    assert gradient.after(make("sam", rho=rho), facts) == pytest.approx(by_hand(rho, np.ones(3)), abs=1e-12)
    assert gradient.passes == 2


def test_rho_zero_is_a_plain_step(facts):
    gradient = Gradient()
    assert gradient.after(make("sam", rho=0.0), facts) == pytest.approx(gradient_of(START, np.ones(3)))
    assert gradient.passes == 1


def test_a_gradient_of_zero_perturbs_nothing(facts):
    gradient = Gradient()
    left, right = gradient.left.detach().clone(), gradient.right.detach().clone()

    def flat(factors=None):
        (0 * gradient.losses()).mean().backward()

    make("sam").build(facts(60, 20, 5))(flat, gradient.optimiser)
    assert gradient.left.equal(left) and gradient.right.equal(right) and not gradient.left.grad.any()


def test_in_training_rho_zero_is_sgd_to_the_last_bit(make_plan, pipeline):
    plain, zero, sharp = ends(make_plan, pipeline, [], [trick("sam", rho=0.0)], ["sam"])
    assert all(plain[0][name].equal(zero[0][name]) for name in plain[0])
    assert not plain[0]["head.weight"].equal(sharp[0]["head.weight"]) and plain[1] == sharp[1]


def test_a_step_of_training_by_hand(make_plan, pipeline):
    """With momentum and weight decay at w; the stage's own gradient at w + ε is computed apart."""
    run = pipeline(make_plan(Stage("a", epochs=1, batch_size=64, weight_decay=0.1, choose=[trick("sam", rho=0.3)])))
    twin, stage = (StageRun(run.context, run.plan, 0, 0, None) for _ in range(2))
    epoch, other = twin.begin_epoch(), stage.begin_epoch()
    twin.gradient.connect()
    stage.gradient.connect()
    (batch, _), (same, _) = next(epoch.stream), next(other.stream)
    parameters = list(twin.network.parameters())
    before = [p.detach().clone() for p in parameters]
    twin.gradient(epoch, batch, None, 0)
    norm = sum(float(p.grad.double().square().sum()) for p in parameters) ** 0.5
    for p in parameters:
        p.data.add_(0.3 * p.grad / norm)
        p.grad = None
    twin.gradient(epoch, batch, None, 0)
    for group in stage.optimiser.param_groups:
        group["lr"] = 0.1
    stage._step(other, same, None)
    for p, start, found in zip(parameters, before, stage.network.parameters(), strict=True):
        step = p.grad + 0.1 * start
        nesterov = step + stage.stage.momentum * step if stage.stage.nesterov else step
        assert (start - 0.1 * nesterov - found).abs().max() < 1e-6


def test_rho_below_zero():
    with pytest.raises(ValueError, match=r"'sam'.*rho must be a number in \[0, inf\), got -1"):
        make("sam", rho=-1)
