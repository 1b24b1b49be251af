import pytest

from spaces.domain import Stage, trick
from trainables.registry import PlanError, make


def test_every_view_is_the_image(facts, batch, generator):
    seen = make("several_views", count=3).build(facts(5, 3, 1))(batch, generator())
    assert seen.images.shape == (3, *batch.images.shape[1:])
    assert all(view.equal(batch.images[0]) for view in seen.images)
    assert seen.y.equal(batch.y)


def test_one_view_changes_nothing(facts, batch, generator):
    seen = make("several_views", count=1).build(facts(5, 3, 1))(batch, generator())
    assert seen.images.equal(batch.images)


def test_a_named_view_alone_is_changed(facts, known, batch, generator):
    two = make("several_views").build(known)(batch, generator())
    for name in ("cutout", "auto_augment", "rand_augment"):
        for view in (0, 1):
            seen = make(name, view=view).build(known)(two, generator()).images
            assert seen[1 - view].equal(two.images[1 - view]) and not seen[view].equal(two.images[view]), name
            # with the draws that the view alone would take
            alone = make(name).build(known)(two.with_images(two.images[view : view + 1]), generator()).images
            assert seen[view].equal(alone[0])


def test_a_view_that_nothing_makes_is_refused(make_plan):
    with pytest.raises(PlanError, match=r"stage 'a': cutout needs view 1 of each image \(the first is 0\), and the "
                                        r"stage makes 1 view; add trick\('several_views', count=2\)"):  # fmt: skip
        make_plan(Stage("a", epochs=1, choose=[trick("cutout", view=1)]))
    plan = make_plan(Stage("a", epochs=1, choose=["several_views", trick("cutout", view=1), "rand_augment"]))
    numbers = {t.name: t.numbers for t in plan.stages[0].tricks}
    assert numbers["cutout"]["view"] == 1 and "view" not in numbers["rand_augment"]


@pytest.mark.parametrize(("numbers", "message"), [({"count": 0}, r"\[1, 16\], got 0"), ({"count": 1.5}, "whole")])
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(PlanError, match=message):
        make("several_views", **numbers)
