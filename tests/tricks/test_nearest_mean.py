import math

import pytest
import torch

from trainables.batch import Facts, MissingFact, Outputs
from trainables.registry import make
from trainables.tricks.nearest_mean import class_means, distances

# class 0 at (4, 0) and (0, 2), class 2 at (0, −4); class 1 has none
TRAINING = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, -4.0]], dtype=torch.float64)
KNOWN = Facts(torch.tensor([2, 0, 1]), torch.tensor([0, 0, 2]))
SEEN = torch.tensor([[3.0, 0.0]], dtype=torch.float64)


def nearest_mean(features, training, facts, kind):
    return distances(features, *class_means(training, facts, kind), kind)


def test_hand_worked_numbers():
    # means (2, 1) and (0, −4)
    assert nearest_mean(SEEN, TRAINING, KNOWN, "un").tolist() == [pytest.approx([-2.0, -math.inf, -25.0])]
    # scaled: (1, 0), (0, 1), (0, −1); mean (½, ½)
    assert nearest_mean(SEEN, TRAINING, KNOWN, "l2n").tolist() == [pytest.approx([-0.5, -math.inf, -2.0])]


def test_hand_worked_numbers_centred():
    # the mean of all is (4/3, −2/3)
    def g(x, y):
        x, y = x - 4 / 3, y + 2 / 3
        return x / math.hypot(x, y), y / math.hypot(x, y)

    a, b, own = g(4, 0), g(0, 2), g(3, 0)
    middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    other = g(0, -4)
    expected = [-(math.dist(own, middle) ** 2), -math.inf, -(math.dist(own, other) ** 2)]
    assert nearest_mean(SEEN, TRAINING, KNOWN, "cl2n").tolist() == [pytest.approx(expected)]


def test_it_reads_the_training_images(known):
    outputs = known.model(known.normalise(known.images))
    with torch.no_grad():
        z = make("nearest_mean", features="un").build(known)(outputs)
    # the only image of class 2 is its own mean
    assert z[8, 2].item() == pytest.approx(0.0, abs=1e-6)
    assert z.argmax(dim=1)[8].item() == 2


def test_the_length_of_features_matters_only_without_scaling():
    one, ten = (nearest_mean(factor * SEEN, TRAINING, KNOWN, "l2n") for factor in (1, 10))
    assert torch.allclose(one[:, ::2], ten[:, ::2])


def test_what_it_needs(known, facts):
    with pytest.raises(MissingFact, match="'nearest_mean' needs model and images and normalise"):
        make("nearest_mean").build(facts(3, 1))
    with pytest.raises(ValueError, match=r"'nearest_mean': Outputs must have features \(B, D\), got None"):
        make("nearest_mean").build(known)(Outputs(torch.zeros(1, 3)))


def test_features_is_one_of_three():
    with pytest.raises(ValueError, match="features must be one of 'un', 'l2n', 'cl2n', got 'cos'"):
        make("nearest_mean", features="cos")
