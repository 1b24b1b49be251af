import numpy as np
import pytest
import torch

from spaces.domain import Stage
from trainables.batch import Outputs
from trainables.data.long_tail import class_counts
from trainables.objective import Objective
from trainables.registry import PlanError, make

Y = np.array([0, 1, 2, 2, 0])


def by_hand(z, beta, members):
    p = np.exp(z) / np.exp(z).sum(axis=2, keepdims=True)
    losses = [-np.log(p[b, i, y] + 1e-7) for b in range(3) for i, y in enumerate(Y) if y in members[b]]
    fused = z.sum(axis=0)
    entropies = np.log(np.exp(fused).sum(axis=1)) - fused[np.arange(len(Y)), Y]
    return beta * np.mean(losses) + (1 - beta) * entropies.mean()


@pytest.mark.parametrize(
    ("numbers", "members"),
    [
        ({}, ({0, 1, 2}, {1, 2}, {2})),
        ({"beta": 0.3, "many": 10, "few": 5}, ({0, 1, 2}, {2}, set())),
        ({"beta": 0.72, "first_medium": 2, "first_tail": 1}, ({0, 1, 2}, {2}, {1, 2})),
    ],
)
def test_hand_worked(facts, numbers, members):
    z = np.random.default_rng(0).normal(size=(3, 5, 3))
    experts = torch.tensor(z)
    made = make("reslt", **numbers)
    losses = Objective([made], facts(200, 50, 7))(Outputs(experts.sum(0), experts=experts), torch.tensor(Y))
    assert float(losses.mean()) == pytest.approx(by_hand(z, numbers.get("beta", 0.995), members), rel=1e-10)


def test_the_borders_are_those_of_the_public_code():
    """CIFAR-100-LT at imbalance 100: the medium branch from class 35 on, the tail branch from class 70 on."""
    counts = class_counts(largest=500, classes=100, imbalance=100)
    counts = torch.as_tensor(counts)
    assert int((counts > 100).sum()) == 35 and int((counts >= 20).sum()) == 70


def test_beta_0_is_the_cross_entropy_of_the_sum(facts):
    experts = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    found = Objective([make("reslt", beta=0.0)], facts(200, 50, 7))(
        Outputs(experts[0], experts=experts), torch.tensor(Y)
    )
    expected = torch.nn.functional.cross_entropy(experts.sum(0), torch.tensor(Y), reduction="none")
    torch.testing.assert_close(found, expected)


def test_it_needs_its_head(make_plan):
    with pytest.raises(PlanError, match=r"stage 'a': reslt needs '3 experts', .*reslt_head provides it"):
        make_plan(Stage("a", epochs=1, choose=["reslt"]))


@pytest.mark.parametrize(("numbers", "message"), [({"beta": 2}, r"\[0, 1\]"), ({"first_tail": 0.5}, "whole number")])
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("reslt", **numbers)
