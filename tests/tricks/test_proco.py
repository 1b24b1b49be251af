import math

import numpy as np
import pytest
import torch
from scipy.special import ive

from spaces.domain import Stage, trick
from trainables.batch import Batch, Outputs
from trainables.objective import Objective
from trainables.registry import PlanError, make
from trainables.tricks._shared.bessel import log_bessel
from trainables.tricks.proco import contrast_logits, with_features

COUNTS = np.array([5, 3, 1])


@pytest.mark.parametrize("order", [0, 1, 3, 31, 63])
def test_bessel_functions_are_scipys(order):
    x = np.array([0.5, 3.0, 20.0, 200.0, 600.0, 5e3, 1e5])
    value, slope = log_bessel(order, torch.tensor(x))
    kept = ive(order, x) > 1e-250
    x, value, slope = x[kept], value[torch.tensor(kept)], slope[torch.tensor(kept)]
    close = 1e-6 if order == 63 else 1e-5
    assert np.abs(value.numpy() - x - np.log(ive(order, x))).max() < close
    assert np.abs(slope.numpy() - ive(order + 1, x) / ive(order, x)).max() < close


def ratio_by_hand(f, mean, temperature):
    """ln C_p(κ) / C_p(‖κ μ + f / T‖) with C_p(κ) ∝ κ ** (p/2 − 1) / I_{p/2 − 1}(κ)."""
    p = mean.shape[1]
    n = p // 2 - 1
    length = np.linalg.norm(mean, axis=1)
    # the mean of one image has length 1
    kappa = np.minimum(p * length / np.maximum(1 - length**2, 1e-12), 1e5)
    new = np.linalg.norm((kappa / length)[:, None] * mean + f[:, None] / temperature, axis=2)

    def log_constant(k):
        return n * np.log(k) - (np.log(ive(n, k)) + k)

    return log_constant(kappa) - log_constant(new)


@pytest.mark.parametrize("width", [8, 128])
def test_logits_and_their_slope_by_hand(width):
    random = np.random.default_rng(0)
    f = random.normal(size=(4, width))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    mean = random.normal(size=(3, width))
    mean *= np.array([0.9, 0.2, 0.6])[:, None] / np.linalg.norm(mean, axis=1, keepdims=True)
    assert contrast_logits(torch.tensor(f), torch.tensor(mean), 0.1).numpy() == (
        pytest.approx(ratio_by_hand(f, mean, 0.1), rel=1e-6)
    )
    at = torch.tensor(f, requires_grad=True)
    contrast_logits(at, torch.tensor(mean), 0.1)[0, 1].backward()
    step = 1e-6 * np.eye(width)
    slope = [(ratio_by_hand(f + d, mean, 0.1) - ratio_by_hand(f - d, mean, 0.1))[0, 1] / 2e-6 for d in step]
    assert at.grad[0].numpy() == pytest.approx(np.array(slope), abs=1e-4)


def test_means_are_those_of_all_features_so_far():
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 4, dtype=torch.float64, generator=random) for _ in range(2))
    y, z = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([1, 0, 1, 0, 0, 0])
    mean, amount = torch.full((3, 4), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for f, labels in ((first, y), (second, z)):
        mean, amount = with_features(mean, amount, f, labels)
    features, labels = torch.cat((first, second)), torch.cat((y, z))
    for c in (0, 1):
        assert torch.allclose(mean[c], features[labels == c].mean(dim=0))
    assert mean[2].tolist() == [0.5] * 4 and amount.tolist() == [7, 5, 0]


def prepared(known, generator, **numbers):
    made = make("proco", hidden=16, width=8, **numbers)
    model = known.model.double()
    model.extra["proco"] = torch.nn.ModuleDict(made.modules(known)).double().eval()
    x = torch.randn(3, 5, 64, dtype=torch.float64, generator=generator(0))
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(1))
    return made, Outputs(z, x[0], views=(Outputs(z, x[1]), Outputs(z, x[2]))), x


def test_hand_worked_numbers(known, generator):
    """Two steps of an epoch: the batch is in the means that it is judged by, view by view."""
    made, outputs, x = prepared(known, generator, alpha=0.7)
    function = made.build(known)
    layers, kept = known.model.extra["proco"]["projection"], known.model.extra["proco"]["estimates"]
    function.begin_epoch(0.0, generator(2))
    y = torch.tensor([0, 0, 1, 2, 1])
    batch = Batch.plain(torch.zeros(5, 1, 2, 2), torch.arange(5), y)
    sums, numbers = np.zeros((3, 8)), np.zeros(3)
    for _ in range(2):
        expected = np.zeros(5)
        for view in x[1:]:
            f = layers(view).detach().numpy()
            f /= np.linalg.norm(f, axis=1, keepdims=True)
            np.add.at(sums, y.numpy(), f)
            np.add.at(numbers, y.numpy(), 1)
            u = ratio_by_hand(f, sums / numbers[:, None], 0.1) + np.log(COUNTS / 9)
            expected -= 0.35 * (u - np.log(np.exp(u).sum(axis=1, keepdims=True)))[np.arange(5), y.numpy()]
        assert function(outputs, batch, None).detach().numpy() == pytest.approx(expected, rel=1e-5)
        function.after_step(known.model, outputs, batch)
    assert kept.used_mean.numpy() == pytest.approx(sums / numbers[:, None])
    assert kept.used_amount.tolist() == kept.amount.tolist() == numbers.tolist()
    function.begin_epoch(1.0, generator(3))
    assert kept.used_mean.numpy() == pytest.approx(sums / numbers[:, None]) and not kept.amount.any()
    assert kept.mean.norm(dim=1).tolist() == pytest.approx([0.9] * 3)


def test_alpha_zero_changes_nothing(known, generator):
    made, outputs, _ = prepared(known, generator, alpha=0.0)
    y = torch.tensor([0, 1, 2, 0, 1])
    assert torch.allclose(Objective([made], known)(outputs, y), Objective([], known)(outputs, y))


def test_in_training(make_plan, pipeline):
    run = pipeline(make_plan(Stage("a", epochs=2, batch_size=64, choose=[
        trick("several_views", count=3), trick("proco", width=16), "balanced_softmax"])))  # fmt: skip
    run.run()
    assert math.isfinite(run.points[-1].metrics["train_loss"])
    assert not any("extra" in name for name in run.network().state_dict())


def test_bad_input(known, make_plan):
    with pytest.raises(PlanError, match=r"proco needs view 2 of each image .* count=3"):
        make_plan(Stage("a", epochs=1, choose=["several_views", "proco"]))
    with pytest.raises(ValueError, match="trick 'proco' needs the features of three views of each image"):
        Objective([make("proco")], known)(Outputs(torch.zeros(1, 3), torch.zeros(1, 64)), torch.tensor([0]))
    with pytest.raises(ValueError, match="trick 'proco': width must be even, got 7"):
        make("proco", width=7)
    for numbers in ({"alpha": -1}, {"temperature": 0}, {"hidden": 0}, {"width": 2}):
        with pytest.raises(ValueError, match=f"'proco'.*{next(iter(numbers))} must be"):
            make("proco", **numbers)
