import numpy as np
import pytest
import torch

from trainables.batch import Batch
from trainables.objective import Objective
from trainables.registry import make

COUNTS = (100, 50, 10)


def batch_of(labels):
    labels = torch.tensor(labels)
    return Batch.plain(torch.zeros(len(labels), 1, 2, 2), torch.arange(len(labels)), labels)


def test_shares_by_hand(facts, generator):
    """α = 10⁸ makes b = ½: λ = n_j / (n_i + n_j) + ½, less 1 above 1."""
    mix = make("unimix", alpha=1e8, tau=-1.0).build(facts(*COUNTS))
    seen = set()
    for seed in range(40):
        mixed = mix(batch_of([0, 1, 2]), generator(seed))
        for (own, other), share in zip(mixed.y.tolist(), mixed.share[:, 0].tolist(), strict=True):
            n_i, n_j = COUNTS[own], COUNTS[other]
            expected = n_j / (n_i + n_j) + 0.5
            if own == other:
                assert share == pytest.approx(1, abs=1e-3) or share == pytest.approx(0, abs=1e-3)
            else:
                assert share == pytest.approx(expected - 1 if expected > 1 else expected, abs=1e-3)
            seen.add((own, other))
        assert mixed.blend.layer == "input" and mixed.blend.share.equal(mixed.share[:, 0])
        assert mixed.y[:, 1].equal(mixed.y[:, 0][mixed.blend.order])
    assert len(seen) == 9


@pytest.mark.parametrize("tau", [-1.0, -0.1, 0.0])
def test_partners_are_drawn_by_a_power_of_the_counts(facts, generator, tau):
    labels = [0] * 60 + [1] * 30 + [2] * 10
    weights = np.array([COUNTS[label] for label in labels], dtype=float) ** tau
    expected = np.bincount(labels, weights) / weights.sum()
    mix = make("unimix", tau=tau).build(facts(*COUNTS))
    drawn = torch.cat([mix(batch_of(labels), generator(seed)).y[:, 1] for seed in range(60)])
    assert (drawn.bincount() / len(drawn)).tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_equal_counts_with_alpha_one_are_mixup(facts, generator):
    """½ + b mod 1 is uniform where b is."""
    mix = make("unimix", alpha=1.0, tau=0.0).build(facts(7, 7))
    shares = torch.cat([mix(batch_of([0, 1] * 32), generator(seed)).share[:, 0] for seed in range(60)]).double()
    assert shares.mean().item() == pytest.approx(1 / 2, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / 12, abs=0.01)
    assert shares.min() >= 0 and shares.max() <= 1


def test_bayias_is_the_balanced_softmax(facts, generator):
    """CE(z + ln π − ln(1/C)), worked in numpy, mixed as the images are."""
    known = facts(*COUNTS)
    mixed = make("unimix").build(known)(batch_of([0, 1, 2, 0]), generator(0))
    z = torch.randn(4, 3, dtype=torch.float64, generator=generator(1))
    prior = np.array(COUNTS) / sum(COUNTS)
    adjusted = z.numpy() + np.log(prior) - np.log(1 / 3)
    log_p = adjusted - np.log(np.exp(adjusted).sum(axis=1, keepdims=True))
    share = mixed.share.double().numpy()
    rows = np.arange(4)
    expected = -(share[:, 0] * log_p[rows, mixed.y[:, 0]] + share[:, 1] * log_p[rows, mixed.y[:, 1]])
    losses = Objective([make("balanced_softmax")], known)(z, mixed.y, mixed.share)
    assert losses.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"'unimix'.*alpha must be a number in \(0, inf\), got 0"):
        make("unimix", alpha=0)
    with pytest.raises(ValueError, match=r"'unimix'.*tau must be a number in \[-10, 10\], got 11"):
        make("unimix", tau=11)
