import pytest

from trainables.registry import make


@pytest.mark.parametrize(
    ("q", "shares"),
    [
        (1.0, [16 / 21, 4 / 21, 1 / 21]),
        (0.5, [4 / 7, 2 / 7, 1 / 7]),
        (0.0, [1 / 3, 1 / 3, 1 / 3]),
        (-1.0, [1 / 21, 4 / 21, 16 / 21]),
    ],
)
def test_hand_worked_shares(facts, generator, q, shares):
    known = facts(6400, 1600, 400)
    drawn = make("power_law", q=q).build(known)(0.0, generator(0))
    assert (known.labels[drawn].bincount(minlength=3) / 8400).tolist() == pytest.approx(shares, abs=0.022)


@pytest.mark.parametrize(("q", "twin"), [(0.0, "class_balanced"), (0.5, "square_root")])
def test_it_has_the_named_samplers_within(facts, generator, q, twin):
    known = facts(64, 16, 4)
    assert make("power_law", q=q).build(known)(0.0, generator(5)).equal(make(twin).build(known)(0.0, generator(5)))


def test_equal_counts_make_every_q_the_same(facts, generator):
    known = facts(30, 30)
    one, two = (make("power_law", q=q).build(known)(0.0, generator(5)) for q in (-1.0, 1.0))
    assert one.equal(two)


def test_a_class_without_images_is_left_out_even_in_reverse(facts, generator):
    known = facts(50, 0, 50)
    assert known.labels[make("power_law", q=-1.0).build(known)(0.0, generator(0))].unique().tolist() == [0, 2]


def test_q_out_of_range():
    with pytest.raises(ValueError, match=r"'power_law'.*q must be a number in \[-1, 1\], got 2"):
        make("power_law", q=2)
