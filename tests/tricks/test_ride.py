import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make

COUNTS, Y = np.array([64.0, 16.0, 4.0]), np.array([0, 1, 2, 1, 0, 0])


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(z, factor, reweight=False, rho=0.05, scale=30.0):
    """The batch's loss, as a loop over experts in float64."""
    margins = 0.5 * (COUNTS.min() / COUNTS) ** 0.25
    weights, t = np.ones(3), np.ones(3)
    if reweight:
        weights = (1 - 0.9999) / (1 - 0.9999**COUNTS)
        weights = weights / weights.sum() * 3
        t = rho * 3 * COUNTS / COUNTS.sum() + 1 - rho
        t = t / t.max()
    mean = softmax(z.mean(axis=0) / t)
    total = 0.0
    for own in z:
        shifted = own.copy()
        shifted[np.arange(len(Y)), Y] -= scale * margins[Y]
        entropies = -np.log(softmax(shifted)[np.arange(len(Y)), Y])
        total += (weights[Y] * entropies).sum() / weights[Y].sum()
        kl = (mean * (np.log(mean) - np.log(softmax(own / t)))).sum(axis=1)
        total += factor * t.mean() ** 2 * kl.mean()
    return total


@pytest.fixture
def experts():
    return torch.randn(3, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("reweight", [False, True])
@pytest.mark.parametrize("factor", [-0.45, -0.2])
def test_hand_worked(facts, experts, factor, reweight):
    made = make("ride", factor=factor, reweight=reweight)
    outputs = Outputs(experts.mean(dim=0), experts=experts)
    losses = Objective([made], facts(64, 16, 4))(outputs, torch.tensor(Y))
    assert float(losses.mean()) == pytest.approx(by_hand(experts.numpy(), factor, reweight), rel=1e-10)


def test_the_mean_carries_no_gradient(facts, experts):
    z = experts.clone().requires_grad_()
    objective = Objective([make("ride", max_margin=0.0)], facts(64, 16, 4))
    objective(Outputs(z.mean(0), experts=z), torch.tensor(Y)).sum().backward()
    p = z.detach().softmax(dim=2)
    mean = z.detach().mean(dim=0).softmax(dim=1)
    one_hot = torch.eye(3, dtype=torch.float64)[torch.tensor(Y)]
    torch.testing.assert_close(z.grad, p - one_hot - 0.45 * (p - mean))


def test_limits(facts, experts):
    y = torch.tensor(Y)
    at, ldam = facts(64, 16, 4), make("ldam")
    # one expert is LDAM (whose scale the head has applied)
    one = Objective([make("ride")], at)(Outputs(experts[0], experts=experts[:1]), y)
    torch.testing.assert_close(one, Objective([ldam], at)(experts[0] / 30, y))
    # without diversity every expert learns from the mean
    joint = Objective([make("ride", factor=0.0)], at)(Outputs(experts.mean(0), experts=experts), y)
    torch.testing.assert_close(joint, 3 * Objective([ldam], at)(experts.mean(0) / 30, y))
    # equal counts: no weights, all temperatures 1
    outputs = Outputs(experts.mean(0), experts=experts)
    even = [Objective([make("ride", reweight=on)], facts(4, 4, 4))(outputs, y) for on in (False, True)]
    torch.testing.assert_close(*even)


def test_deferred_as_a_stage(make_plan, pipeline):
    plan = make_plan(
        Stage("a", epochs=2, choose=["experts", "ride"]),
        Stage("b", epochs=1, carry="all", choose=[trick("ride", reweight=True)]),
    )
    run = pipeline(plan)
    run.run()
    outputs = run.network()(run.data.normalise(run.data.val_images))
    assert outputs.experts.shape == (3, 60, 10)
    with pytest.raises(
        PlanError, match=r"stage 'a': ride needs 'experts', which nothing in the plan provides; experts"
    ):
        make_plan(Stage("a", epochs=1, choose=["ride"]))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rho": 1.5}, r"\[0, 1\]"),
        ({"beta": 1.0}, r"\(0, 1\)"),
        ({"reweight": "yes"}, "reweight"),
        ({"scale": 0}, "scale"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("ride", **numbers)
