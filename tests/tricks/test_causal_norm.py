import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.registry import PlanError, make
from trainables.training.network_setup import trained_network


def by_hand(x, w, mean, k, tau, gamma, alpha):
    """z in evaluation, class by class and group by group, in float64."""
    z = np.zeros((len(x), len(w)))
    for i, c in np.ndindex(z.shape):
        for x_k, w_k, m_k in zip(np.split(x[i], k), np.split(w[c], k), np.split(mean, k), strict=True):
            row = w_k / (np.linalg.norm(w_k) + gamma)
            d = m_k / np.linalg.norm(m_k)
            cosine = x_k @ d / np.linalg.norm(x_k)
            z[i, c] += tau / k * (row @ x_k / np.linalg.norm(x_k) - alpha * cosine * (row @ d))
    return z


def test_hand_worked(facts, network):
    network = make("causal_norm", tau=16.0, alpha=1.5).build(facts(5, 3, 1))(network.double())
    head, random = network.head, torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 6, 64, generator=random, dtype=torch.float64).abs()
    head.train()
    z = head(first)
    zero = by_hand(first.numpy(), head.weight.detach().numpy(), np.ones(64), 2, 16.0, 1 / 32, 0.0)
    np.testing.assert_allclose(z.detach().numpy(), zero, rtol=1e-12)
    head(second)
    mean = 0.9 * first.mean(dim=0) + second.mean(dim=0)
    torch.testing.assert_close(head.mean, mean)
    head.eval()
    expected = by_hand(first.numpy(), head.weight.detach().numpy(), mean.numpy(), 2, 16.0, 1 / 32, 1.5)
    np.testing.assert_allclose(head(first).detach().numpy(), expected, rtol=1e-10)
    torch.testing.assert_close(head.mean, mean)  # evaluation moves nothing


def test_one_group_without_gamma_is_the_cosine(facts, network):
    head = make("causal_norm", num_head=1, gamma=0.0, alpha=0.0, tau=30.0).build(facts(1, 1, 1))(network).head.eval()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(x), 30 * cosine)


def test_the_mean_is_kept_and_evaluation_has_its_own_form(make_plan, pipeline):
    ends = {}
    for alpha in (0.0, 1.5):
        run = pipeline(make_plan(Stage("a", epochs=2, choose=[trick("causal_norm", alpha=alpha)])))
        run.run()
        ends[alpha] = run
    one, other = (ends[alpha].network().state_dict() for alpha in (0.0, 1.5))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())  # α plays no part in training
    assert one["head.mean"].norm() > 0
    assert ends[0.0].points[-1].metrics["loss"] != ends[1.5].points[-1].metrics["loss"]
    run = ends[1.5]
    again = trained_network(run.context, run.plan, 0, run.executor.state.carry_over.result)
    assert again.head.mean.equal(one["head.mean"])


def test_the_classifier_can_be_trained_again(make_plan, pipeline):
    plan = make_plan(
        Stage("a", epochs=1, choose=["causal_norm"]),
        Stage("b", epochs=1, carry="weights", choose=["classifier", "class_balanced", trick("causal_norm", alpha=3.0)]),
    )
    run = pipeline(plan)
    run.run()
    assert run.network().head.alpha == 3.0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"num_head": 0}, r"\[1, inf"), ({"tau": 0}, r"\(0, inf"), ({"mu": 1.0}, r"\[0, 1\)"), ({"alpha": -1}, "alpha")],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("causal_norm", **numbers)


def test_groups_that_do_not_divide_the_features(facts, network):
    with pytest.raises(ValueError, match=r"num_head must divide the network's 64 features, got 3"):
        make("causal_norm", num_head=3).build(facts(1, 1, 1))(network)
