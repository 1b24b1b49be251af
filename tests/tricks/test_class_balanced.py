import pytest
import torch

from trainables.batch import Facts
from trainables.registry import make


def test_every_class_has_the_same_chance(facts, generator):
    known = facts(9000, 900, 90, 10)
    drawn = make("class_balanced").build(known)(0.0, generator(0))
    assert drawn.shape == (10_000,)
    assert drawn.dtype == torch.int64
    shares = known.labels[drawn].bincount(minlength=4) / 10_000
    # four standard deviations of a share of 1/4 are 0.017
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.018)


def test_images_of_a_class_have_the_same_chance(facts, generator):
    known = facts(9990, 10)
    drawn = make("class_balanced").build(known)(0.0, generator(0))
    tail = (drawn[drawn >= 9990] - 9990).bincount(minlength=10) / 10_000
    assert tail.tolist() == pytest.approx([0.05] * 10, abs=0.009)


def test_equal_counts_draw_images_uniformly(facts, generator):
    drawn = make("class_balanced").build(facts(10, 10))(0.0, generator(0))
    many = torch.cat([make("class_balanced").build(facts(10, 10))(0.0, generator(seed)) for seed in range(500)])
    assert len(drawn) == 20
    assert (many.bincount(minlength=20) / len(many)).tolist() == pytest.approx([0.05] * 20, abs=0.009)


def test_labels_need_not_be_sorted(generator):
    labels = torch.tensor([1, 0, 1, 0, 0, 0])
    drawn = make("class_balanced").build(Facts(torch.tensor([4, 2]), labels))(0.0, generator(0))
    assert set(drawn.tolist()) <= set(range(6))


def test_a_class_without_images_is_left_out(facts, generator):
    known = facts(50, 0, 50)
    assert known.labels[make("class_balanced").build(known)(0.0, generator(0))].unique().tolist() == [0, 2]


def test_labels_must_be_classes():
    with pytest.raises(ValueError, match=r"labels=…\) must lie in 0 … 1.*got 0 … 2"):
        make("class_balanced").build(Facts(torch.tensor([1, 1]), torch.tensor([0, 1, 2])))


def test_there_must_be_images():
    with pytest.raises(ValueError, match="is empty: there is no image to draw"):
        make("class_balanced").build(Facts(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64)))
