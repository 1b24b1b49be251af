import pytest
import torch

from trainables.registry import make


def test_every_class_reaches_the_largest(facts, generator):
    known = facts(7, 3, 1)
    epoch = make("over_sampling").build(known)(0.0, generator(0))
    assert len(epoch) == 21
    assert known.labels[epoch].bincount().tolist() == [7, 7, 7]


def test_every_image_is_in_every_epoch(facts, generator):
    epoch = make("over_sampling").build(facts(7, 3, 1))(0.0, generator(0))
    assert epoch.unique().tolist() == list(range(11))
    assert epoch[:7].tolist() != list(range(7))  # shuffled


def test_repeated_images_are_drawn_uniformly_and_anew(facts, generator):
    draw = make("over_sampling").build(facts(300, 3))
    repeats = torch.stack([draw(0.0, generator(seed)).bincount(minlength=303)[300:] - 1 for seed in range(20)])
    assert (repeats.sum(dim=1) == 297).all()
    # 5,940 draws among three images: four standard deviations of a share are 0.024
    assert (repeats.sum(dim=0) / 5940).tolist() == pytest.approx([1 / 3] * 3, abs=0.025)
    assert len(repeats.unique(dim=0)) > 10


def test_equal_counts_are_an_ordinary_epoch(facts, generator):
    assert make("over_sampling").build(facts(4, 4))(0.0, generator(0)).sort().values.tolist() == list(range(8))


def test_a_class_without_images_is_left_out(facts, generator):
    known = facts(3, 0, 1)
    assert known.labels[make("over_sampling").build(known)(0.0, generator(0))].bincount().tolist() == [3, 0, 3]


def test_it_has_no_numbers():
    with pytest.raises(ValueError, match="'over_sampling' has no number 'q'"):
        make("over_sampling", q=1)
