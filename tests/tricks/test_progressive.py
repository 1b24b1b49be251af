import pytest

from trainables.registry import make


@pytest.mark.parametrize(("progress", "rare"), [(0.0, 0.1), (0.25, 0.2), (0.5, 0.3), (1.0, 0.5)])
def test_hand_worked_shares(facts, generator, progress, rare):
    # (1 − t) · 0.1 + t · 0.5
    known = facts(9000, 1000)
    drawn = make("progressive").build(known)(progress, generator(0))
    assert (known.labels[drawn] == 1).float().mean().item() == pytest.approx(rare, abs=0.02)


def test_equal_counts_are_the_same_throughout(facts, generator):
    draw = make("progressive").build(facts(50, 50))
    assert draw(0.0, generator(1)).equal(draw(1.0, generator(1)))


def test_a_class_without_images_is_left_out(facts, generator):
    known = facts(50, 0, 50)
    assert known.labels[make("progressive").build(known)(1.0, generator(0))].unique().tolist() == [0, 2]


def test_progress_is_a_fraction(facts, generator):
    with pytest.raises(ValueError, match=r"'progressive': progress must be in \[0, 1\], got 30"):
        make("progressive").build(facts(5, 5))(30, generator(0))
