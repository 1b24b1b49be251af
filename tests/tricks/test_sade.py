import numpy as np
import pytest
import torch

from spaces.domain import Stage
from trainables.batch import Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make


def cross_entropy(z, y):
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]


def test_hand_worked(facts):
    """C = 3: the priors .7, .1, .2 in reverse rank order are .1, .7, .2."""
    z = np.random.default_rng(0).normal(size=(3, 5, 3))
    y, prior, inverse = np.array([0, 1, 2, 1, 0]), np.array([0.7, 0.1, 0.2]), np.array([0.1, 0.7, 0.2])
    expected = cross_entropy(z[0], y) + cross_entropy(z[1] + np.log(prior + 1e-9), y)
    expected += cross_entropy(z[2] + np.log(prior + 1e-9) - 2 * np.log(inverse + 1e-9), y)
    experts = torch.tensor(z)
    found = Objective([make("sade")], facts(70, 10, 20))(Outputs(experts.mean(0), experts=experts), torch.tensor(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_limits(facts):
    experts = torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs, y = Outputs(experts.mean(0), experts=experts), torch.tensor([0, 1, 2, 2])
    equal = Objective([make("sade")], facts(5, 5, 5))(outputs, y)
    plain = sum(torch.nn.functional.cross_entropy(z, y, reduction="none") for z in experts)
    torch.testing.assert_close(equal, plain)
    # τ = 0: the third expert is balanced as the second is
    same = Outputs(experts[1], experts=experts[[0, 1, 1]])
    balanced = Objective([make("balanced_softmax")], facts(9, 3, 1))(experts[1], y)
    found = Objective([make("sade", tau=0)], facts(9, 3, 1))(same, y)
    first = torch.nn.functional.cross_entropy(experts[0], y, reduction="none")
    torch.testing.assert_close(found, first + 2 * balanced, rtol=1e-6, atol=1e-6)


def test_three_experts_are_needed(facts, make_plan):
    with pytest.raises(
        PlanError, match=r"stage 'a': sade needs '3 experts', which nothing in the plan provides; exper"
    ):
        make_plan(Stage("a", epochs=1, choose=["sade"]))
    with pytest.raises(ValueError, match=r"trick 'sade' needs the logits of 3 experts \(E, B, C\), got none"):
        Objective([make("sade")], facts(2, 1))(torch.zeros(1, 2), torch.tensor([0]))


def test_it_trains(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=1, choose=["experts", "sade"])))
    run.run()
    state = run.network().state_dict()
    assert state["head.heads.2.weight"].shape == (10, 48)


@pytest.mark.parametrize("tau", [-0.5, "2"])
def test_numbers_out_of_range(tau):
    with pytest.raises(PlanError, match=r"tau must be a number in \[0, inf"):
        make("sade", tau=tau)
