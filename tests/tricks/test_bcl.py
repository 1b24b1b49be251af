import math

import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Batch, Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make
from trainables.tricks._shared.contrast import main_label


def by_hand(f, centres, y, temperature):
    """The formula entry by entry: the class's mean of exp s, i itself left out."""
    entries = np.concatenate((f, centres))
    labels = np.concatenate((y, np.arange(len(centres))))
    losses = []
    for i in range(len(f)):
        s = entries @ f[i] / temperature
        others = [j for j in range(len(entries)) if j != i]
        means = [np.mean([np.exp(s[j]) for j in others if labels[j] == c]) for c in range(len(centres))]
        positives = [s[j] - np.log(sum(means)) for j in others if labels[j] == y[i]]
        losses.append(-np.mean(positives))
    return np.array(losses)


def prepared(known, generator, **numbers):
    made = make("bcl", hidden=16, width=8, **numbers)
    model = known.model.double()
    model.extra["bcl"] = torch.nn.ModuleDict(made.modules(known)).double().eval()
    x = torch.randn(3, 5, 64, dtype=torch.float64, generator=generator(0))
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(1))
    return made, Outputs(z, x[0], views=(Outputs(z, x[1]), Outputs(z, x[2]))), x


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_hand_worked_numbers(known, generator, temperature):
    made, outputs, x = prepared(known, generator, beta=0.6, temperature=temperature)
    y = torch.tensor([0, 0, 1, 2, 1])
    layers = known.model.extra["bcl"]

    def unit(part, at):
        found = layers[part](at).detach().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    f = np.concatenate([unit("features", view) for view in x[1:]])
    losses = by_hand(f, unit("rows", known.model.head.weight), np.tile(y.numpy(), 2), temperature)
    expected = 0.6 * losses.reshape(2, 5).mean(axis=0)
    with_it, without = (Objective(tricks, known)(outputs, y) for tricks in ([made], []))
    assert (with_it - without).detach().numpy() == pytest.approx(expected, abs=1e-9)


def test_a_class_with_one_image_has_its_centre_and_its_other_view(known, generator):
    made, outputs, _ = prepared(known, generator)
    z = outputs.logits.clone().requires_grad_()
    outputs = Outputs(z, outputs.features, views=outputs.views)
    losses = Objective([made], known)(outputs, torch.tensor([0, 1, 2, 0, 1]))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(p.grad).all() for p in known.model.extra["bcl"].parameters())


def test_beta_zero_changes_nothing(known, generator):
    made, outputs, _ = prepared(known, generator, beta=0.0)
    y = torch.tensor([0, 1, 2, 0, 1])
    assert torch.allclose(Objective([made], known)(outputs, y), Objective([], known)(outputs, y))


def test_of_a_mixed_image_the_larger_share_counts():
    y, share = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    assert main_label(Batch(torch.zeros(1, 2, 1, 2, 2), torch.arange(2), y, share)).tolist() == [1, 2]


def test_in_training(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=2, batch_size=64, choose=[
        trick("several_views", count=3), "bcl", "balanced_softmax", "input_mixup"])))  # fmt: skip
    run.run()
    assert math.isfinite(run.points[-1].metrics["train_loss"])
    assert not any("extra" in name for name in run.network().state_dict())


def test_bad_input(known, make_plan):
    with pytest.raises(PlanError, match=r"bcl needs view 2 of each image .* count=3"):
        make_plan(Stage("a", epochs=1, choose=["several_views", "bcl"]))
    with pytest.raises(ValueError, match="trick 'bcl' needs the features of three views of each image"):
        Objective([make("bcl")], known)(Outputs(torch.zeros(1, 3), torch.zeros(1, 64)), torch.tensor([0]))
    for numbers in ({"beta": -1}, {"temperature": 0}, {"hidden": 0}, {"width": 0}):
        with pytest.raises(ValueError, match=f"'bcl'.*{next(iter(numbers))} must be"):
            make("bcl", **numbers)
