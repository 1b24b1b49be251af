import pytest
import torch

from trainables.registry import make


def test_every_class_is_cut_to_the_smallest(facts, generator):
    known = facts(7, 3, 2)
    epoch = make("under_sampling").build(known)(0.0, generator(0))
    assert known.labels[epoch].bincount().tolist() == [2, 2, 2]
    assert len(epoch.unique()) == 6  # without replacement


def test_fresh_epochs_see_all_images_and_a_fixed_subset_does_not(facts, generator):
    fresh, fixed = (make("under_sampling", subset=s).build(facts(7, 3, 2)) for s in ("fresh", "fixed"))
    assert torch.cat([fresh(0.0, generator(s)) for s in range(50)]).unique().tolist() == list(range(12))
    assert len(torch.cat([fixed(0.0, generator(s)) for s in range(50)]).unique()) == 6


def test_equal_counts_are_an_ordinary_epoch(facts, generator):
    assert make("under_sampling").build(facts(4, 4))(0.0, generator(0)).sort().values.tolist() == list(range(8))


def test_a_class_without_images_is_not_the_smallest(facts, generator):
    known = facts(3, 0, 2)
    assert known.labels[make("under_sampling").build(known)(0.0, generator(0))].bincount().tolist() == [2, 0, 2]


def test_subset_is_fresh_or_fixed():
    with pytest.raises(ValueError, match="subset must be one of 'fresh', 'fixed', got 'once'"):
        make("under_sampling", subset="once")
