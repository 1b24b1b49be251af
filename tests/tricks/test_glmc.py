import numpy as np
import pytest
import torch

from spaces.domain import Stage, trick
from trainables.batch import Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make

COUNTS = np.array([5, 3, 1])


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def cosine(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def prepared(known, generator):
    """Two views of four images in float64, and the trick's layers in numpy."""
    made = make("glmc", width=8)
    model = known.model.double()
    model.extra["glmc"] = torch.nn.ModuleDict(made.modules(known)).double()
    x = torch.randn(2, 4, 64, dtype=torch.float64, generator=generator(0))
    z = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator(1))
    outputs = Outputs(z[0], x[0], views=(Outputs(z[1], x[1]),))
    layers = {name: (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for name, layer in
              model.extra["glmc"].items()}  # fmt: skip
    return made, outputs, [view.numpy() for view in x], [view.numpy() for view in z], layers


@pytest.mark.parametrize(("epoch", "epochs"), [(0, 10), (5, 10), (9, 10), (0, 1)])
def test_hand_worked_numbers(known, generator, epoch, epochs):
    made, outputs, x, z, layers = prepared(known, generator)
    known = type(known)(**{**vars(known), "epochs": epochs})
    objective = Objective([made], known)
    ((_, function),) = objective.functions
    function.begin_epoch(epoch / max(1, epochs - 1), generator(0))
    y = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]])
    share = torch.tensor([[0.7, 0.3]], dtype=torch.float64).expand(4, 2)

    def layer(name, at):
        weight, bias = layers[name]
        return at @ weight.T + bias

    alpha = 1 - (epoch / epochs) ** 2
    weights = COUNTS**-1.2 / (COUNTS**-1.2).sum() * 3
    expected = np.zeros(4)
    for part, amount in ((0, 0.7), (1, 0.3)):
        labels = y[:, part].numpy()
        for at, logits in zip(x, z, strict=True):
            plain = -log_softmax(layer("plain", at))[np.arange(4), labels]
            own = -log_softmax(logits)[np.arange(4), labels]
            expected += amount * (alpha * plain + (1 - alpha) * weights[labels] * own)
    v = [layer("projection", at) for at in x]
    p = [layer("prediction", at) for at in v]
    expected -= 4.0 * (cosine(p[0], v[1]) + cosine(p[1], v[0]))
    assert objective(outputs, y, share).detach().numpy() == pytest.approx(expected, abs=1e-9)


def test_no_gradient_goes_through_the_other_view(known, generator):
    outputs = prepared(known, generator)[1]
    model, x1, x2 = known.model, outputs.features.clone().requires_grad_(), outputs.views[0].features
    only = Outputs(outputs.logits, x1, views=(Outputs(outputs.views[0].logits, x2),))
    function = make("glmc", k=1.2, w=1.0, width=8).build(known)
    function.alpha = 0.0  # the consistency alone reads the features
    q = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).double()
    function(only, q, torch.tensor([0, 1, 2, 0]), None).sum().backward()
    own = model.extra["glmc"]
    again = x1.detach().clone().requires_grad_()
    with torch.no_grad():
        v2 = own["projection"](x2)
    (-torch.nn.functional.cosine_similarity(own["prediction"](own["projection"](again)), v2)).sum().backward()
    assert torch.allclose(x1.grad, again.grad)


def test_in_training_the_plain_classifier_is_gone_at_the_end(make_plan, pipeline):
    choose = [trick("several_views", count=2), trick("weighted_partner", power=0.0), "mixup_cutmix", "glmc"]
    run = pipeline(make_plan(Stage("a", epochs=2, batch_size=64, choose=choose)))
    before = {}
    while not run.finished:
        run.advance()
        training = run.executor.training
        if training is not None:
            before = {name: tensor.clone() for name, tensor in training.run.network.extra["glmc"].state_dict().items()}
    assert before and not any("extra" in name for name in run.network().state_dict())
    assert 0 < run.points[-1].metrics["train_loss"] < 100


def test_bad_input(known, generator, make_plan):
    with pytest.raises(PlanError, match=r"glmc needs view 1 of each image \(the first is 0\), and the stage makes 1"):
        make_plan(Stage("a", epochs=1, choose=["glmc"]))
    function = make("glmc").build(known)
    with pytest.raises(ValueError, match="trick 'glmc' needs the features of two views of each image"):
        function(Outputs(torch.zeros(1, 3), torch.zeros(1, 64)), torch.ones(1, 3), torch.tensor([0]), None)
    for numbers in ({"k": -1}, {"w": -1}, {"width": 0}):
        with pytest.raises(ValueError, match=f"'glmc'.*{next(iter(numbers))} must be"):
            make("glmc", **numbers)
