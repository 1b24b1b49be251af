import pytest

from trainables.registry import make


def test_classes_are_drawn_by_the_root_of_their_counts(facts, generator):
    # roots 80, 40, 20, together 140
    known = facts(6400, 1600, 400)
    drawn = make("square_root").build(known)(0.0, generator(0))
    shares = known.labels[drawn].bincount(minlength=3) / 8400
    assert shares.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.022)


def test_progress_plays_no_role(facts, generator):
    draw = make("square_root").build(facts(64, 16))
    assert draw(0.0, generator(3)).equal(draw(1.0, generator(3)))


def test_equal_counts_are_balanced(facts, generator):
    known = facts(5000, 5000)
    shares = known.labels[make("square_root").build(known)(0.0, generator(0))].bincount() / 10_000
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_class_without_images_is_left_out(facts, generator):
    known = facts(50, 0, 50)
    assert known.labels[make("square_root").build(known)(0.0, generator(0))].unique().tolist() == [0, 2]


def test_it_has_no_numbers():
    with pytest.raises(ValueError, match="'square_root' has no number 'q'"):
        make("square_root", q=0.5)
