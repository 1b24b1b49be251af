import pytest
import torch

from trainables.registry import make
from trainables.training.seeding import generator as seeded


def test_every_class_gives_what_it_has_up_to_n_c(facts, generator):
    known = facts(9, 4, 1)
    epoch = make("few_shot", n_c=3).build(known)(0.0, generator(0))
    assert known.labels[epoch].bincount().tolist() == [3, 3, 1]
    assert len(epoch.unique()) == 7


def test_the_subset_is_picked_once_and_calls_shuffle_it(facts, generator):
    draw = make("few_shot", n_c=3).build(facts(9, 4, 1))
    one, two = draw(0.0, generator(0)), draw(1.0, generator(1))
    assert set(one.tolist()) == set(two.tolist())
    assert one.tolist() != two.tolist()


def test_members_pick_their_own_subsets(facts, generator):
    subsets = set()
    for member in range(4):
        known = facts(90, 40, generators=lambda purpose, member=member: seeded(0, member, purpose))
        subsets.add(tuple(make("few_shot", n_c=3).build(known)(0.0, generator(0)).sort().values.tolist()))
    assert len(subsets) == 4


def test_every_image_of_a_class_has_the_same_chance(facts, generator):
    drawn = []
    for seed in range(600):
        known = facts(6, 2, generators=lambda purpose, seed=seed: seeded(seed, purpose))
        drawn.append(make("few_shot", n_c=2).build(known)(0.0, generator(0)))
    assert (torch.cat(drawn).bincount() / 600).tolist() == pytest.approx([1 / 3] * 6 + [1.0] * 2, abs=0.08)


def test_a_large_n_c_is_an_ordinary_epoch(facts, generator):
    assert make("few_shot", n_c=100).build(facts(5, 0, 2))(0.0, generator(0)).sort().values.tolist() == list(range(7))


@pytest.mark.parametrize("n_c", [0, 2.5])
def test_n_c_is_a_whole_number(n_c):
    with pytest.raises(ValueError, match=r"n_c must be a whole number in \[1, inf\), got"):
        make("few_shot", n_c=n_c)
