import math

import numpy as np
import pytest
import torch

from trainables.batch import Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make


def by_hand(z, routing, y, positive_weight):
    """The loss of each image, by loops over images and routers in float64."""
    losses = []
    for image, label in enumerate(y):
        sums = [z[: count + 1, image].sum(axis=0) for count in range(len(z))]
        right = [int(total.argmax()) == label for total in sums]
        total = 0.0
        for router in range(len(z) - 1):
            chance = 1 / (1 + math.exp(-routing[router, image]))
            needed = not right[router] and any(right[router + 1 :])
            total += -positive_weight * math.log(chance) if needed else -math.log(1 - chance)
        losses.append(total / (len(z) - 1))
    return losses


@pytest.mark.parametrize("positive_weight", [100.0, 1.0])
def test_hand_worked(facts, positive_weight):
    random = np.random.default_rng(0)
    z, routing, y = random.normal(size=(4, 40, 3)), random.normal(size=(3, 40)), random.integers(0, 3, 40)
    experts = torch.tensor(z)
    outputs = Outputs(experts.mean(dim=0), experts=experts, routing=torch.tensor(routing))
    objective = Objective([make("routing_loss", positive_weight=positive_weight)], facts(5, 3, 1))
    found = objective(outputs, torch.tensor(y))
    assert found.tolist() == pytest.approx(by_hand(z, routing, y, positive_weight), rel=1e-12)


def test_when_the_next_expert_is_needed(facts):
    """Sums of three experts of two classes, label 0: right or wrong in every order."""
    wrong, right = [0.0, 1.0], [3.0, 0.0]
    spoilt, mended = [0.0, 9.0], [9.0, 0.0]
    cases = [
        ([right, right, right], (False, False)),
        ([right, spoilt, mended], (False, True)),  # the third mends what the second has spoilt
        ([wrong, right, right], (True, False)),
        ([wrong, wrong, right], (True, True)),  # the third alone helps
        ([wrong, right, spoilt], (True, False)),
        ([wrong, wrong, wrong], (False, False)),
    ]
    experts = torch.tensor([z for z, _ in cases], dtype=torch.float64).transpose(0, 1)
    routing = torch.zeros(2, len(cases), dtype=torch.float64, requires_grad=True)
    outputs = Outputs(experts.mean(dim=0), experts=experts, routing=routing)
    loss = Objective([make("routing_loss")], facts(5, 3))(outputs, torch.zeros(len(cases), dtype=torch.int64))
    loss.sum().backward()
    # of −w t ln σ(r) − (1 − t) ln(1 − σ(r)) at r = 0, over two routers
    slopes = [[-25.0 if needed else 0.25 for needed in asked] for _, asked in cases]
    assert routing.grad.T.tolist() == slopes


def test_without_experts_or_routers(facts):
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    objective = Objective([make("routing_loss")], facts(5, 3, 1))
    with pytest.raises(ValueError, match=r"trick 'routing_loss' needs the logits of experts \(E, B, C\), got none"):
        objective(z, y)
    with pytest.raises(
        ValueError, match=r"'routing_loss' needs the routers of 'expert_assignment'; add it to the stage"
    ):
        objective(Outputs(z, experts=z.expand(3, 2, 3)), y)


def test_numbers_out_of_range():
    with pytest.raises(PlanError, match=r"positive_weight must be a number in \(0, inf\), got 0"):
        make("routing_loss", positive_weight=0)
