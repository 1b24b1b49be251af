"""Calibration after training, against hand-worked numbers, statsmodels, scikit-learn and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import confusion_matrix, log_loss
from statsmodels.discrete.conditional_models import ConditionalLogit

from trainables import metrics
from trainables.evaluation import calibration
from trainables.evaluation.calibration import Calibration

COUNTS = torch.tensor([100, 30, 10])


def sample(images: int, prior: torch.Tensor, temperature: float = 1.0, exponent: float = 0.0, seed: int = 0):
    """(logits, labels) of which p(y | x) is known: Gaussian classes seen under a prior, their scores distorted."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(prior, images, replacement=True, generator=generator)
    centres = 1.5 * torch.eye(3, dtype=torch.float64)
    x = centres[labels] + torch.randn(images, 3, generator=generator, dtype=torch.float64)
    log_likelihood = -(x[:, None] - centres).square().sum(dim=2) / 2
    shares = COUNTS.double() / COUNTS.sum()
    return temperature * (log_likelihood + exponent * shares.log()), labels, log_likelihood


def test_bayes_rule_by_hand():
    # likelihoods 2 : 1 : 1, trained at 1/2, 1/4, 1/4 and plain: the softmax is 4/6, 1/6, 1/6
    counts, z = torch.tensor([2, 1, 1]), torch.tensor([[4.0, 1.0, 1.0]]).log()
    plain = Calibration(1.0, 1.0)
    uniform = torch.full((3,), 1 / 3)
    assert plain.probabilities(z, counts, uniform).tolist() == [pytest.approx([1 / 2, 1 / 4, 1 / 4])]
    there = torch.tensor([0.1, 0.6, 0.3])
    assert plain.probabilities(z, counts, there).tolist() == [pytest.approx([0.2 / 1.1, 0.6 / 1.1, 0.3 / 1.1])]
    # squared by half the temperature: (4/1)² ; a class that does not occur is never predicted
    assert Calibration(0.5).probabilities(z, counts, uniform).tolist() == [pytest.approx([16 / 18, 1 / 18, 1 / 18])]
    assert Calibration().probabilities(z, counts, torch.tensor([0.0, 0.5, 0.5])).tolist() == [[0.0, 0.5, 0.5]]
    # post-hoc logit adjustment gives a re-balanced network the tail twice; the fitted exponent does not
    adjusted = (z - (counts.double() / 4).log()).softmax(dim=1)
    assert adjusted.tolist() == [pytest.approx([1 / 2, 1 / 4, 1 / 4])]
    assert Calibration(1.0, 0.0).probabilities(z, counts, uniform).tolist() == [pytest.approx([4 / 6, 1 / 6, 1 / 6])]


def test_the_fit_is_the_conditional_logit_of_statsmodels():
    z, labels, _ = sample(900, torch.full((3,), 1 / 3), temperature=2.0, exponent=1.0)
    # balanced, so that val's own prior is a constant
    kept = torch.stack([(labels == label).nonzero()[:200, 0] for label in range(3)]).T.flatten()
    z, labels = z[kept], labels[kept]
    tail = -(COUNTS.double() / COUNTS.sum()).log()
    chosen = torch.nn.functional.one_hot(labels, 3).double()
    table = np.stack([z.flatten().numpy(), tail.repeat(600).numpy()], axis=1)
    other = ConditionalLogit(chosen.flatten().numpy(), table, groups=np.repeat(np.arange(600), 3)).fit(disp=False)
    found = calibration.fit(z, labels, COUNTS, ridge=0.0)
    assert [1 / found.temperature, found.exponent] == pytest.approx([float(p) for p in other.params], rel=1e-3)


@pytest.mark.parametrize("held", [[1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
@pytest.mark.parametrize(("temperature", "exponent"), [(2.5, 0.0), (0.5, 1.0)])
def test_the_probabilities_are_those_of_deployment_whatever_val_and_training_were(held, temperature, exponent):
    z, labels, likelihood = sample(20_000, torch.tensor(held), temperature, exponent)
    found = calibration.fit(z, labels, COUNTS)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.exponent == pytest.approx(exponent, abs=0.06)
    there = torch.tensor([0.05, 0.15, 0.8])
    true = (likelihood + there.double().log()).softmax(dim=1)  # Bayes' rule on the real likelihoods
    assert float((found.probabilities(z, COUNTS, there) - true).abs().max()) < 0.03
    weights = calibration.importance(labels, there)
    after = calibration.scores(found.probabilities(z, COUNTS, there), labels, weights)
    before = calibration.scores(z.softmax(dim=1), labels, weights)
    assert after["calibration_error"] < 0.02 < before["calibration_error"]
    assert after["loss"] < before["loss"] and after["accuracy"] >= before["accuracy"]
    probabilities = found.probabilities(z, COUNTS, there)
    own = log_loss(labels, probabilities, sample_weight=weights, labels=[0, 1, 2])
    assert after["loss"] == pytest.approx(own)
    # the weighted error is that of a sample in which each image stands as often as it weighs
    whole = torch.tensor([1, 3, 2, 1])
    p, y = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]), torch.tensor([0, 1, 1, 0])
    repeated = metrics.calibration_error(p.repeat_interleave(whole, 0), y.repeat_interleave(whole))
    assert metrics.calibration_error(p, y, weights=whole) == pytest.approx(repeated)


def test_before_and_after_are_measured_at_the_same_frequencies():
    z, labels, _ = sample(90, torch.tensor([0.6, 0.3, 0.1]), temperature=2.0, exponent=1.0)
    held = torch.bincount(labels, minlength=3)
    # equal frequencies: every class as often as the others, so each image as often as the others' numbers say
    times = (int(held.prod()) // held)[labels]
    z2, labels2 = z.repeat_interleave(times, 0), labels.repeat_interleave(times)
    found, _, _ = calibration.on_val(z, labels, COUNTS)
    assert found["calibration_error_uncalibrated"] == pytest.approx(
        metrics.calibration_error(z2.softmax(dim=1), labels2)
    )
    assert found["loss_uncalibrated"] == pytest.approx(float(torch.nn.functional.cross_entropy(z2, labels2)))
    assert found["accuracy_uncalibrated"] == pytest.approx(float((z2.argmax(dim=1) == labels2).double().mean()))
    assert abs(found["loss_uncalibrated"] - float(torch.nn.functional.cross_entropy(z, labels))) > 0.05
    assert found["calibrated_loss"] < found["loss_uncalibrated"]


def test_a_val_that_says_little_leaves_the_network_as_it_is():
    one = calibration.fit(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0]), COUNTS)
    assert one == Calibration(1.0, 0.0)  # one class alone: nothing to learn
    z = 50.0 * torch.nn.functional.one_hot(torch.arange(30) % 3, 3).double()
    right = calibration.fit(z, torch.arange(30) % 3, torch.tensor([5, 5, 5]))
    assert 0.2 < right.temperature <= 1.0 and right.exponent == 0.0
    with pytest.raises(ValueError, match="at least one val image"):
        calibration.fit(z[:0], torch.arange(0), COUNTS)
    halves = calibration.cross_fitted(z, torch.arange(30) % 3, COUNTS, torch.full((3,), 1 / 3))
    assert halves.sum(dim=1).tolist() == pytest.approx([1.0] * 30)


def test_limits_of_the_risk_and_thresholds_by_hand():
    for wrong, images in ((0, 10), (3, 40), (12, 200)):
        exact = stats.binomtest(wrong, images).proportion_ci(0.9, "exact").high  # two-sided 90 %: one-sided 95 %
        assert calibration.risk_bound(wrong, images) == pytest.approx(exact)
    assert calibration.risk_bound(3, 3) == calibration.risk_bound(0, 0) == 1.0
    # class 0: 40 answers, right down to 0.7, then all wrong; class 1: 10 right answers, too few for 10 %
    sure = torch.cat([torch.linspace(0.99, 0.7, 35), torch.full((5,), 0.6), torch.full((10,), 0.9)]).double()
    predicted = torch.cat([torch.zeros(40), torch.ones(10)]).long()
    labels = torch.cat([torch.zeros(35), torch.ones(15)]).long()
    p = torch.stack([torch.where(predicted == 0, sure, 1 - sure), torch.where(predicted == 0, 1 - sure, sure)], dim=1)
    limits = calibration.thresholds(p, labels, torch.ones(50), risk=0.1)
    assert limits == [pytest.approx(0.7), None]
    assert calibration.accepted(p, limits).tolist() == [True] * 35 + [False] * 15
    assert calibration.thresholds(p, labels, torch.ones(50), risk=0.3)[1] == pytest.approx(0.9)
    (whole, *_, half) = calibration.selective_risk(p, labels, torch.ones(50))
    assert whole == {"coverage": 1.0, "confidence": pytest.approx(0.6), "risk": pytest.approx(0.1), "images": 50.0}
    assert (half["coverage"], half["risk"], half["images"]) == (0.5, 0.0, pytest.approx(25.0))


def test_thresholds_keep_their_promise():
    """The share of classes and draws in which the real risk is above the one asked for is at most 5 %."""
    generator, broken, given = torch.Generator().manual_seed(1), 0, 0
    for _ in range(200):
        sure = 0.5 + 0.5 * torch.rand(80, generator=generator, dtype=torch.float64)
        wrong = torch.rand(80, generator=generator) > sure  # calibrated
        p = torch.stack([sure, 1 - sure], dim=1)
        (limit, _) = calibration.thresholds(p, wrong.long(), torch.ones(80), risk=0.2)
        given += limit is not None
        # of answers uniform in (limit, 1), 1 − (1 + limit) / 2 are wrong
        broken += limit is not None and (1 - limit) / 2 > 0.2
    assert given > 50
    assert broken <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_confusions_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(0, 5, (400,), generator=generator) for _ in range(2))
    table = confusion_matrix(labels, predicted)
    found = calibration.confusions(predicted, labels, 5)
    assert len(found) == 20 and all(table[true, said] == count for true, said, count in found)
    assert [count for *_, count in found] == sorted((count for *_, count in found), reverse=True)
    p = torch.nn.functional.one_hot(predicted, 5).double()
    given, wrong = calibration.confident(p, labels)["0.9"]
    assert given == table.sum(axis=0).tolist() and wrong == (table.sum(axis=0) - table.diagonal()).tolist()
