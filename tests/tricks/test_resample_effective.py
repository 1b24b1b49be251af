import pytest

from trainables.registry import make


def test_hand_worked_shares(facts, generator):
    # CIFAR-10-LT, imbalance 100, beta 0.9999: published as .119 for the largest and .094 for the smallest class
    counts = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    known = facts(*counts)
    draw = make("resample_effective").build(known)
    shares = sum(known.labels[draw(0.0, generator(s))].bincount(minlength=10) for s in range(5)) / (5 * sum(counts))
    assert shares[0].item() == pytest.approx(0.119, abs=0.006)
    assert shares[9].item() == pytest.approx(0.094, abs=0.006)


def test_beta_zero_draws_by_the_counts(facts, generator):
    known = facts(900, 100)
    draw = make("resample_effective", beta=0.0).build(known)
    assert draw(0.0, generator(2)).equal(make("power_law", q=1.0).build(known)(0.0, generator(2)))


def test_equal_counts_change_nothing(facts, generator):
    known = facts(30, 30)
    one, two = (make("resample_effective", beta=b).build(known)(0.0, generator(5)) for b in (0.0, 0.999))
    assert one.equal(two)


def test_a_class_without_images_is_left_out(facts, generator):
    known = facts(50, 0, 50)
    assert known.labels[make("resample_effective").build(known)(0.0, generator(0))].unique().tolist() == [0, 2]


def test_beta_out_of_range():
    with pytest.raises(ValueError, match=r"'resample_effective'.*beta must be a number in \[0, 1\), got 1"):
        make("resample_effective", beta=1)
